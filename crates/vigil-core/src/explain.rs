//! What people see: the state table, what is waited for, alerts, and findings with remedies.

mod findings;

use std::collections::BTreeMap;

use crate::decide::{awaited_in_recovery, waiting_words};
use crate::detect::{Verdict, can_be_won, judge};
use crate::election::{Election, still_leads};
use crate::facts::{Facts, Reach};
use crate::goals::{Assignment, current_election, goals};
use crate::group::{Group, Member, Plan};
use crate::ids::{NodeId, Now};
use crate::message::{Report, Server};
use crate::rule::SyncRule;
use crate::state::NodeState;
use crate::sync::is_countable;
use crate::view::{Alert, GroupView, NodeFindings, NodeView, Waiting};
use crate::words::count;

/// Renders a wall-clock time for people; handed in, because the core knows no calendar.
pub type Clock<'a> = &'a dyn Fn(i64) -> String;

/// The whole view of a group.
pub fn view(group: &Group, facts: &Facts, now: Now, clock: Clock) -> GroupView {
    let assigned = goals(group, facts, now);
    let rule = group.rule();
    let writable = served(group, facts, now);
    let promotable = group.members.values().filter(|m| is_promotable(group, facts, m, now)).count();
    let observed = rule.map_or(0, |r| {
        r.members.iter().filter(|id| is_countable(group, facts, r, **id, now)).count()
    });
    let mut view = GroupView {
        formation: group.key.formation.clone(),
        group: group.key.group,
        plan: group.plan.name().to_owned(),
        epoch: group.epoch,
        nodes: group
            .members
            .values()
            .map(|m| row(group, facts, &assigned, m, now, clock))
            .collect(),
        waiting_on: waiting(group, facts, now, clock),
        alerts: Vec::new(),
        findings: group
            .members
            .values()
            .map(|m| NodeFindings {
                nodename: m.name.clone(),
                findings: findings::findings(group, facts, m, now),
            })
            .filter(|f| !f.findings.is_empty())
            .collect(),
        writable: writable.map(|r| r.primary),
        sync_expected: u32::try_from(rule.map_or(0, |r| expected(group, facts, r, now)))
            .unwrap_or(u32::MAX),
        sync_observed: u32::try_from(observed).unwrap_or(u32::MAX),
        promotable_standbys: u32::try_from(promotable).unwrap_or(u32::MAX),
    };
    view.alerts = alerts(group, facts, &view, now);
    view
}

/// A look that is older tells little of now, in milliseconds: beside three heartbeats.
const LOOK_OLD_MS: u64 = 2_000;
/// A standby that is attached gets WAL at every heartbeat; for so long beside two of them it may be
/// between two connections, in milliseconds.
const STARVED_MS: u64 = 6_000;

/// Whether the keeper knows how its Postgres does.
pub(crate) fn sees(report: &Report) -> bool {
    let old_ms = if report.not_let_in.is_some() { 0 } else { 3 * report.interval_ms };
    report.look_age_ms <= LOOK_OLD_MS + old_ms
        && (report.not_let_in.is_none() || report.server != Server::Unknown)
}

/// The rule whose primary serves, by its own word.
fn served<'a>(group: &'a Group, facts: &Facts, now: Now) -> Option<&'a SyncRule> {
    group.rule().filter(|r| {
        facts.fresh(r.primary, &group.settings, now).is_some_and(|report| {
            still_leads(report, r) && report.in_force.is_some_and(|f| f.epoch == r.epoch)
        })
    })
}

/// Whether a standby that should receive from the primary that serves has got nothing for longer
/// than a new connection takes.
pub(crate) fn is_starved(group: &Group, facts: &Facts, report: &Report, now: Now) -> bool {
    let serves = served(group, facts, now);
    serves.is_some_and(|rule| report.following.is_some_and(|f| f.primary == rule.primary))
        && report.starved_ms > STARVED_MS + 2 * report.interval_ms
}

/// Whether a standby could take over now: as long as a primary serves, one that streams from it.
fn is_promotable(group: &Group, facts: &Facts, member: &Member, now: Now) -> bool {
    let primary = group.rule().map(|r| r.primary);
    let Some(report) = facts.fresh(member.id, &group.settings, now) else { return false };
    let streams = || match served(group, facts, now) {
        None => true,
        Some(rule) => {
            report.following.is_some_and(|f| f.primary == rule.primary)
                && !is_starved(group, facts, report, now)
        }
    };
    Some(member.id) != primary
        && member.may_lead()
        && report.server == Server::Standby
        && report.usable
        && !report.leaving
        && !report.delayed
        && sees(report)
        && streams()
}

