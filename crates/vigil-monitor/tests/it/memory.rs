//! A store in memory that can be broken in the ways that matter.

use std::sync::{Arc, Mutex};

use vigil_core::group::Group;
use vigil_core::ids::{GroupKey, NodeId};
use vigil_monitor::store::{Change, Decisions, StoreError};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Fault {
    #[default]
    None,
    /// Nothing is done.
    Down,
    /// The commit is done, but the answer is lost.
    AnswerLost,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) fault: Fault,
    pub(crate) record: Option<Group>,
    pub(crate) commits: u32,
    pub(crate) events: usize,
    last_id: i64,
}

#[derive(Clone, Default)]
pub(crate) struct MemStore(pub(crate) Arc<Mutex<State>>);

impl MemStore {
    pub(crate) fn set(&self, fault: Fault) {
        self.0.lock().unwrap().fault = fault;
    }

    pub(crate) fn commits(&self) -> u32 {
        self.0.lock().unwrap().commits
    }

    pub(crate) fn record(&self) -> Option<Group> {
        self.0.lock().unwrap().record.clone()
    }
}

fn down() -> StoreError {
    StoreError::Unavailable("broken by the test".to_owned())
}

impl Decisions for MemStore {
    async fn commit(&self, change: Change<'_>) -> Result<(), StoreError> {
        let mut state = self.0.lock().unwrap();
        if state.fault == Fault::Down {
            return Err(down());
        }
        if let Some(record) = change.record {
            if state.record.as_ref().map_or(0, |r| r.version) != change.from_version {
                return Err(StoreError::Stale);
            }
            assert!(record.version > change.from_version);
            state.record = Some(record.clone());
        }
        state.events += change.events.len();
        state.commits += 1;
        if state.fault == Fault::AnswerLost { Err(down()) } else { Ok(()) }
    }

    async fn load(&self, _key: &GroupKey) -> Result<Option<Group>, StoreError> {
        let state = self.0.lock().unwrap();
        if state.fault == Fault::Down { Err(down()) } else { Ok(state.record.clone()) }
    }

    async fn next_node_id(&self) -> Result<NodeId, StoreError> {
        let mut state = self.0.lock().unwrap();
        if state.fault == Fault::Down {
            return Err(down());
        }
        state.last_id += 1;
        Ok(NodeId(state.last_id))
    }
}
