//! Giving up WAL, or all data, of this node for a primary's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};
use vigil_core::event::EventKind;
use vigil_core::ids::NodeId;
use vigil_core::node::step::StepDone;
use vigil_core::wal::Position;
use vigil_postgres::control::{self, ControlState};
use vigil_postgres::pgdata;
use vigil_postgres::standby::{self, KeptWal, OldData, StandbyError, Upstream};

use super::Executor;
use crate::local::Role;

const STOP_WITHIN: Duration = Duration::from_secs(30);
const RECOVER_WITHIN: Duration = Duration::from_mins(30);
const REWIND_WITHIN: Duration = Duration::from_hours(1);
/// Cloning terabytes takes hours. A step that should end earlier is cancelled by a new order.
const CLONE_WITHIN: Duration = Duration::from_hours(48);
/// So long is tried again what failed for a reason that passes.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many pieces of kept WAL stay; older ones go.
const KEEP_PIECES: usize = 5;

impl Executor {
    pub(super) async fn rewind(&self, primary: NodeId, fork: Position) -> Result<StepDone> {
        let local = &self.local;
        if local.postmaster()?.is_some() {
            self.stop(STOP_WITHIN).await?;
        }
        // Before the recovery, which writes to the same files.
        self.keep_wal(fork).await?;
        self.make_clean().await?;
        let aside = self.own_files_aside();
        self.tell_left_out(&standby::put_own_files_aside(&local.pgdata, &aside)?);
        let upstream = self.tool_upstream(primary)?;
        let patience = Patience::new();
        let rewound = loop {
            let result =
                standby::rewind(&local.install, &upstream, &local.pgdata, REWIND_WITHIN).await;
            match result {
                Ok(rewound) => break rewound,
                Err(error) => patience.bear(error, is_not_connected).await?,
            }
        };
        if rewound.nothing_to_do {
            // Only called where the timelines say otherwise; older versions get it wrong.
            bail!("pg_rewind found nothing to do, but the timelines differ");
        }
        pgdata::set_standby_signal(&local.pgdata)?;
        standby::copy_own_files(&aside, &local.pgdata)?;
        local.write_before_start(&self.record, Role::Detached)?;
        self.forget_own_files_aside();
        Ok(StepDone::Plain)
    }

    /// Where the node's own files are during a rewind.
    fn own_files_aside(&self) -> PathBuf {
        self.local.state.path().join("own-files")
    }

