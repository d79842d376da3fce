//! A state file that cannot be written (no space, a broken or read-only disk, no file descriptor).
//!
//! The input whose save failed counts as not taken in: the driver is as it was before, and what it
//! says is what the disk has. Orders, results and notices that need the disk are held, the newest
//! of each, until it can be written again. Meanwhile what needs no promise goes on: looks,
//! reports, steps of the order that was taken in before, the fence, a stop.

use super::{NodeDriver, NodeInput, NodeOutput};
use crate::event::EventKind;
use crate::ids::{NodeId, Now};
use crate::message::{Order, Problem};
use crate::node::step::{Step, StepDone};

/// A save that failed is tried again after so long, in milliseconds.
const SAVE_AGAIN_MS: u64 = 1_000;
/// A node that could not save its promise is of no help in an election, and the monitor should know
/// that before there is one: without anything to save it saves what it has, so often, in
/// milliseconds.
const PROOF_MS: u64 = 5_000;
/// So many notices are held at most, the newest.
const NOTICES_MAX: usize = 8;

#[derive(Clone)]
pub(super) struct Unsaved {
    reason: String,
    not_before_ms: u64,
    node_id: Option<NodeId>,
    done: Option<(Step, StepDone)>,
    order: Option<Order>,
    notices: Vec<(EventKind, String)>,
}

impl Unsaved {
    fn new(reason: String, not_before_ms: u64) -> Self {
        let (node_id, done, order, notices) = (None, None, None, Vec::new());
        Unsaved { reason, not_before_ms, node_id, done, order, notices }
    }

    pub(super) fn is_due(&self, now: Now) -> bool {
        now.mono_ms >= self.not_before_ms
    }

    pub(super) fn problem(&self) -> Problem {
        let text = format!("its state cannot be saved, so it can promise nothing: {}", self.reason);
        Problem { code: Problem::STATE_NOT_SAVED.to_owned(), text, failures: 0 }
    }
}

impl NodeDriver {
    /// Takes the last input back and in again without the disk.
    pub(super) fn not_saved(
        &mut self,
        (before, input): (NodeDriver, NodeInput),
        reason: String,
        now: Now,
    ) -> Vec<NodeOutput> {
        *self = before;
        let not_before_ms = now.mono_ms + SAVE_AGAIN_MS;
        let unsaved = self.unsaved.get_or_insert_with(|| Unsaved::new(String::new(), 0));
        (unsaved.reason, unsaved.not_before_ms) = (reason, not_before_ms);
        self.handle_unsaved(input, now)
    }

    /// As [`NodeDriver::handle`] while nothing can be saved: its outputs save nothing.
    pub(super) fn handle_unsaved(&mut self, input: NodeInput, now: Now) -> Vec<NodeOutput> {
        let record = self.record.clone();
        let mut out = Vec::new();
        match input {
            NodeInput::Welcomed { node_id } => {
                self.welcome(now);
                let is_new = self.record.node_id != Some(node_id);
                if let Some(unsaved) = &mut self.unsaved {
                    unsaved.node_id = is_new.then_some(node_id);
                }
            }
            NodeInput::Order(order) => self.hold_order(order, now, &mut out),
            NodeInput::Notice { kind, text } => {
                if let Some(unsaved) = &mut self.unsaved {
                    unsaved.notices.push((kind, text));
                    let surplus = unsaved.notices.len().saturating_sub(NOTICES_MAX);
                    unsaved.notices.drain(..surplus);
                }
            }
            input => {
                self.take(input, now, &mut out);
                // What a look tells will be seen again.
                let order_seq = self.record.order_seq;
                self.record = record;
                self.record.order_seq = order_seq;
                out.retain(|o| !matches!(o, NodeOutput::Save(_)));
            }
        }
        self.advance(now, &mut out);
        self.report_if_due(now, &mut out);
        out
    }

    fn hold_order(&mut self, order: Order, now: Now, out: &mut Vec<NodeOutput>) {
        self.heard_ms = now.mono_ms;
        let Some(unsaved) = &mut self.unsaved else { return };
        let newer = |held: &Order| order.epoch >= held.epoch && order.seq >= held.seq;
        if !self.record.accepts(&order) || !unsaved.order.as_ref().is_none_or(newer) {
            return;
        }
        if self.record.clone().take_in(&order) {
            unsaved.order = Some(order);
        } else {
            // It asks for nothing that is not on the disk already.
            unsaved.order = None;
            self.take_order(order, now, out);
        }
    }

    /// What a step has done and the disk should know is held back; all else is given back.
    pub(super) fn hold_back(&mut self, step: &Step, done: StepDone) -> Option<StepDone> {
        let replaces = matches!(step, Step::Rewind { .. } | Step::Clone { .. });
        let must_save = replaces || matches!(done, StepDone::Created { .. });
        match &mut self.unsaved {
            Some(unsaved) if must_save => {
                unsaved.done = Some((step.clone(), done));
                None
            }
            _ => Some(done),
        }
    }

    /// Whether the next step depends on something that is not on the disk.
    pub(super) fn is_held_back(&self) -> bool {
        self.unsaved.as_ref().is_some_and(|u| u.done.is_some() || u.node_id.is_some())
    }

    /// Takes in what was held, and saves, whatever it was: the disk has to prove itself.
    pub(super) fn take_held(&mut self, now: Now, out: &mut Vec<NodeOutput>) {
        let Some(unsaved) = self.unsaved.take() else { return };
        if let Some(node_id) = unsaved.node_id {
            self.record.node_id = Some(node_id);
        }
        if let Some((step, done)) = unsaved.done {
            self.step_done(&step, &done, out);
        }
        for (kind, text) in unsaved.notices {
            self.record.notice(kind, text);
        }
        if let Some(order) = unsaved.order {
            let heard_ms = self.heard_ms;
            self.take_order(order, now, out);
            self.heard_ms = heard_ms;
        }
        out.retain(|o| !matches!(o, NodeOutput::Save(_)));
        out.insert(0, NodeOutput::Save(Box::new(self.record.clone())));
    }

    pub(super) fn prove_the_disk(&self, now: Now, out: &mut Vec<NodeOutput>) {
        let idle_ms = now.mono_ms.saturating_sub(self.saved_ms);
        if idle_ms >= PROOF_MS && !out.iter().any(|o| matches!(o, NodeOutput::Save(_))) {
            out.insert(0, NodeOutput::Save(Box::new(self.record.clone())));
        }
    }

    pub(super) fn next_save_ms(&self) -> u64 {
        self.unsaved.as_ref().map_or(self.saved_ms + PROOF_MS, |u| u.not_before_ms)
    }
}
