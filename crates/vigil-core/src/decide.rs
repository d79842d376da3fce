//! The group's next plan. Pure: changes the record in place and returns events; the caller
//! commits both before anybody is told.

use std::collections::BTreeSet;

use crate::detect::{Verdict, can_be_won, judge};
use crate::election::{Election, WaitFor, first_members, future_history, still_leads};
use crate::event::{Cause, Episode, Event, EventKind, Operation};
use crate::facts::Facts;
use crate::goals::current_election;
use crate::group::{Group, HandoverPlan, Plan};
use crate::ids::{Epoch, NodeId, Now};
use crate::message::Server;
use crate::mutation::{Mutation, broken};
use crate::rule::SyncRule;
use crate::state::NodeState;
use crate::sync::{first_acks, is_countable, may_change, wanted};
use crate::wal::{Position, Tli};
use crate::winner;

/// A record that is doubted only for its age is trusted once nobody has told of anything newer for
/// so long, in milliseconds.
const UNCHALLENGED_MS: u64 = 60_000;
/// A handover whose preparation takes longer is given up, in milliseconds.
const PREPARE_MAX_MS: u64 = 60_000;
/// A handover to a node that does not stream (any more, or since the last change of the primary not
/// yet as the primary sees it) is given up after so long, in milliseconds.
const UNFIT_MAX_MS: u64 = 3_000;
/// A winner that is stopped but has not begun to lead is given so long to start, in milliseconds.
const WINNER_START_MS: u64 = 10_000;

/// One decision. Called again until nothing changes (each change enables the next at most once).
pub fn decide(group: &mut Group, facts: &Facts, now: Now) -> Vec<Event> {
    let mut events = Vec::new();
    let before = group.plan.clone();
    match before {
        Plan::Forming { founder } => forming(group, facts, founder, &mut events),
        Plan::Recovering => recovering(group, facts, now, &mut events),
        Plan::Serving { primary } => serving(group, facts, primary, now, &mut events),
        Plan::Handover { from, to } => handover(group, facts, from, to, now, &mut events),
        Plan::Electing { epoch, accept_loss, .. } => {
            electing(group, facts, epoch, accept_loss, now, &mut events);
        }
        Plan::Promoting { winner, .. } => promoting(group, facts, winner, now),
    }
    events
}

fn forming(group: &mut Group, facts: &Facts, founder: Option<NodeId>, events: &mut Vec<Event>) {
    let Some(id) = founder else {
        let first = group.members.keys().copied().find(|id| {
            facts.report(*id).is_some_and(|r| r.problem.is_none() && r.server != Server::Unknown)
        });
        if let Some(id) = first {
            group.epoch = group.epoch.next();
            group.record_rule(group.epoch, id, BTreeSet::new(), 0);
            group.plan = Plan::Forming { founder: Some(id) };
        }
        return;
    };
    let (Some(rule), Some(report)) = (group.rule(), facts.report(id)) else { return };
    if report.in_force != Some(rule.id()) || report.system_id.is_none() {
        return;
    }
    group.system_id = report.system_id;
    group.last_tli = report.highest_tli.max(Tli(1));
    group.plan = Plan::Serving { primary: id };
    let text = format!("{} founded the group", group.name_of(id));
    events.push(event(group, EventKind::Node, Some(id), text));
}

/// DESIGN §4.19: observe; decide only when every registered node and everybody named by a rule
/// has been heard, or enough to know that nobody else can have been elected.
fn recovering(group: &mut Group, facts: &Facts, now: Now, events: &mut Vec<Event>) {
    // A store that is merely old, because everything was off, need not wait for a node that does
    // not come back.
    let unchallenged = facts.doubted_for_age
        && facts.plan_age_ms(now) > UNCHALLENGED_MS
        && can_be_won(group, facts, now).is_ok();
    let sure = unchallenged || is_still_in_power(group, facts, now);
    if !sure && !awaited_in_recovery(group, facts, now).is_empty() {
        return;
    }
    let Some(rule) = group.rule().cloned() else {
        group.plan = Plan::Forming { founder: None };
        return;
    };
    let leads = facts.report(rule.primary).is_some_and(|r| still_leads(r, &rule));
    group.system_id = group.system_id.or(facts.report(rule.primary).and_then(|r| r.system_id));
    group.last_tli = highest_tli(group, facts);
    let promised = facts.nodes.values().filter_map(|n| n.report.as_ref()).map(|r| r.promise).max();
    // Whoever has promised more than the primary's epoch obeys nothing of it: it is renewed.
    if leads && promised <= Some(rule.epoch) {
        group.plan = Plan::Serving { primary: rule.primary };
    } else {
        let why = if leads { "a node has promised a later epoch" } else { "none of them serves" };
        let evidence = vec![format!("every node was heard, {why}")];
        begin_election(group, facts, Cause::Recovery, evidence, None, None, now);
    }
    let text = "the monitor's record was rebuilt from what the keepers hold".to_owned();
    events.push(event(group, EventKind::Node, None, text));
}

