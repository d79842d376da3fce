//! One step after the other: which is begun, what becomes of it, and the two things that go before
//! any order: a polite stop, and the fence.

use std::collections::BTreeSet;

use super::{LEAVE_ALONE_MS, LEAVE_MS, NodeDriver, NodeOutput, Retry, Running};
use crate::ids::{NodeId, Now};
use crate::message::Goal;
use crate::mutation::{Mutation, broken};
use crate::node::observed::{Observed, ServerView, UpView};
use crate::node::record::Replacing;
use crate::node::step::{Step, StepDone, StepFailure};
use crate::node::{Next, fence, pledge};
use crate::rule::{Pledge, SyncRule};

/// A step that failed is tried again after so long at first, in milliseconds; doubled each time.
const RETRY_MS: u64 = 100;
const RETRY_MAX_MS: u64 = 5_000;

impl NodeDriver {
    pub(super) fn step_ended(
        &mut self,
        id: u64,
        result: Result<StepDone, StepFailure>,
        now: Now,
        out: &mut Vec<NodeOutput>,
    ) {
        let Some(running) = self.running.take_if(|r| r.id == id) else { return };
        self.fresh = false;
        self.fetching = None;
        out.push(NodeOutput::Look);
        match result {
            Ok(done) => {
                self.retry = None;
                if let Some(done) = self.hold_back(&running.step, done) {
                    self.step_done(&running.step, &done, out);
                }
            }
            Err(_) if running.cancelled => {}
            Err(failure) => {
                let what = running.step.name();
                let (failures, lasting) = match &self.retry {
                    Some(retry) if retry.what == what => (retry.failures + 1, retry.lasting),
                    _ => (1, 0),
                };
                let lasting = lasting + u32::from(failure.lasts());
                let text = failure.text;
                let pause = (RETRY_MS << (failures - 1).min(10)).min(RETRY_MAX_MS);
                let not_before_ms = now.mono_ms + pause;
                self.retry = Some(Retry { failures, lasting, not_before_ms, what, text });
            }
        }
    }

    pub(super) fn step_done(&mut self, step: &Step, done: &StepDone, out: &mut Vec<NodeOutput>) {
        let mut record = self.record.clone();
        match step {
            Step::Rewind { primary, .. } | Step::Clone { primary, .. } => {
                record.replacing = None;
                let epoch = self.replacing_epoch.take().unwrap_or(record.promise);
                record.copied_from = Some((*primary, epoch));
            }
            Step::Bootstrap => self.memory.bootstrapped = true,
            Step::PrepareHandover => self.memory.prepared = true,
            _ => {}
        }
        match done {
            StepDone::InForce { rule, from } => {
                self.in_force = Some((*rule, *from));
                self.memory.in_force = Some(*rule);
                if self.record.own_rule.as_ref().is_some_and(SyncRule::is_async) {
                    self.covered = Some(*rule);
                }
            }
            StepDone::Created { system_id } => record.system_id = Some(*system_id),
            StepDone::CutOff => {
                record.replacing = Some(Replacing::Clone);
                record.promoting = false;
            }
            StepDone::Plain => {}
        }
        if record != self.record {
            self.record = record;
            out.push(NodeOutput::Save(Box::new(self.record.clone())));
        }
    }

    pub(super) fn advance(&mut self, now: Now, out: &mut Vec<NodeOutput>) {
        if self.running.is_some() || !self.fresh {
            return;
        }
        let Some(seen) = self.seen.clone() else { return };
        if let Some(done) = self.leave(&seen, now, out) {
            if done {
                out.push(NodeOutput::Exit);
            }
            return;
        }
        if self.must_fence(now) {
            if self.saw_too_long_ago(now) && !broken(Mutation::FencedUnseen) {
                self.fresh = false;
                out.push(NodeOutput::Look);
                return;
            }
            let step = match seen.server {
                ServerView::Hung => Step::Kill,
                _ => Step::Stop { budget_ms: 500 },
            };
            self.run(step, out);
            return;
        }
        if self.retry.as_ref().is_some_and(|r| now.mono_ms < r.not_before_ms) || self.is_held_back()
        {
            return;
        }
        match self.next(&seen) {
            Next::Do(step) => self.run(step, out),
            Next::Write(..) if self.unsaved.is_some() => {}
            Next::Write(record, step) => {
                self.record = *record;
                out.push(NodeOutput::Save(Box::new(self.record.clone())));
                self.run(step, out);
            }
            Next::Rest | Next::Wait(_) => self.retry = None,
        }
    }

