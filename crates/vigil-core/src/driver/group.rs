//! The monitor's loop over one group.

use std::collections::BTreeMap;

use crate::command::{Command, Refusal, RefusalCode};
use crate::decide::{decide, event};
use crate::driver::command::{self, Watcher};
use crate::event::{Event, EventKind};
use crate::explain::{Clock, view};
use crate::facts::{Facts, NodeFacts};
use crate::goals::{Assignment, goals};
use crate::group::{Group, Member, Plan};
use crate::ids::{NodeId, Now, RuleId};
use crate::message::{Hello, Order, Report, Server, Welcome};
use crate::rule::SyncRule;
use crate::view::GroupView;

pub use crate::command::Progress;

/// What happens to a group.
#[derive(Clone, PartialEq, Debug)]
pub enum GroupInput {
    /// A keeper introduces itself over stream `stream`. `fresh_id` is a node id never used
    /// before (from the store's sequence), used only if the node is new.
    Hello {
        stream: u64,
        hello: Hello,
        fresh_id: NodeId,
    },
    /// Stream `stream` of `node` has ended.
    Closed {
        stream: u64,
        node: NodeId,
    },
    Report {
        stream: u64,
        node: NodeId,
        report: Box<Report>,
    },
    Command {
        id: u64,
        command: Command,
    },
    Tick,
}

/// What the shell has to do, in this order: commit `record` and `events` in one transaction (if
/// there are any), then the rest. If the commit fails, nothing of it may be done: call
/// [`GroupDriver::rollback`]. After it: [`GroupDriver::committed`].
#[derive(Clone, PartialEq, Debug, Default)]
pub struct GroupOutput {
    pub record: Option<Box<Group>>,
    pub events: Vec<Event>,
    /// Answers to [`GroupInput::Hello`], by stream.
    pub welcomes: Vec<(u64, Result<Welcome, Refusal>)>,
    /// Orders by stream.
    pub orders: Vec<(u64, NodeId, Order)>,
    /// Whether a command was taken, by command id.
    pub replies: Vec<(u64, Result<String, Refusal>)>,
    /// How far a `perform-*` command is, by command id. Ends with a final one.
    pub progress: Vec<(u64, Progress)>,
}

/// A step that failed so often in a row will not succeed by being tried again.
pub const QUARANTINE_FAILURES: u32 = 10;

/// Orders of one committed version of the record are numbered below this.
const ORDERS_PER_VERSION: u64 = 1_000_000;

/// One group: its durable record and what was heard since the monitor started.
pub struct GroupDriver {
    group: Group,
    facts: Facts,
    /// What was last ordered, by node, on its present stream.
    ordered: BTreeMap<NodeId, (u64, Assignment)>,
    order_count: u64,
    watchers: Vec<Watcher>,
    /// The record as it was before the input that is being taken in.
    stored: Group,
    /// What an output that is not committed yet is taken back to.
    before: Option<Box<Before>>,
    /// False until a commit has moved the version: orders of this process must be numbered above
    /// those of the one before.
    incarnated: bool,
}

/// The record may not be the newest: nothing is decided by it before keepers were heard.
fn doubt(group: &mut Group) {
    if !group.rules.is_empty() {
        group.plan = Plan::Recovering;
        group.episode = None;
    }
}

/// What an output that could not be committed is taken back to. What was heard stays heard.
struct Before {
    ordered: BTreeMap<NodeId, (u64, Assignment)>,
    watchers: Vec<Watcher>,
    plan_since: Now,
    rule_since_ms: u64,
    failovers_ms: Vec<u64>,
    incarnated: bool,
    order_count: u64,
    /// The nodes whose keepers introduced themselves with this input, as they were.
    greeted: Vec<(NodeId, Option<NodeFacts>)>,
}

impl GroupDriver {
    /// `group` as the store has it.
    pub fn new(group: Group, now: Now) -> Self {
        GroupDriver {
            stored: group.clone(),
            group,
            facts: Facts::new(now),
            ordered: BTreeMap::new(),
            order_count: 0,
            watchers: Vec::new(),
            before: None,
            incarnated: false,
        }
    }

