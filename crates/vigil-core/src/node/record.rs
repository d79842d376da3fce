//! What a keeper keeps on its own disk, fsynced before it acts on it.

use serde::{Deserialize, Serialize};

use crate::event::EventKind;
use crate::group::Settings;
use crate::ids::{Epoch, NodeId, Secret};
use crate::limits::Limits;
use crate::message::{Goal, Notice, Order, Peer};
use crate::mutation::{Mutation, broken};
use crate::rule::SyncRule;
use crate::state::NodeState;

/// So many notices are kept; the monitor hears of each within a heartbeat, if it hears at all.
const NOTICES_MAX: usize = 8;

/// The state file. Written whole (temp, fsync, rename, fsync of the directory).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, kept one by one")]
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
    /// In maintenance: a keeper that is started again leaves Postgres alone until it is told
    /// something else.
    #[serde(default)]
    pub stays_down: bool,
    /// It was somebody's standby when this keeper first saw it: no group is founded with it.
    #[serde(default)]
    pub found_as_standby: bool,
    /// Replays late on purpose, as last seen.
    #[serde(default)]
    pub delayed: bool,
    /// The largest limits that it was told to have; every start is with at least these.
    #[serde(default)]
    pub room: Option<Limits>,
    /// The newest things that the group's events should hold, numbered for ever.
    #[serde(default)]
    pub notices: Vec<Notice>,
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
    /// A base backup is being taken, and there is nothing here to lose.
    Clone,
    /// A base backup is being taken beside a directory that is whole, and whole it stays until the
    /// copy takes its place: it may hold the only copy of a commit.
    Beside,
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
            stays_down: false,
            found_as_standby: false,
            delayed: false,
            room: None,
            notices: Vec::new(),
            peers: Vec::new(),
            settings: Settings::default(),
            replication_password: Secret::default(),
        }
    }

    /// Whether the data directory can be relied on: not half-replaced, and not a copy that has not
    /// answered yet.
    pub fn is_whole(&self) -> bool {
        let half = match self.replacing {
            Some(Replacing::Rewind | Replacing::Clone) => !broken(Mutation::HalfReplacedStarted),
            Some(Replacing::Beside) | None => false,
        };
        !half && self.copied_from.is_none()
    }

    pub fn peer(&self, id: NodeId) -> Option<&Peer> {
        self.peers.iter().find(|p| p.id == id)
    }

    /// Adds something that the monitor should put into its events.
    pub fn notice(&mut self, kind: EventKind, text: String) {
        let seq = self.notices.last().map_or(1, |n| n.seq + 1);
        self.notices.push(Notice { seq, kind, text });
        let surplus = self.notices.len().saturating_sub(NOTICES_MAX);
        self.notices.drain(..surplus);
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
        if let Some(room) = order.room {
            self.room = Some(self.room.map_or(room, |had| had.max(room)));
        }
        self.stays_down = order.goal == Goal::Stop && order.goal_state == NodeState::Maintenance;
        let changed = *self != before;
        self.order_seq = order.seq;
        changed && !broken(Mutation::PromiseNotSaved)
    }
}