    /// The data directory has them.
    pub(super) fn forget_own_files_aside(&self) {
        let aside = self.own_files_aside();
        match fs::remove_dir_all(&aside) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(dir = %aside.display(), %error, "cannot remove");
            }
            _ => {}
        }
    }

    fn tell_left_out(&self, names: &[String]) {
        if !names.is_empty() {
            let text = format!(
                "not kept in the data directory of {}, which is made anew: {}",
                self.record.name,
                names.join(", ")
            );
            self.local.notice(EventKind::Setting, text);
        }
    }

    /// pg_rewind takes only what was shut down cleanly.
    async fn make_clean(&self) -> Result<()> {
        let local = &self.local;
        match control::read(&local.pgdata)?.state {
            state if state.is_clean() => Ok(()),
            ControlState::InArchiveRecovery => {
                // A standby that crashed: to be started as one.
                self.start_standby().await?;
                self.stop(STOP_WITHIN).await?;
                Ok(())
            }
            _ => {
                Ok(standby::recover_to_clean(&local.install, &local.pgdata, RECOVER_WITHIN).await?)
            }
        }
    }

    pub(super) async fn clone_from(
        &self,
        primary: NodeId,
        keep: Option<Position>,
    ) -> Result<StepDone> {
        let local = &self.local;
        // A copy beside is begun while the server still runs: it must not when both are swapped.
        if local.postmaster()?.is_some() {
            self.stop(STOP_WITHIN).await?;
        }
        // What is a prefix of the primary's is nothing to give up.
        let is_prefix = |at: &Position| self.primary_history().is_some_and(|h| h.holds(*at));
        if let Some(keep) = keep.filter(|at| !is_prefix(at))
            && let Err(error) = self.keep_wal(keep).await
        {
            // A directory that is beyond reading has nothing to keep.
            tracing::warn!("cannot keep WAL of the old data: {error:#}");
        }
        let upstream = self.tool_upstream(primary)?;
        let (install, pgdata) = (&local.install, &local.pgdata);
        // After a rewind that was broken off the directory has the source's.
        let aside = self.own_files_aside();
        let own = if aside.exists() { &aside } else { pgdata };
        let patience = Patience::new();
        let cloned = loop {
            let result = standby::basebackup_with(
                install,
                &upstream,
                pgdata,
                own,
                OldData::Remove,
                CLONE_WITHIN,
            )
            .await;
            match result {
                Ok(cloned) => break cloned,
                Err(error) => patience.bear(error, is_slot_missing).await?,
            }
        };
        self.tell_left_out(&cloned.left_out);
        pgdata::set_standby_signal(&local.pgdata)?;
        local.write_before_start(&self.record, Role::Detached)?;
        self.forget_own_files_aside();
        Ok(StepDone::Created { system_id: control::read(&local.pgdata)?.system_id })
    }

    /// Under another name than the node's: what a copying tool receives must not count as flushed.
    fn tool_upstream(&self, primary: NodeId) -> Result<Upstream> {
        let upstream = self.local.upstream_of(&self.record, primary)?;
        let application_name = format!("pgvigil_copy_{}", self.record.name);
        Ok(Upstream { application_name, ..upstream })
    }

    /// Copies aside what is about to go, and tells where.
    async fn keep_wal(&self, from: Position) -> Result<()> {
        let root = self.local.state.path().join("kept-wal");
        let name = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
        let (pgdata, into) = (self.local.pgdata.clone(), root.join(name));
        // Gigabytes at worst.
        let keeping = move || standby::keep_wal(&pgdata, from, &into);
        let kept = tokio::task::spawn_blocking(keeping)
            .await?
            .with_context(|| format!("keeping the WAL from {from} on"))?;
        if let Some(KeptWal { dir, segments, .. }) = &kept {
            let text = format!(
                "{} gives up WAL that the primary does not have: {segments} segments from {from} on, \
                 a copy is in {}",
                self.record.name,
                dir.display()
            );
            self.local.notice(EventKind::Rejoin, text);
        }
        prune(&root);
        Ok(())
    }
}

/// For what failed before it changed anything, and is worth another attempt.
struct Patience {
    end: Instant,
}

impl Patience {
    fn new() -> Self {
        Patience { end: Instant::now() + PATIENCE }
    }

    /// Waits a moment, or gives the error back.
    async fn bear(
        &self,
        error: StandbyError,
        worth_it: fn(&StandbyError) -> bool,
    ) -> Result<(), StandbyError> {
        if !worth_it(&error) || Instant::now() >= self.end {
            return Err(error);
        }
        tracing::debug!(%error, "trying again");
        sleep(Duration::from_millis(200)).await;
        Ok(())
    }
}

/// The primary's keeper makes the slot when it hears of this node.
fn is_slot_missing(error: &StandbyError) -> bool {
    matches!(error, StandbyError::NoSlot(_))
}

/// pg_rewind cannot be repeated once it has begun, but it connects before it does anything.
fn is_not_connected(error: &StandbyError) -> bool {
    let error = error.to_string();
    error.contains("asking the primary for its tablespaces")
        || error.contains("connection to server")
            && error.contains("failed:")
            && !error.contains("servers diverged")
}

/// Removes all but the newest pieces; their names sort by time.
fn prune(root: &Path) {
    let mut pieces: Vec<PathBuf> =
        fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    pieces.sort();
    let surplus = pieces.len().saturating_sub(KEEP_PIECES);
    for old in &pieces[..surplus] {
        match fs::remove_dir_all(old) {
            Ok(()) => tracing::info!(dir = %old.display(), "removed old kept WAL"),
            Err(error) => tracing::warn!(dir = %old.display(), %error, "cannot remove"),
        }
    }
}
