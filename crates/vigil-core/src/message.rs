//! What monitor and keepers tell each other, as plain data. `vigil-proto` carries it.

use serde::{Deserialize, Serialize};

use crate::event::EventKind;
use crate::group::Settings;
use crate::ids::{Epoch, NodeId, RuleId, Secret};
use crate::limits::Limits;
use crate::rule::{Pledge, SyncRule};
use crate::state::NodeState;
use crate::wal::{Lsn, Position, TimelineHistory, Tli};

/// A keeper introduces itself, once per stream.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    pub formation: String,
    pub group: u32,
    pub name: String,
    pub host: String,
    pub port: u16,
    pub candidate_priority: u32,
    pub replication_quorum: bool,
    /// The id under which this data directory was registered before.
    pub node_id: Option<NodeId>,
    /// System identifier of the data directory, if there is one.
    pub system_id: Option<u64>,
    /// Its fsynced promise; above the store's epoch it proves that the store is not the newest.
    pub promise: Epoch,
    /// Rules that it has fsynced.
    pub rules_held: Vec<SyncRule>,
    /// The settings and the nodes of the group as it was last told, for a store that lost them.
    pub settings: Option<Settings>,
    pub peers: Vec<Peer>,
    pub postgres_major: u32,
}

/// The monitor's answer to a [`Hello`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Welcome {
    pub node_id: NodeId,
    pub settings: Settings,
}

/// How the local Postgres looks to its keeper, first-hand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Server {
    /// There is no data directory yet.
    NoData,
    /// No process of the data directory lives: verified.
    Stopped,
    /// Started, not answering yet.
    Starting,
    /// Answers and is in recovery.
    Standby,
    /// Answers, is not in recovery, and its write probe ends in time.
    Primary,
    /// Runs, but a probe with a deadline did not end.
    Hung,
    /// Not looked at yet.
    Unknown,
}

/// The upstream that a standby receives from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Following {
    pub primary: NodeId,
    /// The epoch of the order by which it follows; its lineage was checked for that order.
    pub epoch: Epoch,
    pub streaming: bool,
    /// Milliseconds since the receiver last got WAL. The primary's probe makes WAL move at every
    /// heartbeat also on an idle server, so this is the witness's evidence.
    pub wal_age_ms: u64,
}

/// A standby as the primary's walsender sees it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sender {
    pub name: String,
    pub streaming: bool,
    pub flush: Lsn,
    pub replay: Lsn,
    /// Milliseconds since its last reply.
    pub reply_age_ms: u64,
}

/// Something that needs an operator or more time, told by the keeper.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Problem {
    /// Short and stable: `rewind_failed`, `foreign_data`, …
    pub code: String,
    pub text: String,
    /// How often in a row it failed for a reason that does not pass by itself.
    pub failures: u32,
}

impl Problem {
    /// The keeper cannot save its state: it can promise nothing at present.
    pub const STATE_NOT_SAVED: &str = "state_not_saved";
}

/// Why a keeper sees nothing of a Postgres that runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Barrier {
    /// No such role, or one that may not log in, or not in this way.
    Login,
    /// There is no such database, or it takes no connections.
    Database,
    /// All connections are in use.
    TooManyClients,
    /// Memory, disk, locks.
    Resources,
    /// A right is missing.
    Rights,
    /// No answer in time.
    Silence,
    /// The process table or the control file could not be read.
    Machine,
    Other,
}

/// A look that was refused or failed. That is no news of the server: it may work.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NotLetIn {
    pub barrier: Barrier,
    /// What the server or the system said.
    pub text: String,
}

/// What sort of thing is wrong at a node that serves all the same, or tries to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// A line for which the server refuses settings or rules of access.
    BrokenConfiguration,
    /// The last error of a receiver that does not stream.
    Receiver,
    ReplayPaused,
    /// The server exits again and again.
    CrashLoop,
    /// Database `postgres` is missing.
    NoDatabase,
    Unknown,
}

/// Something that is wrong at a node, seen first-hand.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Trouble {
    pub kind: TroubleKind,
    /// A file, with its line if there is one.
    pub place: Option<String>,
    pub text: String,
}

/// Something that happened at a node and belongs into the group's events. Told with every report;
/// the monitor's record says up to which number it has been noted.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Notice {
    pub seq: u64,
    pub kind: EventKind,
    pub text: String,
}

