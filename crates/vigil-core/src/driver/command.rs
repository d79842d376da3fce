//! What keepers and operators ask of a group, and how an operator's command is followed.

mod register;
mod watcher;

pub(crate) use register::register;
use register::skip_timelines;
pub(crate) use watcher::Watcher;
use watcher::result;

use crate::command::{Command, OperationResult, Refusal, RefusalCode};
use crate::decide::{begin_election, begin_handover, best_standby, event, is_streaming};
use crate::detect::{Verdict, judge};
use crate::election::counts;
use crate::event::{Cause, Event, EventKind, Operation};
use crate::facts::Facts;
use crate::group::{Group, INTERVALS_MS, Member, Plan};
use crate::ids::{Epoch, NodeId, Now};

/// So many changes of the primary may have been missed by a store that goes on without having
/// heard every node.
const UNHEARD_EPOCHS: u64 = 10;

/// A command that was taken.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) message: String,
    pub(crate) events: Vec<Event>,
    /// It is followed to its end.
    pub(crate) watch: Option<Operation>,
    /// There was nothing to do.
    pub(crate) done: Option<OperationResult>,
}

/// Checks a command and carries its first act out on the record.
pub(crate) fn take(
    group: &mut Group,
    facts: &Facts,
    command: &Command,
    now: Now,
) -> Result<Taken, Refusal> {
    match command {
        Command::Failover { allow_data_loss } => failover(group, facts, *allow_data_loss, now),
        Command::Switchover { to } => {
            switchover(group, facts, to.as_deref(), Operation::Switchover, now)
        }
        Command::Promotion { node } => {
            let (id, node) = meant(group, node)?;
            if let Plan::Serving { primary } = group.plan
                && primary == id
            {
                let message = format!("{node} is the primary already");
                let done = Some(result(group, Operation::Promotion, Some(id), 0, Vec::new()));
                return Ok(Taken { message, done, ..Taken::default() });
            }
            switchover(group, facts, Some(&node), Operation::Promotion, now)
        }
        Command::SetNode { node, candidate_priority, replication_quorum } => {
            set_node(group, node, *candidate_priority, *replication_quorum)
        }
        Command::SetSettings { number_sync_standbys, heartbeat_interval_ms, heartbeat_misses } => {
            set_settings(group, *number_sync_standbys, *heartbeat_interval_ms, *heartbeat_misses)
        }
        Command::EnableMaintenance { node, allow_failover } => {
            enable_maintenance(group, facts, node, *allow_failover, now)
        }
        Command::DisableMaintenance { node } => {
            let (id, node) = meant(group, node)?;
            let member = member_mut(group, id)?;
            let (kind, text) = match (member.maintenance, &member.quarantine) {
                (_, Some(why)) => (
                    EventKind::Quarantine,
                    format!("{node} leaves quarantine, it was in for: {why}"),
                ),
                (true, None) => (EventKind::Maintenance, format!("{node} leaves maintenance")),
                (false, None) => {
                    return Err(refused(format!("{node} is not in maintenance"), ""));
                }
            };
            member.maintenance = false;
            member.quarantine = None;
            let events = vec![event(group, kind, Some(id), text.clone())];
            Ok(Taken { message: text, events, ..Taken::default() })
        }
        Command::DropNode { node, force } => drop_node(group, facts, node, *force, now),
    }
}

fn refused(message: impl Into<String>, hint: &str) -> Refusal {
    Refusal::new(RefusalCode::Refused, message, hint)
}

/// Whom a word means, and its name.
fn meant(group: &Group, word: &str) -> Result<(NodeId, String), Refusal> {
    group.member_meant(word).map(|m| (m.id, m.name.clone())).ok_or_else(|| {
        let names = group.names_of(group.members.keys().copied());
        Refusal::new(
            RefusalCode::NotFound,
            format!("no node {word} in {}", group.key),
            format!("its nodes are: {names}"),
        )
    })
}

fn member_mut(group: &mut Group, id: NodeId) -> Result<&mut Member, Refusal> {
    group
        .members
        .get_mut(&id)
        .ok_or_else(|| Refusal::new(RefusalCode::NotFound, "no such node", "pgctl show-state"))
}

