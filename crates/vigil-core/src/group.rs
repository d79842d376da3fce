//! The durable record of a group: everything that must survive the monitor, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::event::Episode;
use crate::ids::{Epoch, GroupKey, NodeId, RuleId, Secret};
use crate::message::Peer;
use crate::mutation::{Mutation, broken};
use crate::rule::SyncRule;
use crate::wal::Tli;

/// What operators can change while a formation runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Settings {
    pub number_sync_standbys: u32,
    pub heartbeat_interval_ms: u64,
    pub heartbeat_misses: u32,
    /// A member of the sync rule that is gone for so long leaves the rule.
    pub member_gone_ms: u64,
    /// So many automatic failovers are begun within the window, then an operator must say so.
    /// 0 = no limit.
    #[serde(default)]
    pub max_failovers: u32,
    #[serde(default)]
    pub failover_window_ms: u64,
}

/// What a heartbeat interval may be, in milliseconds.
pub const INTERVALS_MS: RangeInclusive<u64> = 100..=60_000;

impl Settings {
    /// Silence for longer than this is a missed deadline, in milliseconds.
    pub fn silence_ms(&self) -> u64 {
        self.heartbeat_interval_ms * u64::from(self.heartbeat_misses)
    }

    /// A write probe that has not ended after so long means that Postgres hangs, in milliseconds.
    /// One interval is left for the probe to be due at all; never under 500 ms, because a busy
    /// disk is not a dead one.
    pub fn probe_deadline_ms(&self) -> u64 {
        (self.heartbeat_interval_ms * u64::from(self.heartbeat_misses.saturating_sub(1))).max(500)
    }
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            number_sync_standbys: 0,
            heartbeat_interval_ms: 1000,
            heartbeat_misses: 3,
            member_gone_ms: 10_000,
            max_failovers: 30,
            failover_window_ms: 600_000,
        }
    }
}

/// A registered node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Member {
    pub id: NodeId,
    pub name: String,
    pub host: String,
    pub port: u16,
    /// 0 = never elected by itself.
    pub candidate_priority: u32,
    pub replication_quorum: bool,
    /// The operator wants it stopped.
    pub maintenance: bool,
    /// Why it is stopped although no operator wanted that: the same thing failed again and again.
    #[serde(default)]
    pub quarantine: Option<String>,
    /// Up to which number its notices have become events.
    #[serde(default)]
    pub noticed: u64,
    /// Leaving for good: removed as soon as its keeper has been told.
    pub dropped: bool,
}

impl Member {
    /// A node as a peer was told of it.
    pub fn from_peer(peer: &Peer) -> Self {
        let Peer { id, name, host, port, candidate_priority, replication_quorum, maintenance } =
            peer.clone();
        Member {
            id,
            name,
            host,
            port,
            candidate_priority,
            replication_quorum,
            maintenance,
            quarantine: None,
            noticed: 0,
            dropped: false,
        }
    }

    /// What its peers are told of it.
    pub fn as_peer(&self) -> Peer {
        Peer {
            id: self.id,
            name: self.name.clone(),
            host: self.host.clone(),
            port: self.port,
            candidate_priority: self.candidate_priority,
            replication_quorum: self.replication_quorum,
            maintenance: self.maintenance,
        }
    }

    /// Stopped, and meant to be: in maintenance or in quarantine.
    pub fn is_out(&self) -> bool {
        self.maintenance || self.quarantine.is_some()
    }

    /// Whether a sync rule may ever count it.
    pub fn counts(&self) -> bool {
        self.replication_quorum && !self.is_out() && !self.dropped
    }

    /// Whether an election may ever choose it.
    pub fn may_lead(&self) -> bool {
        self.candidate_priority > 0 && !self.is_out() && !self.dropped
    }
}

/// What the group as a whole is doing. Node goals follow from it, see [`crate::goals`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "plan", rename_all = "snake_case")]
pub enum Plan {
    /// No primary has ever served. `founder` makes the first one.
    Forming { founder: Option<NodeId> },
    /// The primary of the newest rule serves.
    Serving { primary: NodeId },
    /// A planned change is being prepared; everything can still be undone.
    Handover { from: NodeId, to: NodeId },
    /// Pledges for `epoch` are collected. `handover`: the old primary pledges first, by stopping,
    /// and the node named is wanted as the next one.
    Electing { epoch: Epoch, handover: Option<HandoverPlan>, accept_loss: bool },
    /// The winner is recorded (its rule is the newest in flight) and is told.
    Promoting { epoch: Epoch, winner: NodeId, rule: RuleId, tli: Tli, renewal: bool },
    /// The store is older than what keepers tell: observe until everybody has been heard (§4.19).
    Recovering,
}

/// Who hands over to whom in a planned change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HandoverPlan {
    pub from: NodeId,
    pub to: NodeId,
}

impl Plan {
    /// Of all plans.
    pub const NAMES: [&'static str; 6] =
        ["forming", "serving", "handover", "electing", "promoting", "recovering"];

    /// A new one belongs into [`Plan::NAMES`] too, so that it is tested what a kill there does.
    pub fn name(&self) -> &'static str {
        match self {
            Plan::Forming { .. } => "forming",
            Plan::Serving { .. } => "serving",
            Plan::Handover { .. } => "handover",
            Plan::Electing { .. } => "electing",
            Plan::Promoting { .. } => "promoting",
            Plan::Recovering => "recovering",
        }
    }
}

