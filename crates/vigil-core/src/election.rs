//! Who becomes primary in an epoch (DESIGN §4.10 to 4.14).

use std::collections::BTreeSet;

use crate::event::Cause;
use crate::facts::Facts;
use crate::group::{Group, Member};
use crate::ids::{Epoch, NodeId, Now};
use crate::message::{Report, Server};
use crate::mutation::{Mutation, broken};
use crate::rule::{Pledge, Pledges, Shortfall, SyncRule, satisfied};
use crate::wal::{Position, TimelineHistory};

/// Nodes that live but have not pledged yet are waited for so long, in milliseconds: they would be
/// members of the new rule, and may be the better candidate.
pub const GRACE_MS: u64 = 300;
/// The node that a primary hands over to is waited for longer: it still receives the last WAL.
pub const WANTED_GRACE_MS: u64 = 2_500;
/// A better candidate may fetch missing WAL for so long, in milliseconds.
pub const FETCH_MS: u64 = 3_000;
/// From a winner that did not come up it may do so for longer: that one was killed and starts first.
const FETCH_FAILED_MS: u64 = 30_000;

/// The state of an election.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Election {
    Elected {
        winner: NodeId,
        position: Position,
    },
    /// `who` has the better priority and only lacks WAL that `source` holds.
    Fetch {
        who: NodeId,
        source: NodeId,
        until: Position,
    },
    /// The newest recorded winner still runs and was never asked to stop: a false alarm.
    Renew {
        primary: NodeId,
    },
    Wait(WaitFor),
}

/// What an election waits for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WaitFor {
    /// Live nodes that are about to pledge.
    Late(BTreeSet<NodeId>),
    /// Rules in flight that nobody satisfies yet.
    Pledges(Vec<Shortfall>),
    /// Somebody has all WAL, but nobody who may be elected can get it.
    Candidate,
}

/// The circumstances of one election.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub epoch: Epoch,
    /// The primary that is being replaced: chosen again only if nobody else can be.
    pub from: Option<NodeId>,
    /// An operator's choice, preferred to priorities.
    pub wanted: Option<NodeId>,
    /// The old primary may go on if it turns out to be alive.
    pub renewable: bool,
    pub accept_loss: bool,
}

struct Candidate<'a> {
    member: &'a Member,
    report: &'a Report,
    position: Position,
}

/// Decides from the pledges told so far.
pub fn elect(group: &Group, facts: &Facts, call: Call, now: Now) -> Election {
    if broken(Mutation::RenewAnybody) {
        let runs = |r: &Report| r.server == Server::Primary;
        let mut ids = group.members.keys().copied();
        let runs = |id| facts.fresh(id, &group.settings, now).is_some_and(runs);
        if let Some(primary) = ids.find(|id| runs(*id)) {
            return Election::Renew { primary };
        }
    }
    let pledges = facts.pledges(call.epoch);
    let age_ms = age_ms(facts, call, now);
    let candidates = candidates(group, facts, &pledges, now);
    let shortfalls = |at: Position| -> Vec<Shortfall> {
        if call.accept_loss {
            return Vec::new();
        }
        let check = |rule: &SyncRule| satisfied(rule, at, call.epoch, &pledges).err();
        binding(group).iter().filter_map(check).collect()
    };
    if pledges.is_empty()
        && let Some(again) = heard_again(group, facts, call, now)
    {
        return again;
    }
    let late = late(group, facts, call, &pledges, now);
    let wanted_is_late = call.wanted.is_some_and(|id| late.contains(&id));
    let grace_ms = if wanted_is_late { WANTED_GRACE_MS } else { GRACE_MS };
    if !late.is_empty() && age_ms < grace_ms {
        return Election::Wait(WaitFor::Late(late));
    }
    // Satisfaction grows with the position: if the furthest does not satisfy, nobody does.
    let Some(furthest) = candidates.iter().max_by_key(|c| (c.position, runs(c.report))) else {
        return renewal(group, facts, call, now)
            .unwrap_or_else(|| Election::Wait(WaitFor::Pledges(all_silent(group, &pledges))));
    };
    let missing = shortfalls(furthest.position);
    if !missing.is_empty() {
        return renewal(group, facts, call, now)
            .unwrap_or(Election::Wait(WaitFor::Pledges(missing)));
    }
    let failed = |id: NodeId| group.episode.as_ref().is_some_and(|e| e.failed.contains(&id));
    let mut electable: Vec<&Candidate> = candidates.iter().filter(|c| may_be_elected(c)).collect();
    electable.sort_by_key(|c| {
        let wanted = call.wanted == Some(c.member.id);
        let fresh_start = call.from != Some(c.member.id);
        // Best first. Where loss is accepted, as little of it as possible.
        let far = call.accept_loss.then_some(c.position);
        let priority = c.member.candidate_priority;
        let merit = (far, wanted, !failed(c.member.id), fresh_start, priority, c.position);
        (std::cmp::Reverse(merit), c.member.id)
    });
    for candidate in electable {
        let at = candidate.position;
        if shortfalls(at).is_empty() {
            return Election::Elected { winner: candidate.member.id, position: at };
        }
        let source = candidates
            .iter()
            .filter(|s| s.position > at && runs(s.report) && runs(candidate.report))
            .filter(|s| s.report.history.as_ref().is_some_and(|h| h.holds(at)))
            .max_by_key(|s| s.position);
        if let Some(source) = source
            && shortfalls(source.position).is_empty()
            && is_worth_fetching(source, call, age_ms, failed(source.member.id))
        {
            let (who, until) = (candidate.member.id, source.position);
            return Election::Fetch { who, source: source.member.id, until };
        }
    }
    Election::Wait(WaitFor::Candidate)
}

