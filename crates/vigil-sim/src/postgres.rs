//! A model of one Postgres: WAL with lineage, receivers, quorum acknowledgement.

use std::collections::BTreeMap;

use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::Sender;
use vigil_core::node::observed::{Cluster, Data, Observed, ServerView, UpView};
use vigil_core::rule::SyncRule;
use vigil_core::wal::{Lsn, Position, TimelineHistory, Tli};

/// Bytes of a record in the model.
const RECORD: u64 = 100;

/// What its processes do.
#[derive(Clone, Debug, PartialEq)]
pub enum Run {
    Off,
    Standby {
        upstream: Option<(NodeId, Epoch)>,
        receiver: bool,
        streamed: bool,
        replayed: usize,
        /// Replay does not go on (recovery conflict): the receiver outlives a reload.
        stuck: bool,
    },
    Primary,
}

/// One data directory and its server.
#[derive(Clone, Debug)]
pub struct Postgres {
    pub exists: bool,
    /// Timeline of each record. A timeline belongs to one promotion, so (timeline, index) is a
    /// record's identity.
    pub wal: Vec<u32>,
    pub run: Run,
    pub shut_down: bool,
    pub checkpoint_tli: u32,
    /// The sync rule that its backends obey.
    pub rule: Option<SyncRule>,
    /// Flush positions that its standbys told, and when.
    pub told: BTreeMap<NodeId, (usize, u64)>,
    pub wal_grew_ms: u64,
    /// SIGSTOP.
    pub frozen: bool,
}

impl Postgres {
    pub fn none() -> Self {
        Postgres {
            exists: false,
            wal: Vec::new(),
            run: Run::Off,
            shut_down: false,
            checkpoint_tli: 1,
            rule: None,
            told: BTreeMap::new(),
            wal_grew_ms: 0,
            frozen: false,
        }
    }

    pub fn is_primary(&self) -> bool {
        self.run == Run::Primary
    }

    pub fn upstream(&self) -> Option<NodeId> {
        match &self.run {
            Run::Standby { upstream: Some((id, _)), receiver: true, .. } => Some(*id),
            _ => None,
        }
    }

    pub fn stop(&mut self, clean: bool) {
        self.shut_down = clean && self.is_primary();
        self.run = Run::Off;
        self.told.clear();
        self.frozen = false;
    }

    /// Whether this WAL is a prefix of `other`'s.
    pub fn is_prefix_of(&self, other: &Postgres) -> bool {
        self.wal.len() <= other.wal.len() && other.wal[..self.wal.len()] == self.wal[..]
    }

    pub fn tli(&self) -> u32 {
        self.wal.last().copied().unwrap_or(1)
    }

    pub fn lsn(len: usize) -> Lsn {
        Lsn(len as u64 * RECORD)
    }

    pub fn len_at(lsn: Lsn) -> usize {
        usize::try_from(lsn.0 / RECORD).unwrap_or(usize::MAX)
    }

    pub fn history(&self) -> TimelineHistory {
        let mut ancestors = Vec::new();
        for i in 1..self.wal.len() {
            if self.wal[i] != self.wal[i - 1] {
                ancestors.push(Position { tli: Tli(self.wal[i - 1]), lsn: Self::lsn(i) });
            }
        }
        TimelineHistory { tli: Tli(self.tli()), ancestors }
    }

    /// How many records are acknowledged under the rule in force.
    pub fn acknowledged(&self) -> usize {
        let Some(rule) = &self.rule else { return 0 };
        if rule.acks == 0 {
            return self.wal.len();
        }
        let mut flushed: Vec<usize> =
            rule.members.iter().filter_map(|m| self.told.get(m)).map(|(len, _)| *len).collect();
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        flushed.get(rule.acks as usize - 1).copied().unwrap_or(0)
    }

    /// What a keeper sees.
    pub fn observe(&self, names: &dyn Fn(NodeId) -> String, now_ms: u64) -> Observed {
        if !self.exists {
            return Observed { data: Data::None, server: ServerView::Down };
        }
        let len = self.wal.len();
        let data = Data::Cluster(Cluster {
            system_id: 1,
            shut_down: self.shut_down,
            // The shutdown checkpoint is the last record.
            checkpoint: Position { tli: Tli(self.tli()), lsn: Lsn(len as u64 * RECORD - RECORD) },
            highest_tli: Tli(self.tli()),
        });
        if self.frozen && self.run != Run::Off {
            return Observed { data, server: ServerView::Hung };
        }
        let base = UpView {
            in_recovery: true,
            tli: Tli(self.tli()),
            received: None,
            replayed: Self::lsn(len),
            streamed: false,
            replay_idle: false,
            receiver_alive: false,
            streaming: false,
            wal_age_ms: Some(now_ms.saturating_sub(self.wal_grew_ms)),
            detached: true,
            upstream: None,
            history: self.history(),
            checkpoint_tli: Tli(self.checkpoint_tli),
            upstream_answers: false,
            delayed: false,
            cramped: false,
            foreign_conf: false,
            senders: self
                .told
                .iter()
                .map(|(id, (flush, at))| Sender {
                    name: names(*id),
                    streaming: true,
                    flush: Self::lsn(*flush),
                    replay: Self::lsn(*flush),
                    reply_age_ms: now_ms.saturating_sub(*at),
                })
                .collect(),
        };
        let server = match &self.run {
            Run::Off => ServerView::Down,
            Run::Primary => ServerView::Up(UpView {
                in_recovery: false,
                received: Some(Self::lsn(len)),
                ..base
            }),
            Run::Standby { upstream, receiver, streamed, replayed, stuck } => {
                ServerView::Up(UpView {
                    received: streamed.then_some(Self::lsn(len)),
                    replayed: Self::lsn(*replayed),
                    streamed: *streamed,
                    replay_idle: *replayed == len && !stuck,
                    receiver_alive: *receiver,
                    streaming: *receiver && *streamed,
                    detached: upstream.is_none(),
                    upstream: *upstream,
                    ..base
                })
            }
        };
        Observed { data, server }
    }
}
