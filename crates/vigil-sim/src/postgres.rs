//! A model of one Postgres: a data directory, and what its processes do with it.
//!
//! It keeps the habits that cost commits when they are not known: a receiver outlives a reload
//! while replay is stuck, a position read after a restart is too low until replay is through,
//! backends outlive their postmaster, a promotion cannot be called back.

use vigil_core::ids::{Epoch, NodeId};
use vigil_core::limits::Limits;
use vigil_core::message::Sender;
use vigil_core::mutation::{Mutation, broken};
use vigil_core::node::observed::{Cluster, Data, Observed, ServerView, UpView};
use vigil_core::rule::SyncRule;
use vigil_core::wal::{Lsn, Position, Tli};

use crate::wal::Wal;

/// A walsender that has had no reply for so long ends, as a receiver that has heard nothing, in
/// milliseconds (`wal_sender_timeout`, `wal_receiver_timeout`).
pub const WIRE_TIMEOUT_MS: u64 = 2000;

/// What the processes of a data directory do.
#[derive(Clone, Debug, PartialEq)]
pub enum Run {
    Off,
    /// Started on a copied directory: consistent only with its source's WAL.
    Starting {
        source: (NodeId, Epoch),
    },
    Standby(Standby),
    Primary(Primary),
    /// The postmaster is gone; its backends and walsenders go on for a moment.
    Orphans(Primary),
}

/// A server in recovery.
#[derive(Clone, Debug, PartialEq)]
pub struct Standby {
    /// `primary_conninfo`, and the epoch of the order that set it.
    pub conf: Option<(NodeId, Epoch)>,
    /// The process: which host it receives from, and which life of that host's server.
    pub receiver: Option<(usize, u64)>,
    /// The receiver has streamed since the start.
    pub streamed: bool,
    /// Replay of what was on disk at the start: records before, records at its end, since, until.
    pub replay: (u64, u64, u64, u64),
    /// Replay does not go on past here (a recovery conflict).
    pub stuck: Option<u64>,
    pub heard_ms: u64,
}

/// A server that takes writes.
#[derive(Clone, Debug, PartialEq)]
pub struct Primary {
    /// The rule that its backends obey.
    pub rule: SyncRule,
    /// (standby's host, flushed records, when it told).
    pub told: Vec<(usize, u64, u64)>,
    /// A fast shutdown has begun: no new commits.
    pub stopping: bool,
}

/// One data directory and its server.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, changed one by one")]
pub struct Postgres {
    pub exists: bool,
    pub wal: Wal,
    pub run: Run,
    pub shut_down: bool,
    pub checkpoint_tli: u32,
    /// SIGSTOP.
    pub frozen: bool,
    /// SIGSTOP of its sessions alone: no commit ends, walsenders go on.
    pub sessions_frozen: bool,
    /// Counts starts and ends: what was begun in an earlier life does not happen in a later one.
    pub life: u64,
    /// Older WAL has been recycled: who needs it cannot be served.
    pub floor: u64,
    pub grew_ms: u64,
    /// When it was last seen to be other than a healthy primary, for the causes of failovers.
    pub ailing_ms: u64,
    /// Of the server, since its start.
    pub limits: Limits,
}

impl Postgres {
    pub fn none() -> Self {
        Postgres {
            exists: false,
            wal: Wal::default(),
            run: Run::Off,
            shut_down: false,
            checkpoint_tli: 1,
            frozen: false,
            sessions_frozen: false,
            life: 0,
            floor: 0,
            grew_ms: 0,
            ailing_ms: 0,
            limits: Limits::DEFAULT,
        }
    }

    /// Whether a session's commit ends on its own disk.
    pub fn commits(&self) -> bool {
        self.is_primary() && !self.frozen && !self.sessions_frozen
    }

    pub fn is_primary(&self) -> bool {
        matches!(self.run, Run::Primary(_))
    }

    /// The primary's side, also that of backends that outlive their postmaster.
    pub fn writer(&self) -> Option<&Primary> {
        match &self.run {
            Run::Primary(primary) | Run::Orphans(primary) => Some(primary),
            _ => None,
        }
    }

    pub fn writer_mut(&mut self) -> Option<&mut Primary> {
        match &mut self.run {
            Run::Primary(primary) | Run::Orphans(primary) => Some(primary),
            _ => None,
        }
    }

    pub fn standby(&self) -> Option<&Standby> {
        match &self.run {
            Run::Standby(standby) => Some(standby),
            _ => None,
        }
    }

    pub fn standby_mut(&mut self) -> Option<&mut Standby> {
        match &mut self.run {
            Run::Standby(standby) => Some(standby),
            _ => None,
        }
    }

    pub fn receives_from(&self, host: usize) -> bool {
        self.standby().and_then(|s| s.receiver).is_some_and(|r| r.0 == host)
    }

    pub fn streams(&self) -> bool {
        self.standby().is_some_and(|s| s.receiver.is_some())
    }

    /// Serves WAL to others.
    pub fn serves(&self) -> bool {
        !self.frozen && matches!(self.run, Run::Primary(_) | Run::Orphans(_) | Run::Standby(_))
    }

