//! Keeps the SQL view `node` up to date: states and health within a blink, positions once per second.
//! One writer for all groups, and one statement for all that has changed.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vigil_core::ids::{GroupKey, NodeId};
use vigil_core::view::NodeView;
use vigil_proto::Selector;

use crate::group_task::Published;
use crate::registry::Registry;

const POSITIONS_EVERY: Duration = Duration::from_secs(1);
/// Changes are looked for so often.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// One group, as it was last written.
struct Shown {
    published: watch::Receiver<Published>,
    written: Vec<NodeView>,
    /// More than its positions has changed since.
    is_news: bool,
    changed: bool,
}

pub(crate) async fn run(registry: Arc<Registry>, stop: CancellationToken) {
    let mut shown: HashMap<GroupKey, Shown> = HashMap::new();
    let mut written_at = Instant::now();
    // Nodes that went while no monitor ran.
    let mut purged = false;
    let mut failed = false;
    loop {
        let pause = if failed { POSITIONS_EVERY } else { LOOK_EVERY };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let gone = look(&registry, &mut shown);
        let due = written_at.elapsed() >= POSITIONS_EVERY;
        let changed = shown.values_mut().filter(|group| group.is_news || due && group.changed);
        let mut changed: Vec<&mut Shown> = changed.collect();
        if changed.is_empty() && gone.is_empty() {
            continue;
        }
        let fresh: Vec<Vec<NodeView>> =
            changed.iter().map(|group| group.published.borrow().view.nodes.clone()).collect();
        let before = changed.iter().flat_map(|group| &group.written).map(|node| node.nodeid);
        let gone: Vec<NodeId> = before.chain(gone).collect();
        let nodes = fresh.concat();
        let there: BTreeSet<NodeId> = nodes.iter().map(|node| node.nodeid).collect();
        let gone: Vec<NodeId> = gone.into_iter().filter(|id| !there.contains(id)).collect();
        written_at = Instant::now();
        let result = registry.store.put_nodes(&nodes, &gone).await;
        if let Err(error) = &result
            && !failed
        {
            tracing::debug!(%error, "the SQL view is not up to date");
        }
        failed = result.is_err();
        for (group, fresh) in changed.iter_mut().zip(fresh) {
            if !failed {
                group.written = fresh;
                (group.is_news, group.changed) = (false, false);
            }
        }
        if !failed && !purged {
            let known: Vec<NodeId> =
                shown.values().flat_map(|group| &group.written).map(|n| n.nodeid).collect();
            purged = registry.store.keep_nodes(&known).await.is_ok();
        }
    }
}

/// Notes what has changed. Returns the nodes of groups that are there no more.
fn look(registry: &Registry, shown: &mut HashMap<GroupKey, Shown>) -> Vec<NodeId> {
    let groups = registry.select(&Selector::default()).unwrap_or_default();
    let mut gone = Vec::new();
    if groups.len() < shown.len() || groups.iter().any(|group| !shown.contains_key(&group.key)) {
        shown.retain(|key, old| {
            let stays = groups.iter().any(|group| group.key == *key);
            if !stays {
                gone.extend(old.written.iter().map(|node| node.nodeid));
            }
            stays
        });
    }
    for group in groups {
        let entry = shown.entry(group.key).or_insert_with(|| {
            let mut published = group.published.clone();
            published.mark_changed();
            Shown { published, written: Vec::new(), is_news: false, changed: false }
        });
        match entry.published.has_changed() {
            Ok(false) => continue,
            Ok(true) => {}
            // Its task was started again.
            Err(_) => entry.published = group.published,
        }
        let now = entry.published.borrow_and_update();
        entry.changed |= now.view.nodes != entry.written;
        entry.is_news |= !is_same_but_for_positions(&now.view.nodes, &entry.written);
    }
    gone
}

/// What people want to see at once is the same.
fn is_same_but_for_positions(new: &[NodeView], old: &[NodeView]) -> bool {
    let word = |n: &NodeView| (n.nodeid, n.nodeport, n.reportedstate, n.goalstate, n.health);
    let settings = |n: &NodeView| (n.candidatepriority, n.replicationquorum, n.reportedtli);
    let place = |n: &NodeView, o: &NodeView| n.nodename == o.nodename && n.nodehost == o.nodehost;
    new.len() == old.len()
        && new.iter().zip(old).all(|(n, o)| {
            word(n) == word(o) && settings(n) == settings(o) && place(n, o) && n.since == o.since
        })
}