/// The primary of the newest rule known leads under that very rule, and of its members so many
/// have promised nothing later that no election can have been satisfied without it: whatever else
/// was recorded in the meantime, it is still in power.
fn is_still_in_power(group: &Group, facts: &Facts, now: Now) -> bool {
    let Some(rule) = group.rule() else { return false };
    let fresh = |id: NodeId| facts.fresh(id, &group.settings, now);
    let loyal = |id: NodeId| fresh(id).is_some_and(|r| r.promise <= rule.epoch);
    let leads = fresh(rule.primary).is_some_and(|r| {
        still_leads(r, rule) && r.own_rule.as_ref() == Some(rule) && loyal(rule.primary)
    });
    leads && rule.members.iter().filter(|id| loyal(**id)).count() >= rule.acks as usize
}

/// Whom a recovering group still has to hear.
pub fn awaited_in_recovery(group: &Group, facts: &Facts, now: Now) -> BTreeSet<NodeId> {
    let named = group.rules.iter().flat_map(|r| r.members.iter().copied().chain([r.primary]));
    let all: BTreeSet<NodeId> = group.members.keys().copied().chain(named).collect();
    all.into_iter().filter(|id| facts.fresh(*id, &group.settings, now).is_none()).collect()
}

fn serving(group: &mut Group, facts: &Facts, primary: NodeId, now: Now, events: &mut Vec<Event>) {
    let Some(rule) = group.rule().cloned() else { return };
    if close_episode(group, facts, &rule, now, events) {
        return;
    }
    if group.members.get(&primary).is_some_and(|m| m.dropped) {
        // The last node of its group goes: there is nobody to elect.
        return;
    }
    if let Verdict::Lost { cause, evidence } = judge(group, facts, &rule, now) {
        if can_be_won(group, facts, now).is_ok() && !facts.is_flapping(&group.settings, now) {
            begin_election(group, facts, cause, evidence, None, None, now);
        }
        return;
    }
    if let Some(id) = promised_more(group, facts, &rule, now) {
        // It obeys nothing of this epoch: the primary is renewed in one above.
        let evidence = vec![format!("{} has promised a later epoch", group.name_of(id))];
        begin_election(group, facts, Cause::Recovery, evidence, None, None, now);
        return;
    }
    if facts.report(primary).is_some_and(|r| r.leaving)
        && group.is_covered()
        && group.episode.is_none()
        && let Some(to) = best_standby(group, facts, now)
    {
        begin_handover(group, primary, to, Cause::Leaving, None, now);
        return;
    }
    if may_change(group, facts, &rule, now)
        && let Some(change) = wanted(group, facts, &rule, now)
    {
        events.push(rule_event(group, &rule, &change.members, change.acks));
        group.record_rule(rule.epoch, primary, change.members, change.acks);
    }
}

/// A node that was promised away by an election that this store knows nothing of.
fn promised_more(group: &Group, facts: &Facts, rule: &SyncRule, now: Now) -> Option<NodeId> {
    let promise = |id: NodeId| facts.fresh(id, &group.settings, now).map(|r| r.promise);
    group.members.keys().copied().find(|id| promise(*id) > Some(rule.epoch))
}

