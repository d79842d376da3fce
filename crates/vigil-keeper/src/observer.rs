//! The eyes: one look at the data directory, its processes, and what the server answers. A task of
//! its own, so that nothing that hangs can block the loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use vigil_core::message::{Barrier, NotLetIn, Sender, Trouble};
use vigil_core::node::observed::{Cluster, Data, Observed, ServerView, UpView};
use vigil_core::node::record::NodeRecord;
use vigil_core::wal::{Lsn, Position, TimelineHistory, Tli};
use vigil_postgres::control::{Control, ControlState};
use vigil_postgres::pgdata::{self, DataDir};
use vigil_postgres::process::{self, Pid, Postmaster, ProcessError};
use vigil_postgres::sql::{Refusal, SqlError, remote};
use vigil_postgres::{Session, SqlStatus};

use crate::local::Local;
use crate::readiness;
use crate::troubles::Troubles;

/// The status query takes 0.2 ms; hanging is judged by the probe, with its own deadline.
const STATUS_WITHIN: Duration = Duration::from_secs(1);

/// A standby that has got nothing for so long asks whether its primary is there.
const STARVED: Duration = Duration::from_secs(3);

/// After a look that saw nothing.
const BLINK: Duration = Duration::from_millis(20);

/// What the agent asks for: a look that begins after this number was set.
pub type Wanted = watch::Receiver<u64>;

/// One look. `began`: the newest wish when it began.
#[derive(Debug)]
pub struct Look {
    pub began: u64,
    pub seen: Result<Observed, NotSeen>,
    /// What is wrong at the server, as far as it can be seen now.
    pub troubles: Vec<Trouble>,
}

/// A look that was refused or failed.
#[derive(Debug)]
pub struct NotSeen {
    pub why: NotLetIn,
    /// The directory of a server of which nothing was ever seen; `None`: it was, since its start.
    pub data: Option<Data>,
    /// By its files it is in recovery.
    pub standby: bool,
}

/// Looks for ever: when asked, and by itself when the server's first process has exited or a
/// standby's receiver is gone, which is what a lost primary looks like from here.
pub async fn observe(
    local: Arc<Local>,
    record: watch::Receiver<Arc<NodeRecord>>,
    hung: watch::Receiver<bool>,
    mut wanted: Wanted,
    nudge: Arc<Notify>,
    looks: mpsc::Sender<Look>,
) {
    let mut observer = Observer {
        local,
        record,
        hung,
        session: None,
        memory: Memory::default(),
        blind: String::new(),
        why: None,
    };
    loop {
        let known = observer.memory.server.clone();
        let receiver = observer.memory.receiver;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = exited(known.as_ref()) => tracing::info!("Postgres has exited"),
            () = gone(receiver) => tracing::debug!("the receiver is gone"),
            Ok(()) = observer.hung.changed() => {}
            () = nudge.notified() => {}
        }
        let began = *wanted.borrow_and_update();
        observer.why = None;
        let seen = if let Some(seen) = observer.look().await {
            Ok(seen)
        } else {
            // What woke this look may still be so.
            tokio::time::sleep(BLINK).await;
            let Some(why) = observer.why.take() else { continue };
            Err(observer.not_seen(why))
        };
        let troubles = observer.memory.troubles.found();
        if looks.send(Look { began, seen, troubles }).await.is_err() {
            return;
        }
    }
}

/// Never ends when there is no server to watch.
async fn exited(postmaster: Option<&Postmaster>) {
    match postmaster {
        Some(postmaster) => postmaster.exited().await,
        None => std::future::pending().await,
    }
}