/// Only one change of the primary at a time.
fn must_be_serving(group: &Group) -> Result<NodeId, Refusal> {
    match group.plan {
        Plan::Serving { primary } if group.episode.is_none() => Ok(primary),
        Plan::Serving { .. } => Err(refused(
            "a change of the primary is not finished: its sync rule is not confirmed yet",
            "wait for it: pgctl explain",
        )),
        _ => Err(refused(
            format!("a change of the primary is under way ({})", group.plan.name()),
            "wait until it has ended: pgctl show-state",
        )),
    }
}

fn failover(
    group: &mut Group,
    facts: &Facts,
    allow_data_loss: bool,
    now: Now,
) -> Result<Taken, Refusal> {
    let planned = matches!(group.plan, Plan::Electing { handover: Some(_), .. });
    if let Plan::Electing { accept_loss, handover, .. } = &mut group.plan
        && (!planned || allow_data_loss)
    {
        if !allow_data_loss {
            let hint = "pgctl explain says for whom; --allow-data-loss goes on without them";
            return Err(refused("an election is under way and waits", hint));
        }
        *handover = None;
        *accept_loss = true;
        if let Some(episode) = &mut group.episode {
            episode.operation = Some(Operation::Failover);
            episode.evidence.push("an operator accepts the loss of data".to_owned());
        }
        return Ok(Taken {
            message: "data loss accepted".to_owned(),
            watch: Some(Operation::Failover),
            ..Taken::default()
        });
    }
    if group.plan == Plan::Recovering && allow_data_loss {
        // Nodes that are not heard may have seen epochs and timelines that nobody here knows of.
        group.epoch = Epoch(group.epoch.0 + UNHEARD_EPOCHS);
        skip_timelines(group, UNHEARD_EPOCHS);
        let evidence = vec!["an operator goes on without the nodes not heard".to_owned()];
        let operation = Some(Operation::Failover);
        begin_election(group, facts, Cause::Recovery, evidence, operation, None, now);
        if let Plan::Electing { accept_loss, .. } = &mut group.plan {
            *accept_loss = true;
        }
        return Ok(Taken {
            message: "election begun, data loss accepted".to_owned(),
            watch: operation,
            ..Taken::default()
        });
    }
    let serving = matches!(group.plan, Plan::Serving { .. });
    // A winner that is gone for good while it is being promoted is given up as a primary is.
    let open = serving || allow_data_loss && matches!(group.plan, Plan::Promoting { .. });
    let verdict = group.rule().map(|rule| judge(group, facts, rule, now));
    match (open, verdict) {
        (true, Some(Verdict::Fine)) if serving => {
            switchover(group, facts, None, Operation::Failover, now)
        }
        (true, Some(verdict)) if verdict != Verdict::Fine && has_others(group) => {
            let evidence = vec!["an operator's command: the primary is not healthy".to_owned()];
            let operation = Some(Operation::Failover);
            begin_election(group, facts, Cause::Operator, evidence, operation, None, now);
            if let Plan::Electing { accept_loss, .. } = &mut group.plan {
                *accept_loss = allow_data_loss;
            }
            Ok(Taken { message: "election begun".to_owned(), watch: operation, ..Taken::default() })
        }
        (true, _) if serving => Err(refused("there is no node to fail over to", "add a standby")),
        _ => must_be_serving(group).map(|_| Taken::default()),
    }
}

/// Whether there is anybody but the primary.
fn has_others(group: &Group) -> bool {
    group.members.keys().any(|id| group.primary() != Some(*id))
}

fn switchover(
    group: &mut Group,
    facts: &Facts,
    to: Option<&str>,
    operation: Operation,
    now: Now,
) -> Result<Taken, Refusal> {
    let wanted = to.map(|word| meant(group, word).map(|(id, _)| id)).transpose()?;
    let primary = must_be_serving(group)?;
    let Some(rule) = group.rule().cloned() else {
        return Err(refused("the group has no primary yet", ""));
    };
    if wanted == Some(primary) {
        let name = group.name_of(primary);
        return Err(refused(format!("{name} is the primary already"), "name a standby"));
    }
    if judge(group, facts, &rule, now) != Verdict::Fine {
        let name = group.name_of(primary);
        let hint = "pgctl perform-failover elects without it";
        return Err(refused(format!("{name}, the primary, is not healthy"), hint));
    }
    let to = match wanted {
        Some(id) => {
            fit_for_handover(group, facts, id, now)?;
            id
        }
        None => best_standby(group, facts, now).ok_or_else(|| {
            refused("no standby can take over now", "pgctl explain says why for each")
        })?,
    };
    begin_handover(group, primary, to, Cause::Operator, Some(operation), now);
    let message = format!("{} hands over to {}", group.name_of(primary), group.name_of(to));
    Ok(Taken { message, watch: Some(operation), ..Taken::default() })
}

