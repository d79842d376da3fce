//! The keeper's loop.
//!
//! Outputs are carried out in their order, and [`NodeOutput::Save`] must be durable before
//! anything after it is begun: what a node says or does never runs ahead of its disk.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::EventKind;
use crate::ids::{Epoch, NodeId, Now, RuleId};
use crate::limits::Limits;
use crate::message::{Following, Goal, Order, Problem, Report, Server};
use crate::mutation::{Mutation, broken};
use crate::node::observed::{Data, Observed, ServerView, UpView};
use crate::node::record::{NodeRecord, Replacing};
use crate::node::step::{Step, StepDone};
use crate::node::{Circumstances, Next, fence, next_step, pledge};
use crate::rule::{Pledge, SyncRule};
use crate::state::NodeState;
use crate::wal::{Lsn, Position, Tli};

/// A step that failed is tried again after so long at first, in milliseconds; doubled each time.
const RETRY_MS: u64 = 100;
const RETRY_MAX_MS: u64 = 5_000;
/// A primary's probe makes WAL move at every heartbeat; a standby that has got none for so long is
/// not fed, in milliseconds.
const FED_MS: u64 = 5_000;
/// Nothing is left longer without a tick, in milliseconds.
const IDLE_MS: u64 = 1_000;
/// While something is under way the local Postgres is looked at so often, in milliseconds.
const BUSY_LOOK_MS: u64 = 4;
/// A polite stop gives up waiting for the monitor after so long, in milliseconds: without a
/// monitor at once-ish, with one long enough for a handover.
const LEAVE_ALONE_MS: u64 = 1_500;
const LEAVE_MS: u64 = 20_000;

/// What happens to a keeper.
#[derive(Clone, PartialEq, Debug)]
pub enum NodeInput {
    /// The monitor welcomed this node on a new stream.
    Welcomed {
        node_id: NodeId,
    },
    StreamLost,
    /// The monitor answered a report: it lives.
    Heard,
    Order(Order),
    Observed(Observed),
    StepEnded {
        id: u64,
        result: Result<StepDone, String>,
    },
    /// Something happened here that the group's events should hold.
    Notice {
        kind: EventKind,
        text: String,
    },
    /// Asked to stop politely.
    Leave,
    Tick,
}

/// What the shell has to do.
#[derive(Clone, PartialEq, Debug)]
pub enum NodeOutput {
    Save(Box<NodeRecord>),
    Run {
        id: u64,
        step: Step,
    },
    Cancel {
        id: u64,
    },
    Send(Box<Report>),
    /// Look at the local Postgres now.
    Look,
    /// Postgres is stopped and nothing is left to do: exit 0.
    Exit,
}

struct Running {
    id: u64,
    step: Step,
    cancelled: bool,
}

struct Retry {
    failures: u32,
    /// Those of them that will not pass by themselves.
    lasting: u32,
    not_before_ms: u64,
    what: &'static str,
    text: String,
}

/// The keeper's state between inputs. Only `record` is durable.
pub struct NodeDriver {
    record: NodeRecord,
    order: Option<Order>,
    seen: Option<Observed>,
    /// False after a step has ended, until a look that began afterwards.
    fresh: bool,
    running: Option<Running>,
    next_id: u64,
    memory: Circumstances,
    /// (rule, end of WAL read after it came in force).
    in_force: Option<(RuleId, Lsn)>,
    covered: Option<RuleId>,
    /// What was pledged before a fast_forward began.
    fetching: Option<Pledge>,
    stream_up: bool,
    heard_ms: u64,
    streaming_ms: u64,
    open_ms: u64,
    /// When a member was last known to receive from this primary.
    members_heard_ms: BTreeMap<NodeId, u64>,
    leaving_since_ms: Option<u64>,
    retry: Option<Retry>,
    last_sent: Option<Report>,
    sent_ms: u64,
    /// The epoch of the order by which the data directory is being replaced.
    replacing_epoch: Option<Epoch>,
}

