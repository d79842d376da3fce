//! Is the server alive in earnest? A kept connection writes a small record at every heartbeat (on
//! a standby it only asks). A server that does not answer for too long hangs. Without a kept
//! connection an unanswered login counts; with one, logins that hang mean that the postmaster
//! alone is stuck, and commits go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use vigil_core::node::record::NodeRecord;
use vigil_postgres::process::Postmaster;
use vigil_postgres::sql::SqlError;
use vigil_postgres::{Session, Target};

use crate::local::Local;
use crate::readiness;

/// How often an outstanding probe's age is counted on. A step that is much longer than this was
/// not ours to count: this process was frozen too, the server is given time again.
const COUNT: Duration = Duration::from_millis(25);
const COUNT_MAX: Duration = Duration::from_millis(100);
/// A fresh login is tried so often while the kept connection works.
const LOGIN_EVERY: Duration = Duration::from_secs(5);
const LOGIN_WITHIN: Duration = Duration::from_secs(3);
/// An outstanding probe is given up for a new connection after so long.
const GIVE_UP: Duration = Duration::from_secs(30);

/// Probes for ever; `hung` tells the present verdict.
pub async fn probe(
    local: Arc<Local>,
    record: watch::Receiver<Arc<NodeRecord>>,
    hung: watch::Sender<bool>,
) {
    let mut prober = Prober { local, record, hung, login: Login::default() };
    loop {
        let began = Instant::now();
        match prober.local.postmaster() {
            Ok(None) => _ = prober.hung.send_if_modified(std::mem::take),
            Ok(Some(postmaster)) => prober.watch(&postmaster).await,
            // The observer says so.
            Err(error) => tracing::debug!(%error, "nothing to probe is seen"),
        }
        // The server is gone or refuses: look again soon, a start takes 60 ms.
        let pause = Duration::from_millis(20).saturating_sub(began.elapsed());
        tokio::time::sleep(pause.max(Duration::from_millis(5))).await;
    }
}

struct Prober {
    local: Arc<Local>,
    record: watch::Receiver<Arc<NodeRecord>>,
    hung: watch::Sender<bool>,
    login: Login,
}

impl Prober {
    /// Probes one server until it has exited or the connection is lost.
    async fn watch(&mut self, postmaster: &Postmaster) {
        if readiness::would_refuse(&self.local.pgdata, postmaster.pid) {
            self.tell(false, Duration::ZERO);
            return;
        }
        let target = self.local.target();
        let connected = self.timed(postmaster, Session::connect(&target, GIVE_UP)).await;
        let Some(Ok(mut session)) = connected else { return };
        loop {
            match self.timed(postmaster, one_probe(&mut session)).await {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::debug!(%error, "the probe's connection is lost");
                    return;
                }
                None => return,
            }
            self.login.try_if_due(&target);
            if session.is_makeshift() {
                self.rest().await;
                return;
            }
            tokio::select! {
                () = self.rest() => {}
                () = postmaster.exited() => return,
            }
        }
    }

    /// Until the next probe is due, also by a heartbeat that becomes shorter meanwhile.
    async fn rest(&mut self) {
        let since = tokio::time::Instant::now();
        loop {
            let settings = self.record.borrow_and_update().settings;
            let interval = settings.heartbeat_interval_ms.clamp(20, 60_000);
            let due = since + Duration::from_millis(interval);
            tokio::select! {
                () = tokio::time::sleep_until(due) => return,
                changed = self.record.changed() => if changed.is_err() {
                    return tokio::time::sleep_until(due).await;
                },
            }
        }
    }

    /// Waits for an answer and meanwhile judges the waiting. Any answer acquits, also a refusal.
    /// `None`: the server has exited.
    async fn timed<T>(
        &mut self,
        postmaster: &Postmaster,
        question: impl Future<Output = Result<T, SqlError>>,
    ) -> Option<Result<T, SqlError>> {
        tokio::pin!(question);
        let mut waited = Duration::ZERO;
        loop {
            let began = Instant::now();
            tokio::select! {
                biased;
                answer = &mut question => {
                    let silent = matches!(&answer, Err(e) if is_silence(e));
                    if !silent {
                        self.tell(false, waited);
                    }
                    return Some(answer);
                }
                () = postmaster.exited() => {
                    self.tell(false, waited);
                    return None;
                }
                () = tokio::time::sleep(COUNT) => waited += began.elapsed().min(COUNT_MAX),
            }
            let deadline = Duration::from_millis(self.record.borrow().settings.probe_deadline_ms());
            if waited >= deadline {
                self.tell(true, waited);
            }
        }
    }

    fn tell(&self, hung: bool, waited: Duration) {
        let changed = self.hung.send_if_modified(|h| std::mem::replace(h, hung) != hung);
        let waited_ms = crate::clock::ms(waited);
        match (changed, hung) {
            (true, true) => {
                tracing::warn!(waited_ms, "Postgres runs but does not answer: it hangs");
            }
            (true, false) => tracing::info!("Postgres answers again, or has exited"),
            (false, _) => {}
        }
    }
}

/// Whether the server has said nothing at all.
fn is_silence(error: &SqlError) -> bool {
    matches!(error, SqlError::Timeout { .. } | SqlError::ConnectTimeout { .. })
}

async fn one_probe(session: &mut Session) -> Result<(), SqlError> {
    if session.in_recovery(GIVE_UP).await? {
        return Ok(());
    }
    session.emit_probe(GIVE_UP).await
}

/// Tries fresh logins beside, and says when they stop and start to work.
#[derive(Default)]
struct Login {
    tried: Option<Instant>,
    failing: Arc<std::sync::atomic::AtomicBool>,
}

impl Login {
    fn try_if_due(&mut self, target: &Target) {
        if self.tried.is_some_and(|at| at.elapsed() < LOGIN_EVERY) {
            return;
        }
        self.tried = Some(Instant::now());
        let (target, failing) = (target.clone(), Arc::clone(&self.failing));
        tokio::spawn(async move {
            let result = Session::connect(&target, LOGIN_WITHIN).await;
            let fails = result.is_err();
            let failed = failing.swap(fails, std::sync::atomic::Ordering::Relaxed);
            metrics::gauge!("pgvigil_keeper_logins_ok").set(if fails { 0.0 } else { 1.0 });
            match result {
                Err(error) if !failed => tracing::warn!(
                    %error, "new connections to Postgres fail, kept ones work"
                ),
                Ok(_) if failed => tracing::info!("new connections to Postgres work again"),
                _ => {}
            }
        });
    }
}
