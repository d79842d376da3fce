//! Stopping. "Stopped" is when no process of the data directory lives.

use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep, timeout};
use vigil_core::node::step::StepDone;
use vigil_postgres::control::{self, ControlState};
use vigil_postgres::process::{self, Postmaster, Stop};

use super::Executor;

/// SIGKILL of all processes takes 20-30 ms; longer when the disk hangs.
const KILL_WITHIN: Duration = Duration::from_secs(10);
/// After the shutdown checkpoint and the last walsender nothing that matters is left to do. The
/// rest of the exit takes 35-110 ms.
const EXIT_WITHIN: Duration = Duration::from_millis(150);
/// A standby that has not replied for so long may be frozen, and would hold the stop up until
/// `wal_sender_timeout`.
const SILENT_MS: u64 = 1_500;

impl Executor {
    pub(super) async fn kill(&self) -> Result<StepDone> {
        let local = &self.local;
        let killed = process::kill_all(&local.pgdata, KILL_WITHIN).await?;
        local.set_postmaster(None);
        local.set_upstream(None);
        tracing::debug!(killed, "killed what was left of Postgres");
        Ok(StepDone::Plain)
    }

    /// A fast stop; when the budget is used up, SIGKILL.
    pub(super) async fn stop(&self, budget: Duration) -> Result<StepDone> {
        let end = Instant::now() + budget;
        match self.local.postmaster() {
            Ok(Some(postmaster)) => {
                self.end_silent_walsenders().await;
                postmaster.signal(Stop::Fast)?;
                self.wait_stopped(&postmaster, end).await;
            }
            Ok(None) => {}
            // Whatever lives is killed all the same.
            Err(error) => tracing::warn!(%error, "Postgres cannot be stopped politely"),
        }
        self.kill().await
    }

    /// Only a hint: the stop itself is bounded anyway.
    async fn end_silent_walsenders(&self) {
        let ending = async {
            let mut session = self.local.work().await?;
            let status = session.status(super::QUERY).await?;
            for sender in status.senders {
                if sender.reply_age_ms.is_some_and(|age| age > SILENT_MS) {
                    tracing::warn!(name = sender.application_name, "ending a silent walsender");
                    session.terminate_backend(sender.pid, super::QUERY).await?;
                }
            }
            anyhow::Ok(())
        };
        match timeout(Duration::from_millis(100), ending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!("looking for silent walsenders: {error:#}"),
            Err(_) => tracing::debug!("looking for silent walsenders took too long"),
        }
    }

    /// Until the server has exited, or all that matters is done, or the budget is used up.
    async fn wait_stopped(&self, postmaster: &Postmaster, end: Instant) {
        let done = async {
            loop {
                // In-process: running `pg_controldata` costs 20-30 ms.
                let state = control::read(&self.local.pgdata).map(|c| c.state);
                if matches!(state, Ok(ControlState::ShutDown | ControlState::ShutDownInRecovery))
                    && matches!(process::has_senders(postmaster.pid), Ok(false))
                {
                    sleep(EXIT_WITHIN).await;
                    return;
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = postmaster.exited() => {}
            () = done => tracing::debug!("the shutdown checkpoint is written, not waiting longer"),
            () = tokio::time::sleep_until(end) => {
                tracing::warn!("Postgres did not stop in time, killing it");
            }
        }
    }
}
