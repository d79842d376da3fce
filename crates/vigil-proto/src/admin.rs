//! What only operators' requests and answers are made of; the core has no use for it.

use serde::{Deserialize, Serialize};
use vigil_core::command::Command;

use crate::pb;
use crate::wire::{BadMessage, Wire, message};

/// Which formation and group is meant. `None` = all; for a command: the only one there is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Selector {
    pub formation: Option<String>,
    pub group: Option<u32>,
}

/// The newest `limit` events; 0 = as many as the monitor likes to give.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct EventsRequest {
    pub selector: Selector,
    pub limit: u32,
}

/// A command, for `Perform` (failover, switchover, promotion) or `Execute` (all others).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandRequest {
    pub selector: Selector,
    pub command: Command,
}

/// One row of `show-uri`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Uri {
    pub formationid: String,
    pub groupid: u32,
    /// `read-write` or `read-only`.
    pub r#type: String,
    pub uri: String,
}

/// What `show-settings` shows.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct SettingsView {
    pub formations: Vec<FormationSettings>,
    pub nodes: Vec<NodeSettings>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FormationSettings {
    pub formationid: String,
    pub number_sync_standbys: u32,
    pub heartbeat_interval_ms: u64,
    pub heartbeat_misses: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeSettings {
    pub formationid: String,
    pub groupid: u32,
    pub nodename: String,
    pub candidatepriority: u32,
    pub replicationquorum: bool,
}

message! {
    Selector { formation, group }
    EventsRequest { selector, limit }
    CommandRequest { selector, command }
    Uri { formationid, groupid, r#type, uri }
    SettingsView { formations, nodes }
    FormationSettings { formationid, number_sync_standbys, heartbeat_interval_ms, heartbeat_misses }
    NodeSettings { formationid, groupid, nodename, candidatepriority, replicationquorum }
}

impl From<Vec<Uri>> for pb::Uris {
    fn from(uris: Vec<Uri>) -> Self {
        pb::Uris { uris: uris.wire() }
    }
}

impl TryFrom<pb::Uris> for Vec<Uri> {
    type Error = BadMessage;

    fn try_from(message: pb::Uris) -> Result<Self, BadMessage> {
        Wire::read(message.uris).map_err(|bad: BadMessage| bad.within("uris"))
    }
}
