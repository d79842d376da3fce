//! The log's lines of a decision, from the difference of two records: one line per thing that
//! matters. Never a record as a whole: it holds a password.

use vigil_core::group::{Group, Plan};
use vigil_core::rule::SyncRule;
use vigil_core::view::GroupView;

/// One line.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Line {
    is_warning: bool,
    text: String,
}

/// Logs what is different in `new`.
pub(crate) fn log(old: &Group, new: &Group) {
    for Line { is_warning, text } in lines(old, new) {
        let (formation, group, epoch) = (&new.key.formation, new.key.group, new.epoch.0);
        if is_warning {
            tracing::warn!(formation, group, epoch, plan = new.plan.name(), "{text}");
        } else {
            tracing::info!(formation, group, epoch, plan = new.plan.name(), "{text}");
        }
    }
}

/// Logs nodes that were lost or came back.
pub(crate) fn log_health(old: &GroupView, new: &GroupView) {
    for node in &new.nodes {
        let before = old.nodes.iter().find(|n| n.nodeid == node.nodeid).map(|n| n.health);
        let (formation, group) = (&new.formation, new.group);
        let (name, state) = (&node.nodename, node.reportedstate.as_str());
        match (before, node.health) {
            (Some(1), 0) if new.plan == "serving" => {
                tracing::warn!(formation, group, node = name, state, "node lost");
            }
            // Part of what was logged already, with its cause.
            (Some(1), 0) => tracing::info!(formation, group, node = name, state, "node is down"),
            (Some(0 | -1), 1) => {
                tracing::info!(formation, group, node = name, state, "node is well");
            }
            _ => {}
        }
    }
}

fn lines(old: &Group, new: &Group) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut say = |is_warning: bool, text: String| lines.push(Line { is_warning, text });
    for (id, member) in &new.members {
        match old.members.get(id) {
            None => say(
                false,
                format!("{} joined as node #{id}: {}:{}", member.name, member.host, member.port),
            ),
            Some(before) if before.dropped != member.dropped => {
                say(false, format!("{} is being dropped", member.name));
            }
            Some(_) => {}
        }
    }
    for (id, member) in &old.members {
        if !new.members.contains_key(id) {
            say(false, format!("{} (node #{id}) is gone for good", member.name));
        }
    }
    if old.settings != new.settings {
        let s = &new.settings;
        say(
            false,
            format!(
                "settings: number-sync-standbys {}, heartbeat {} ms × {}",
                s.number_sync_standbys, s.heartbeat_interval_ms, s.heartbeat_misses
            ),
        );
    }
    if old.plan != new.plan {
        say(is_trouble(&new.plan), plan(new));
    }
    if let Some(newest) = new.rule()
        && old.rule().map(SyncRule::id) != Some(newest.id())
    {
        let was_sync = old.rule().is_some_and(|r| !r.is_async());
        say(newest.is_async() && was_sync && old.epoch == new.epoch, rule(new, newest));
    }
    lines
}

fn is_trouble(plan: &Plan) -> bool {
    matches!(plan, Plan::Electing { handover: None, .. } | Plan::Recovering)
}

fn plan(group: &Group) -> String {
    let name = |id| group.name_of(id);
    let cause = group.episode.as_ref().map_or_else(String::new, |e| {
        format!(" ({}: {})", e.cause.as_str(), e.evidence.join("; "))
    });
    match &group.plan {
        Plan::Forming { founder: None } => "waiting for a first node".to_owned(),
        Plan::Forming { founder: Some(node) } => format!("{} makes the first primary", name(*node)),
        Plan::Serving { primary } => format!("{} serves", name(*primary)),
        Plan::Handover { from, to } => {
            format!("preparing a handover from {} to {}{cause}", name(*from), name(*to))
        }
        Plan::Electing { handover: Some(h), .. } => {
            format!("{} hands over to {}{cause}", name(h.from), name(h.to))
        }
        Plan::Electing { handover: None, .. } => format!("election{cause}"),
        Plan::Promoting { winner, renewal: true, .. } => {
            format!("false alarm: {} goes on{cause}", name(*winner))
        }
        Plan::Promoting { winner, tli, .. } => {
            format!("{} is promoted to timeline {tli}{cause}", name(*winner))
        }
        Plan::Recovering => "keepers know more than the store: listening to all of them".to_owned(),
    }
}

fn rule(group: &Group, rule: &SyncRule) -> String {
    let id = rule.id();
    match rule.acks {
        0 => format!("sync rule {id}: the primary acknowledges alone"),
        acks => {
            let members = group.names_of(rule.members.iter().copied());
            format!("sync rule {id}: any {acks} of ({members})")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use vigil_core::group::{Member, Settings};
    use vigil_core::ids::{Epoch, GroupKey, NodeId};

    use super::*;

    fn group() -> Group {
        let key = GroupKey { formation: "default".to_owned(), group: 0 };
        Group::new(key, Settings::default(), "secret".to_owned())
    }

    fn texts(old: &Group, new: &Group) -> Vec<String> {
        lines(old, new).into_iter().map(|l| l.text).collect()
    }

    #[test]
    fn one_line_per_thing_that_matters() {
        let old = group();
        let mut new = old.clone();
        let member = Member {
            id: NodeId(1),
            name: "n1".to_owned(),
            host: "h".to_owned(),
            port: 5432,
            candidate_priority: 50,
            replication_quorum: true,
            maintenance: false,
            quarantine: None,
            noticed: 0,
            dropped: false,
        };
        new.members.insert(NodeId(1), member);
        new.plan = Plan::Forming { founder: Some(NodeId(1)) };
        assert_eq!(
            texts(&old, &new),
            ["n1 joined as node #1: h:5432", "n1 makes the first primary"]
        );
        let mut serving = new.clone();
        serving.plan = Plan::Serving { primary: NodeId(1) };
        serving.record_rule(Epoch(1), NodeId(1), BTreeSet::from([NodeId(2)]), 1);
        assert_eq!(texts(&new, &serving), ["n1 serves", "sync rule 1.1: any 1 of (node #2)"]);
        let mut degraded = serving.clone();
        degraded.record_rule(Epoch(1), NodeId(1), BTreeSet::new(), 0);
        let said = lines(&serving, &degraded);
        assert_eq!(said[0].text, "sync rule 1.2: the primary acknowledges alone");
        assert!(said[0].is_warning);
        assert!(texts(&serving, &serving).is_empty());
    }
}
