//! What people and scripts see of a group: the shapes of `pgctl … --json` (the outside contract).

use serde::{Deserialize, Serialize};

use crate::event::{EventKind, Phase};
use crate::ids::{Epoch, NodeId};
use crate::state::NodeState;
use crate::wal::{Lsn, Tli};

/// One row of `show-state`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeView {
    pub nodeid: NodeId,
    pub nodename: String,
    pub nodehost: String,
    pub nodeport: u16,
    pub formationid: String,
    pub groupid: u32,
    pub reportedstate: NodeState,
    pub goalstate: NodeState,
    /// 1 good, 0 bad, −1 unknown.
    pub health: i32,
    pub reportedlsn: Option<Lsn>,
    pub reportedtli: Option<Tli>,
    pub candidatepriority: u32,
    pub replicationquorum: bool,
    pub epoch: Epoch,
    /// Bytes behind the primary's position; `None` when either is unknown.
    pub lag_bytes: Option<u64>,
    /// `quorum` = counted by the sync rule, `async` = streaming, not counted, `-` = neither.
    pub sync: String,
    /// When `reportedstate` was entered, RFC 3339.
    pub since: String,
}

/// Something that a group waits for, and what would end it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Waiting {
    pub what: String,
    pub who: String,
    /// RFC 3339.
    pub since: String,
}

/// Something that is wrong or soon may be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Alert {
    /// Short and stable: `no_promotable_standby`, `primary_unreachable`, …
    pub code: String,
    pub text: String,
}

/// One finding of `explain`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Finding {
    pub code: String,
    pub cause: String,
    pub remedy: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeFindings {
    pub nodename: String,
    pub findings: Vec<Finding>,
}

/// Everything that is shown of one group at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct GroupView {
    pub formation: String,
    pub group: u32,
    pub plan: String,
    pub epoch: Epoch,
    pub nodes: Vec<NodeView>,
    pub waiting_on: Vec<Waiting>,
    pub alerts: Vec<Alert>,
    pub findings: Vec<NodeFindings>,
    /// The node that may accept writes now and acknowledge them.
    pub writable: Option<NodeId>,
    /// Members that the sync rule counts, and how many of them stream.
    pub sync_expected: u32,
    pub sync_observed: u32,
    pub promotable_standbys: u32,
}

/// One row of `show-events`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventView {
    pub eventid: i64,
    pub eventtime: String,
    pub formationid: String,
    pub groupid: u32,
    pub nodeid: Option<NodeId>,
    pub nodename: Option<String>,
    pub kind: EventKind,
    pub epoch: Epoch,
    pub cause: Option<String>,
    pub evidence: Vec<String>,
    pub phases: Vec<Phase>,
    pub description: String,
}