/// One heartbeat: everything that the keeper knows first-hand. Always whole, never a delta.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, told as they are")]
pub struct Report {
    pub state: NodeState,
    /// Fsynced: no order of a lower epoch is obeyed any more.
    pub promise: Epoch,
    /// Sequence number of the newest order that it has taken in.
    pub order_seq: u64,
    pub server: Server,
    /// Present iff the node can acknowledge nothing below `promise`: no receiver, not read-write.
    pub pledge: Option<Pledge>,
    /// The newest rule that it was primary under, fsynced.
    pub own_rule: Option<SyncRule>,
    /// The rule that is verified to be in force on this primary.
    pub in_force: Option<RuleId>,
    /// The newest rule of which W members have flushed past the end of WAL read after it came in
    /// force (DESIGN §4.7).
    pub covered: Option<RuleId>,
    pub rules_held: Vec<SyncRule>,
    /// End of WAL, for display and lag; elections use `pledge`.
    pub position: Option<Position>,
    /// What a standby has replayed: it gets on, although nothing new comes.
    pub replayed: Option<Lsn>,
    pub history: Option<TimelineHistory>,
    /// The highest timeline that its data directory knows a history of.
    pub highest_tli: Tli,
    pub following: Option<Following>,
    pub senders: Vec<Sender>,
    /// This primary's control file is on its present timeline, so that pg_rewind can use it.
    pub rewind_source: bool,
    pub usable: bool,
    /// The handover of this epoch is prepared (checkpoints done).
    pub prepared: bool,
    /// The keeper was asked to stop and would like to hand over first.
    pub leaving: bool,
    /// It replays late on purpose (`recovery_min_apply_delay`): never a candidate.
    pub delayed: bool,
    /// Those of the server that runs, if it answers.
    pub limits: Option<Limits>,
    pub problem: Option<Problem>,
    pub notices: Vec<Notice>,
    /// The heartbeat by which its reports and its probe go, in milliseconds: not yet that of the
    /// group where it has not heard of a change.
    pub interval_ms: u64,
    /// How old the newest look at the server is that told anything, in milliseconds.
    pub look_age_ms: u64,
    /// What keeps the keeper from looking at present.
    pub not_let_in: Option<NotLetIn>,
    pub troubles: Vec<Trouble>,
    /// How long a standby that is attached has got nothing, in milliseconds.
    pub starved_ms: u64,
    /// The step it is at, for people.
    pub doing: Option<String>,
    pub system_id: Option<u64>,
}

impl Report {
    /// Whether it streams to the standby of this name, which has answered within so long, ms.
    pub fn streams_to(&self, name: &str, silence_ms: u64) -> bool {
        self.senders.iter().any(|s| s.name == name && s.streaming && s.reply_age_ms <= silence_ms)
    }

    /// Whether the node could save a promise, as far as it knows.
    pub fn can_promise(&self) -> bool {
        self.problem.as_ref().is_none_or(|p| p.code != Problem::STATE_NOT_SAVED)
    }
}

/// A node of the group: where it can be reached, and what the operator wants of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Peer {
    pub id: NodeId,
    pub name: String,
    pub host: String,
    pub port: u16,
    #[serde(default)]
    pub candidate_priority: u32,
    #[serde(default)]
    pub replication_quorum: bool,
    #[serde(default)]
    pub maintenance: bool,
}

/// What the monitor wants of one node. The keeper converges to it from any local state.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "goal", rename_all = "snake_case")]
pub enum Goal {
    /// Nothing yet; stay as you are.
    Wait,
    /// Create the group's first primary (initdb, or take over the standalone one found).
    Found { rule: SyncRule },
    /// Be the primary under this rule. Not read-write yet: promote to `tli`, once per epoch.
    /// `renewal`: read-write under the newest recorded rule: take the new epoch without a stop.
    /// `prepare`: make a stop short (checkpoint), a handover follows.
    Lead { rule: SyncRule, tli: Tli, renewal: bool, prepare: bool },
    /// Stream from `primary`. `history`: its timelines, to tell a prefix from a fork; `None` =
    /// not known yet. `open`: its rule is covered and it can serve a rewind or a clone.
    Follow { primary: NodeId, history: Option<TimelineHistory>, open: bool },
    /// Acknowledge nothing below the order's epoch: drop the receiver, or stop if read-write.
    /// `await_wal`: first wait (bounded) until WAL up to here has been received.
    /// `restart`: if stopped without a clean shutdown, start to learn the position.
    Pledge { await_wal: Option<Position>, restart: bool },
    /// Pledged; fetch WAL from `source`, which is pledged too, up to `until`.
    FastForward { source: NodeId, until: Position },
    /// Be stopped (maintenance, or a polite stop that needs nothing more).
    Stop,
    /// Stop for good, keep the data.
    Drop,
}

/// An order to one keeper. Later ones replace earlier ones.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Order {
    pub epoch: Epoch,
    /// Grows over the whole life of the group, across restarts of the monitor.
    pub seq: u64,
    /// The public name of the goal.
    pub goal_state: NodeState,
    pub goal: Goal,
    /// S, to be fsynced and reported back (DESIGN §4.19).
    pub rules: Vec<SyncRule>,
    pub peers: Vec<Peer>,
    pub settings: Settings,
    pub replication_password: Secret,
    /// Another node has larger limits than this one: it is to have as much from its next start on.
    /// A standby is told when it is its turn, and restarts for it.
    pub room: Option<Limits>,
}
