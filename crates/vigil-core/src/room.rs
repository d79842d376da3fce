//! Room for what another node would do as the primary: a standby whose `max_connections` and the
//! like are smaller than those of a node that may become its primary is restarted with as much
//! before that happens, because afterwards its replay stops and it may not be promoted.

use std::collections::BTreeMap;

use crate::facts::Facts;
use crate::group::{Group, Member, Plan};
use crate::ids::{NodeId, Now};
use crate::limits::Limits;
use crate::message::{Report, Server};

/// Who is to be told now to have how much. The primary only keeps it in mind for its next start.
/// Standbys are restarted for it, one at a time and only while all is well: each restart takes one
/// away for a moment.
pub fn to_be_made(group: &Group, facts: &Facts, now: Now) -> BTreeMap<NodeId, Limits> {
    let Plan::Serving { primary } = group.plan else { return BTreeMap::new() };
    let staying = group.members.values().filter(|m| !m.is_out() && !m.dropped);
    let present = |m: &Member| Some((m.id, facts.fresh(m.id, &group.settings, now)?));
    let heard: Vec<(NodeId, &Report)> = staying.filter_map(present).collect();
    let Some(needed) = heard.iter().filter_map(|(_, r)| r.limits).reduce(Limits::max) else {
        return BTreeMap::new();
    };
    let is_small = |report: &Report| report.limits.is_some_and(|own| !own.suffice_for(needed));
    let (leading, standbys): (Vec<_>, Vec<_>) = heard.into_iter().partition(|n| n.0 == primary);
    // A standby that is away comes back first, be it from a restart of this very kind.
    let well = group.episode.is_none()
        && group.is_covered()
        && standbys.iter().all(|(_, report)| streams(report));
    let next = standbys.into_iter().find(|(_, report)| well && is_small(report));
    let leading = leading.into_iter().filter(|(_, report)| is_small(report));
    leading.chain(next).map(|(id, _)| (id, needed)).collect()
}

fn streams(report: &Report) -> bool {
    report.server == Server::Standby && report.following.is_some_and(|f| f.streaming)
}