/// Never ends when there is no receiver to watch.
async fn gone(receiver: Option<Pid>) {
    const LONG: Duration = Duration::from_hours(24);
    if let Some(pid) = receiver
        && process::wait_gone(pid, LONG).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

struct Observer {
    local: Arc<Local>,
    record: watch::Receiver<Arc<NodeRecord>>,
    hung: watch::Receiver<bool>,
    session: Option<Session>,
    memory: Memory,
    /// Why it cannot be told which processes run, if so.
    blind: String,
    /// Why the look that goes on fails.
    why: Option<NotLetIn>,
}

/// What is remembered of one run of the server.
#[derive(Default)]
struct Memory {
    server: Option<Postmaster>,
    started_at_us: i64,
    streamed: bool,
    receiver: Option<Pid>,
    received: Lsn,
    grown_at: Option<Instant>,
    /// Since when nothing is received although it should be.
    starved_since: Option<Instant>,
    /// The newest answer to whether the upstream can be reached otherwise, and when it was asked.
    upstream_answers: Arc<AtomicBool>,
    asked_upstream: Option<Instant>,
    /// What was last logged of a failing login.
    complained: String,
    troubles: Troubles,
}

impl Observer {
    /// `None`: nothing could be found out this time.
    async fn look(&mut self) -> Option<Observed> {
        let record = Arc::clone(&self.record.borrow());
        let server = self.server().await?;
        // After the server: a control file that was read before it stopped tells an old story.
        let data = data(&self.local, &record);
        Some(Observed { data, server })
    }

    async fn server(&mut self) -> Option<ServerView> {
        let found = self.local.postmaster();
        let Some(postmaster) = self.seen(found)? else { return self.without_postmaster() };
        if self.memory.server.as_ref().map(|p| p.pid) != Some(postmaster.pid) {
            self.session = None;
            self.memory = Memory { server: Some(postmaster.clone()), ..Memory::default() };
        }
        if *self.hung.borrow_and_update() {
            self.session = None;
            return Some(ServerView::Hung);
        }
        let mut hung = self.hung.clone();
        let answer = tokio::select! {
            biased;
            () = postmaster.exited() => None,
            Ok(_) = hung.wait_for(|hung| *hung) => {
                self.session = None;
                return Some(ServerView::Hung);
            }
            answer = self.ask(postmaster.pid) => Some(answer),
        };
        match answer {
            None => {
                // At once: processes that live on must be killed before anything else.
                self.without_postmaster()
            }
            Some(Ok(None)) if self.memory.started_at_us != 0 => None,
            Some(Ok(None)) => Some(ServerView::Starting),
            Some(Ok(Some(status))) => self.up(&postmaster, &status).map(ServerView::Up),
            Some(Err(error)) => self.refused(&error),
        }
    }

    /// Down only when the whole process table was read and has nothing of ours.
    fn without_postmaster(&mut self) -> Option<ServerView> {
        let listed = process::processes_of(&self.local.pgdata);
        let orphans = self.seen(listed)?;
        self.session = None;
        self.memory = Memory::default();
        Some(if orphans.is_empty() { ServerView::Down } else { ServerView::Orphans })
    }

    /// `None`, and one line in the log, for what cannot be told now: that is no news of the server.
    fn seen<T>(&mut self, looked: Result<T, ProcessError>) -> Option<T> {
        let error = match looked {
            Ok(seen) => {
                if !self.blind.is_empty() {
                    tracing::info!("the processes can be seen again");
                    self.blind.clear();
                }
                return Some(seen);
            }
            Err(error) => error.to_string(),
        };
        self.why = Some(NotLetIn { barrier: Barrier::Machine, text: error.clone() });
        if self.blind != error {
            tracing::warn!(error, "it is unknown whether Postgres runs");
            self.blind = error;
        }
        None
    }

    /// `None`: it says of itself that it starts or stops.
    async fn ask(&mut self, postmaster: Pid) -> Result<Option<SqlStatus>, SqlError> {
        if let Some(mut session) = self.session.take().filter(Session::is_usable) {
            match session.status(STATUS_WITHIN).await {
                Ok(status) => {
                    self.memory.troubles.look(&self.local, &mut session, &status).await;
                    self.session = Some(session);
                    return Ok(Some(status));
                }
                Err(error @ SqlError::Timeout { .. }) => return Err(error),
                // Somebody may have ended just this session: only a new one tells.
                Err(error) => tracing::debug!(%error, "the kept session is lost"),
            }
        }
        if readiness::would_refuse(&self.local.pgdata, postmaster) {
            return Ok(None);
        }
        let mut session = Session::connect(&self.local.target(), STATUS_WITHIN).await?;
        let status = session.status(STATUS_WITHIN).await?;
        self.memory.troubles.look(&self.local, &mut session, &status).await;
        self.session = Some(session).filter(|session| !session.is_makeshift());
        Ok(Some(status))
    }

    fn not_seen(&self, why: NotLetIn) -> NotSeen {
        // Without the process table it is not even known whether it is another server.
        let known = self.memory.started_at_us != 0 || why.barrier == Barrier::Machine;
        let record = Arc::clone(&self.record.borrow());
        // A promotion removes it.
        let standby = self.local.pgdata.join("standby.signal").exists();
        NotSeen { why, data: (!known).then(|| data(&self.local, &record)), standby }
    }

    /// The server lives and does not tell its status. `None`: that says nothing about it.
    fn refused(&mut self, error: &SqlError) -> Option<ServerView> {
        self.session = None;
        match (error, error.sqlstate().as_deref()) {
            // Silence: whether it hangs is judged by the probe.
            (SqlError::Timeout { .. } | SqlError::ConnectTimeout { .. }, _) => {
                self.why = Some(NotLetIn { barrier: Barrier::Silence, text: error.to_string() });
                None
            }
            // It has answered before, so it does not start: a full backlog, or on its way down.
            // Its exit will be seen; that it starts must not be said of a primary that works.
            (_, Some("57P01" | "57P03") | None) if self.memory.started_at_us != 0 => None,
            // It starts, or has no socket yet.
            (_, Some("57P01" | "57P03") | None) => {
                tracing::debug!(%error, "no status");
                Some(ServerView::Starting)
            }
            // "Too many clients", "no such role": it does answer.
            (_, Some(_)) => {
                let text = error.to_string();
                if self.memory.complained != text {
                    tracing::warn!(error = text, "Postgres does not let its keeper in");
                    self.memory.complained.clone_from(&text);
                }
                let barrier = barrier(error.refusal());
                self.why = Some(NotLetIn { barrier, text });
                None
            }
        }
    }

    fn up(&mut self, postmaster: &Postmaster, status: &SqlStatus) -> Option<UpView> {
        let local = Arc::clone(&self.local);
        let control = vigil_postgres::control::read(&local.pgdata)
            .inspect_err(|error| {
                tracing::warn!(%error, "cannot read the control file");
                self.why = Some(NotLetIn { barrier: Barrier::Machine, text: error.to_string() });
            })
            .ok()?;
        let receiver = process::receiver_pid(postmaster.pid);
        self.memory.receiver = self.seen(receiver)?.filter(|_| status.in_recovery);
        let receiver_alive = self.memory.receiver.is_some();
        let receiver = status.receiver.as_ref().filter(|_| receiver_alive);
        let streaming = receiver.is_some_and(|r| r.status == "streaming");
        self.remember(status, streaming);
        let flushed = if status.in_recovery { status.receive_lsn } else { status.flush_lsn };
        let replayed = status.replay_lsn.unwrap_or(Lsn::ZERO);
        let end = flushed.unwrap_or(Lsn::ZERO).max(replayed);
        let tli = if status.in_recovery {
            let told = receiver.filter(|_| streaming).and_then(|r| r.received_tli);
            told.unwrap_or_else(|| self.timeline_on_disk(end, &control, status))
        } else {
            status.timeline
        };
        let upstream_answers = self.look_for_upstream(status);
        let detached = status.primary_conninfo.is_empty() && local.is_conf_detached();
        Some(UpView {
            in_recovery: status.in_recovery,
            tli,
            received: flushed,
            replayed,
            streamed: self.memory.streamed,
            replay_idle: status.in_recovery
                && !receiver_alive
                && !status.replay_paused
                && status.startup_wait.as_deref() == Some("RecoveryRetrieveRetryInterval"),
            receiver_alive,
            streaming,
            wal_age_ms: self.memory.grown_at.map(|at| crate::clock::ms(at.elapsed())),
            detached,
            upstream: local.upstream(&self.record.borrow()),
            history: history(&local, tli),
            checkpoint_tli: control.checkpoint_tli,
            upstream_answers,
            delayed: status.delayed,
            limits: status.limits,
            cramped: status.in_recovery && !status.limits.suffice_for(control.limits),
            // Recovery targets are read at a start only.
            foreign_conf: is_elsewhere(&local.pgdata, &status.config_file)
                || status.recovery_target,
            senders: status.senders.iter().map(sender).collect(),
        })
    }

    /// Whether the primary that a starving standby should receive from can be reached at all; asked
    /// now and then, in the background.
    fn look_for_upstream(&mut self, status: &SqlStatus) -> bool {
        let record = Arc::clone(&self.record.borrow());
        let upstream = self.local.upstream(&record).filter(|_| status.in_recovery);
        let memory = &mut self.memory;
        let fed = memory.grown_at.is_some_and(|at| at.elapsed() < STARVED);
        let Some((primary, _)) = upstream.filter(|_| !fed) else {
            memory.starved_since = None;
            memory.upstream_answers = Arc::default();
            return false;
        };
        let since = *memory.starved_since.get_or_insert_with(Instant::now);
        let due = memory.asked_upstream.is_none_or(|at| at.elapsed() > STARVED);
        if since.elapsed() > STARVED
            && due
            && let Ok(upstream) = self.local.upstream_of(&record, primary)
        {
            memory.asked_upstream = Some(Instant::now());
            let answers = Arc::clone(&memory.upstream_answers);
            tokio::spawn(async move {
                let answered = remote::answers(&upstream, STATUS_WITHIN).await;
                answers.store(answered, Ordering::Relaxed);
            });
        }
        memory.upstream_answers.load(Ordering::Relaxed)
    }

    fn remember(&mut self, status: &SqlStatus, streaming: bool) {
        let memory = &mut self.memory;
        if memory.started_at_us != status.started_at_us {
            *memory = Memory {
                server: memory.server.take(),
                receiver: memory.receiver,
                started_at_us: status.started_at_us,
                ..Memory::default()
            };
        }
        if !status.in_recovery {
            memory.grown_at = None;
            return;
        }
        let received = status.receive_lsn.unwrap_or(Lsn::ZERO);
        if streaming {
            memory.streamed = true;
            if received > memory.received {
                memory.grown_at = Some(Instant::now());
            }
        }
        memory.received = received;
    }

    /// No SQL function tells it once the receiver is gone. A segment without a history file is
    /// that of a promotion under way: nothing was written on it yet.
    fn timeline_on_disk(&self, end: Lsn, control: &Control, status: &SqlStatus) -> Tli {
        let pgdata = &self.local.pgdata;
        let found = pgdata::timeline_of_wal(pgdata, end, control.wal_segment_size);
        match found {
            Ok(Some(tli)) if pgdata::history(pgdata, tli).is_ok() => tli,
            Ok(_) => status.timeline,
            Err(error) => {
                tracing::warn!(%error, "cannot tell the timeline of the WAL on disk");
                status.timeline
            }
        }
    }
}

fn barrier(refusal: Option<Refusal>) -> Barrier {
    match refusal {
        Some(Refusal::Login) => Barrier::Login,
        Some(Refusal::Database) => Barrier::Database,
        Some(Refusal::Full) => Barrier::TooManyClients,
        Some(Refusal::Resources) => Barrier::Resources,
        Some(Refusal::Rights) => Barrier::Rights,
        Some(Refusal::NotNow | Refusal::Other) | None => Barrier::Other,
    }
}

/// Whether a server reads another `postgresql.conf` than the one in the data directory.
fn is_elsewhere(pgdata: &std::path::Path, config_file: &str) -> bool {
    let real = |path: &std::path::Path| std::fs::canonicalize(path).ok();
    let own = real(&pgdata.join("postgresql.conf"));
    !config_file.is_empty() && real(std::path::Path::new(config_file)) != own
}

fn history(local: &Local, tli: Tli) -> TimelineHistory {
    pgdata::history(&local.pgdata, tli).unwrap_or_else(|error| {
        tracing::debug!(%error, "no history of this timeline");
        TimelineHistory { tli, ancestors: Vec::new() }
    })
}

fn sender(sender: &vigil_postgres::sql::Sender) -> Sender {
    Sender {
        name: sender.application_name.clone(),
        streaming: sender.state == "streaming",
        flush: sender.flush_lsn.unwrap_or(Lsn::ZERO),
        replay: sender.replay_lsn.unwrap_or(Lsn::ZERO),
        reply_age_ms: sender.reply_age_ms.unwrap_or(u64::MAX / 2),
    }
}

/// The data directory as the core sees it.
pub fn data(local: &Local, record: &NodeRecord) -> Data {
    let rebuilding = record.replacing.is_some();
    match pgdata::inspect(&local.pgdata) {
        Ok(DataDir::Missing | DataDir::Empty) => Data::None,
        Ok(DataDir::Cluster { control, .. }) => match record.system_id {
            Some(ours) if ours != control.system_id && !rebuilding => Data::Foreign {
                reason: format!(
                    "{} holds another cluster (system identifier {}, not {ours})",
                    local.pgdata.display(),
                    control.system_id
                ),
            },
            _ => Data::Cluster(cluster(local, &control)),
        },
        // What a clone that was broken off has left on a mount point.
        Ok(DataDir::NotACluster { .. }) if rebuilding => Data::None,
        Ok(DataDir::NotACluster { reason }) => Data::Foreign { reason },
        Err(error) => Data::Foreign { reason: error.to_string() },
    }
}

fn cluster(local: &Local, control: &Control) -> Cluster {
    let highest_tli = pgdata::highest_history_tli(&local.pgdata).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the timeline histories");
        control.checkpoint_tli
    });
    Cluster {
        system_id: control.system_id,
        shut_down: control.state == ControlState::ShutDown,
        checkpoint: Position { tli: control.checkpoint_tli, lsn: control.checkpoint },
        highest_tli,
    }
}