/// Drops the older rules once the newest is covered, and ends the episode that led to it.
fn close_episode(
    group: &mut Group,
    facts: &Facts,
    rule: &SyncRule,
    now: Now,
    events: &mut Vec<Event>,
) -> bool {
    let told = facts.report(rule.primary);
    let covered = told.is_some_and(|r| r.covered == Some(rule.id()) && r.server == Server::Primary);
    if !covered || (group.is_covered() && group.episode.is_none()) {
        return false;
    }
    group.rules = vec![rule.clone()];
    if let Some(mut episode) = group.episode.take() {
        episode.mark("sync", now.wall_ms);
        events.push(episode_event(group, &episode, rule.primary));
        events.extend(what_follows(group, &episode, rule.primary));
    }
    true
}

/// The old primary has handed over in order to enter maintenance, or to leave: now it does. If it
/// serves again, the command has had no effect, and that is said.
fn what_follows(group: &mut Group, episode: &Episode, primary: NodeId) -> Option<Event> {
    let from = episode.from.filter(|_| episode.then_maintenance || episode.then_drop)?;
    let member = group.members.get_mut(&from)?;
    let goes = from != primary;
    member.maintenance |= episode.then_maintenance && goes;
    member.dropped |= episode.then_drop && goes;
    let name = member.name.clone();
    let text = match (episode.then_drop, goes) {
        (false, true) => format!("{name} enters maintenance"),
        (false, false) => format!("{name} does not enter maintenance: it is still the primary"),
        (true, true) => format!("{name} is dropped"),
        (true, false) => format!("{name} is not dropped: it is still the primary"),
    };
    let kind = if episode.then_drop { EventKind::Node } else { EventKind::Maintenance };
    Some(event(group, kind, Some(from), text))
}

fn handover(
    group: &mut Group,
    facts: &Facts,
    from: NodeId,
    to: NodeId,
    now: Now,
    events: &mut Vec<Event>,
) {
    let Some(rule) = group.rule().cloned() else { return };
    if let Verdict::Lost { cause, evidence } = judge(group, facts, &rule, now)
        && can_be_won(group, facts, now).is_ok()
    {
        begin_election(group, facts, cause, evidence, None, None, now);
        return;
    }
    let ready = facts.fresh(from, &group.settings, now).is_some_and(|r| r.prepared);
    let fit = is_countable(group, facts, &rule, to, now) || !rule.members.contains(&to);
    let streams = is_streaming(group, facts, &rule, to, now);
    let fit = streams && fit;
    let patience_ms = if fit { PREPARE_MAX_MS } else { UNFIT_MAX_MS };
    if facts.plan_age_ms(now) > patience_ms {
        let mut episode = group.episode.take();
        if let Some(episode) = &mut episode {
            episode.mark("rolled back", now.wall_ms);
            let name = group.name_of(to);
            episode.evidence.push(format!("{name} stopped being fit to take over"));
            events.push(episode_event(group, episode, from));
            let episode = episode.clone();
            events.extend(what_follows(group, &episode, from));
        }
        group.plan = Plan::Serving { primary: from };
        return;
    }
    if ready && fit {
        let plan = HandoverPlan { from, to };
        if let Some(episode) = &mut group.episode {
            episode.mark("prepare", now.wall_ms);
            episode.outage_from_ms = Some(now.wall_ms);
        }
        let epoch = next_epoch(group, facts);
        group.plan = Plan::Electing { epoch, handover: Some(plan), accept_loss: false };
    }
}

/// Whether a standby, counted or not, streams from the primary of `rule` in its epoch.
pub fn is_streaming(group: &Group, facts: &Facts, rule: &SyncRule, id: NodeId, now: Now) -> bool {
    facts.fresh(id, &group.settings, now).is_some_and(|r| {
        let follows = |f: &crate::message::Following| {
            f.primary == rule.primary && f.epoch == rule.epoch && f.streaming
        };
        r.following.as_ref().is_some_and(follows) && r.promise == rule.epoch && !r.leaving
    })
}

fn electing(
    group: &mut Group,
    facts: &Facts,
    epoch: Epoch,
    accept_loss: bool,
    now: Now,
    events: &mut Vec<Event>,
) {
    match current_election(group, facts, now) {
        Some(Election::Elected { winner, position }) => {
            record_winner(group, facts, epoch, winner, position, accept_loss, now, events);
        }
        Some(Election::Renew { primary }) => renew(group, facts, epoch, primary, now),
        Some(Election::Fetch { .. } | Election::Wait(_)) | None => {}
    }
}

