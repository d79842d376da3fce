//! The keeper's loop.
//!
//! Outputs are carried out in their order, and [`NodeOutput::Save`] must be durable before
//! anything after it is begun: what a node says or does never runs ahead of its disk.

mod course;
mod report;
mod unsaved;

use std::collections::{BTreeMap, BTreeSet};

use crate::event::EventKind;
use crate::ids::{Epoch, NodeId, Now, RuleId};
use crate::limits::Limits;
use crate::message::{Goal, NotLetIn, Order, Report, Server, Trouble};
use crate::mutation::{Mutation, broken};
use crate::node::observed::{Data, Observed, ServerView, UpView};
use crate::node::record::{NodeRecord, Replacing};
use crate::node::step::{Step, StepDone, StepFailure};
use crate::node::{Circumstances, Next, next_step};
use crate::rule::Pledge;
use crate::wal::Lsn;

use unsaved::Unsaved;

/// A primary's probe makes WAL move at every heartbeat; a standby that has got none for so long is
/// not fed, in milliseconds.
const FED_MS: u64 = 5_000;
/// Nothing is left longer without a tick, in milliseconds.
const IDLE_MS: u64 = 1_000;
/// While something is under way the local Postgres is looked at so often, in milliseconds.
const BUSY_LOOK_MS: u64 = 4;
/// And so often while a step keeps failing: after so many failures in a row nobody waits for the
/// next one at once.
const FAILING_LOOK_MS: u64 = 250;
const QUICK_RETRIES: u32 = 4;
/// A polite stop gives up waiting for the monitor after so long, in milliseconds: without a
/// monitor at once-ish, with one long enough for a handover.
const LEAVE_ALONE_MS: u64 = 1_500;
const LEAVE_MS: u64 = 20_000;
/// A primary keeps to itself for so long that it was asked to stop, in milliseconds, and goes on
/// serving: where the group is stopped as a whole (`docker compose down`), the others have said so by
/// then, and it is not handed from one to the next but comes back as it was.
const LEAVE_TOGETHER_MS: u64 = 500;

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
    /// A look was refused or failed. `data`: the server that runs has never been seen; nothing but
    /// its data directory is known. `standby`: by its files it is in recovery.
    NotSeen {
        why: NotLetIn,
        data: Option<Data>,
        standby: bool,
    },
    /// What is wrong here, whenever that changes.
    Troubles(Vec<Trouble>),
    StepEnded {
        id: u64,
        result: Result<StepDone, StepFailure>,
    },
    /// Something happened here that the group's events should hold.
    Notice {
        kind: EventKind,
        text: String,
    },
    /// The first [`NodeOutput::Save`] of the last outputs that failed, and why. Fed before anything
    /// else; what came after that save was not carried out.
    NotSaved {
        reason: String,
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

#[derive(Clone)]
struct Running {
    id: u64,
    step: Step,
    cancelled: bool,
}

#[derive(Clone)]
struct Retry {
    failures: u32,
    /// Those of them that will not pass by themselves.
    lasting: u32,
    not_before_ms: u64,
    what: &'static str,
    text: String,
}

/// The keeper's state between inputs. Only `record` is durable.
#[derive(Clone)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct NodeDriver {
    record: NodeRecord,
    order: Option<Order>,
    seen: Option<Observed>,
    seen_ms: u64,
    not_let_in: Option<NotLetIn>,
    /// Of the server that runs nothing has ever been seen, `seen` tells of its directory alone: what
    /// is said of it.
    never_seen: Option<Server>,
    /// When the server itself was last seen.
    looked_ms: u64,
    troubles: Vec<Trouble>,
    /// When something last happened here, and when that was last long after the thing before: this
    /// process was stopped, or starved.
    last_ms: u64,
    woke_ms: u64,
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
    saved_ms: u64,
    unsaved: Option<Unsaved>,
    /// How it was before the last input, and that input, should its save fail.
    undo: Option<Box<(NodeDriver, NodeInput)>>,
}