/// Standbys that the sync rule counts, and those that it would if they streamed as they should.
fn expected(group: &Group, facts: &Facts, rule: &SyncRule, now: Now) -> usize {
    let missing = group.members.values().filter(|m| {
        let ailing = |r: &Report| !sees(r) || is_starved(group, facts, r, now);
        m.id != rule.primary
            && m.counts()
            && !rule.members.contains(&m.id)
            && facts.fresh(m.id, &group.settings, now).is_some_and(ailing)
    });
    rule.members.len() + missing.count()
}

fn row(
    group: &Group,
    facts: &Facts,
    assigned: &BTreeMap<NodeId, Assignment>,
    member: &Member,
    now: Now,
    clock: Clock,
) -> NodeView {
    let heard = facts.node(member.id);
    let report = heard.and_then(|n| n.report.as_ref());
    let rule = group.rule();
    let reported = shown_state(group, facts, member.id, now);
    let sync = rule.map_or("-", |r| sync_word(group, facts, r, member.id, now));
    let primary = rule.and_then(|r| facts.report(r.primary));
    // Both by one look of the primary. Of who does not stream the last words are compared.
    let replayed = primary
        .and_then(|p| p.senders.iter().find(|s| s.streaming && s.name == member.name))
        .map(|s| s.replay)
        .or(report.and_then(|r| r.position).map(|p| p.lsn));
    let lag = match (primary.and_then(|p| p.position), replayed) {
        _ if rule.is_some_and(|r| r.primary == member.id) => Some(0),
        (Some(end), Some(own)) => Some(end.lsn.bytes_since(own)),
        _ => None,
    };
    NodeView {
        nodeid: member.id,
        nodename: member.name.clone(),
        nodehost: member.host.clone(),
        nodeport: member.port,
        formationid: group.key.formation.clone(),
        groupid: group.key.group,
        reportedstate: reported,
        goalstate: assigned.get(&member.id).map_or(reported, |a| a.state),
        health: health(group, facts, member.id, now),
        reportedlsn: report.and_then(|r| r.position).map(|p| p.lsn),
        reportedtli: report.and_then(|r| r.position).map(|p| p.tli),
        candidatepriority: member.candidate_priority,
        replicationquorum: member.replication_quorum,
        epoch: report.map_or(crate::ids::Epoch(0), |r| r.promise),
        lag_bytes: lag,
        sync: sync.to_owned(),
        since: clock(heard.map_or(now.wall_ms, |n| n.state_since_wall_ms)),
    }
}

/// The state last reported. The last word of a primary that was lost and replaced would name two
/// primaries: it is shown as what is known of it, that it has yet to be demoted.
fn shown_state(group: &Group, facts: &Facts, id: NodeId, now: Now) -> NodeState {
    let reported = facts.node(id).and_then(|n| n.state).unwrap_or(NodeState::Init);
    let leads = [NodeState::Primary, NodeState::WaitPrimary, NodeState::Single];
    let replaced = group.rule().is_some_and(|r| r.primary != id);
    let silent = !facts.is_reachable(id, &group.settings, now)
        || facts.node(id).is_some_and(|n| n.stream.is_none());
    if leads.contains(&reported) && replaced && silent {
        return NodeState::DemoteTimeout;
    }
    reported
}

fn sync_word(group: &Group, facts: &Facts, rule: &SyncRule, id: NodeId, now: Now) -> &'static str {
    let streams = facts.fresh(rule.primary, &group.settings, now).is_some_and(|p| {
        p.senders
            .iter()
            .any(|s| s.streaming && group.member_named(&s.name).is_some_and(|m| m.id == id))
    });
    match (rule.members.contains(&id) && rule.acks > 0, streams) {
        (true, true) => "quorum",
        (false, true) => "async",
        (_, false) => "-",
    }
}

/// 1 good, 0 bad, −1 unknown.
pub fn health(group: &Group, facts: &Facts, id: NodeId, now: Now) -> i32 {
    match facts.reach(id, &group.settings, now) {
        Reach::Unknown => -1,
        Reach::Unreachable => 0,
        Reach::Reachable => {
            let attended = facts.node(id).is_some_and(|n| n.stream.is_some());
            let works =
                |report: &Report| matches!(report.server, Server::Primary | Server::Standby);
            match facts.report(id) {
                None => -1,
                // What it was is no news of what it is.
                Some(report) if attended && works(report) && !sees(report) => -1,
                Some(report) if attended && works(report) => 1,
                Some(_) => 0,
            }
        }
    }
}

