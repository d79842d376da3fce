//! Starting a server.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::node::step::StepDone;
use vigil_postgres::process::{self, Postmaster, ProcessError};
use vigil_postgres::{control, pgdata};

use super::Executor;
use crate::local::Role;
use crate::socket_lock;

/// A clean standby answers after 60-90 ms. One that has WAL to replay until it is consistent takes
/// as long as that takes: then the step ends and the looks tell when it is there.
const STANDBY_WITHIN: Duration = Duration::from_secs(5);
/// The server's log is put aside at a start when it is longer than this.
const LOG_MAX: u64 = 64 << 20;

impl Executor {
    /// The only way a node boots once its group has had a primary: it can acknowledge nothing.
    pub(super) async fn start_standby(&self) -> Result<StepDone> {
        self.leave_recovery_alone()?;
        pgdata::set_standby_signal(&self.local.pgdata)?;
        self.local.write_before_start(&self.record, Role::Detached)?;
        self.spawn_standby(None).await
    }

    /// For a directory that was just copied from `primary`: it answers once it has enough of its
    /// WAL to be consistent.
    pub(super) async fn start_following(&self, primary: NodeId) -> Result<StepDone> {
        pgdata::set_standby_signal(&self.local.pgdata)?;
        if let Some(history) = self.primary_history() {
            let own = control::read(&self.local.pgdata)?.checkpoint_tli;
            self.fill_gaps_above(own, history)?;
        }
        self.local.write_before_start(&self.record, Role::Follower(primary))?;
        self.spawn_standby(Some((primary, self.record.promise))).await
    }

    async fn spawn_standby(&self, upstream: Option<(NodeId, Epoch)>) -> Result<StepDone> {
        if self.record.replacing.is_none() {
            self.forget_own_files_aside();
        }
        match self.spawn(STANDBY_WITHIN).await {
            Err(error) if is_not_ready_yet(&error) => {
                tracing::info!("Postgres is started and replays WAL before it answers");
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        self.local.set_upstream(upstream);
        Ok(StepDone::Plain)
    }

    /// A backup was restored here, and its recovery is the user's: a start with our settings would
    /// throw it away.
    pub(super) fn leave_recovery_alone(&self) -> Result<()> {
        let pgdata = &self.local.pgdata;
        if pgdata::has_recovery_signal(pgdata) {
            bail!(
                "{} has a recovery.signal: finish the recovery of that backup without the keeper, or \
                 remove the file if there is none",
                pgdata.display()
            );
        }
        Ok(())
    }

    /// Starts the server and waits until it takes connections.
    pub(super) async fn spawn(&self, within: Duration) -> Result<Postmaster> {
        match self.spawn_once(within).await {
            Err(error) if has_died(&error) && self.mend_conf_at_rest().await? => {
                self.spawn_once(within).await
            }
            done => done,
        }
    }

    async fn spawn_once(&self, within: Duration) -> Result<Postmaster> {
        let local = &self.local;
        rotate(&local.log);
        socket_lock::clear_stale(&local.socket_dir, local.port, &local.pgdata)?;
        let postmaster = process::spawn(&local.install, &local.pgdata, &local.log)?;
        local.set_upstream(None);
        local.set_postmaster(Some(postmaster.clone()));
        process::wait_ready(&local.pgdata, &postmaster, &local.log, within).await?;
        Ok(postmaster)
    }
}

/// Keeps one old log. Where more is wanted, Postgres' own logging collector does it better.
fn rotate(log: &Path) {
    let is_big = fs::metadata(log).is_ok_and(|meta| meta.len() > LOG_MAX);
    if is_big && let Err(error) = fs::rename(log, log.with_extension("log.old")) {
        tracing::warn!(%error, log = %log.display(), "cannot rotate the log of Postgres");
    }
}

fn has_died(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ProcessError::Died { .. }))
}

fn is_not_ready_yet(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ProcessError::NotReady { .. }))
}
