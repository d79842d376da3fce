//! Starting a server.

use std::time::Duration;

use anyhow::Result;
use vigil_core::node::step::StepDone;
use vigil_postgres::pgdata;
use vigil_postgres::process::{self, Postmaster, ProcessError};

use super::Executor;
use crate::local::Role;
use crate::socket_lock;

/// A clean standby answers after 60-90 ms. One that has WAL to replay until it is consistent takes
/// as long as that takes: then the step ends and the looks tell when it is there.
const STANDBY_WITHIN: Duration = Duration::from_secs(5);

impl Executor {
    /// The only way a node boots once its group has had a primary: it can acknowledge nothing.
    pub(super) async fn start_standby(&self) -> Result<StepDone> {
        pgdata::set_standby_signal(&self.local.pgdata)?;
        self.local.write_before_start(&self.record, Role::Detached)?;
        match self.spawn(STANDBY_WITHIN).await {
            Err(error) if is_not_ready_yet(&error) => {
                tracing::info!("Postgres is started and replays WAL before it answers");
                Ok(StepDone::Plain)
            }
            Err(error) => Err(error),
            Ok(_) => Ok(StepDone::Plain),
        }
    }

    /// Starts the server and waits until it takes connections.
    pub(super) async fn spawn(&self, within: Duration) -> Result<Postmaster> {
        let local = &self.local;
        socket_lock::clear_stale(&local.socket_dir, local.port, &local.pgdata)?;
        let postmaster = process::spawn(&local.install, &local.pgdata, &local.log)?;
        local.set_upstream(None);
        local.set_postmaster(Some(postmaster.clone()));
        process::wait_ready(&local.pgdata, &postmaster, &local.log, within).await?;
        Ok(postmaster)
    }
}

fn is_not_ready_yet(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ProcessError::NotReady { .. }))
}