fn waiting(group: &Group, facts: &Facts, now: Now, clock: Clock) -> Vec<Waiting> {
    let since = clock(facts.plan_since.wall_ms);
    let wait = |what: String, who: String| Waiting { what, who, since: since.clone() };
    let mut waits = Vec::new();
    match &group.plan {
        Plan::Forming { founder: None } => {
            waits.push(wait("a first node".to_owned(), "any keeper".to_owned()));
        }
        Plan::Forming { founder: Some(id) } => {
            waits.push(wait("the first primary to come up".to_owned(), group.name_of(*id)));
        }
        Plan::Recovering => {
            let who = group.names_of(awaited_in_recovery(group, facts, now));
            let what = "every node to be heard: this monitor's record is old (if one is gone for \
                        good: pgctl perform-failover --allow-data-loss)";
            waits.push(wait(what.to_owned(), who));
        }
        Plan::Handover { from, .. } => {
            waits.push(wait("checkpoints before the handover".to_owned(), group.name_of(*from)));
        }
        Plan::Electing { .. } => match current_election(group, facts, now) {
            Some(Election::Wait(why)) => {
                let (what, who) = waiting_words(group, &why);
                waits.push(wait(what, who));
            }
            Some(Election::Fetch { who, source, .. }) => {
                let what = format!("WAL to be fetched from {}", group.name_of(source));
                waits.push(wait(what, group.name_of(who)));
            }
            _ => {}
        },
        Plan::Promoting { winner, .. } => {
            waits.push(wait("the winner to be writable".to_owned(), group.name_of(*winner)));
        }
        Plan::Serving { .. } => serving_waits(group, facts, now, &wait, &mut waits),
    }
    waits
}

fn serving_waits(
    group: &Group,
    facts: &Facts,
    now: Now,
    wait: &dyn Fn(String, String) -> Waiting,
    waits: &mut Vec<Waiting>,
) {
    let Some(rule) = group.rule() else { return };
    match judge(group, facts, rule, now) {
        Verdict::Lost { .. } if facts.is_flapping(&group.settings, now) => {
            let what = "fewer failovers by themselves, or an operator: pgctl perform-failover";
            waits.push(wait(what.to_owned(), group.name_of(rule.primary)));
        }
        Verdict::Lost { .. } => {
            if let Err(lacking) = can_be_won(group, facts, now) {
                let what = "enough nodes to replace the lost primary, or the primary".to_owned();
                waits.push(wait(what, group.names_of(lacking)));
            }
        }
        Verdict::Suspect { why } => waits.push(wait(why, group.name_of(rule.primary))),
        Verdict::Unknown => waits.push(wait(
            "a first report since the monitor started".to_owned(),
            group.name_of(rule.primary),
        )),
        Verdict::Fine => {}
    }
    if !group.is_covered() {
        let who = if rule.members.is_empty() {
            "a standby".to_owned()
        } else {
            group.names_of(rule.members.iter().copied())
        };
        waits.push(wait(format!("{} to confirm the sync rule", count(rule.acks, "standby")), who));
    }
}

fn alerts(group: &Group, facts: &Facts, view: &GroupView, now: Now) -> Vec<Alert> {
    let mut alerts = Vec::new();
    let mut alert = |code: &str, text: String| {
        alerts.push(Alert { code: code.to_owned(), text });
    };
    let forming = matches!(group.plan, Plan::Forming { .. });
    if view.writable.is_none() && !forming {
        alert("no_writable_primary", "no node accepts writes now".to_owned());
    }
    if group.members.len() > 1 && view.promotable_standbys == 0 && !forming {
        alert(
            "no_promotable_standby",
            "if the primary is lost now, nobody can take over".to_owned(),
        );
    }
    if view.sync_observed < view.sync_expected {
        alert(
            "sync_below_expected",
            format!(
                "{} of {} standbys that count, or should, stream",
                view.sync_observed, view.sync_expected
            ),
        );
    }
    if facts.is_flapping(&group.settings, now) {
        let text = "too many failovers by themselves: the next one waits for an operator or time";
        alert("failovers_limited", text.to_owned());
    }
    for member in group.members.values() {
        if let Some(why) = &member.quarantine {
            alert("quarantine", format!("{} is stopped: {why}", member.name));
        }
        match facts.reach(member.id, &group.settings, now) {
            Reach::Unreachable => {
                alert("node_unreachable", format!("nothing is heard from {}", member.name));
            }
            Reach::Unknown => {
                alert("node_unknown", format!("{} has not been heard yet", member.name));
            }
            Reach::Reachable => {}
        }
        if let Some(report) = facts.fresh(member.id, &group.settings, now)
            && !sees(report)
        {
            let why = report.not_let_in.as_ref().map_or("no look ends in time", |w| &w.text);
            alert(
                "not_let_in",
                format!("{}'s keeper does not see its Postgres: {why}", member.name),
            );
        }
        if let Some(problem) = facts.report(member.id).and_then(|r| r.problem.as_ref()) {
            alert(&problem.code, format!("{}: {}", member.name, problem.text));
        }
    }
    alerts
}