/// The rules that an election has to satisfy: all that are in flight.
fn binding(group: &Group) -> &[SyncRule] {
    let rules = group.rules.as_slice();
    match rules {
        [.., newest] if broken(Mutation::NewestRuleOnly) => std::slice::from_ref(newest),
        [oldest, ..] if broken(Mutation::OldestRuleOnly) => std::slice::from_ref(oldest),
        _ => rules,
    }
}

/// Whether a better candidate should fetch from `source` instead of `source` being elected. If only
/// the old primary has it all, it is the natural winner; a winner that `failed` to come up is not,
/// but it can still feed somebody else.
fn is_worth_fetching(source: &Candidate<'_>, call: Call, age_ms: u64, failed: bool) -> bool {
    let patience_ms = if failed { FETCH_FAILED_MS } else { FETCH_MS };
    let natural = call.from == Some(source.member.id) && !failed;
    !may_be_elected(source) || age_ms < patience_ms && !natural
}

/// A node that replays late would be late by as much before it could take a write.
fn may_be_elected(candidate: &Candidate) -> bool {
    candidate.member.may_lead() && !candidate.report.delayed
}

/// Time for others to pledge, in milliseconds: in a handover they are asked only after the old
/// primary has.
fn age_ms(facts: &Facts, call: Call, now: Now) -> u64 {
    let pledged = call
        .from
        .and_then(|id| facts.node(id))
        .filter(|node| node.pledge.is_some_and(|p| p.epoch == call.epoch))
        .and_then(|node| node.pledged);
    let since_pledge = pledged.map_or(u64::MAX, |at| now.mono_ms.saturating_sub(at.mono_ms));
    facts.plan_age_ms(now).min(since_pledge)
}

/// Nodes that have pledged, can be reached, are usable, and know where their WAL ends.
fn candidates<'a>(
    group: &'a Group,
    facts: &'a Facts,
    pledges: &Pledges,
    now: Now,
) -> Vec<Candidate<'a>> {
    let candidate = |(id, pledge): (&NodeId, &Pledge)| {
        let member = group.members.get(id)?;
        let report = facts.fresh(*id, &group.settings, now)?;
        let position = pledge.position.filter(|_| pledge.usable)?;
        Some(Candidate { member, report, position })
    };
    pledges.iter().filter_map(candidate).collect()
}

fn runs(report: &Report) -> bool {
    report.server == Server::Standby
}