#[allow(clippy::too_many_arguments, reason = "one record is made of all of them, once")]
fn record_winner(
    group: &mut Group,
    facts: &Facts,
    epoch: Epoch,
    winner: NodeId,
    position: Position,
    accept_loss: bool,
    now: Now,
    events: &mut Vec<Event>,
) {
    group.last_tli = highest_tli(group, facts);
    let tli =
        if broken(Mutation::TimelineReused) { Tli(position.tli.0 + 1) } else { group.assign_tli() };
    let present = facts.report(winner).and_then(|r| r.history.clone());
    let history = match present {
        Some(history) => future_history(&history, position, tli),
        None => future_history(
            &crate::wal::TimelineHistory { tli: position.tli, ancestors: Vec::new() },
            position,
            tli,
        ),
    };
    let members = first_members(group, facts, epoch, winner, &history);
    let late = late_standby(group, facts, epoch, winner, now);
    let acks = first_acks(group, winner, &members, late);
    if accept_loss {
        let dropped: Vec<String> = group.rules.iter().map(|r| r.id().to_string()).collect();
        let text = format!(
            "data loss accepted by an operator: {} is made primary at {position}; rules {} are \
             given up, what only other nodes hold is lost",
            group.name_of(winner),
            dropped.join(", ")
        );
        events.push(event(group, EventKind::Failover, Some(winner), text));
        group.rules.clear();
        // What the winner does hold is not given up. A rule under which nothing can be acknowledged
        // yet would bind no further election to it; this one does, until that is covered.
        group.record_rule(epoch, winner, BTreeSet::new(), 0);
    }
    let stopped_ms = group.episode.as_ref().and_then(|e| e.from).and_then(|from| {
        facts
            .node(from)
            .filter(|n| n.pledge.is_some_and(|p| p.epoch == epoch))?
            .pledged
            .map(|at| at.wall_ms)
    });
    if let Some(episode) = &mut group.episode {
        if let (Some(at), Some(_)) = (stopped_ms, episode.operation) {
            episode.mark("stop", at);
        }
        episode.mark("pledge", now.wall_ms);
    }
    let rule = group.record_rule(epoch, winner, members, acks).id();
    group.plan = Plan::Promoting { epoch, winner, rule, tli, renewal: false };
}

/// A healthy standby that will be a member as soon as it follows: worth blocking for. A node that
/// needs a rewind first is not: the rewind itself waits for the rule to be covered.
fn late_standby(group: &Group, facts: &Facts, epoch: Epoch, winner: NodeId, now: Now) -> bool {
    let pledges = facts.pledges(epoch);
    group.members.values().any(|m| {
        m.id != winner
            && crate::election::counts(m)
            && !pledges.contains_key(&m.id)
            && facts
                .fresh(m.id, &group.settings, now)
                .is_some_and(|r| r.server == Server::Standby && r.usable && !r.leaving)
    })
}

fn renew(group: &mut Group, facts: &Facts, epoch: Epoch, primary: NodeId, now: Now) {
    let Some(last) = group.rule().cloned() else { return };
    let Some(history) = facts.report(primary).and_then(|r| r.history.clone()) else { return };
    let members = first_members(group, facts, epoch, primary, &history);
    let k = group.settings.number_sync_standbys;
    let acks = if k == 0 && last.acks == 0 && members.is_empty() { 0 } else { k.max(1) };
    let acks = if group.members.values().any(|m| m.id != primary && crate::election::counts(m)) {
        acks
    } else {
        0
    };
    if let Some(episode) = &mut group.episode {
        episode.evidence.push(format!(
            "{} still serves: a false alarm, it goes on in the new epoch",
            group.members.get(&primary).map_or("the primary", |m| m.name.as_str())
        ));
        episode.mark("renew", now.wall_ms);
    }
    let tli = history.tli;
    let rule = group.record_rule(epoch, primary, members, acks).id();
    group.plan = Plan::Promoting { epoch, winner: primary, rule, tli, renewal: true };
}