    /// `group` as the store has it since this process raised its version.
    pub fn begun(group: Group, now: Now) -> Self {
        GroupDriver { incarnated: true, ..Self::new(group, now) }
    }

    /// `group` as a store has it that may not be the newest: it was put back, or nobody was there
    /// for so long that it might have been. It asks the keepers before it decides (DESIGN §4.19).
    pub fn doubting(mut group: Group, now: Now) -> Self {
        doubt(&mut group);
        let mut driver = Self::new(group, now);
        driver.stored = driver.group.clone();
        driver.facts.doubted_for_age = driver.group.plan == Plan::Recovering;
        driver
    }

    pub fn group(&self) -> &Group {
        &self.group
    }

    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Takes one input in and says what to do.
    pub fn handle(&mut self, input: GroupInput, now: Now) -> GroupOutput {
        self.handle_all([(input, now.mono_ms)], now)
    }

    /// Takes all inputs in that wait, with the monotonic times at which they came, in milliseconds,
    /// and only then decides: nobody is silent whose word is there. A command comes by itself, after
    /// what was heard.
    pub fn handle_all(
        &mut self,
        inputs: impl IntoIterator<Item = (GroupInput, u64)>,
        now: Now,
    ) -> GroupOutput {
        let mut out = GroupOutput::default();
        if self.before.take().is_some() {
            self.stored.clone_from(&self.group);
        }
        self.facts.note_time(&self.group.settings, now);
        let mut before = Before {
            ordered: self.ordered.clone(),
            watchers: self.watchers.clone(),
            plan_since: self.facts.plan_since,
            rule_since_ms: self.facts.rule_since_ms,
            failovers_ms: self.facts.failovers_ms.clone(),
            incarnated: self.incarnated,
            order_count: self.order_count,
            greeted: Vec::new(),
        };
        for (input, came_ms) in inputs {
            let came = Now { mono_ms: came_ms.min(now.mono_ms), ..now };
            self.take_in(input, came, &mut before, &mut out);
        }
        self.facts.note_settings(&self.stored.settings, &self.group.settings, now);
        let (plan, rule) = (self.stored.plan.clone(), self.stored.rule().map(SyncRule::id));
        self.date(&plan, rule, now);
        self.settle(now, &mut out.events);
        if self.group != self.stored || !self.incarnated {
            self.incarnated = true;
            self.group.version += 1;
            self.order_count = 0;
            out.record = Some(Box::new(self.group.clone()));
        }
        self.give_orders(now, &mut out);
        self.watch(now, &mut out);
        if out.record.is_some() || !out.events.is_empty() {
            self.before = Some(Box::new(before));
        }
        out
    }

    fn take_in(
        &mut self,
        input: GroupInput,
        came: Now,
        before: &mut Before,
        out: &mut GroupOutput,
    ) {
        match input {
            GroupInput::Hello { stream, hello, fresh_id } => {
                let heard = self.facts.nodes.clone();
                let answer = self.hello(stream, &hello, fresh_id, came);
                if let Ok(welcome) = &answer {
                    let id = welcome.node_id;
                    before.greeted.push((id, heard.get(&id).cloned()));
                }
                out.welcomes.push((stream, answer));
            }
            GroupInput::Closed { stream, node } => {
                // After silence was forgiven the words of before seem younger than they are.
                let closed_ms = came.mono_ms.max(self.facts.forgiven_ms);
                let facts = self.facts.node_mut(node);
                if facts.stream == Some(stream) {
                    facts.stream = None;
                    facts.closed_ms = Some(closed_ms);
                    self.ordered.remove(&node);
                    self.forget_dropped(node, &mut out.events);
                }
            }
            GroupInput::Report { stream, node, report } => {
                self.report(stream, node, *report, came, &mut out.events);
            }
            GroupInput::Command { id, command } => {
                let answer = command::take(&mut self.group, &self.facts, &command, came);
                self.answer(id, answer, came, out);
            }
            GroupInput::Tick => {}
        }
    }

    /// The shell waited `ms` milliseconds for its store.
    pub fn waited(&mut self, ms: u64, now: Now) {
        self.facts.note_wait(ms, &self.group.settings, now);
    }

