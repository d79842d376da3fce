//! What a command is to bring about, and whether that is there. One notion for every command: it is
//! looked for in the record and in what was heard, never assumed because it was ordered.

use crate::decide::is_streaming;
use crate::event::Operation;
use crate::facts::Facts;
use crate::group::{Group, Member, Plan};
use crate::ids::{NodeId, Now};
use crate::message::{Report, Server};
use crate::rule::SyncRule;
use crate::sync::wanted;
use crate::words::count;

/// A command is followed until this is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Effect {
    /// Another primary; `wish`: this one.
    Change { operation: Operation, wish: Option<NodeId> },
    /// The node is in maintenance: no commit waits for it, and its Postgres is stopped.
    Rests { node: NodeId },
    /// The node is back: it streams.
    Streams { node: NodeId },
    /// The node has left: its keeper has stopped Postgres and was let go.
    Gone { node: NodeId },
    /// The sync rule is what the settings ask for, and the primary obeys it.
    InForce,
    /// Every keeper that is there goes by the new heartbeat.
    Heard,
}

/// How far an effect is.
pub(super) enum Stage {
    Waits {
        what: String,
        who: String,
    },
    There(String),
    /// It will not come about.
    Otherwise(String),
}

impl Effect {
    /// The node that it is about.
    pub(super) fn node(self) -> Option<NodeId> {
        match self {
            Effect::Rests { node } | Effect::Streams { node } | Effect::Gone { node } => Some(node),
            Effect::Change { .. } | Effect::InForce | Effect::Heard => None,
        }
    }

    /// How far it is; `name`: of its node, also when that has left. A change of the primary is
    /// followed by its episode instead.
    pub(super) fn stage(self, group: &Group, facts: &Facts, name: &str, now: Now) -> Option<Stage> {
        let of = |node: NodeId| (group.members.get(&node), facts.fresh(node, &group.settings, now));
        Some(match self {
            Effect::Change { .. } => return None,
            Effect::Rests { node } => rests(group, facts, of(node), name, now),
            Effect::Streams { node } => streams(group, facts, of(node), name, now),
            Effect::Gone { node } => gone(group, of(node), name),
            Effect::InForce => in_force(group, facts, now),
            Effect::Heard => heard(group, facts, now),
        })
    }
}

type Node<'a> = (Option<&'a Member>, Option<&'a Report>);

fn waits(what: &str, who: &str) -> Stage {
    Stage::Waits { what: what.to_owned(), who: who.to_owned() }
}

const AWAY: &str = "its keeper, which does not answer";

fn is_stopped(report: &Report) -> bool {
    matches!(report.server, Server::Stopped | Server::NoData)
}

fn rests(group: &Group, facts: &Facts, (member, report): Node<'_>, name: &str, now: Now) -> Stage {
    let Some(member) = member else {
        return Stage::Otherwise(format!("{name} has left the group"));
    };
    if !member.maintenance {
        if group.episode.as_ref().is_some_and(|e| e.then_maintenance) {
            return waits("another primary", name);
        }
        return Stage::Otherwise(format!("{name} is not in maintenance: see pgctl show-events"));
    }
    match report {
        None => waits(AWAY, name),
        Some(_) if is_counted(group, facts, member.id, now) => {
            waits("the sync rule to do without it", name)
        }
        Some(report) if is_stopped(report) => {
            Stage::There(format!("{name} is in maintenance, its Postgres is stopped"))
        }
        Some(_) => waits("its Postgres to stop", name),
    }
}

/// Whether commits may still wait for a node: the newest rule names it, or is not obeyed yet.
fn is_counted(group: &Group, facts: &Facts, id: NodeId, now: Now) -> bool {
    let Some(rule) = group.rule() else { return false };
    let serves = matches!(group.plan, Plan::Serving { .. });
    let primary = facts.fresh(rule.primary, &group.settings, now).filter(|_| serves);
    rule.members.contains(&id) || primary.is_some_and(|r| r.in_force != Some(rule.id()))
}

