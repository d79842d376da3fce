//! What the monitor has heard since it started. Volatile: nothing here needs to survive.

use std::collections::BTreeMap;

use crate::group::{Group, INTERVALS_MS, Settings};
use crate::ids::{Epoch, NodeId, Now};
use crate::message::{Report, Server};
use crate::mutation::{Mutation, broken};
use crate::rule::{Pledge, Pledges};
use crate::state::NodeState;

/// Reachability has three values: "not heard of yet" is not "gone".
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    Reachable,
    Unreachable,
    Unknown,
}

/// One node as heard.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NodeFacts {
    pub stream: Option<u64>,
    /// When its last stream ended, if none is open now. Monotonic milliseconds, like all here.
    pub closed_ms: Option<u64>,
    pub heard_ms: Option<u64>,
    /// When its keeper introduced itself, after it was heard or for the first time. One whose
    /// connection breaks again and again has come once in a deadline.
    pub greeted_ms: Option<u64>,
    pub report: Option<Report>,
    /// The best pledge told for the highest epoch. A pledge cannot be taken back.
    pub pledge: Option<Pledge>,
    /// When that epoch was first pledged.
    pub pledged: Option<Now>,
    /// When the present primary was last seen to stream to it.
    pub streamed_ms: Option<u64>,
    pub state: Option<NodeState>,
    pub state_since_wall_ms: i64,
    /// When its reports last showed that its server got on: other WAL received or replayed, or
    /// another way that it runs.
    pub moved_ms: Option<u64>,
    /// The problem last put into an event.
    pub problem_noted: Option<String>,
    /// Dropped, and its keeper has confirmed that it stopped.
    pub drop_confirmed: bool,
}

/// Everything heard.
#[derive(Clone, PartialEq, Debug)]
pub struct Facts {
    pub nodes: BTreeMap<NodeId, NodeFacts>,
    pub started_ms: u64,
    /// When the plan last changed.
    pub plan_since: Now,
    pub last_tick_ms: u64,
    /// When the monitor last woke up from a sleep: what it reads next may be old.
    pub woke_ms: Option<u64>,
    /// When silence was last forgiven: until then nobody's word answers a question.
    pub forgiven_ms: u64,
    /// The record is doubted for nothing but its age: no keeper has told of anything newer.
    pub doubted_for_age: bool,
    /// When the newest rule was recorded (or the monitor started).
    pub rule_since_ms: u64,
    /// When failovers were begun that no operator had asked for.
    pub failovers_ms: Vec<u64>,
}

impl Facts {
    pub fn new(now: Now) -> Self {
        Facts {
            nodes: BTreeMap::new(),
            started_ms: now.mono_ms,
            plan_since: now,
            last_tick_ms: now.mono_ms,
            woke_ms: None,
            forgiven_ms: 0,
            doubted_for_age: false,
            rule_since_ms: now.mono_ms,
            failovers_ms: Vec::new(),
        }
    }

    /// Notes that an automatic failover has begun, and forgets those that no window holds any more.
    pub fn note_failover(&mut self, settings: &Settings, now: Now) {
        let window_ms = settings.failover_window_ms;
        self.failovers_ms.retain(|at| now.mono_ms.saturating_sub(*at) < window_ms);
        self.failovers_ms.push(now.mono_ms);
    }

    /// Whether so many failovers were begun by themselves that the next one needs an operator's
    /// word, or more time: a primary that dies again and again is not cured by another one.
    pub fn is_flapping(&self, settings: &Settings, now: Now) -> bool {
        let recent = |at: &&u64| now.mono_ms.saturating_sub(**at) < settings.failover_window_ms;
        let count = self.failovers_ms.iter().filter(recent).count();
        settings.max_failovers > 0 && count >= settings.max_failovers as usize
    }

    pub fn node(&self, id: NodeId) -> Option<&NodeFacts> {
        self.nodes.get(&id)
    }

    pub fn node_mut(&mut self, id: NodeId) -> &mut NodeFacts {
        self.nodes.entry(id).or_default()
    }

    pub fn report(&self, id: NodeId) -> Option<&Report> {
        self.nodes.get(&id)?.report.as_ref()
    }

    /// The heartbeat by which a node goes: the group's, or a longer one by which its last report
    /// went. It has not heard of the change then, and is not late by what it does not know.
    pub fn interval_ms(&self, id: NodeId, settings: &Settings) -> u64 {
        let told_ms = self.report(id).map_or(0, |report| report.interval_ms);
        settings.heartbeat_interval_ms.max(told_ms.min(*INTERVALS_MS.end()))
    }

    /// Silence of a node for longer than this is a missed deadline, in milliseconds.
    pub fn silence_ms(&self, id: NodeId, settings: &Settings) -> u64 {
        self.interval_ms(id, settings) * u64::from(settings.heartbeat_misses)
    }

    pub fn reach(&self, id: NodeId, settings: &Settings, now: Now) -> Reach {
        let silence_ms = self.silence_ms(id, settings);
        match self.node(id).and_then(|n| n.heard_ms) {
            Some(heard) if now.mono_ms.saturating_sub(heard) <= silence_ms => Reach::Reachable,
            None if now.mono_ms.saturating_sub(self.started_ms) <= silence_ms => Reach::Unknown,
            Some(_) | None => Reach::Unreachable,
        }
    }

    /// Whether reports may still come in that were sent while the monitor slept.
    pub fn is_drowsy(&self, settings: &Settings, now: Now) -> bool {
        let awake = |since: u64| now.mono_ms.saturating_sub(since);
        self.woke_ms.is_some_and(|since| awake(since) <= settings.heartbeat_interval_ms)
    }

