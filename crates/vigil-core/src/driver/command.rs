//! What keepers and operators ask of a group, and how an operator's command is followed.

mod effect;
mod perform;
mod register;
mod watcher;

pub(crate) use effect::Effect;
use effect::tight;
use perform::{failover, promotion, switchover};
pub(crate) use register::register;
pub(crate) use watcher::Watcher;

use crate::command::{Command, OperationResult, Refusal, RefusalCode};
use crate::decide::event;
use crate::election::counts;
use crate::event::{Event, EventKind, Operation};
use crate::facts::Facts;
use crate::group::{Group, INTERVALS_MS, Member, Plan};
use crate::ids::{NodeId, Now};

/// A command that was taken.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) message: String,
    pub(crate) events: Vec<Event>,
    /// It is followed to its end.
    pub(crate) watch: Option<Effect>,
    /// What follows from it that its author may not have thought of.
    pub(crate) warning: Option<String>,
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
        Command::Promotion { node } => promotion(group, facts, node, now),
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
            let watch = Some(Effect::Streams { node: id });
            Ok(Taken { message: text, events, watch, ..Taken::default() })
        }
        Command::DropNode { node, force, allow_failover } => {
            drop_node(group, facts, node, *force, *allow_failover, now)
        }
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
    let watch = quorum.map(|_| Effect::InForce);
    let warning = quorum.filter(|counts| !counts).and_then(|_| tight(group, None));
    Ok(Taken { message: text, events, watch, warning, ..Taken::default() })
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
    let watch = Some(if sync.is_some() { Effect::InForce } else { Effect::Heard });
    let warning = sync.and_then(|_| tight(group, None));
    Ok(Taken { message: text, events, watch, warning, ..Taken::default() })
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
        let watch = Some(Effect::Rests { node: id });
        let warning = tight(group, Some(id));
        return Ok(Taken { message, watch, warning, ..taken });
    }
    enough_without(group, id)?;
    member_mut(group, id)?.maintenance = true;
    let text = format!("{node} enters maintenance");
    let events = vec![event(group, EventKind::Maintenance, Some(id), text.clone())];
    let watch = Some(Effect::Rests { node: id });
    let warning = tight(group, None);
    Ok(Taken { message: text, events, watch, warning, ..Taken::default() })
}

fn drop_node(
    group: &mut Group,
    facts: &Facts,
    node: &str,
    force: bool,
    allow_failover: bool,
    now: Now,
) -> Result<Taken, Refusal> {
    let (id, node) = meant(group, node)?;
    let last = group.members.len() == 1;
    if group.rule().is_some_and(|r| r.primary == id) && !last {
        let serves = matches!(group.plan, Plan::Serving { .. });
        let hint = if serves {
            format!("pgctl drop-node {node} --allow-failover hands over first")
        } else {
            "pgctl perform-failover --allow-data-loss makes another node the primary".to_owned()
        };
        if !allow_failover || !serves {
            return Err(refused(format!("{node} is the primary"), &hint));
        }
        if !force {
            enough_without(group, id)?;
        }
        let taken = switchover(group, facts, None, Operation::Switchover, now)?;
        if let Some(episode) = &mut group.episode {
            episode.then_drop = true;
        }
        let message = format!("{}, then leaves the group", taken.message);
        let (watch, warning) = (Some(Effect::Gone { node: id }), tight(group, Some(id)));
        return Ok(Taken { message, watch, warning, ..taken });
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
    let warning = tight(group, Some(id)).filter(|_| !last);
    let watch = attended.then_some(Effect::Gone { node: id });
    Ok(Taken { message: text, events, watch, warning, ..Taken::default() })
}