    /// The commit of the last output failed: back to what the store has.
    pub fn rollback(&mut self) {
        let Some(before) = self.before.take() else { return };
        self.group.clone_from(&self.stored);
        self.ordered = before.ordered;
        self.watchers = before.watchers;
        // None of its orders was sent: the numbers go on from those that were.
        self.incarnated = before.incarnated;
        self.order_count = before.order_count;
        self.facts.plan_since = before.plan_since;
        self.facts.rule_since_ms = before.rule_since_ms;
        self.facts.failovers_ms = before.failovers_ms;
        for (id, heard) in before.greeted.into_iter().rev() {
            match heard {
                Some(heard) => _ = self.facts.nodes.insert(id, heard),
                None => _ = self.facts.nodes.remove(&id),
            }
        }
        for node in self.facts.nodes.values_mut() {
            // Its event was not stored either.
            node.problem_noted = None;
        }
    }

    /// The last output is durable.
    pub fn committed(&mut self) {
        self.before = None;
        self.stored.clone_from(&self.group);
    }

    /// Until the next [`GroupInput::Tick`] is due, in milliseconds.
    pub fn wake_in_ms(&self, _now: Now) -> u64 {
        match self.group.plan {
            Plan::Serving { .. } | Plan::Forming { .. } | Plan::Recovering => {
                (self.group.settings.heartbeat_interval_ms / 10).clamp(10, 100)
            }
            Plan::Handover { .. } | Plan::Electing { .. } | Plan::Promoting { .. } => 10,
        }
    }

    /// Whether a command would be taken now. Nothing is changed.
    ///
    /// # Errors
    /// How it would be refused.
    pub fn check(&self, command: &Command, now: Now) -> Result<(), Refusal> {
        command::take(&mut self.group.clone(), &self.facts, command, now).map(|_| ())
    }

    /// What people see. `clock` renders wall-clock milliseconds as RFC 3339.
    pub fn view(&self, now: Now, clock: Clock) -> GroupView {
        view(&self.group, &self.facts, now, clock)
    }

    fn hello(
        &mut self,
        stream: u64,
        hello: &Hello,
        fresh_id: NodeId,
        now: Now,
    ) -> Result<Welcome, Refusal> {
        let (facts, settings) = (&self.facts, self.group.settings);
        let reachable = |id| {
            let open = facts.node(id).is_some_and(|n| n.stream.is_some());
            open && facts.is_reachable(id, &settings, now)
        };
        let present = hello.node_id.and_then(|id| self.facts.node(id)?.stream);
        if present.is_some_and(|present| present > stream) {
            // The network held it back: the keeper has connected anew since.
            let words = format!("{} has a newer connection", hello.name);
            return Err(Refusal::new(RefusalCode::Refused, words, "nothing: it goes on there"));
        }
        let known = (self.group.epoch, self.group.rules.clone());
        let node_id = command::register(&mut self.group, hello, fresh_id, &reachable)?;
        self.facts.doubted_for_age &= known == (self.group.epoch, self.group.rules.clone());
        let silence_ms = self.facts.silence_ms(node_id, &self.group.settings);
        let facts = self.facts.node_mut(node_id);
        facts.stream = Some(stream);
        facts.closed_ms = None;
        facts.heard_ms = facts.heard_ms.max(Some(now.mono_ms));
        let again = facts.greeted_ms.is_some_and(|at| now.mono_ms.saturating_sub(at) <= silence_ms);
        if facts.greeted_ms.is_none() || facts.report.is_some() && !again {
            facts.greeted_ms = Some(now.mono_ms);
        }
        // What it said before its connection broke no longer counts: it may have been restarted.
        facts.report = None;
        self.ordered.remove(&node_id);
        Ok(Welcome { node_id, settings: self.group.settings })
    }

    fn report(
        &mut self,
        stream: u64,
        id: NodeId,
        report: Report,
        now: Now,
        events: &mut Vec<Event>,
    ) {
        if !self.group.members.contains_key(&id) {
            return;
        }
        self.note_newer_orders(&report);
        let state_before = self.facts.node(id).and_then(|n| n.state);
        if !self.facts.take_report(stream, id, report, now) {
            return;
        }
        if let Some(primary) = self.group.primary() {
            if primary == id {
                self.facts.note_senders(&self.group, primary, now);
            }
            self.note_rejoin(id, state_before, events);
        }
        self.note_problem(id, events);
        self.note_notices(id, events);
        self.quarantine(id, events);
    }

