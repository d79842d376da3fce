//! What operators ask for, and how they are refused.

use serde::{Deserialize, Serialize};

use crate::event::Phase;

/// A request to one group.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Healthy primary: a switchover to the best standby; otherwise an election.
    Failover {
        allow_data_loss: bool,
    },
    /// Planned; `to` = the best standby if not named.
    Switchover {
        to: Option<String>,
    },
    /// Make `node` the primary; nothing to do if it is.
    Promotion {
        node: String,
    },
    SetNode {
        node: String,
        candidate_priority: Option<u32>,
        replication_quorum: Option<bool>,
    },
    SetSettings {
        number_sync_standbys: Option<u32>,
        heartbeat_interval_ms: Option<u64>,
        heartbeat_misses: Option<u32>,
    },
    EnableMaintenance {
        node: String,
        allow_failover: bool,
    },
    DisableMaintenance {
        node: String,
    },
    DropNode {
        node: String,
        force: bool,
        /// If it is the primary: hand over first.
        allow_failover: bool,
    },
}

/// The documented exit codes that a refusal maps to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// Exit 2: the value can never be right.
    BadValue,
    /// Exit 4: no such node, formation or group.
    NotFound,
    /// Exit 5: not in the present state.
    Refused,
}

impl RefusalCode {
    pub fn exit_code(self) -> u8 {
        match self {
            RefusalCode::BadValue => 2,
            RefusalCode::NotFound => 4,
            RefusalCode::Refused => 5,
        }
    }
}

/// Why a command was not taken; nothing has changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: RefusalCode,
    pub message: String,
    pub hint: Option<String>,
}

impl Refusal {
    pub fn new(code: RefusalCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        let hint: String = hint.into();
        Refusal { code, message: message.into(), hint: (!hint.is_empty()).then_some(hint) }
    }
}

/// How far a command is. The caller watches these until one is final.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "snake_case")]
pub enum Progress {
    /// A phase ended.
    Phase(Phase),
    /// What it waits for now.
    Waiting {
        what: String,
        who: String,
    },
    Done(OperationResult),
    /// Ended otherwise than asked: undone, so that the old primary serves, or another node than the
    /// one named has become the primary.
    RolledBack(OperationResult),
    /// The effect of a command that changes no primary is there, in a sentence.
    Effective {
        message: String,
    },
    /// That effect will not come about.
    Otherwise {
        message: String,
    },
    /// Given up for another reason.
    Failed {
        message: String,
    },
}

impl Progress {
    /// Whether nothing comes after it.
    pub fn is_last(&self) -> bool {
        !matches!(self, Progress::Phase(_) | Progress::Waiting { .. })
    }
}

/// The JSON that `perform-*` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OperationResult {
    /// `failover`, `switchover` or `promotion`.
    pub operation: String,
    pub formationid: String,
    pub groupid: u32,
    pub epoch: u64,
    pub from: Option<String>,
    pub to: String,
    pub host: String,
    pub port: u16,
    pub outage_ms: u64,
    pub phases: Vec<Phase>,
}