impl NodeDriver {
    pub fn new(record: NodeRecord, now: Now) -> Self {
        NodeDriver {
            record,
            order: None,
            seen: None,
            fresh: false,
            running: None,
            next_id: 1,
            memory: Circumstances::default(),
            in_force: None,
            covered: None,
            fetching: None,
            stream_up: false,
            heard_ms: now.mono_ms,
            streaming_ms: now.mono_ms,
            open_ms: now.mono_ms,
            members_heard_ms: BTreeMap::new(),
            leaving_since_ms: None,
            retry: None,
            last_sent: None,
            sent_ms: 0,
            replacing_epoch: None,
        }
    }

    pub fn record(&self) -> &NodeRecord {
        &self.record
    }

    pub fn order(&self) -> Option<&Order> {
        self.order.as_ref()
    }

    /// Takes one input in and says what to do.
    pub fn handle(&mut self, input: NodeInput, now: Now) -> Vec<NodeOutput> {
        let mut out = Vec::new();
        match input {
            NodeInput::Welcomed { node_id } => {
                self.stream_up = true;
                self.heard_ms = now.mono_ms;
                self.last_sent = None;
                if self.record.node_id != Some(node_id) {
                    self.record.node_id = Some(node_id);
                    out.push(NodeOutput::Save(Box::new(self.record.clone())));
                }
            }
            NodeInput::StreamLost => self.stream_up = false,
            NodeInput::Heard => self.heard_ms = now.mono_ms,
            NodeInput::Order(order) => self.take_order(order, now, &mut out),
            NodeInput::Observed(seen) => self.look(seen, now, &mut out),
            NodeInput::StepEnded { id, result } => self.step_ended(id, result, now, &mut out),
            NodeInput::Notice { kind, text } => {
                self.record.notice(kind, text);
                out.push(NodeOutput::Save(Box::new(self.record.clone())));
            }
            NodeInput::Leave => {
                self.leaving_since_ms.get_or_insert(now.mono_ms);
                self.last_sent = None;
            }
            NodeInput::Tick => {}
        }
        self.advance(now, &mut out);
        self.report_if_due(now, &mut out);
        out
    }

    /// Until the next look, in milliseconds.
    pub fn look_in_ms(&self) -> u64 {
        let uncovered = self.in_force.is_some_and(|(rule, _)| self.covered != Some(rule));
        let Some(seen) = &self.seen else { return BUSY_LOOK_MS };
        let settled = self.running.is_none() && self.retry.is_none() && !self.is_waiting(seen);
        if settled && !uncovered {
            (self.record.settings.heartbeat_interval_ms / 2).clamp(20, 500)
        } else if settled && self.memory.in_force.is_some() {
            // Waiting for standbys to cover a rule; may last as long as they are away.
            BUSY_LOOK_MS * 5
        } else {
            BUSY_LOOK_MS
        }
    }

    /// Until a [`NodeInput::Tick`] may matter, in milliseconds; a shell may tick more often.
    pub fn wake_in_ms(&self, now: Now) -> u64 {
        let settings = &self.record.settings;
        let deadlines = [
            self.stream_up.then_some(self.sent_ms + settings.heartbeat_interval_ms),
            self.retry.as_ref().map(|retry| retry.not_before_ms),
            // An isolated primary stops then.
            Some(self.heard_ms + settings.silence_ms() + 1),
            self.leaving_since_ms.map(|since| since + LEAVE_ALONE_MS),
            self.leaving_since_ms.map(|since| since + LEAVE_MS),
        ];
        let to_come = deadlines.into_iter().flatten().filter(|at| *at > now.mono_ms);
        to_come.min().map_or(IDLE_MS, |at| at - now.mono_ms).min(IDLE_MS)
    }

    fn is_waiting(&self, seen: &Observed) -> bool {
        let attaching = match (&seen.server, self.order.as_ref().map(|o| &o.goal)) {
            (ServerView::Up(up), Some(Goal::Follow { .. })) => !up.streaming,
            (ServerView::Up(up), Some(Goal::Pledge { .. })) => {
                up.in_recovery && !up.streamed && !up.replay_idle
            }
            _ => false,
        };
        attaching || seen.server == ServerView::Starting
    }

