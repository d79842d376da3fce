//! Node ids in stock. Every hello needs one at hand that was never used, though most nodes have
//! theirs already; so that a node can come back also while the store is away, and ids do not run
//! through, one that was not used is given back.

use std::sync::{Mutex, PoisonError};

use vigil_core::ids::NodeId;

use crate::store::{Decisions, StoreError};

#[derive(Default, Debug)]
pub struct NodeIds {
    spare: Mutex<Vec<NodeId>>,
}

impl NodeIds {
    /// Stands in when the store cannot give one: whatever would use it must not be kept.
    pub const NONE: NodeId = NodeId(-1);

    pub async fn take(&self, store: &impl Decisions) -> Result<NodeId, StoreError> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match spare {
            Some(id) => Ok(id),
            None => store.next_node_id().await,
        }
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
