//! A primary that is cut off from the monitor: may it go on? (DESIGN §4.16)

use std::collections::BTreeSet;

use crate::ids::NodeId;
use crate::rule::SyncRule;

/// It goes on iff fewer than N − W + 1 members can have pledged to somebody else: those that were
/// heard from within the deadline have not. Degraded (W = 0) and single primaries go on.
pub fn may_go_on(rule: &SyncRule, heard: &BTreeSet<NodeId>) -> bool {
    if rule.is_async() {
        return true;
    }
    let unheard = rule.members.iter().filter(|m| !heard.contains(m)).count();
    unheard < rule.pledges_needed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Epoch;

    fn rule(members: &[i64], acks: u32) -> SyncRule {
        let members = members.iter().map(|n| NodeId(*n)).collect();
        SyncRule { epoch: Epoch(1), version: 1, primary: NodeId(1), members, acks }
    }

    #[test]
    fn an_isolated_primary_stops_exactly_when_others_could_elect() {
        let heard = |ids: &[i64]| ids.iter().map(|n| NodeId(*n)).collect::<BTreeSet<_>>();
        assert!(may_go_on(&rule(&[2, 3], 1), &heard(&[2])), "one heard: only one can have pledged");
        assert!(!may_go_on(&rule(&[2, 3], 1), &heard(&[])), "both may have pledged");
        assert!(may_go_on(&rule(&[2], 1), &heard(&[2])));
        assert!(!may_go_on(&rule(&[2], 1), &heard(&[])));
        assert!(!may_go_on(&rule(&[2, 3], 2), &heard(&[2])), "W = 2: one pledge is enough");
        assert!(may_go_on(&rule(&[], 0), &heard(&[])), "W = 0 loses nothing by going on");
    }
}