/// The durable record. Two things can be in flight: a plan and a rule change; never a third.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Group {
    pub key: GroupKey,
    /// Raised by every committed change; the store refuses a stale writer by it.
    pub version: u64,
    /// Postgres' system identifier, once a founder has told it.
    pub system_id: Option<u64>,
    /// The highest epoch assigned or heard of.
    pub epoch: Epoch,
    /// The highest timeline assigned or heard of.
    pub last_tli: Tli,
    pub last_rule_version: u64,
    pub plan: Plan,
    /// S, the rules in flight, oldest first. The last is the newest; it alone is left once it is
    /// covered.
    pub rules: Vec<SyncRule>,
    pub settings: Settings,
    pub members: BTreeMap<NodeId, Member>,
    /// The failover or switchover that is under way, until its rule is covered.
    pub episode: Option<Episode>,
    /// Standbys authenticate with it. Generated by the monitor; never logged.
    pub replication_password: Secret,
}

impl Group {
    /// A group that nobody has joined yet.
    pub fn new(key: GroupKey, settings: Settings, replication_password: impl Into<Secret>) -> Self {
        Group {
            key,
            version: 0,
            system_id: None,
            epoch: Epoch(0),
            last_tli: Tli(0),
            last_rule_version: 0,
            plan: Plan::Forming { founder: None },
            rules: Vec::new(),
            settings,
            members: BTreeMap::new(),
            episode: None,
            replication_password: replication_password.into(),
        }
    }

    /// The newest rule: the one that the primary should have in force.
    pub fn rule(&self) -> Option<&SyncRule> {
        self.rules.last()
    }

    /// Whether every older rule has been superseded for good (DESIGN §4.7).
    pub fn is_covered(&self) -> bool {
        self.rules.len() <= 1
    }

    /// Who serves, or is being made to serve.
    pub fn primary(&self) -> Option<NodeId> {
        match self.plan {
            Plan::Serving { primary } => Some(primary),
            Plan::Handover { from, .. } => Some(from),
            Plan::Promoting { winner, .. } => Some(winner),
            Plan::Forming { .. } | Plan::Electing { .. } | Plan::Recovering => None,
        }
    }

    pub fn member_named(&self, name: &str) -> Option<&Member> {
        self.members.values().find(|m| m.name == name)
    }

    /// The member that an operator means: by its name, or by its host where nobody else is there.
    pub fn member_meant(&self, word: &str) -> Option<&Member> {
        self.member_named(word).or_else(|| {
            let mut there = self.members.values().filter(|m| m.host == word);
            let one = there.next()?;
            there.next().is_none().then_some(one)
        })
    }

    pub fn name_of(&self, id: NodeId) -> String {
        self.members.get(&id).map_or_else(|| format!("node #{id}"), |m| m.name.clone())
    }

    /// The node names behind `ids`, for messages.
    pub fn names_of(&self, ids: impl IntoIterator<Item = NodeId>) -> String {
        let names: Vec<String> = ids.into_iter().map(|id| self.name_of(id)).collect();
        names.join(", ")
    }

    /// A node leaves the record. With the last one the group begins anew: whoever comes next founds
    /// it. Epochs and rule versions go on, so that nothing of before can be mistaken for new.
    pub fn remove_member(&mut self, id: NodeId) {
        self.members.remove(&id);
        if self.members.is_empty() {
            self.plan = Plan::Forming { founder: None };
            self.rules.clear();
            self.system_id = None;
            self.episode = None;
        }
    }

    /// Appends a new rule to those in flight and returns it. The one place that numbers rules.
    /// Superseded rules under which nothing can ever have been acknowledged (fewer members than
    /// acknowledgements) bind no election and are dropped, so that S stays short.
    pub fn record_rule(
        &mut self,
        epoch: Epoch,
        primary: NodeId,
        members: BTreeSet<NodeId>,
        acks: u32,
    ) -> SyncRule {
        self.rules.retain(|old| old.pledges_needed() > 0);
        let forgets = match self.plan {
            Plan::Electing { .. } => Mutation::ForgottenAtElection,
            _ => Mutation::ForgottenAtChange,
        };
        if broken(forgets) {
            self.rules.clear();
        }
        self.last_rule_version += 1;
        let rule = SyncRule { epoch, version: self.last_rule_version, primary, members, acks };
        self.rules.push(rule.clone());
        rule
    }

    /// The one place that assigns timelines: above every one assigned or heard of (DESIGN §4.4).
    pub fn assign_tli(&mut self) -> Tli {
        self.last_tli = Tli(self.last_tli.0 + 1);
        self.last_tli
    }
}

#[cfg(test)]
mod tests {
    use super::Plan;

    #[test]
    fn every_plan_is_among_the_names() {
        let lines = include_str!("group.rs").lines().filter(|l| l.trim().starts_with("Plan::"));
        let names: Vec<&str> =
            lines.filter_map(|l| l.split(" => \"").nth(1)?.split('"').next()).collect();
        assert_eq!(names, Plan::NAMES);
    }
}
