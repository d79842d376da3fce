//! What the sync rule should be (DESIGN §4.9), and whether it may be changed now.

use std::collections::BTreeSet;

use crate::election::counts;
use crate::facts::Facts;
use crate::group::{Group, Member};
use crate::ids::{NodeId, Now};
use crate::message::{Report, Server};
use crate::rule::SyncRule;
use crate::state::NodeState;

/// A standby further behind than this is not counted: commits would wait for it. Bytes.
pub const COUNTABLE_LAG: u64 = 16 * 1024 * 1024;
/// No more rules than this are in flight at once: a bound for what keepers have to hold.
const RULES_MAX: usize = 16;

/// Members and acknowledgements that a rule should have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    pub members: BTreeSet<NodeId>,
    pub acks: u32,
}

/// Whether `id` streams from the primary of `rule` so that it may be counted: it has reported the
/// rule's epoch, its lineage was checked for it, and the primary's walsender agrees (DESIGN §4.8).
pub fn is_countable(group: &Group, facts: &Facts, rule: &SyncRule, id: NodeId, now: Now) -> bool {
    let Some(member) = group.members.get(&id) else { return false };
    let Some(report) = facts.fresh(id, &group.settings, now) else { return false };
    let Some(primary) = facts.fresh(rule.primary, &group.settings, now) else { return false };
    let follows = report
        .following
        .is_some_and(|f| f.primary == rule.primary && f.epoch == rule.epoch && f.streaming);
    let promised = report.promise == rule.epoch;
    // Who cannot be seen could not pledge.
    counts(member)
        && report.not_let_in.is_none()
        && promised
        && follows
        && !report.leaving
        && close(primary, &member.name)
}

fn close(primary: &Report, name: &str) -> bool {
    let end = primary.position.map_or(0, |p| p.lsn.0);
    primary
        .senders
        .iter()
        .any(|s| s.name == name && s.streaming && end.saturating_sub(s.flush.0) <= COUNTABLE_LAG)
}

/// What the newest rule should be changed to, `None` if it is right as it is.
pub fn wanted(group: &Group, facts: &Facts, rule: &SyncRule, now: Now) -> Option<Wanted> {
    let others = || group.members.values().filter(|m| m.id != rule.primary && counts(m));
    let away_ms = |id: NodeId| {
        let seen = facts.node(id).and_then(|n| n.streamed_ms).unwrap_or(0);
        now.mono_ms.saturating_sub(seen).min(facts.rule_age_ms(now).max(facts.plan_age_ms(now)))
    };
    let leaving = |id: NodeId| facts.report(id).is_some_and(|r| r.leaving);
    let still_counts = |id: &NodeId| group.members.get(id).is_some_and(counts);
    let k = group.settings.number_sync_standbys;

    let mut members: BTreeSet<NodeId> = rule
        .members
        .iter()
        .copied()
        .filter(still_counts)
        .filter(|id| !leaving(*id) && away_ms(*id) <= group.settings.member_gone_ms)
        .collect();
    members.extend(others().map(|m| m.id).filter(|id| is_countable(group, facts, rule, *id, now)));
    // Who can save no promise keeps an election waiting: it is counted only where nobody else is.
    let can_promise = |id: &NodeId| facts.report(*id).is_none_or(Report::can_promise);
    let able: BTreeSet<NodeId> = members.iter().copied().filter(can_promise).collect();
    if able.len() >= k.max(1) as usize {
        members = able;
    }
    let by_choice = |m: &Member| m.id == rule.primary || !m.replication_quorum || m.dropped;
    if others().next().is_none() && (k == 0 || group.members.values().all(by_choice)) {
        return changed(rule, BTreeSet::new(), 0);
    }
    if k > 0 {
        // Never below k by loss: who was counted last stays, and commits block.
        let mut rest: Vec<NodeId> = rule.members.iter().copied().filter(still_counts).collect();
        rest.sort_by_key(|id| away_ms(*id));
        for id in rest {
            if members.len() < k as usize {
                members.insert(id);
            }
        }
        return changed(rule, members, k);
    }
    // Degrading is for when nobody is left to acknowledge: quicker than leaving the rule, because
    // clients are blocked meanwhile.
    let silence_ms = facts.silence_ms(rule.primary, &group.settings);
    // The last that the primary has said of them holds until it is judged itself: while it is silent
    // nobody has left it, and a rule that needs nobody but it would stand in an election's way.
    let said = facts.report(rule.primary).filter(|r| r.server == Server::Primary);
    let streams = |id: NodeId| {
        let member = group.members.get(&id);
        member.is_some_and(|m| said.is_some_and(|r| r.streams_to(&m.name, silence_ms)))
    };
    let out = |id: &NodeId| leaving(*id) || away_ms(*id) > silence_ms && !streams(*id);
    let all_out = members.iter().all(out);
    if !members.is_empty() && !all_out {
        return changed(rule, members, 1);
    }
    let patient = rule.acks > 0
        && facts.rule_age_ms(now) <= group.settings.silence_ms()
        && others().any(|m| !leaving(m.id) && facts.is_reachable(m.id, &group.settings, now));
    if members.is_empty() && patient {
        return None;
    }
    changed(rule, BTreeSet::new(), 0)
}

fn changed(rule: &SyncRule, members: BTreeSet<NodeId>, acks: u32) -> Option<Wanted> {
    (members != rule.members || acks != rule.acks).then_some(Wanted { members, acks })
}

/// Whether a new rule may be recorded now: the newest is in force, and it is covered, or cannot
/// become so because the members that it needs are away.
pub fn may_change(group: &Group, facts: &Facts, rule: &SyncRule, now: Now) -> bool {
    let Some(report) = facts.fresh(rule.primary, &group.settings, now) else { return false };
    let in_force = report.in_force == Some(rule.id());
    let stuck = facts.rule_age_ms(now) > group.settings.silence_ms();
    in_force && group.rules.len() < RULES_MAX && (group.is_covered() || stuck)
}

/// What the winner of an election starts with (policy of [`wanted`], before anybody streams).
/// `late`: there are healthy standbys that only have not pledged yet.
pub fn first_acks(group: &Group, winner: NodeId, members: &BTreeSet<NodeId>, late: bool) -> u32 {
    let k = group.settings.number_sync_standbys;
    let wanted = |m: &Member| counts(m) || k > 0 && m.replication_quorum && !m.dropped;
    let any = group.members.values().any(|m| m.id != winner && wanted(m));
    match (any, k) {
        (false, _) => 0,
        (true, 0) => u32::from(late || !members.is_empty()),
        (true, k) => k,
    }
}

/// The public name of a primary under `rule`.
pub fn primary_state(group: &Group, rule: &SyncRule) -> NodeState {
    let others = || group.members.values().filter(|m| m.id != rule.primary && !m.dropped);
    if others().next().is_none() {
        NodeState::Single
    } else if rule.acks == 0 && others().any(|m| m.replication_quorum) {
        NodeState::WaitPrimary
    } else {
        NodeState::Primary
    }
}