    /// What a node tells of itself becomes an event once, however often it is told.
    fn note_notices(&mut self, id: NodeId, events: &mut Vec<Event>) {
        let Some(report) = self.facts.report(id) else { return };
        let noticed = self.group.members.get(&id).map_or(0, |m| m.noticed);
        for notice in report.notices.iter().filter(|n| n.seq > noticed) {
            events.push(event(&self.group, notice.kind, Some(id), notice.text.clone()));
            if let Some(member) = self.group.members.get_mut(&id) {
                member.noticed = notice.seq;
            }
        }
    }

    /// A standby that fails again and again, for a reason that does not pass, is left alone until
    /// an operator has looked.
    fn quarantine(&mut self, id: NodeId, events: &mut Vec<Event>) {
        let serving = matches!(self.group.plan, Plan::Serving { primary } if primary != id);
        let problem = self.facts.report(id).and_then(|r| r.problem.clone());
        let problem = problem.filter(|p| serving && p.failures >= QUARANTINE_FAILURES);
        let (Some(problem), Some(member)) = (problem, self.group.members.get_mut(&id)) else {
            return;
        };
        if member.is_out() || member.dropped {
            return;
        }
        let (name, why) = (member.name.clone(), format!("{}: {}", problem.code, problem.text));
        let text = format!(
            "{name} is stopped after {} failures in a row, {why}; when that is mended: pgctl \
             disable-maintenance {name}",
            problem.failures
        );
        member.quarantine = Some(why);
        events.push(event(&self.group, EventKind::Quarantine, Some(id), text));
    }

    /// A keeper that has taken in orders that nobody here gave: the store is not the newest, and
    /// keepers would refuse orders that are numbered by it.
    fn note_newer_orders(&mut self, report: &Report) {
        let given = self.group.version * ORDERS_PER_VERSION + self.order_count;
        if report.order_seq > given {
            self.group.version = report.order_seq / ORDERS_PER_VERSION;
            // Orders of a version above that, whatever comes of it.
            self.incarnated = false;
            doubt(&mut self.group);
            self.facts.doubted_for_age = false;
        }
    }

    fn note_rejoin(
        &self,
        id: NodeId,
        before: Option<crate::state::NodeState>,
        events: &mut Vec<Event>,
    ) {
        use crate::state::NodeState;
        let now = self.facts.node(id).and_then(|n| n.state);
        // `Catchingup` is a blink of the stream; a first join is the rule's event.
        let away = [NodeState::Demoted, NodeState::WaitStandby, NodeState::JoinSecondary];
        let was_away = before.is_some_and(|s| away.contains(&s));
        if now == Some(NodeState::Secondary) && was_away {
            let name = self.group.name_of(id);
            let text = format!("{name} streams from the primary");
            events.push(Event {
                reported: now,
                ..event(&self.group, EventKind::Rejoin, Some(id), text)
            });
        }
    }

    fn note_problem(&mut self, id: NodeId, events: &mut Vec<Event>) {
        let group = &self.group;
        let facts = self.facts.node_mut(id);
        let problem = facts.report.as_ref().and_then(|r| r.problem.clone());
        let code = problem.as_ref().map(|p| p.code.clone());
        if facts.problem_noted == code {
            return;
        }
        facts.problem_noted = code;
        if let Some(problem) = problem {
            let text = format!("{}: {}", problem.code, problem.text);
            events.push(event(group, EventKind::Node, Some(id), text));
        }
    }

    /// A dropped node goes from the record once its keeper has stopped (or at once if it was
    /// dropped by force, see `command`).
    fn forget_dropped(&mut self, id: NodeId, events: &mut Vec<Event>) {
        let stopped = self
            .facts
            .report(id)
            .is_some_and(|r| matches!(r.server, Server::Stopped | Server::NoData));
        let dropped = self.group.members.get(&id).is_some_and(|m| m.dropped);
        if dropped && stopped {
            let text = format!("{} has left the group", self.group.name_of(id));
            events.push(event(&self.group, EventKind::Node, Some(id), text));
            self.group.remove_member(id);
            self.facts.nodes.remove(&id);
        }
    }