fn promoting(group: &mut Group, facts: &Facts, winner: NodeId, now: Now) {
    let Some(rule) = group.rule().cloned() else { return };
    let report = facts.report(winner);
    if report.is_some_and(|r| r.in_force == Some(rule.id()) && r.server == Server::Primary) {
        if let Some(episode) = &mut group.episode {
            episode.mark("promote", now.wall_ms);
        }
        group.plan = Plan::Serving { primary: winner };
        return;
    }
    let began = report.is_some_and(|r| r.own_rule.as_ref().is_some_and(|o| o.epoch == rule.epoch));
    let Plan::Promoting { renewal, .. } = group.plan else { return };
    // A standby under the winner's rule may still be on its way; its keeper knows.
    let over = renewal || began && report.is_some_and(|r| r.state == NodeState::Demoted);
    let failed = match judge(group, facts, &rule, now) {
        // On its way: a standby until it is promoted; possibly not even started yet.
        Verdict::Lost { cause: Cause::NotPrimary, .. } if !over => None,
        Verdict::Lost { cause: Cause::PostgresDown, .. }
            if !began && !renewal && facts.plan_age_ms(now) < WINNER_START_MS =>
        {
            None
        }
        Verdict::Lost { evidence, .. } => Some(evidence),
        Verdict::Fine | Verdict::Suspect { .. } | Verdict::Unknown => None,
    };
    let failed = failed.or_else(|| winner::overdue(group, facts, winner, now));
    if let Some(evidence) = failed
        && can_be_won(group, facts, now).is_ok()
    {
        give_up_winner(group, facts, winner, Cause::WinnerFailed, evidence, now);
    }
}

/// Elects anew, and prefers everybody to the winner that did not come up. Its keeper kills it before
/// it pledges: a promotion that was triggered may still end.
pub fn give_up_winner(
    group: &mut Group,
    facts: &Facts,
    winner: NodeId,
    cause: Cause,
    evidence: Vec<String>,
    now: Now,
) {
    begin_election(group, facts, cause, evidence, None, None, now);
    if let Some(episode) = &mut group.episode {
        episode.failed.insert(winner);
        episode.wanted = episode.wanted.filter(|id| *id != winner);
    }
}

/// Above everything assigned here and everything that a keeper has promised.
fn next_epoch(group: &mut Group, facts: &Facts) -> Epoch {
    let heard = facts.nodes.values().filter_map(|n| n.report.as_ref()).map(|r| r.promise);
    let highest = heard.fold(group.epoch, Epoch::max);
    group.epoch = if broken(Mutation::EpochReused) { highest } else { highest.next() };
    group.epoch
}

fn highest_tli(group: &Group, facts: &Facts) -> Tli {
    let heard = facts.nodes.values().filter_map(|n| n.report.as_ref());
    heard.map(|r| r.highest_tli).fold(group.last_tli, Tli::max)
}

/// Starts an election in a new epoch. A running episode goes on: one event per change of primary.
pub fn begin_election(
    group: &mut Group,
    facts: &Facts,
    cause: Cause,
    evidence: Vec<String>,
    operation: Option<Operation>,
    handover: Option<HandoverPlan>,
    now: Now,
) {
    let from = group.rule().map(|r| r.primary);
    let epoch = next_epoch(group, facts);
    match &mut group.episode {
        Some(episode) => {
            episode.evidence.extend(evidence);
            episode.from = from;
            if episode.operation.is_none() || cause != Cause::WinnerFailed {
                episode.kind = EventKind::Failover;
                episode.cause = cause;
            }
        }
        none => {
            *none = Some(Episode {
                kind: EventKind::Failover,
                cause,
                evidence,
                operation,
                from,
                started_ms: now.wall_ms,
                outage_from_ms: None,
                marks: Vec::new(),
                then_maintenance: false,
                then_drop: false,
                wanted: None,
                failed: BTreeSet::new(),
            });
        }
    }
    group.plan = Plan::Electing { epoch, handover, accept_loss: false };
}

