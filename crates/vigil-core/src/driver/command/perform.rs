//! Commands that change the primary: failover, switchover, promotion.

use super::register::skip_timelines;
use super::watcher::result;
use super::{Effect, Taken, meant, must_be_serving, refused};
use crate::command::Refusal;
use crate::decide::{begin_election, begin_handover, best_standby, give_up_winner, is_streaming};
use crate::detect::{Verdict, judge};
use crate::event::{Cause, Operation};
use crate::facts::Facts;
use crate::group::{Group, Plan};
use crate::ids::{Epoch, NodeId, Now};
use crate::winner::{may_be_given_up, others};

/// So many changes of the primary may have been missed by a store that goes on without having
/// heard every node.
const UNHEARD_EPOCHS: u64 = 10;

fn change(operation: Operation, wish: Option<NodeId>) -> Effect {
    Effect::Change { operation, wish }
}

pub(super) fn failover(
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
            watch: Some(change(Operation::Failover, None)),
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
            watch: Some(change(Operation::Failover, None)),
            ..Taken::default()
        });
    }
    if !allow_data_loss && let Some(winner) = may_be_given_up(group, facts, now) {
        if others(group, facts, winner, now).is_empty() {
            let words = format!("{} does not come up, and nobody else", group.name_of(winner));
            let hint = "pgctl explain says for whom the group waits";
            return Err(refused(format!("{words} has all that is needed"), hint));
        }
        return Ok(choose_anew(group, facts, winner, None, Operation::Failover, now));
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
            let watch = Some(change(Operation::Failover, None));
            Ok(Taken { message: "election begun".to_owned(), watch, ..Taken::default() })
        }
        (true, _) if serving => Err(refused("there is no node to fail over to", "add a standby")),
        _ => must_be_serving(group).map(|_| Taken::default()),
    }
}

/// Whether there is anybody but the primary.
fn has_others(group: &Group) -> bool {
    group.members.keys().any(|id| group.primary() != Some(*id))
}

pub(super) fn switchover(
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
    Ok(Taken { message, watch: Some(change(operation, wanted)), ..Taken::default() })
}

/// `perform-promotion`: nothing to do if it is the primary; otherwise planned, or by choosing it in
/// a change that is under way and waits.
pub(super) fn promotion(
    group: &mut Group,
    facts: &Facts,
    node: &str,
    now: Now,
) -> Result<Taken, Refusal> {
    let (id, node) = meant(group, node)?;
    let operation = Operation::Promotion;
    match group.plan {
        Plan::Serving { primary } if primary == id => {
            let message = format!("{node} is the primary already");
            let done = Some(result(group, operation, Some(id), 0, Vec::new()));
            return Ok(Taken { message, done, ..Taken::default() });
        }
        Plan::Promoting { winner, .. } if winner == id => {
            let message = format!("{node} is being promoted already");
            return Ok(Taken {
                message,
                watch: Some(change(operation, Some(id))),
                ..Taken::default()
            });
        }
        Plan::Promoting { .. } => {
            if let Some(winner) = may_be_given_up(group, facts, now) {
                may_be_chosen(group, facts, id)?;
                if !others(group, facts, winner, now).contains(&id) {
                    let hint = format!("pgctl explain {node}");
                    let text = format!("{node} cannot take over: it is not heard, or has no data");
                    return Err(refused(text, &hint));
                }
                return Ok(choose_anew(group, facts, winner, Some(id), operation, now));
            }
        }
        Plan::Electing { handover: None, .. } => {
            may_be_chosen(group, facts, id)?;
            if let Some(episode) = &mut group.episode {
                episode.wanted = Some(id);
                episode.operation = Some(operation);
                episode.evidence.push(format!("an operator prefers {node}"));
            }
            let message = format!("{node} is preferred in the election that is under way");
            return Ok(Taken {
                message,
                watch: Some(change(operation, Some(id))),
                ..Taken::default()
            });
        }
        _ => {}
    }
    switchover(group, facts, Some(&node), operation, now)
}

/// The winner of an election that does not come up makes way for another one. Nothing is given up
/// with it: whoever is elected has all that may have been acknowledged.
fn choose_anew(
    group: &mut Group,
    facts: &Facts,
    winner: NodeId,
    wanted: Option<NodeId>,
    operation: Operation,
    now: Now,
) -> Taken {
    let name = group.name_of(winner);
    let evidence = vec![format!("an operator's command: {name} does not come up")];
    give_up_winner(group, facts, winner, Cause::Operator, evidence, now);
    if let Some(episode) = &mut group.episode {
        episode.operation = Some(operation);
        episode.wanted = wanted;
    }
    let message = format!("election begun: {name} does not come up");
    Taken { message, watch: Some(change(operation, wanted)), ..Taken::default() }
}

/// Lag above which a switchover would keep clients waiting, in bytes.
const HANDOVER_LAG: u64 = 16 * 1024 * 1024;

fn fit_for_handover(group: &Group, facts: &Facts, id: NodeId, now: Now) -> Result<(), Refusal> {
    may_be_chosen(group, facts, id)?;
    let (Some(member), Some(rule)) = (group.members.get(&id), group.rule()) else { return Ok(()) };
    let name = &member.name;
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

/// Whether an election may choose a node at all.
fn may_be_chosen(group: &Group, facts: &Facts, id: NodeId) -> Result<(), Refusal> {
    let Some(member) = group.members.get(&id) else { return Ok(()) };
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
    Ok(())
}
