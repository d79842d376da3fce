//! A winner that does not come up: what keeps it from leading is often its own (a setting, a command
//! at the end of recovery), so somebody else is tried. Safety is the election's: the winner is killed
//! before it pledges, and whoever is elected then has all that its rule may have acknowledged.

use crate::facts::Facts;
use crate::group::{Group, Plan};
use crate::ids::{NodeId, Now};
use crate::message::{Report, Server};
use crate::mutation::{Mutation, broken};

/// A winner whose keeper tells of steps that fail is given up after so long, in milliseconds.
const FAILING_MS: u64 = 3_000;
/// A winner that gets on with nothing is given up after so long, in milliseconds: a promotion takes
/// well under a second once all is replayed.
const STANDING_MS: u64 = 10_000;
/// Once everybody else has failed as well each gets so long, in milliseconds: what is wrong is wrong
/// everywhere, and a slow one should come through.
const LAST_HOPE_MS: u64 = 60_000;
/// An operator may choose another one after so long, in milliseconds: a promotion in good health is
/// through by then.
const CHOICE_MS: u64 = 2_000;

/// Whether the winner should be given up: how long it has had, and what its keeper says. `None`
/// while there is nobody else, or it may still come up.
pub fn overdue(group: &Group, facts: &Facts, winner: NodeId, now: Now) -> Option<Vec<String>> {
    if broken(Mutation::WinnerKept) {
        return None;
    }
    let report = facts.report(winner).filter(|r| r.server != Server::Primary)?;
    let age_ms = facts.plan_age_ms(now);
    let moved_ms = facts.node(winner).and_then(|n| n.moved_ms).unwrap_or(0);
    let standing_ms = now.mono_ms.saturating_sub(moved_ms).min(age_ms);
    let others = others(group, facts, winner, now);
    let failed = group.episode.as_ref().map(|e| &e.failed);
    let untried = others.iter().any(|id| failed.is_none_or(|failed| !failed.contains(id)));
    let over = match (&report.problem, untried) {
        (Some(_), true) => age_ms >= FAILING_MS,
        (None, true) => standing_ms >= STANDING_MS,
        (_, false) => standing_ms >= LAST_HOPE_MS,
    };
    if others.is_empty() || !over {
        return None;
    }
    Some(vec![words(group, winner, report, standing_ms)])
}

/// What the winner's keeper says, for people.
fn words(group: &Group, winner: NodeId, report: &Report, standing_ms: u64) -> String {
    let name = group.name_of(winner);
    match (&report.problem, &report.doing) {
        (Some(problem), _) => format!("{name} does not come up: {}", problem.text),
        (None, Some(doing)) => format!("{name} does not come up: {doing} for {standing_ms} ms"),
        (None, None) => format!("{name} does not come up: nothing happens for {standing_ms} ms"),
    }
}

/// Who else might lead: heard, with usable data, and pledged in this epoch, so that it is known where
/// its WAL ends. What it lacks the winner can still give it, once it is a standby again.
pub fn others(group: &Group, facts: &Facts, winner: NodeId, now: Now) -> Vec<NodeId> {
    let Plan::Promoting { epoch, .. } = group.plan else { return Vec::new() };
    let pledges = facts.pledges(epoch);
    let fit = |id: NodeId| {
        let known = pledges.get(&id).is_some_and(|p| p.usable && p.position.is_some());
        let report = facts.fresh(id, &group.settings, now);
        known && report.is_some_and(|r| r.usable && !r.leaving && !r.delayed)
    };
    let members = group.members.values().filter(|m| m.id != winner && m.may_lead());
    members.map(|m| m.id).filter(|id| fit(*id)).collect()
}

/// The winner that an operator may give up now, if there is one.
pub fn may_be_given_up(group: &Group, facts: &Facts, now: Now) -> Option<NodeId> {
    let Plan::Promoting { winner, .. } = group.plan else { return None };
    let leads = facts.report(winner).is_some_and(|r| r.server == Server::Primary);
    (!leads && facts.plan_age_ms(now) >= CHOICE_MS).then_some(winner)
}