    /// Decides until nothing changes. Every plan leads on to the next by what was heard, so a few
    /// rounds do; the bound is for the case that this reasoning is wrong.
    fn settle(&mut self, now: Now, events: &mut Vec<Event>) {
        for _ in 0..8 {
            let plan = self.group.plan.clone();
            let rule = self.group.rule().map(SyncRule::id);
            let more = decide(&mut self.group, &self.facts, now);
            let news = !more.is_empty();
            events.extend(more);
            if !self.date(&plan, rule, now) && !news {
                return;
            }
        }
    }

    /// Dates a change of plan or rule; returns whether there was one.
    fn date(&mut self, plan: &Plan, rule: Option<RuleId>, now: Now) -> bool {
        let (new_plan, new_rule) =
            (self.group.plan != *plan, self.group.rule().map(SyncRule::id) != rule);
        if new_plan {
            self.facts.plan_since = now;
            self.count_failover(plan, now);
        }
        if new_rule {
            self.facts.rule_since_ms = now.mono_ms;
        }
        new_plan || new_rule
    }

    fn count_failover(&mut self, old: &Plan, now: Now) {
        let began = matches!(old, Plan::Serving { .. })
            && matches!(self.group.plan, Plan::Electing { handover: None, .. });
        let by_itself = self.group.episode.as_ref().is_some_and(|e| e.operation.is_none());
        if began && by_itself {
            self.facts.note_failover(&self.group.settings, now);
        }
    }

    fn give_orders(&mut self, now: Now, out: &mut GroupOutput) {
        let resend = out.record.is_some();
        for (id, wish) in goals(&self.group, &self.facts, now) {
            let Some(stream) = self.facts.node(id).and_then(|n| n.stream) else { continue };
            let last = self.ordered.get(&id).filter(|(at, _)| *at == stream).map(|(_, a)| a);
            // A new record may change peers, rules or settings too: cheap, and rare.
            if last == Some(&wish) && !resend {
                continue;
            }
            self.order_count += 1;
            let order = self.order(&wish);
            self.ordered.insert(id, (stream, wish));
            out.orders.push((stream, id, order));
        }
    }

    fn order(&self, wish: &Assignment) -> Order {
        Order {
            epoch: wish.epoch,
            seq: self.group.version * ORDERS_PER_VERSION + self.order_count,
            goal_state: wish.state,
            goal: wish.goal.clone(),
            rules: self.group.rules.clone(),
            peers: self
                .group
                .members
                .values()
                .filter(|m| !m.dropped)
                .map(Member::as_peer)
                .collect(),
            settings: self.group.settings,
            replication_password: self.group.replication_password.clone(),
            room: wish.room,
        }
    }

    fn answer(
        &mut self,
        id: u64,
        answer: Result<command::Taken, Refusal>,
        now: Now,
        out: &mut GroupOutput,
    ) {
        match answer {
            Err(refusal) => out.replies.push((id, Err(refusal))),
            Ok(taken) => {
                let warning = taken.warning.as_ref();
                let message = warning.map_or_else(
                    || taken.message.clone(),
                    |warning| format!("{}; warning: {warning}", taken.message),
                );
                out.replies.push((id, Ok(message.clone())));
                out.events.extend(taken.events);
                if let Some(done) = taken.done {
                    out.progress.push((id, Progress::Done(done)));
                } else if let Some(effect) = taken.watch {
                    let watcher = Watcher::new(id, effect, taken.warning, &self.group, now);
                    self.watchers.push(watcher);
                } else {
                    out.progress.push((id, Progress::Effective { message }));
                }
            }
        }
    }

    fn watch(&mut self, now: Now, out: &mut GroupOutput) {
        let mut watchers = std::mem::take(&mut self.watchers);
        watchers.retain_mut(|watcher| {
            let mut told = Vec::new();
            let goes_on = watcher.look(&self.group, &self.facts, now, &out.events, &mut told);
            out.progress.extend(told.into_iter().map(|p| (watcher.id, p)));
            goes_on
        });
        self.watchers = watchers;
    }
}
