//! A keeper introduces itself: a new node, a known one, or a witness that the store is not the newest.

use crate::command::{Refusal, RefusalCode};
use crate::group::{Group, Member, Plan};
use crate::ids::{Epoch, NodeId};
use crate::message::{Hello, Peer};
use crate::mutation::{Mutation, broken};
use crate::rule::SyncRule;
use crate::wal::Tli;

/// Registers a keeper; returns its node id. `attended(id)`: a live keeper already speaks for it.
pub(crate) fn register(
    group: &mut Group,
    hello: &Hello,
    fresh_id: NodeId,
    attended: &dyn Fn(NodeId) -> bool,
) -> Result<NodeId, Refusal> {
    if let (Some(ours), Some(theirs)) = (group.system_id, hello.system_id)
        && ours != theirs
    {
        return Err(Refusal::new(
            RefusalCode::Refused,
            format!(
                "the data directory of {} belongs to another cluster: its system identifier is \
                 {theirs}, this group's is {ours}",
                hello.name
            ),
            "point --pgdata at an empty directory, or join another --formation or --group",
        ));
    }
    let fresh_id = above_all_known(group, hello, fresh_id);
    let known =
        hello.node_id.filter(|id| group.members.get(id).is_some_and(|m| m.name == hello.name));
    if let Some(id) = known {
        if let Some(member) = group.members.get_mut(&id) {
            member.host.clone_from(&hello.host);
            member.port = hello.port;
        }
        learn(group, hello);
        return Ok(id);
    }
    if let Some(old) = group.member_named(&hello.name) {
        if attended(old.id) {
            return Err(Refusal::new(
                RefusalCode::BadValue,
                format!("the name {} is in use by a node that is alive", hello.name),
                "give this keeper another --name, or stop the other one",
            ));
        }
        // It lost its data directory or its state: a new node under the old name (DESIGN §4.5).
        let old = old.id;
        if broken(Mutation::Amnesia) {
            return Ok(old);
        }
        group.members.remove(&old);
        if group.plan == (Plan::Forming { founder: Some(old) }) {
            // Nothing was ever acknowledged: another one founds the group.
            group.rules.clear();
            group.plan = Plan::Forming { founder: None };
        }
    }
    // A keeper with an id that this record does not know: the record is older than the keeper.
    let id = match hello.node_id {
        Some(id) if hello.promise > Epoch(0) && !group.members.contains_key(&id) => id,
        _ => fresh_id,
    };
    // What an operator has set since it first joined was told to it, and is better than what its
    // command line says.
    let told = hello.peers.iter().find(|p| Some(p.id) == hello.node_id && p.id == id);
    let own = Peer {
        id,
        name: hello.name.clone(),
        host: hello.host.clone(),
        port: hello.port,
        candidate_priority: told.map_or(hello.candidate_priority, |p| p.candidate_priority),
        replication_quorum: told.map_or(hello.replication_quorum, |p| p.replication_quorum),
        maintenance: told.is_some_and(|p| p.maintenance),
    };
    group.members.insert(id, Member::from_peer(&own));
    learn(group, hello);
    Ok(id)
}

/// A store that was lost counts its node ids from the beginning again; the keepers remember. A
/// negative id stands for none.
fn above_all_known(group: &Group, hello: &Hello, fresh_id: NodeId) -> NodeId {
    let named = |r: &SyncRule| r.members.iter().copied().chain([r.primary]).max();
    let members = group.members.keys().copied().max();
    let rules = group.rules.iter().chain(&hello.rules_held).filter_map(named).max();
    let told = hello.peers.iter().map(|p| p.id).max();
    let highest = members.max(rules).max(told).unwrap_or(NodeId(0));
    if fresh_id < NodeId(0) { fresh_id } else { fresh_id.max(NodeId(highest.0 + 1)) }
}

/// DESIGN §4.19: what a keeper has fsynced may be newer than the store. A keeper holds S whole, as
/// some order carried it: what is missing from a later S than ours was covered since.
fn learn(group: &mut Group, hello: &Hello) {
    let newest = hello.rules_held.iter().max_by_key(|rule| rule.id());
    let theirs = newest.map(SyncRule::id);
    let ours = group.rule().map(SyncRule::id);
    if hello.promise <= group.epoch && theirs <= ours || broken(Mutation::OldStoreTrusted) {
        if theirs == ours && group.plan == Plan::Recovering {
            group.rules.retain(|rule| hello.rules_held.contains(rule));
        }
        return;
    }
    let known = group.rule().map_or(Epoch(0), |rule| rule.epoch);
    group.epoch = group.epoch.max(hello.promise);
    if let Some(newest) = newest.filter(|_| theirs > ours) {
        group.rules.clone_from(&hello.rules_held);
        group.rules.sort_by_key(SyncRule::id);
        group.epoch = group.epoch.max(newest.epoch);
        group.last_rule_version = group.last_rule_version.max(newest.version);
    } else if let Plan::Forming { .. } = group.plan {
        // The group exists already: whoever was about to found it has nothing to lead.
        group.rules.clear();
    }
    for peer in &hello.peers {
        let taken = group.member_named(&peer.name).is_some();
        if !taken && !group.members.contains_key(&peer.id) {
            group.members.insert(peer.id, Member::from_peer(peer));
        }
    }
    if let Some(settings) = hello.settings
        && hello.promise >= group.epoch
    {
        group.settings = settings;
    }
    // An epoch assigns one timeline at most: whatever was assigned in those whose winners this
    // store does not know, the next one is above.
    skip_timelines(group, group.epoch.0.saturating_sub(known.0));
    group.plan = Plan::Recovering;
    group.episode = None;
}

pub(super) fn skip_timelines(group: &mut Group, count: u64) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    // The founder's is the first, told or not.
    group.last_tli = Tli(group.last_tli.0.max(1).saturating_add(count));
}