    pub fn is_reachable(&self, id: NodeId, settings: &Settings, now: Now) -> bool {
        self.reach(id, settings, now) == Reach::Reachable
    }

    /// The report of a node that can be relied on now.
    pub fn fresh(&self, id: NodeId, settings: &Settings, now: Now) -> Option<&Report> {
        self.report(id).filter(|_| self.is_reachable(id, settings, now))
    }

    /// Time since the plan last changed, in milliseconds.
    pub fn plan_age_ms(&self, now: Now) -> u64 {
        now.mono_ms.saturating_sub(self.plan_since.mono_ms)
    }

    pub fn rule_age_ms(&self, now: Now) -> u64 {
        now.mono_ms.saturating_sub(self.rule_since_ms)
    }

    /// The pledges for `epoch`.
    pub fn pledges(&self, epoch: Epoch) -> Pledges {
        self.nodes
            .iter()
            .filter_map(|(id, node)| {
                let told = node.pledge.filter(|p| p.epoch == epoch);
                let stale = || node.pledge.filter(|_| broken(Mutation::OldPledgesCount));
                Some((*id, told.or_else(|| Some(Pledge { epoch, ..stale()? }))?))
            })
            .collect()
    }

    /// Takes a report in. Returns false for one of a stream that is not the node's present one.
    pub fn take_report(&mut self, stream: u64, id: NodeId, report: Report, now: Now) -> bool {
        let node = self.node_mut(id);
        if node.stream != Some(stream) {
            return false;
        }
        node.heard_ms = node.heard_ms.max(Some(now.mono_ms));
        if let Some(told) = report.pledge
            && node.pledge.is_none_or(|had| told.epoch >= had.epoch)
        {
            let had = node.pledge.filter(|had| had.epoch == told.epoch);
            if had.is_none() {
                node.pledged = Some(now);
            }
            // A restart may forget the position for a while; the pledge itself stands.
            let known = had.is_some_and(|h| h.position.is_some() && told.position.is_none());
            if !known || !told.usable {
                node.pledge = Some(told);
            }
        }
        if node.state != Some(report.state) {
            node.state = Some(report.state);
            node.state_since_wall_ms = now.wall_ms;
        }
        let moved = |had: &Report| {
            (had.server, had.position, had.replayed)
                != (report.server, report.position, report.replayed)
        };
        if node.report.as_ref().is_none_or(moved) {
            node.moved_ms = Some(now.mono_ms);
        }
        node.report = Some(report);
        true
    }

    /// Notes which standbys the primary streams to, from its own report.
    pub fn note_senders(&mut self, group: &Group, primary: NodeId, now: Now) {
        let Some(report) = self.report(primary) else { return };
        if report.server != Server::Primary {
            return;
        }
        let silence_ms = self.silence_ms(primary, &group.settings);
        let streaming: Vec<NodeId> = group
            .members
            .values()
            .filter(|m| report.streams_to(&m.name, silence_ms))
            .map(|m| m.id)
            .collect();
        for id in streaming {
            self.node_mut(id).streamed_ms = Some(now.mono_ms);
        }
    }

    /// A monitor that was asleep gives everybody a fresh deadline: silence that it slept through
    /// is no evidence.
    pub fn note_time(&mut self, settings: &Settings, now: Now) {
        let gap = now.mono_ms.saturating_sub(self.last_tick_ms);
        self.last_tick_ms = now.mono_ms;
        if gap > settings.heartbeat_interval_ms.max(500) {
            self.woke_ms = Some(now.mono_ms);
        }
        if gap > settings.heartbeat_interval_ms * 3 / 4 {
            self.forgive(gap, now);
        }
    }

    /// The monitor waited `ms` for its store. It read nothing meanwhile, and could not take in who
    /// came: that is not the nodes' silence.
    pub fn note_wait(&mut self, ms: u64, settings: &Settings, now: Now) {
        self.last_tick_ms = now.mono_ms;
        // Of no weight against a deadline, and it would blur what was said when.
        if ms > settings.heartbeat_interval_ms / 4 {
            self.forgive(ms, now);
        }
    }

    /// Everybody was heard so much later.
    fn forgive(&mut self, gap: u64, now: Now) {
        self.forgiven_ms = now.mono_ms;
        // What was said before a stream ended is still said before its end: it answers no question
        // about that.
        let ended = |at: u64| (at + gap).min(now.mono_ms);
        for node in self.nodes.values_mut() {
            let said = |at: u64| later(at, gap, now);
            node.heard_ms = node.heard_ms.map(said);
            node.greeted_ms = node.greeted_ms.map(said);
            node.streamed_ms = node.streamed_ms.map(said);
            node.closed_ms = node.closed_ms.map(ended);
        }
        for at in [&mut self.started_ms, &mut self.plan_since.mono_ms, &mut self.rule_since_ms] {
            *at = ended(*at);
        }
    }

    /// Settings that allow less silence begin with a fresh deadline for the members of the sync
    /// rule: the primary told of them as often as it had to until now.
    pub fn note_settings(&mut self, old: &Settings, new: &Settings, now: Now) {
        let less = old.silence_ms().saturating_sub(new.silence_ms());
        for node in self.nodes.values_mut() {
            node.streamed_ms = node.streamed_ms.map(|at| later(at, less, now));
        }
    }
}

/// So much later than it was, but in the past.
fn later(at_ms: u64, ms: u64, now: Now) -> u64 {
    (at_ms + ms).min(now.mono_ms.saturating_sub(1)).max(at_ms)
}
