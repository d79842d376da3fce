//! Node ids in stock. Every hello needs one at hand that was never used, though most nodes have
//! theirs already; so that a node can come back also while the store is away, and ids do not run
//! through, one that was not used is given back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use vigil_core::ids::NodeId;

use crate::store::{Decisions, StoreError};

#[derive(Default, Debug)]
pub struct NodeIds {
    spare: Mutex<Vec<NodeId>>,
    /// Ids up to here are somebody's: a store that was lost counts from the beginning again, while
    /// its nodes still have theirs.
    taken: AtomicI64,
}

impl NodeIds {
    /// Stands in when the store cannot give one: whatever would use it must not be kept.
    pub const NONE: NodeId = NodeId(-1);

    pub async fn take(&self, store: &impl Decisions) -> Result<NodeId, StoreError> {
        loop {
            let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let id = match spare {
                Some(id) => id,
                None => store.next_node_id().await?,
            };
            if id.0 > self.taken.load(Ordering::Relaxed) {
                return Ok(id);
            }
        }
    }

    /// A node has this id.
    pub fn is_taken(&self, id: NodeId) {
        self.taken.fetch_max(id.0, Ordering::Relaxed);
    }

    pub fn give_back(&self, id: NodeId) {
        if id == Self::NONE {
            return;
        }
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        spare.push(id);
        // The lowest is taken first.
        spare.sort_unstable_by_key(|id| std::cmp::Reverse(*id));
    }
}