/// Lag above which a switchover would keep clients waiting, in bytes.
const HANDOVER_LAG: u64 = 16 * 1024 * 1024;

fn fit_for_handover(group: &Group, facts: &Facts, id: NodeId, now: Now) -> Result<(), Refusal> {
    let (Some(member), Some(rule)) = (group.members.get(&id), group.rule()) else { return Ok(()) };
    let name = &member.name;
    if member.is_out() {
        let hint = format!("pgctl disable-maintenance {name}");
        let what = if member.maintenance { "maintenance" } else { "quarantine" };
        return Err(refused(format!("{name} is in {what}"), &hint));
    }
    if facts.report(id).is_some_and(|r| r.delayed) {
        let text = format!("{name} replays late on purpose (recovery_min_apply_delay)");
        return Err(refused(text, "name another standby"));
    }
    if member.candidate_priority == 0 {
        let hint = format!("pgctl set-node {name} --candidate-priority 50");
        return Err(refused(format!("{name} has candidate priority 0"), &hint));
    }
    if !is_streaming(group, facts, rule, id, now) {
        let hint = format!("pgctl explain {name}");
        return Err(refused(format!("{name} does not stream from the primary"), &hint));
    }
    let end = |id| facts.report(id).and_then(|r| r.position).map_or(0, |p| p.lsn.0);
    let lag = end(rule.primary).saturating_sub(end(id));
    if lag > HANDOVER_LAG {
        return Err(refused(
            format!("{name} is {lag} bytes behind"),
            "wait until it has caught up",
        ));
    }
    Ok(())
}

fn set_node(
    group: &mut Group,
    node: &str,
    priority: Option<u32>,
    quorum: Option<bool>,
) -> Result<Taken, Refusal> {
    let (id, node) = meant(group, node)?;
    if priority.is_some_and(|p| p > 100) {
        return Err(Refusal::new(
            RefusalCode::BadValue,
            format!("candidate priority {} is out of range", priority.unwrap_or(0)),
            "give a number from 0 to 100",
        ));
    }
    if quorum == Some(false) {
        enough_without(group, id)?;
    }
    let member = member_mut(group, id)?;
    member.candidate_priority = priority.unwrap_or(member.candidate_priority);
    member.replication_quorum = quorum.unwrap_or(member.replication_quorum);
    let text = format!(
        "{node}: candidate priority {}, replication quorum {}",
        member.candidate_priority, member.replication_quorum
    );
    let events = vec![event(group, EventKind::Setting, Some(id), text.clone())];
    Ok(Taken { message: text, events, ..Taken::default() })
}

/// Whether as many standbys as number-sync-standbys asks for could still be counted without node
/// `id`, whoever of the others is the primary. With fewer, every commit would block.
fn enough_without(group: &Group, id: NodeId) -> Result<(), Refusal> {
    let k = group.settings.number_sync_standbys as usize;
    let left = group.members.values().filter(|m| m.id != id && counts(m)).count();
    let counted_now = group.members.get(&id).is_some_and(counts);
    if k == 0 || left > k || !counted_now {
        return Ok(());
    }
    let formation = &group.key.formation;
    Err(refused(
        format!("number-sync-standbys is {k}: too few counted nodes would be left"),
        &format!(
            "lower it first: pgctl set-formation --formation {formation} --number-sync-standbys {}",
            left.saturating_sub(1)
        ),
    ))
}