    fn take_order(&mut self, order: Order, now: Now, out: &mut Vec<NodeOutput>) {
        self.heard_ms = now.mono_ms;
        if !self.record.accepts(&order) {
            return;
        }
        let room = self.record.room;
        let must_save = self.record.take_in(&order);
        if self.record.room != room {
            self.note_room();
        }
        if must_save {
            out.push(NodeOutput::Save(Box::new(self.record.clone())));
        }
        let changed = self.order.as_ref().is_none_or(|old| old.goal != order.goal);
        if changed {
            self.memory.prepared = false;
            self.retry = None;
            if !self.follows_as_before(&order) {
                self.streaming_ms = now.mono_ms;
                self.memory.stalled_ms = 0;
            }
            self.cancel_running(out);
        }
        self.order = Some(order);
        out.push(NodeOutput::Look);
    }

    /// A restart that nobody here asked for is told of.
    fn note_room(&mut self) {
        let Some(room) = self.record.room else { return };
        let own = match self.seen.as_ref().map(|seen| &seen.server) {
            Some(ServerView::Up(up)) => up.limits,
            _ => Limits::default(),
        };
        let pairs = room.settings().into_iter().zip(own.settings());
        let larger = pairs.filter(|((_, needed), (_, own))| needed > own);
        let words: Vec<String> = larger.map(|((n, needed), _)| format!("{n} {needed}")).collect();
        let text = format!(
            "{} starts with {} from now on, as another node has it",
            self.record.name,
            words.join(", ")
        );
        self.record.notice(EventKind::Setting, text);
    }

    /// Whether an order changes nothing about whom to stream from.
    fn follows_as_before(&self, order: &Order) -> bool {
        let upstream = |o: &Order| match o.goal {
            Goal::Follow { primary, .. } => Some((o.epoch, primary)),
            _ => None,
        };
        upstream(order).is_some() && self.order.as_ref().and_then(upstream) == upstream(order)
    }

    fn cancel_running(&mut self, out: &mut Vec<NodeOutput>) {
        if let Some(running) = &mut self.running
            && running.step.can_be_cancelled()
            && !running.cancelled
        {
            running.cancelled = true;
            out.push(NodeOutput::Cancel { id: running.id });
        }
    }

    fn look(&mut self, seen: Observed, now: Now, out: &mut Vec<NodeOutput>) {
        // A receiver that is refused what it asks for looks as if it streamed, for a moment each
        // time: only WAL that comes is proof.
        let fed = |up: &UpView| up.wal_age_ms.is_some_and(|age| age < FED_MS);
        let streams = matches!(&seen.server, ServerView::Up(up) if up.streaming && fed(up));
        let attached = match &seen.server {
            ServerView::Up(up) => up.upstream.is_some(),
            ServerView::Starting => self.record.copied_from.is_some(),
            _ => false,
        };
        if streams || !attached {
            self.streaming_ms = now.mono_ms;
        }
        let closed = matches!(
            self.order.as_ref().map(|o| &o.goal),
            Some(Goal::Follow { open: false, history: Some(_), .. })
        );
        if !closed {
            self.open_ms = now.mono_ms;
        }
        self.memory.closed_ms = now.mono_ms.saturating_sub(self.open_ms);
        self.memory.stalled_ms = now.mono_ms.saturating_sub(self.streaming_ms);
        match &seen.server {
            ServerView::Up(up) if !up.in_recovery => {
                self.cover(up);
                self.hear_members(up, now);
            }
            ServerView::Hung => {}
            _ => self.forget_leading(),
        }
        let over = match &seen.server {
            ServerView::Up(up) => !up.in_recovery,
            ServerView::Down => true,
            _ => false,
        };
        if over && std::mem::take(&mut self.record.promoting) {
            out.push(NodeOutput::Save(Box::new(self.record.clone())));
        }
        if let ServerView::Up(up) = &seen.server
            && self.record.delayed != (up.in_recovery && up.delayed)
        {
            self.record.delayed = up.in_recovery && up.delayed;
            out.push(NodeOutput::Save(Box::new(self.record.clone())));
        }
        if matches!(seen.server, ServerView::Up(_)) && self.record.copied_from.take().is_some() {
            out.push(NodeOutput::Save(Box::new(self.record.clone())));
        }
        // A copy beside that came to nothing left the directory as it was.
        if self.record.replacing == Some(Replacing::Beside)
            && !self.is_cloning()
            && matches!(seen.data, Data::Cluster(_))
        {
            self.record.replacing = None;
            out.push(NodeOutput::Save(Box::new(self.record.clone())));
        }
        self.seen = Some(seen);
        self.fresh = true;
        if self.must_fence(now) && self.running.as_ref().is_some_and(|r| r.step.can_be_cancelled())
        {
            self.cancel_running(out);
        }
    }