    /// Everything ends. `clean`: a shutdown checkpoint was written.
    pub fn end(&mut self, clean: bool) {
        self.shut_down = clean && self.is_primary();
        self.run = Run::Off;
        self.frozen = false;
        self.sessions_frozen = false;
        self.life += 1;
    }

    pub fn begin(&mut self, run: Run) {
        self.shut_down = false;
        self.run = run;
        self.life += 1;
    }

    /// How many records are acknowledged under the rule in force.
    pub fn acknowledged(&self, is_member: impl Fn(usize, NodeId) -> bool) -> u64 {
        let Some(primary) = self.writer() else { return 0 };
        let acks = primary.rule.acks as usize;
        if acks == 0 {
            return self.wal.len();
        }
        let counts = |host: usize| primary.rule.members.iter().any(|m| is_member(host, *m));
        let mut best = [0u64; 8];
        let mut count = 0;
        for (_, flushed, _) in primary.told.iter().filter(|t| counts(t.0)).take(8) {
            best[count] = *flushed;
            count += 1;
        }
        best[..count].sort_unstable_by(|a, b| b.cmp(a));
        best[..count].get(acks - 1).copied().unwrap_or(0).min(self.wal.len())
    }

    /// What a keeper sees. `name`: of a host; `age`: since a host's receiver last told something.
    pub fn observe(&self, now_ms: u64, name: impl Fn(usize) -> String) -> Observed {
        if !self.exists {
            return Observed { data: Data::None, server: ServerView::Down };
        }
        let len = self.wal.len();
        let data = Data::Cluster(Cluster {
            system_id: 1,
            shut_down: self.shut_down,
            // The shutdown checkpoint is the last record, and this is where it starts.
            checkpoint: Position { tli: Tli(self.wal.tli()), lsn: Wal::lsn(len.max(1) - 1) },
            highest_tli: Tli(self.wal.tli()),
        });
        if (self.frozen || self.sessions_frozen) && self.run != Run::Off {
            return Observed { data, server: ServerView::Hung };
        }
        let base = UpView {
            in_recovery: true,
            tli: Tli(self.wal.tli()),
            received: None,
            replayed: Wal::lsn(len),
            streamed: false,
            replay_idle: false,
            receiver_alive: false,
            streaming: false,
            wal_age_ms: Some(now_ms.saturating_sub(self.grew_ms)),
            detached: true,
            upstream: None,
            history: self.wal.history(),
            checkpoint_tli: Tli(self.checkpoint_tli),
            upstream_answers: false,
            delayed: false,
            limits: self.limits,
            cramped: false,
            foreign_conf: false,
            senders: Vec::new(),
        };
        let server = match &self.run {
            Run::Off => ServerView::Down,
            Run::Orphans(_) => ServerView::Orphans,
            Run::Starting { .. } => ServerView::Starting,
            Run::Primary(primary) => ServerView::Up(UpView {
                in_recovery: false,
                received: Some(Wal::lsn(len)),
                senders: primary
                    .told
                    .iter()
                    .map(|(host, flushed, at)| Sender {
                        name: name(*host),
                        streaming: true,
                        flush: Wal::lsn(*flushed),
                        replay: Wal::lsn(*flushed),
                        reply_age_ms: now_ms.saturating_sub(*at),
                    })
                    .collect(),
                ..base
            }),
            Run::Standby(standby) => {
                let replayed = standby.replayed(len, now_ms);
                let talks = broken(Mutation::KeepalivesVouch);
                let fed_ms = if talks { standby.heard_ms } else { self.grew_ms };
                ServerView::Up(UpView {
                    wal_age_ms: Some(now_ms.saturating_sub(fed_ms)),
                    received: standby.streamed.then_some(Wal::lsn(len)),
                    replayed: Wal::lsn(replayed),
                    streamed: standby.streamed,
                    replay_idle: replayed == len,
                    receiver_alive: standby.receiver.is_some(),
                    streaming: standby.receiver.is_some(),
                    detached: standby.conf.is_none(),
                    upstream: standby.conf,
                    ..base
                })
            }
        };
        Observed { data, server }
    }

    /// Position that a keeper would tell; for traces.
    pub fn position(&self) -> Position {
        self.wal.end()
    }
}

impl Standby {
    /// Just started on WAL of `len` records, of which `behind` are yet to be replayed.
    pub fn started(len: u64, behind: u64, now_ms: u64, done_ms: u64) -> Self {
        Standby {
            conf: None,
            receiver: None,
            streamed: false,
            replay: (len - behind.min(len), len, now_ms, done_ms),
            stuck: None,
            heard_ms: now_ms,
        }
    }

    /// Replayed records. What streams in is replayed at once.
    pub fn replayed(&self, len: u64, now_ms: u64) -> u64 {
        let (from, to, since, until) = self.replay;
        let done = if now_ms >= until {
            len
        } else {
            let (passed, whole) = (now_ms.saturating_sub(since), (until - since).max(1));
            from + (to - from) * passed / whole
        };
        self.stuck.map_or(done, |stuck| stuck.min(done))
    }
}

/// The LSN of a record's end, for the words of a trace.
pub fn words(position: Position) -> String {
    let Lsn(lsn) = position.lsn;
    format!("{}/{}", position.tli, lsn / crate::wal::RECORD)
}
