//! Keeps the SQL view `node` up to date: states and health at once, positions once per second.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vigil_core::ids::GroupKey;
use vigil_core::view::NodeView;

use crate::group_task::Published;
use crate::store::PgStore;

const POSITIONS_EVERY: Duration = Duration::from_secs(1);

pub(crate) async fn run(
    store: PgStore,
    key: GroupKey,
    mut published: watch::Receiver<Published>,
    stop: CancellationToken,
) {
    let mut written: Option<(Vec<NodeView>, Instant)> = None;
    let mut failed = false;
    loop {
        let nodes = published.borrow_and_update().view.nodes.clone();
        let due = match &written {
            None => Some(Instant::now()),
            Some((old, _)) if without_positions(old) != without_positions(&nodes) => {
                Some(Instant::now())
            }
            Some((old, at)) => (*old != nodes).then(|| *at + POSITIONS_EVERY),
        };
        if due.is_some_and(|due| due <= Instant::now()) {
            match store.put_nodes(&key, &nodes).await {
                Ok(()) => {
                    written = Some((nodes, Instant::now()));
                    failed = false;
                    continue;
                }
                Err(error) => {
                    if !failed {
                        tracing::debug!(group = %key, %error, "the SQL view is not up to date");
                    }
                    failed = true;
                    written = None;
                }
            }
        }
        let pause = if failed {
            POSITIONS_EVERY
        } else {
            // Nothing to write: only a change ends the wait.
            due.map_or(Duration::from_hours(1), |due| due - Instant::now())
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = published.changed(), if !failed => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// What people want to see at once.
fn without_positions(nodes: &[NodeView]) -> Vec<NodeView> {
    let still = |node: &NodeView| NodeView {
        reportedlsn: None,
        lag_bytes: None,
        epoch: vigil_core::ids::Epoch(0),
        ..node.clone()
    };
    nodes.iter().map(still).collect()
}