    fn forget_leading(&mut self) {
        self.in_force = None;
        self.covered = None;
        self.memory.in_force = None;
        self.memory.prepared = false;
    }

    /// DESIGN §4.7: covered once W members have flushed the end of WAL read after the rule came in
    /// force; a rule of W = 0 at once.
    fn cover(&mut self, up: &UpView) {
        let (Some((id, from)), Some(rule)) = (self.in_force, &self.record.own_rule) else { return };
        if rule.id() != id || self.covered == Some(id) {
            return;
        }
        let names: BTreeSet<&str> = rule
            .members
            .iter()
            .filter_map(|m| self.record.peer(*m))
            .map(|p| p.name.as_str())
            .collect();
        let whatever = broken(Mutation::CoveredByStreams);
        let flushed = up
            .senders
            .iter()
            .filter(|s| s.streaming && (s.flush >= from || whatever))
            .filter(|s| names.contains(s.name.as_str()))
            .count();
        if flushed >= rule.acks as usize || broken(Mutation::CoveredAtOnce) {
            self.covered = Some(id);
        }
    }

    fn step_ended(
        &mut self,
        id: u64,
        result: Result<StepDone, String>,
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
                self.step_done(&running.step, &done, out);
            }
            Err(_) if running.cancelled => {}
            Err(text) => {
                let what = running.step.name();
                let (failures, lasting) = match &self.retry {
                    Some(retry) if retry.what == what => (retry.failures + 1, retry.lasting),
                    _ => (1, 0),
                };
                let lasting = lasting + u32::from(!passes_by_itself(&text));
                let pause = (RETRY_MS << (failures - 1).min(10)).min(RETRY_MAX_MS);
                let not_before_ms = now.mono_ms + pause;
                self.retry = Some(Retry { failures, lasting, not_before_ms, what, text });
            }
        }
    }

    fn step_done(&mut self, step: &Step, done: &StepDone, out: &mut Vec<NodeOutput>) {
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
            StepDone::Plain => {}
        }
        if record != self.record {
            self.record = record;
            out.push(NodeOutput::Save(Box::new(self.record.clone())));
        }
    }

    fn advance(&mut self, now: Now, out: &mut Vec<NodeOutput>) {
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
            let step = match seen.server {
                ServerView::Hung => Step::Kill,
                _ => Step::Stop { budget_ms: 500 },
            };
            self.run(step, out);
            return;
        }
        if self.retry.as_ref().is_some_and(|r| now.mono_ms < r.not_before_ms) {
            return;
        }
        match next_step(&self.record, self.order.as_ref(), &seen, &self.memory) {
            Next::Do(step) => self.run(step, out),
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
    fn must_fence(&self, now: Now) -> bool {
        let deadline_ms = self.record.settings.silence_ms();
        if now.mono_ms.saturating_sub(self.heard_ms) <= deadline_ms {
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
    fn hear_members(&mut self, up: &UpView, now: Now) {
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

    fn report_if_due(&mut self, now: Now, out: &mut Vec<NodeOutput>) {
        if !self.stream_up {
            return;
        }
        let Some(seen) = &self.seen else { return };
        let report = self.report(seen);
        let due =
            now.mono_ms.saturating_sub(self.sent_ms) >= self.record.settings.heartbeat_interval_ms;
        let news = self.last_sent.as_ref().is_none_or(|last| material(last) != material(&report));
        if due || news {
            self.sent_ms = now.mono_ms;
            self.last_sent = Some(report.clone());
            out.push(NodeOutput::Send(Box::new(report)));
        }
    }

    fn report(&self, seen: &Observed) -> Report {
        let up = match &seen.server {
            ServerView::Up(up) => Some(up),
            _ => None,
        };
        let cluster = match &seen.data {
            Data::Cluster(cluster) => Some(cluster),
            _ => None,
        };
        // What was seen before a step that attaches, or while one is under way, proves nothing.
        let attaches = self.running.as_ref().is_some_and(|r| r.step.may_attach());
        let own = pledge(&self.record, seen).filter(|_| self.fresh && !attaches);
        let position = up.map(|up| Position {
            tli: up.tli,
            lsn: up.received.unwrap_or(Lsn::ZERO).max(up.replayed),
        });
        let highest_tli =
            up.map_or(Tli(0), |up| up.tli).max(cluster.map_or(Tli(0), |c| c.highest_tli));
        Report {
            state: self.public_state(seen),
            promise: self.record.promise,
            order_seq: self.record.order_seq,
            server: server_word(seen),
            pledge: self.fetching.or(own),
            own_rule: self.record.own_rule.clone(),
            in_force: self.in_force.map(|(rule, _)| rule),
            covered: self.covered,
            rules_held: self.record.rules_held.clone(),
            position: position.or(cluster.map(|c| c.checkpoint)),
            history: up.map(|up| up.history.clone()),
            highest_tli,
            following: up.and_then(following),
            senders: up.map(|up| up.senders.clone()).unwrap_or_default(),
            rewind_source: up.is_some_and(|up| !up.in_recovery && up.checkpoint_tli == up.tli),
            usable: self.record.is_whole() && cluster.is_some(),
            prepared: self.memory.prepared,
            leaving: self.leaving_since_ms.is_some(),
            delayed: self.record.delayed,
            limits: up.map(|up| up.limits),
            problem: self.problem(seen),
            notices: self.record.notices.clone(),
            doing: self.doing(seen),
            system_id: cluster.map(|c| c.system_id),
        }
    }

    fn problem(&self, seen: &Observed) -> Option<Problem> {
        if let Data::Foreign { reason } = &seen.data {
            let (code, text) = ("foreign_data".to_owned(), reason.clone());
            return Some(Problem { code, text, failures: 0 });
        }
        let waits = matches!(self.order.as_ref().map(|o| &o.goal), None | Some(Goal::Wait));
        if self.record.found_as_standby && waits {
            let text = "its data is a standby's: start the keeper of its primary first".to_owned();
            return Some(Problem { code: "standby_alone".to_owned(), text, failures: 0 });
        }
        // One failure is an event of the step; repeated ones are a problem for people.
        let retry = self.retry.as_ref().filter(|r| r.failures >= 2)?;
        let (code, text) = (format!("{}_failed", retry.what), retry.text.clone());
        Some(Problem { code, text, failures: retry.lasting })
    }

    fn doing(&self, seen: &Observed) -> Option<String> {
        if let Some(running) = &self.running {
            return Some(running.step.name().to_owned());
        }
        match next_step(&self.record, self.order.as_ref(), seen, &self.memory) {
            Next::Wait(what) => Some(format!("waiting for {what}")),
            _ => None,
        }
    }

    /// Whether this node led in the ordered epoch, has stopped, and cannot lead in it again.
    fn is_spent(&self, seen: &Observed) -> bool {
        self.fresh
            && self.running.is_none()
            && self.record.led_in == self.order.as_ref().map(|o| o.epoch)
            && matches!(
                next_step(&self.record, self.order.as_ref(), seen, &self.memory),
                Next::Wait(_)
            )
            && !matches!(seen.server, ServerView::Starting | ServerView::Hung)
    }

    fn is_cloning(&self) -> bool {
        self.running.as_ref().is_some_and(|r| matches!(r.step, Step::Clone { .. }))
    }

    fn public_state(&self, seen: &Observed) -> NodeState {
        let Some(order) = &self.order else { return NodeState::Init };
        let up = match &seen.server {
            ServerView::Up(up) => Some(up),
            _ => None,
        };
        let writable = up.is_some_and(|up| !up.in_recovery);
        let streaming = up.is_some_and(|up| up.streaming);
        let down = seen.server == ServerView::Down;
        match &order.goal {
            Goal::Wait => NodeState::Init,
            Goal::Found { rule } | Goal::Lead { rule, .. } => {
                let in_epoch = self.in_force.is_some_and(|(id, _)| id.epoch == rule.epoch);
                if writable && in_epoch {
                    order.goal_state
                } else if self.is_spent(seen) {
                    NodeState::Demoted
                } else if writable || self.record.led_in == Some(rule.epoch) && !down {
                    NodeState::StopReplication
                } else if matches!(order.goal, Goal::Found { .. }) {
                    NodeState::Init
                } else if down {
                    NodeState::Demoted
                } else {
                    NodeState::PreparePromotion
                }
            }
            Goal::Follow { .. } => match self.record.replacing {
                Some(Replacing::Clone) => NodeState::WaitStandby,
                Some(Replacing::Beside) if self.is_cloning() => NodeState::WaitStandby,
                Some(Replacing::Rewind) => NodeState::Demoted,
                _ if seen.data == Data::None => NodeState::WaitStandby,
                _ if writable => NodeState::Draining,
                _ if streaming => NodeState::Secondary,
                _ if up.is_some_and(|up| up.upstream.is_some() && !up.detached) => {
                    NodeState::Catchingup
                }
                _ if up.is_some() => NodeState::JoinSecondary,
                Some(Replacing::Beside) | None => NodeState::Demoted,
            },
            Goal::Pledge { .. } if writable => NodeState::Draining,
            Goal::Pledge { .. } if down => NodeState::Demoted,
            Goal::Pledge { .. } => NodeState::ReportLsn,
            Goal::FastForward { .. } => NodeState::FastForward,
            Goal::Stop if down => order.goal_state,
            Goal::Stop if writable => NodeState::Draining,
            Goal::Stop => NodeState::WaitMaintenance,
            Goal::Drop => NodeState::Dropped,
        }
    }
}

/// Whether a failure only says that another node cannot be reached at present.
fn passes_by_itself(error: &str) -> bool {
    ["connection to server", "could not connect", "could not receive data", "server closed the"]
        .iter()
        .any(|words| error.contains(words))
}

fn server_word(seen: &Observed) -> Server {
    match (&seen.data, &seen.server) {
        (Data::None, ServerView::Down) => Server::NoData,
        (_, ServerView::Down) => Server::Stopped,
        (_, ServerView::Orphans) if broken(Mutation::StoppedWithBackends) => Server::Stopped,
        (_, ServerView::Orphans) => Server::Unknown,
        (_, ServerView::Starting) => Server::Starting,
        (_, ServerView::Hung) => Server::Hung,
        (_, ServerView::Up(up)) if up.in_recovery => Server::Standby,
        (_, ServerView::Up(_)) => Server::Primary,
    }
}

fn following(up: &UpView) -> Option<Following> {
    let (primary, epoch) = up.upstream.filter(|_| up.in_recovery && !up.detached)?;
    let wal_age_ms = up.wal_age_ms.unwrap_or(u64::MAX / 2);
    Some(Following { primary, epoch, streaming: up.streaming, wal_age_ms })
}

/// A report without what changes at every look: what is left is worth sending at once.
fn material(report: &Report) -> Report {
    let mut report = report.clone();
    if report.server == Server::Primary || report.following.is_some() {
        report.position = None;
    }
    if let Some(following) = &mut report.following {
        following.wal_age_ms = 0;
    }
    for sender in &mut report.senders {
        (sender.flush, sender.replay, sender.reply_age_ms) = (Lsn::ZERO, Lsn::ZERO, 0);
    }
    report.order_seq = 0;
    report.doing = None;
    report
}