impl NodeDriver {
    pub fn new(record: NodeRecord, now: Now) -> Self {
        NodeDriver {
            record,
            order: None,
            seen: None,
            seen_ms: now.mono_ms,
            not_let_in: None,
            never_seen: None,
            looked_ms: now.mono_ms,
            troubles: Vec::new(),
            last_ms: now.mono_ms,
            woke_ms: 0,
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
            saved_ms: now.mono_ms,
            unsaved: None,
            undo: None,
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
        self.note_time(now);
        let undo = self.undo.take();
        if let NodeInput::NotSaved { reason } = input {
            return undo.map_or_else(Vec::new, |undo| self.not_saved(*undo, reason, now));
        }
        if self.unsaved.as_ref().is_some_and(|unsaved| !unsaved.is_due(now)) {
            return self.handle_unsaved(input, now);
        }
        let before = (self.clone(), input.clone());
        let mut out = Vec::new();
        self.take_held(now, &mut out);
        self.take(input, now, &mut out);
        self.advance(now, &mut out);
        self.report_if_due(now, &mut out);
        self.prove_the_disk(now, &mut out);
        if out.iter().any(|o| matches!(o, NodeOutput::Save(_))) {
            self.saved_ms = now.mono_ms;
            self.undo = Some(Box::new(before));
        }
        out
    }

    fn take(&mut self, input: NodeInput, now: Now, out: &mut Vec<NodeOutput>) {
        match input {
            NodeInput::Welcomed { node_id } => {
                self.welcome(now);
                if self.record.node_id != Some(node_id) {
                    self.record.node_id = Some(node_id);
                    out.push(NodeOutput::Save(Box::new(self.record.clone())));
                }
            }
            NodeInput::StreamLost => self.stream_up = false,
            NodeInput::Heard => self.heard_ms = now.mono_ms,
            NodeInput::Order(order) => self.take_order(order, now, out),
            NodeInput::Observed(seen) => {
                self.not_let_in = None;
                self.never_seen = None;
                self.looked_ms = now.mono_ms;
                self.look(seen, now, out);
            }
            NodeInput::NotSeen { why, data, standby } => {
                self.not_let_in = Some(why);
                if let Some(data) = data {
                    // There is nothing to be done to a server of which nothing is known but to
                    // stop it, as to one that starts.
                    // It may be a primary that works; one that has become a standby has to be
                    // replaced.
                    self.never_seen =
                        Some(if standby { Server::Starting } else { Server::Unknown });
                    self.look(Observed { data, server: ServerView::Starting }, now, out);
                }
            }
            NodeInput::Troubles(troubles) => self.troubles = troubles,
            NodeInput::StepEnded { id, result } => self.step_ended(id, result, now, out),
            NodeInput::Notice { kind, text } => {
                self.record.notice(kind, text);
                out.push(NodeOutput::Save(Box::new(self.record.clone())));
            }
            NodeInput::Leave => {
                self.leaving_since_ms.get_or_insert(now.mono_ms);
                self.last_sent = None;
            }
            NodeInput::NotSaved { .. } | NodeInput::Tick => {}
        }
    }

    fn welcome(&mut self, now: Now) {
        self.stream_up = true;
        self.heard_ms = now.mono_ms;
        self.last_sent = None;
    }

    /// What is seen first after a pause may be as old as the pause: the members' words wait to be
    /// read by Postgres, those of the monitor here. A keeper that is starved all the time gets this
    /// time once in a deadline.
    fn note_time(&mut self, now: Now) {
        let settings = &self.record.settings;
        let gap = now.mono_ms.saturating_sub(self.last_ms);
        self.last_ms = now.mono_ms;
        let rested = now.mono_ms.saturating_sub(self.woke_ms) > settings.silence_ms();
        if gap > settings.heartbeat_interval_ms.max(IDLE_MS + 100) && rested {
            self.woke_ms = now.mono_ms;
        }
    }

    /// Whether what was seen last says nothing of now.
    fn saw_too_long_ago(&self, now: Now) -> bool {
        let heartbeat_ms = self.record.settings.heartbeat_interval_ms;
        now.mono_ms.saturating_sub(self.seen_ms) >= heartbeat_ms
    }

    /// Until the next look, in milliseconds.
    pub fn look_in_ms(&self) -> u64 {
        let uncovered = self.in_force.is_some_and(|(rule, _)| self.covered != Some(rule));
        let Some(seen) = &self.seen else { return BUSY_LOOK_MS };
        let settled = self.running.is_none() && self.retry.is_none() && !self.is_waiting(seen);
        if self.retry.as_ref().is_some_and(|retry| retry.failures > QUICK_RETRIES) {
            FAILING_LOOK_MS
        } else if settled && !uncovered {
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
            Some(self.next_save_ms()),
            // An isolated primary stops then.
            Some(self.heard_ms + settings.silence_ms() + 1),
            self.leaving_since_ms.map(|since| since + LEAVE_TOGETHER_MS),
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
        if words.is_empty() {
            return; // it has got as much meanwhile
        }
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
        self.seen_ms = now.mono_ms;
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

    /// What there is to do, as the local Postgres looks now.
    fn next(&self, seen: &Observed) -> Next {
        next_step(&self.record, self.order.as_ref(), seen, &self.memory)
    }
}
