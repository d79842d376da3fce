//! Who must flush a commit before it is acknowledged, and what an election needs to know of that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeId, RuleId};
use crate::mutation::{Mutation, broken};
use crate::wal::Position;

/// A standby name that no node has: commits block while only it is listed.
pub const NOBODY: &str = "pgvigil_nobody";

/// One sync rule R. Its version is unique in the group; (epoch, version) orders rules.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SyncRule {
    pub epoch: Epoch,
    pub version: u64,
    pub primary: NodeId,
    /// Q: the standbys that count.
    pub members: BTreeSet<NodeId>,
    /// W: how many of them must have flushed. 0 = acknowledged alone. May exceed the members:
    /// then every commit blocks.
    pub acks: u32,
}

impl SyncRule {
    pub fn id(&self) -> RuleId {
        RuleId { epoch: self.epoch, version: self.version }
    }

    /// N − W + 1: so many members' pledges make sure that W acknowledgements can no longer be
    /// collected, and that one of the pledged holds whatever was acknowledged.
    pub fn pledges_needed(&self) -> usize {
        let spare = usize::from(!broken(Mutation::QuorumOffByOne));
        (self.members.len() + spare).saturating_sub(self.acks as usize)
    }

    /// Whether the primary alone decides (nobody else is known to hold its commits).
    pub fn is_async(&self) -> bool {
        self.acks == 0
    }

    /// The value for `synchronous_standby_names`. Empty only for W = 0; a rule without members
    /// names somebody that does not exist, so that commits block instead of passing.
    pub fn standby_names(&self, name_of: impl Fn(NodeId) -> Option<String>) -> String {
        if self.acks == 0 {
            return String::new();
        }
        let mut names: Vec<String> = self
            .members
            .iter()
            .filter_map(|id| name_of(*id))
            .map(|name| format!("\"{}\"", name.replace('"', "\"\"")))
            .collect();
        if names.len() < self.acks as usize {
            names.push(NOBODY.to_owned());
        }
        format!("ANY {} ({})", self.acks, names.join(", "))
    }
}

/// What a node told with its pledge.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Pledge {
    pub epoch: Epoch,
    /// End of its WAL; `None` = not known yet (unread WAL on disk), which is not "low".
    pub position: Option<Position>,
    /// False for a half-rewound or cloned directory: it counts for revocation, never for
    /// completeness.
    pub usable: bool,
    /// It is fetching WAL right now; its position is about to change.
    pub fetching: bool,
}

/// The pledges of one election, by node.
pub type Pledges = BTreeMap<NodeId, Pledge>;

/// Why a rule is not satisfied for a candidate: what would end the wait.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortfall {
    pub rule: RuleId,
    /// Members of the rule that have not pledged, or whose position is not known.
    pub silent: BTreeSet<NodeId>,
    /// Pledged members (or the primary) that hold more WAL than the candidate.
    pub ahead: BTreeSet<NodeId>,
    /// How many more members would do.
    pub missing: usize,
    /// Whose pledge with a position would do alone.
    pub primary: NodeId,
}

/// `satisfied(R, w)` of DESIGN §4.10: both revocation (R can acknowledge nothing more) and
/// completeness (w holds everything that R acknowledged). Either R's primary has pledged and w is
/// at least as far, or N − W + 1 members have pledged, are usable, and w is at least as far as
/// those. W = 0: only the first.
///
/// # Errors
/// What is missing.
pub fn satisfied(
    rule: &SyncRule,
    candidate: Position,
    epoch: Epoch,
    pledges: &Pledges,
) -> Result<(), Shortfall> {
    let told = |id: &NodeId| pledges.get(id).filter(|p| p.epoch == epoch && p.usable);
    if told(&rule.primary).and_then(|p| p.position).is_some_and(|p| candidate.reaches(p)) {
        return Ok(());
    }
    let mut shortfall = Shortfall {
        rule: rule.id(),
        silent: BTreeSet::new(),
        ahead: BTreeSet::new(),
        missing: 0,
        primary: rule.primary,
    };
    match told(&rule.primary).and_then(|p| p.position) {
        Some(_) => shortfall.ahead.insert(rule.primary),
        None => shortfall.silent.insert(rule.primary),
    };
    if rule.is_async() {
        if broken(Mutation::AsyncNeedsNobody) {
            return Ok(());
        }
        shortfall.missing = 1;
        return Err(shortfall);
    }
    let mut enough = 0;
    for member in &rule.members {
        match told(member).and_then(|p| p.position) {
            Some(position) if candidate.reaches(position) => enough += 1,
            Some(_) => _ = shortfall.ahead.insert(*member),
            None => _ = shortfall.silent.insert(*member),
        }
    }
    if enough >= rule.pledges_needed() {
        return Ok(());
    }
    shortfall.missing = rule.pledges_needed() - enough;
    Err(shortfall)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::{Lsn, Tli};

    fn rule(members: &[i64], acks: u32) -> SyncRule {
        SyncRule {
            epoch: Epoch(1),
            version: 1,
            primary: NodeId(1),
            members: members.iter().map(|n| NodeId(*n)).collect(),
            acks,
        }
    }

    fn at(lsn: u64) -> Position {
        Position { tli: Tli(1), lsn: Lsn(lsn) }
    }

    fn pledges(told: &[(i64, u64)]) -> Pledges {
        let pledge = |lsn| Pledge {
            epoch: Epoch(2),
            position: Some(at(lsn)),
            usable: true,
            fetching: false,
        };
        told.iter().map(|(n, lsn)| (NodeId(*n), pledge(*lsn))).collect()
    }

    #[test]
    fn names_never_come_out_empty_by_accident() {
        let name = |id: NodeId| Some(format!("node{id}"));
        assert_eq!(rule(&[], 0).standby_names(name), "");
        assert_eq!(rule(&[2, 3], 1).standby_names(name), r#"ANY 1 ("node2", "node3")"#);
        assert_eq!(rule(&[], 1).standby_names(name), "ANY 1 (pgvigil_nobody)");
        assert_eq!(rule(&[2], 2).standby_names(name), r#"ANY 2 ("node2", pgvigil_nobody)"#);
    }

    /// One pledge of two is not enough at W = 1: the commit may be on the other one only.
    #[test]
    fn one_of_two_members_could_miss_the_commit() {
        let r = rule(&[2, 3], 1);
        let short = satisfied(&r, at(100), Epoch(2), &pledges(&[(2, 100)])).unwrap_err();
        assert_eq!((short.missing, short.silent.len()), (1, 2));
        assert!(satisfied(&r, at(100), Epoch(2), &pledges(&[(2, 100), (3, 90)])).is_ok());
        let short = satisfied(&r, at(90), Epoch(2), &pledges(&[(2, 100), (3, 90)])).unwrap_err();
        assert!(short.ahead.contains(&NodeId(2)), "the candidate lacks WAL of node 2");
        assert!(satisfied(&r, at(100), Epoch(2), &pledges(&[(1, 100)])).is_ok(), "primary alone");
        assert!(satisfied(&r, at(100), Epoch(3), &pledges(&[(2, 1), (3, 1)])).is_err(), "epoch");
    }

    #[test]
    fn at_w0_only_the_primary_knows() {
        let r = rule(&[], 0);
        assert!(satisfied(&r, at(100), Epoch(2), &pledges(&[(2, 100), (3, 100)])).is_err());
        assert!(satisfied(&r, at(100), Epoch(2), &pledges(&[(1, 100)])).is_ok());
    }
}
