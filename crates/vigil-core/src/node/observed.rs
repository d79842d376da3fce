//! What the keeper's eyes report: one look at the local data directory and server.

use crate::ids::{Epoch, NodeId};
use crate::limits::Limits;
use crate::message::Sender;
use crate::wal::{Lsn, Position, TimelineHistory, Tli};

/// One look. `Option` where something could not be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observed {
    pub data: Data,
    pub server: ServerView,
}

/// The data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Data {
    /// Missing or empty: can be cloned into or founded.
    None,
    /// Something is there that is no usable cluster of ours; never touched.
    Foreign {
        reason: String,
    },
    Cluster(Cluster),
}

/// A data directory with a control file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    pub system_id: u64,
    /// The control file says `shut down`: a primary that was stopped cleanly. Nothing can have
    /// been written after its checkpoint record.
    pub shut_down: bool,
    /// Of the last checkpoint record: its timeline and where it starts.
    pub checkpoint: Position,
    /// The highest timeline of which there is a history file.
    pub highest_tli: Tli,
}

/// The processes of the data directory and what they answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ServerView {
    /// No process lives: verified over the process table.
    Down,
    /// The postmaster is gone but processes of the data directory live on. Not stopped.
    Orphans,
    /// A postmaster runs and does not answer yet.
    Starting,
    /// A probe with a deadline did not end.
    Hung,
    Up(UpView),
}

/// A server that answers.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, seen one by one")]
pub struct UpView {
    pub in_recovery: bool,
    /// The timeline of the end of WAL on disk.
    pub tli: Tli,
    /// Primary: flushed end of WAL. Standby: what was received, `None` if nothing since its start.
    pub received: Option<Lsn>,
    /// Standby: what was replayed.
    pub replayed: Lsn,
    /// The receiver has streamed since this start, so that `received` is the true end of WAL.
    pub streamed: bool,
    /// The startup process has replayed everything on disk and waits for more.
    pub replay_idle: bool,
    /// A process of the walreceiver lives (seen in the process table, not in a view).
    pub receiver_alive: bool,
    pub streaming: bool,
    /// Milliseconds since the received position last grew, `None` if never seen growing.
    pub wal_age_ms: Option<u64>,
    /// `primary_conninfo` in force is empty.
    pub detached: bool,
    /// The upstream that the configuration written by this keeper names, and the epoch of the
    /// order that named it. Lost when the keeper restarts: then the lineage is checked again.
    pub upstream: Option<(NodeId, Epoch)>,
    pub history: TimelineHistory,
    /// The control file's timeline.
    pub checkpoint_tli: Tli,
    /// The upstream answered another connection a moment ago: if nothing is received, it is not for
    /// want of a link.
    pub upstream_answers: bool,
    /// `recovery_min_apply_delay` is set.
    pub delayed: bool,
    /// Its `max_connections` and the like.
    pub limits: Limits,
    /// They are below the primary's: replay has stopped, and goes on
    /// only after a restart with larger ones.
    pub cramped: bool,
    /// It reads configuration files of somebody else's, or was started with a recovery target: ours
    /// have no effect before a restart.
    pub foreign_conf: bool,
    pub senders: Vec<Sender>,
}
