//! What a keeper keeps on its own disk, fsynced before it acts on it.

use serde::{Deserialize, Serialize};

use crate::group::Settings;
use crate::ids::{Epoch, NodeId, Secret};
use crate::message::{Order, Peer};
use crate::mutation::{Mutation, broken};
use crate::rule::SyncRule;

/// The state file. Written whole (temp, fsync, rename, fsync of the directory).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NodeRecord {
    pub formation: String,
    pub group: u32,
    pub name: String,
    pub node_id: Option<NodeId>,
    /// Of the data directory that this record belongs to.
    pub system_id: Option<u64>,
    /// The promise: no order of a lower epoch is obeyed, nothing is acknowledged for one.
    pub promise: Epoch,
    /// The newest order taken in; older ones are stale.
    pub order_seq: u64,
    /// The newest sync rule this node was ordered to lead under; fsynced before it is used.
    pub own_rule: Option<SyncRule>,
    /// The epoch in which this node was founder, promoted or renewed: never twice in one.
    pub led_in: Option<Epoch>,
    /// A promotion was triggered and has not been seen to end. The server may become read-write at
    /// any moment, whatever anybody orders: it pledges nothing until it has stopped.
    #[serde(default)]
    pub promoting: bool,
    /// S as the monitor told it (DESIGN §4.19).
    pub rules_held: Vec<SyncRule>,
    /// The data directory is being replaced; until that is done it must never be started.
    pub replacing: Option<Replacing>,
    /// Whom the data directory was just copied from, and in which epoch, until it has answered
    /// once: before that it is not consistent without more of that primary's WAL, so it can only
    /// be started attached to it.
    #[serde(default)]
    pub copied_from: Option<(NodeId, Epoch)>,
    pub peers: Vec<Peer>,
    pub settings: Settings,
    pub replication_password: Secret,
}

/// A data directory under reconstruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replacing {
    /// pg_rewind may have been started: it cannot be repeated, and a half-rewound directory may
    /// even start read-write (seen). Only a new clone leads out, if the rewind does not end well.
    Rewind,
    /// A base backup is being taken.
    Clone,
}

impl NodeRecord {
    pub fn new(formation: String, group: u32, name: String) -> Self {
        NodeRecord {
            formation,
            group,
            name,
            node_id: None,
            system_id: None,
            promise: Epoch(0),
            order_seq: 0,
            own_rule: None,
            led_in: None,
            promoting: false,
            rules_held: Vec::new(),
            replacing: None,
            copied_from: None,
            peers: Vec::new(),
            settings: Settings::default(),
            replication_password: Secret::default(),
        }
    }

    pub fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.peers.iter().find(|p| p.id == id)
    }

    /// Whether `order` may be obeyed: nothing below the promise, nothing older than what was
    /// taken in already (a delayed or repeated message can do no harm).
    pub fn accepts(&self, order: &Order) -> bool {
        broken(Mutation::OldOrdersObeyed)
            || order.epoch >= self.promise && order.seq >= self.order_seq
    }

    /// Takes the durable part of an accepted order in. Returns whether something must be fsynced
    /// before the order is acted on: the promise, the rules and the way to the peers.
    pub fn take_in(&mut self, order: &Order) -> bool {
        let before = self.clone();
        self.promise = self.promise.max(order.epoch);
        self.rules_held.clone_from(&order.rules);
        self.peers.clone_from(&order.peers);
        self.settings = order.settings;
        self.replication_password.clone_from(&order.replication_password);
        let changed = *self != before;
        self.order_seq = order.seq;
        changed && !broken(Mutation::PromiseNotSaved)
    }
}
