//! What happened, for people: one event per failover, with cause, evidence and phase times.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeId};
use crate::state::NodeState;

/// The `kind` of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    Failover,
    Switchover,
    Promotion,
    Rejoin,
    Degrade,
    Rule,
    Maintenance,
    Quarantine,
    Setting,
    Node,
}

impl EventKind {
    pub fn as_str(self) -> &'static str {
        match self {
            EventKind::Failover => "failover",
            EventKind::Switchover => "switchover",
            EventKind::Promotion => "promotion",
            EventKind::Rejoin => "rejoin",
            EventKind::Degrade => "degrade",
            EventKind::Rule => "rule",
            EventKind::Maintenance => "maintenance",
            EventKind::Quarantine => "quarantine",
            EventKind::Setting => "setting",
            EventKind::Node => "node",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One named step of a failover and how long it took.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Phase {
    pub name: String,
    pub ms: u64,
}

/// An event as it is stored. The store numbers and dates it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    pub kind: EventKind,
    pub node: Option<NodeId>,
    pub nodename: Option<String>,
    pub epoch: Epoch,
    pub cause: Option<String>,
    pub evidence: Vec<String>,
    pub phases: Vec<Phase>,
    pub reported: Option<NodeState>,
    pub goal: Option<NodeState>,
    pub description: String,
}

/// Why a primary is being replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The keeper says that Postgres has ended.
    PostgresDown,
    /// The keeper says that its write probe does not end.
    PostgresHung,
    /// The keeper says that Postgres does not serve as the primary (a restart of the machine).
    NotPrimary,
    /// Nobody has heard of it for the deadline, and no member vouches for it.
    Unreachable,
    /// The monitor's stream and the receivers of all members were closed at once.
    ConnectionsClosed,
    /// An operator asked.
    Operator,
    /// The node is being stopped politely and hands over first.
    Leaving,
    /// The winner of an election did not come up.
    WinnerFailed,
    /// A store older than the keepers' knowledge.
    Recovery,
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::PostgresDown => "postgres_down",
            Cause::PostgresHung => "postgres_hung",
            Cause::NotPrimary => "not_primary",
            Cause::Unreachable => "unreachable",
            Cause::ConnectionsClosed => "connections_closed",
            Cause::Operator => "operator",
            Cause::Leaving => "leaving",
            Cause::WinnerFailed => "winner_failed",
            Cause::Recovery => "recovery",
        }
    }
}

/// Which operator's command (or none) an episode carries out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    Failover,
    Switchover,
    Promotion,
}

impl Operation {
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Failover => "failover",
            Operation::Switchover => "switchover",
            Operation::Promotion => "promotion",
        }
    }
}

/// A change of the primary from its cause to the moment its rule is covered. It is part of the
/// group's record so that a monitor that restarts half-way still writes one event, not two.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Episode {
    pub kind: EventKind,
    pub cause: Cause,
    pub evidence: Vec<String>,
    /// Whom an operator's caller waits for; `None` for automatic ones.
    pub operation: Option<Operation>,
    pub from: Option<NodeId>,
    /// Wall clock at the start, milliseconds since 1970.
    pub started_ms: i64,
    /// Wall clock when clients lost the primary, if that is known to be later than the start.
    pub outage_from_ms: Option<i64>,
    /// (phase that ended, wall clock), in order.
    pub marks: Vec<(String, i64)>,
    /// The old primary hands over because it is to enter maintenance: it does once the new one
    /// serves, and not at all if the change is undone.
    #[serde(default)]
    pub then_maintenance: bool,
    /// The same where it is to be dropped.
    #[serde(default)]
    pub then_drop: bool,
    /// Whom an operator wants as the next primary: preferred, not forced.
    #[serde(default)]
    pub wanted: Option<NodeId>,
    /// Winners of this change that did not come up: chosen again only if nobody else can be.
    #[serde(default)]
    pub failed: BTreeSet<NodeId>,
}

impl Episode {
    /// Notes that phase `name` has ended now; once per name.
    pub fn mark(&mut self, name: &str, wall_ms: i64) {
        if self.marks.iter().all(|(n, _)| n != name) {
            self.marks.push((name.to_owned(), wall_ms));
        }
    }

    /// The phases with their durations; clocks that were set back count as 0 ms.
    pub fn phases(&self) -> Vec<Phase> {
        let mut from = self.started_ms;
        let mut phases = Vec::new();
        for (name, at) in &self.marks {
            phases.push(Phase { name: name.clone(), ms: span(from, *at) });
            from = *at;
        }
        phases
    }

    /// From the loss of the primary to the last mark, as the monitor saw it, in milliseconds.
    pub fn outage_ms(&self) -> u64 {
        let end = self.marks.last().map_or(self.started_ms, |(_, at)| *at);
        span(self.outage_from_ms.unwrap_or(self.started_ms), end)
    }
}

fn span(from_ms: i64, to_ms: i64) -> u64 {
    u64::try_from(to_ms - from_ms).unwrap_or(0)
}