fn streams(
    group: &Group,
    facts: &Facts,
    (member, report): Node<'_>,
    name: &str,
    now: Now,
) -> Stage {
    let Some(member) = member else {
        return Stage::Otherwise(format!("{name} has left the group"));
    };
    if member.is_out() {
        let why = member.quarantine.as_deref().unwrap_or("maintenance");
        return Stage::Otherwise(format!("{name} is taken out of service again: {why}"));
    }
    let Some(report) = report else { return waits(AWAY, name) };
    let rule = group.rule();
    match group.plan {
        Plan::Serving { primary } if primary == member.id => {
            Stage::There(format!("{name} is the primary"))
        }
        Plan::Serving { .. } | Plan::Handover { .. }
            if rule.is_some_and(|r| is_streaming(group, facts, r, member.id, now)) =>
        {
            Stage::There(format!("{name} streams from the primary"))
        }
        Plan::Electing { .. } | Plan::Promoting { .. }
            if report.server == Server::Standby && report.promise == group.epoch =>
        {
            Stage::There(format!("{name} runs, and takes part in the election"))
        }
        _ => {
            let what = report.problem.as_ref().map(|p| p.text.clone()).or(report.doing.clone());
            waits(&what.unwrap_or_else(|| "it to stream".to_owned()), name)
        }
    }
}

fn gone(group: &Group, (member, report): Node<'_>, name: &str) -> Stage {
    let Some(member) = member else {
        return Stage::There(format!("{name} has left the group"));
    };
    if !member.dropped {
        if group.episode.as_ref().is_some_and(|e| e.then_drop) {
            return waits("another primary", name);
        }
        return Stage::Otherwise(format!("{name} is not dropped: see pgctl show-events"));
    }
    match report {
        None => waits(AWAY, name),
        Some(report) if is_stopped(report) => waits("its keeper to end", name),
        Some(_) => waits("its Postgres to stop", name),
    }
}

fn in_force(group: &Group, facts: &Facts, now: Now) -> Stage {
    let (Some(rule), false) = (group.rule(), matches!(group.plan, Plan::Forming { .. })) else {
        return Stage::There("it holds for the nodes to come".to_owned());
    };
    let (Plan::Serving { primary } | Plan::Handover { from: primary, .. }) = group.plan else {
        return waits("a primary to put it in force", &group.key.to_string());
    };
    let name = group.name_of(primary);
    let Some(report) = facts.fresh(primary, &group.settings, now) else {
        return waits(AWAY, &name);
    };
    if report.in_force != Some(rule.id()) {
        return waits("the sync rule to be in force", &name);
    }
    if wanted(group, facts, rule, now).is_some() {
        return waits("the sync rule to be changed", &name);
    }
    Stage::There(rule_words(group, rule))
}

fn rule_words(group: &Group, rule: &SyncRule) -> String {
    if rule.acks == 0 {
        return "commits are acknowledged by the primary alone".to_owned();
    }
    let names = group.names_of(rule.members.iter().copied());
    format!("a commit needs {} of [{names}]", rule.acks)
}

fn heard(group: &Group, facts: &Facts, now: Now) -> Stage {
    let interval_ms = group.settings.heartbeat_interval_ms;
    let old = group.members.keys().copied().filter(|id| {
        facts.fresh(*id, &group.settings, now).is_some_and(|r| r.interval_ms != interval_ms)
    });
    let old = group.names_of(old);
    if old.is_empty() {
        return Stage::There(format!("heartbeats come every {interval_ms} ms"));
    }
    waits("its keeper to go by the new heartbeat", &old)
}

/// A warning where the loss of one standby blocks commits from now on; `without`: this node leaves.
pub(super) fn tight(group: &Group, without: Option<NodeId>) -> Option<String> {
    let k = group.settings.number_sync_standbys;
    let primary = group.rule().map(|r| r.primary).filter(|id| without != Some(*id));
    let counted = group.members.values().filter(|m| m.counts() && without != Some(m.id));
    let counted: Vec<NodeId> = counted.map(|m| m.id).collect();
    // Somebody has to be the primary: one of them if the present one goes.
    let leads = primary.is_none_or(|id| counted.contains(&id));
    let standbys = counted.len().saturating_sub(usize::from(leads));
    (k > 0 && standbys <= k as usize).then(|| {
        let left = count(u64::try_from(standbys).unwrap_or(0), "counted standby");
        format!("number-sync-standbys is {k} and {left} left: the loss of one blocks all commits")
    })
}