/// Healthy standbys that have not pledged with a position yet.
fn late(group: &Group, facts: &Facts, call: Call, pledges: &Pledges, now: Now) -> BTreeSet<NodeId> {
    let is_late = |member: &&Member| {
        let told = pledges.get(&member.id).is_some_and(|p| p.position.is_some() || !p.usable);
        let healthy = facts
            .fresh(member.id, &group.settings, now)
            .is_some_and(|r| r.server == Server::Standby && r.usable && !r.leaving);
        Some(member.id) != call.from && !told && healthy && !member.dropped && !member.is_out()
    };
    group.members.values().filter(is_late).map(|m| m.id).collect()
}

fn all_silent(group: &Group, pledges: &Pledges) -> Vec<Shortfall> {
    let short = |rule: &SyncRule| Shortfall {
        rule: rule.id(),
        silent: rule.members.iter().filter(|m| !pledges.contains_key(m)).copied().collect(),
        ahead: BTreeSet::new(),
        missing: rule.pledges_needed().max(1),
        primary: rule.primary,
    };
    group.rules.iter().map(short).collect()
}

/// DESIGN §4.13. Only the newest recorded winner, only if it still runs under that very epoch and
/// has not pledged.
fn renewal(group: &Group, facts: &Facts, call: Call, now: Now) -> Option<Election> {
    still_there(group, facts, call, now).filter(|_| facts.plan_age_ms(now) >= GRACE_MS)
}

/// The primary was silent, and is heard since the election was called: nobody was taken from it
/// yet, so there is nothing to decide.
fn heard_again(group: &Group, facts: &Facts, call: Call, now: Now) -> Option<Election> {
    let silent = group
        .episode
        .as_ref()
        .is_some_and(|e| matches!(e.cause, Cause::Unreachable | Cause::ConnectionsClosed));
    let heard_ms = facts.node(group.rule()?.primary)?.heard_ms?;
    let since = silent && heard_ms > facts.plan_since.mono_ms;
    still_there(group, facts, call, now).filter(|_| since)
}

fn still_there(group: &Group, facts: &Facts, call: Call, now: Now) -> Option<Election> {
    let newest = group.rule()?;
    let primary = newest.primary;
    let report = facts.fresh(primary, &group.settings, now)?;
    let runs = still_leads(report, newest) && facts.node(primary)?.stream.is_some();
    (call.renewable && runs && report.promise < call.epoch).then_some(Election::Renew { primary })
}

/// Whether a report says that the node is read-write under the epoch of `rule`.
pub fn still_leads(report: &Report, rule: &SyncRule) -> bool {
    report.server == Server::Primary
        && report.own_rule.as_ref().is_some_and(|own| own.epoch == rule.epoch)
}

/// The timelines of a winner as they will be after its promotion: the last one ends at or before
/// its pledged position. Who fits in may follow without a rewind, before the fork is known.
pub fn future_history(
    present: &TimelineHistory,
    position: Position,
    next: crate::wal::Tli,
) -> TimelineHistory {
    let mut ancestors = present.ancestors.clone();
    ancestors.push(position);
    TimelineHistory { tli: next, ancestors }
}

/// Members of the winner's rule: who has pledged this epoch (so it acknowledges nothing for an
/// older one), with WAL that is a prefix of the winner's (DESIGN §4.8).
pub fn first_members(
    group: &Group,
    facts: &Facts,
    epoch: Epoch,
    winner: NodeId,
    history: &TimelineHistory,
) -> BTreeSet<NodeId> {
    facts
        .pledges(epoch)
        .iter()
        .filter(|(id, _)| **id != winner)
        .filter(|(_, p)| p.usable && !p.fetching && p.position.is_some_and(|at| history.holds(at)))
        .filter(|(id, _)| group.members.get(id).is_some_and(counts))
        // A delayed one connects only when it has replayed, late, what it has.
        .filter(|(id, _)| facts.report(**id).is_some_and(|r| !r.leaving && !r.delayed))
        .map(|(id, _)| *id)
        .collect()
}

/// Whether a node may ever be counted by a sync rule.
pub fn counts(member: &Member) -> bool {
    member.counts()
}