/// Starts a planned change of the primary.
pub fn begin_handover(
    group: &mut Group,
    from: NodeId,
    to: NodeId,
    cause: Cause,
    operation: Option<Operation>,
    now: Now,
) {
    group.episode = Some(Episode {
        kind: if operation == Some(Operation::Promotion) {
            EventKind::Promotion
        } else {
            EventKind::Switchover
        },
        cause,
        evidence: match cause {
            Cause::Leaving => vec![format!("{} was asked to stop", group.name_of(from))],
            _ => vec!["an operator's command".to_owned()],
        },
        operation,
        from: Some(from),
        started_ms: now.wall_ms,
        outage_from_ms: None,
        marks: Vec::new(),
        then_maintenance: false,
        then_drop: false,
        wanted: Some(to).filter(|_| operation.is_some()),
        failed: BTreeSet::new(),
    });
    group.plan = Plan::Handover { from, to };
}

/// The best node to hand over to: streaming and countable, by priority, position, id.
pub fn best_standby(group: &Group, facts: &Facts, now: Now) -> Option<NodeId> {
    let rule = group.rule()?;
    let fit = group.members.values().filter(|m| m.id != rule.primary).filter(|m| {
        m.may_lead()
            && is_streaming(group, facts, rule, m.id, now)
            && facts.report(m.id).is_some_and(|r| !r.delayed)
    });
    let best = fit.max_by_key(|m| {
        let position = facts.report(m.id).and_then(|r| r.position);
        (m.candidate_priority, position, std::cmp::Reverse(m.id))
    });
    best.map(|m| m.id)
}

/// An event without phases.
pub fn event(group: &Group, kind: EventKind, node: Option<NodeId>, description: String) -> Event {
    Event {
        kind,
        node,
        nodename: node.map(|id| group.name_of(id)),
        epoch: group.epoch,
        cause: None,
        evidence: Vec::new(),
        phases: Vec::new(),
        reported: None,
        goal: None,
        description,
    }
}

fn episode_event(group: &Group, episode: &Episode, primary: NodeId) -> Event {
    let from = episode.from.map(|id| group.name_of(id));
    let to = group.name_of(primary);
    let what = match (&from, episode.from == Some(primary)) {
        (_, true) => format!("{to} goes on as primary"),
        (Some(from), false) => format!("{to} took over from {from}"),
        (None, false) => format!("{to} became primary"),
    };
    Event {
        cause: Some(episode.cause.as_str().to_owned()),
        evidence: episode.evidence.clone(),
        phases: episode.phases(),
        description: format!("{what} ({} ms)", episode.outage_ms()),
        ..event(group, episode.kind, Some(primary), String::new())
    }
}

fn rule_event(group: &Group, old: &SyncRule, members: &BTreeSet<NodeId>, acks: u32) -> Event {
    let degrade = acks == 0 && old.acks > 0;
    let kind = if degrade { EventKind::Degrade } else { EventKind::Rule };
    let names = group.names_of(members.iter().copied());
    let text = match (acks, degrade) {
        (0, true) => "no counted standby is left: commits are acknowledged by the primary alone",
        (0, false) => "commits are acknowledged by the primary alone",
        _ => "",
    };
    let text = if text.is_empty() {
        format!("a commit now needs {acks} of [{names}]")
    } else {
        text.to_owned()
    };
    event(group, kind, Some(old.primary), text)
}

/// What an election waits for, in words: (what, who).
pub fn waiting_words(group: &Group, wait: &WaitFor) -> (String, String) {
    match wait {
        WaitFor::Late(nodes) => {
            ("live standbys to pledge".to_owned(), group.names_of(nodes.iter().copied()))
        }
        WaitFor::Candidate => (
            "a node that may be elected: raise a candidate priority above 0".to_owned(),
            group.names_of(
                group.members.values().filter(|m| m.candidate_priority == 0).map(|m| m.id),
            ),
        ),
        WaitFor::Pledges(shortfalls) => {
            let Some(short) = shortfalls.first() else {
                return ("pledges".to_owned(), String::new());
            };
            let primary = group.name_of(short.primary);
            let silent: Vec<NodeId> =
                short.silent.iter().copied().filter(|id| *id != short.primary).collect();
            if silent.is_empty() {
                let what = "the node that alone holds the newest commits".to_owned();
                return (what, primary);
            }
            let what = format!("{} more of these, or {primary}", short.missing);
            (what, format!("{}, {primary}", group.names_of(silent)))
        }
    }
}