fn set_settings(
    group: &mut Group,
    sync: Option<u32>,
    interval_ms: Option<u64>,
    misses: Option<u32>,
) -> Result<Taken, Refusal> {
    if let Some(k) = sync {
        let counted = group.members.values().filter(|m| counts(m)).count();
        if k as usize > counted.saturating_sub(1) && k > 0 {
            return Err(refused(
                format!(
                    "number-sync-standbys {k} needs {k} counted standbys, there are {}",
                    counted.saturating_sub(1)
                ),
                "add standbys with replication-quorum true first",
            ));
        }
    }
    if interval_ms.is_some_and(|ms| !INTERVALS_MS.contains(&ms)) {
        return Err(Refusal::new(
            RefusalCode::BadValue,
            "the heartbeat interval is out of range",
            "give 100ms to 60s",
        ));
    }
    if misses.is_some_and(|n| !(2..=100).contains(&n)) {
        return Err(Refusal::new(
            RefusalCode::BadValue,
            "the number of heartbeat misses is out of range",
            "give 2 to 100",
        ));
    }
    let settings = &mut group.settings;
    settings.number_sync_standbys = sync.unwrap_or(settings.number_sync_standbys);
    settings.heartbeat_interval_ms = interval_ms.unwrap_or(settings.heartbeat_interval_ms);
    settings.heartbeat_misses = misses.unwrap_or(settings.heartbeat_misses);
    let text = format!(
        "number-sync-standbys {}, heartbeat {} ms × {}",
        settings.number_sync_standbys, settings.heartbeat_interval_ms, settings.heartbeat_misses
    );
    let events = vec![event(group, EventKind::Setting, None, text.clone())];
    Ok(Taken { message: text, events, ..Taken::default() })
}

fn enable_maintenance(
    group: &mut Group,
    facts: &Facts,
    node: &str,
    allow_failover: bool,
    now: Now,
) -> Result<Taken, Refusal> {
    let (id, node) = meant(group, node)?;
    if let Some(why) = group.members.get(&id).and_then(|m| m.quarantine.as_ref()) {
        let hint = format!("pgctl disable-maintenance {node}");
        return Err(refused(format!("{node} is in quarantine: {why}"), &hint));
    }
    if group.members.get(&id).is_some_and(|m| m.maintenance) {
        return Err(refused(format!("{node} is in maintenance already"), ""));
    }
    if group.rule().is_some_and(|r| r.primary == id) {
        if !allow_failover {
            let hint = format!("pgctl enable-maintenance {node} --allow-failover");
            return Err(refused(format!("{node} is the primary"), &hint));
        }
        enough_without(group, id)?;
        let taken = switchover(group, facts, None, Operation::Switchover, now)?;
        if let Some(episode) = &mut group.episode {
            episode.then_maintenance = true;
        }
        let message = format!("{}, then enters maintenance", taken.message);
        return Ok(Taken { message, watch: None, ..taken });
    }
    enough_without(group, id)?;
    member_mut(group, id)?.maintenance = true;
    let text = format!("{node} enters maintenance");
    let events = vec![event(group, EventKind::Maintenance, Some(id), text.clone())];
    Ok(Taken { message: text, events, ..Taken::default() })
}

fn drop_node(
    group: &mut Group,
    facts: &Facts,
    node: &str,
    force: bool,
    now: Now,
) -> Result<Taken, Refusal> {
    let (id, node) = meant(group, node)?;
    let last = group.members.len() == 1;
    if group.rule().is_some_and(|r| r.primary == id) && !last {
        let hint = match group.plan {
            Plan::Serving { .. } => "pgctl perform-switchover first",
            _ => "pgctl perform-failover --allow-data-loss makes another node the primary",
        };
        return Err(refused(format!("{node} is the primary"), hint));
    }
    let attended = facts.is_reachable(id, &group.settings, now)
        && facts.node(id).is_some_and(|n| n.stream.is_some());
    if !attended && !force {
        let hint = format!("pgctl drop-node {node} --force");
        return Err(refused(format!("{node} cannot be told: its keeper is not there"), &hint));
    }
    if !force && !last {
        enough_without(group, id)?;
    }
    let text = format!("{node} is dropped");
    let events = vec![event(group, EventKind::Node, Some(id), text.clone())];
    if attended {
        member_mut(group, id)?.dropped = true;
    } else {
        group.remove_member(id);
    }
    Ok(Taken { message: text, events, ..Taken::default() })
}