    fn run(&mut self, step: Step, out: &mut Vec<NodeOutput>) {
        let id = self.next_id;
        self.next_id += 1;
        if let (Step::FastForward { .. }, Some(seen)) = (&step, &self.seen) {
            self.fetching = pledge(&self.record, seen).map(|p| Pledge { fetching: true, ..p });
        }
        if matches!(step, Step::Rewind { .. } | Step::Clone { .. }) {
            self.replacing_epoch = self.order.as_ref().map(|o| o.epoch);
        }
        if matches!(step, Step::PutRule { .. }) {
            // Until it is verified, neither the old rule nor the new one can be vouched for.
            self.covered = None;
        }
        self.running = Some(Running { id, step: step.clone(), cancelled: false });
        out.push(NodeOutput::Run { id, step });
    }

    /// A polite stop: `Some(true)` = stopped, exit; `Some(false)` = stopping now; `None` = let the
    /// monitor hand over first (it answers with a goal of its own).
    fn leave(&mut self, seen: &Observed, now: Now, out: &mut Vec<NodeOutput>) -> Option<bool> {
        let stopped = seen.server == ServerView::Down;
        let told = |goal: &Goal| matches!(self.order.as_ref(), Some(o) if o.goal == *goal);
        if told(&Goal::Drop) && stopped {
            return Some(true);
        }
        let since = self.leaving_since_ms?;
        let decided = matches!(
            self.order.as_ref().map(|o| &o.goal),
            Some(Goal::Follow { .. } | Goal::Stop | Goal::Wait)
        );
        if stopped && (decided || !self.stream_up) {
            return Some(true);
        }
        let waited = now.mono_ms.saturating_sub(since);
        let patience = if self.stream_up { LEAVE_MS } else { LEAVE_ALONE_MS };
        if !told(&Goal::Stop) && !told(&Goal::Drop) && waited < patience {
            return None;
        }
        if stopped {
            return Some(true);
        }
        self.run(Step::Stop { budget_ms: 10_000 }, out);
        Some(false)
    }

    /// Whether this node is a primary that must stop because others may have elected another one
    /// (DESIGN §4.16). Only a fresh look counts.
    pub(super) fn must_fence(&self, now: Now) -> bool {
        let deadline_ms = self.record.settings.silence_ms();
        if now.mono_ms.saturating_sub(self.heard_ms) <= deadline_ms {
            return false;
        }
        let awake_ms = now.mono_ms.saturating_sub(self.woke_ms);
        if awake_ms <= self.record.settings.heartbeat_interval_ms && !broken(Mutation::FencedUnseen)
        {
            return false;
        }
        let (Some(seen), Some(rule)) = (&self.seen, &self.record.own_rule) else { return false };
        let heard = match &seen.server {
            ServerView::Up(up) if !up.in_recovery => self.members_heard(now, deadline_ms),
            ServerView::Hung if self.record.led_in == Some(rule.epoch) => {
                self.members_heard(now, deadline_ms)
            }
            _ => return false,
        };
        !fence::may_go_on(rule, &heard)
    }

    /// A receiver that reconnects is away for a moment; its word of just before still counts.
    pub(super) fn hear_members(&mut self, up: &UpView, now: Now) {
        for sender in up.senders.iter().filter(|s| s.streaming) {
            if let Some(peer) = self.record.peers.iter().find(|p| p.name == sender.name) {
                let heard = now.mono_ms.saturating_sub(sender.reply_age_ms);
                let known = self.members_heard_ms.entry(peer.id).or_default();
                *known = heard.max(*known);
            }
        }
    }

    fn members_heard(&self, now: Now, deadline_ms: u64) -> BTreeSet<NodeId> {
        let heard = self.members_heard_ms.iter();
        heard
            .filter(|(_, at)| now.mono_ms.saturating_sub(**at) <= deadline_ms)
            .map(|(id, _)| *id)
            .collect()
    }
}
