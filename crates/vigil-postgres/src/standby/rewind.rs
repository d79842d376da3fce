//! Bringing a node back that has WAL of its own, without a full copy.

use std::path::Path;
use std::time::Duration;

use super::{StandbyError, Upstream, tablespaces};
use crate::control;
use crate::install::Installation;
use crate::pgdata;
use crate::process::processes_of;
use crate::tool;

/// What a rewind did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewound {
    /// pg_rewind says that there was nothing to do. **Do not trust it before 16**: as long as the
    /// source has not finished a checkpoint after its promotion it says so of any node.
    pub nothing_to_do: bool,
    /// All that it said.
    pub messages: String,
}

/// Makes `pgdata` a copy of `upstream` from the last common point on, and a standby.
///
/// Before: a durable note *outside* of `pgdata` (pg_rewind removes files that its source does not
/// have); [`super::keep_wal`]; a checkpoint on the source after its promotion. A rewind that did
/// not end well leaves a directory that must not be started and cannot be rewound again: clone.
/// After: `pgvigil.conf` and `pg_hba.conf` are the *source's*, write them again before a start.
///
/// Dropping the future kills pg_rewind: the directory is then half-rewound.
pub async fn rewind(
    install: &Installation,
    upstream: &Upstream,
    pgdata: &Path,
    within: Duration,
) -> Result<Rewound, StandbyError> {
    tool::kill_strays("pg_rewind", pgdata).await;
    if !processes_of(pgdata)?.is_empty() {
        return Err(StandbyError::Runs(pgdata.to_owned()));
    }
    let control = control::read(pgdata)?;
    if !control.state.is_clean() {
        return Err(StandbyError::NotClean { pgdata: pgdata.to_owned(), state: control.state });
    }
    if !control.data_checksums && !control.wal_log_hints {
        return Err(StandbyError::NotRewindable(pgdata.to_owned()));
    }
    tablespaces::check_rewind(upstream, pgdata).await?;
    let mut command = install.command("pg_rewind");
    command.arg("--target-pgdata").arg(pgdata);
    command.arg(format!("--source-server={} dbname=postgres", upstream.public_conninfo()));
    command.arg("--no-ensure-shutdown");
    upstream.introduce(&mut command);
    let messages = tool::run(command, within).await?;
    // The source has none: started now, this node would be a second primary.
    pgdata::set_standby_signal(pgdata)?;
    let nothing_to_do = messages.contains("no rewind required");
    if !nothing_to_do {
        // These came from the source.
        pgdata::remove_all_markers(pgdata)?;
    }
    Ok(Rewound { nothing_to_do, messages })
}

/// Brings a crashed former *primary* to a clean shutdown, as pg_rewind would by itself: crash
/// recovery by a single-user server. It writes to `pg_wal` (a checkpoint record): keep the WAL
/// before. Takes `standby.signal` away, a single-user server refuses it, and sets it again: after a
/// crash in between the directory would start as a primary, so set it before every start.
///
/// A crashed standby is started with `primary_conninfo = ''` and stopped instead.
pub async fn recover_to_clean(
    install: &Installation,
    pgdata: &Path,
    within: Duration,
) -> Result<(), StandbyError> {
    if !processes_of(pgdata)?.is_empty() {
        return Err(StandbyError::Runs(pgdata.to_owned()));
    }
    if control::read(pgdata)?.state.is_clean() {
        return Ok(());
    }
    let was_standby = pgdata::has_standby_signal(pgdata);
    pgdata::clear_standby_signal(pgdata)?;
    let mut command = install.command("postgres");
    // -F: no fsync, the rewind that follows makes everything durable.
    command.args(["--single", "-F", "-D"]).arg(pgdata);
    // What would stop or hang it: a sync rule, an archive.
    command.args(["-c", "synchronous_standby_names=", "-c", "archive_mode=off", "template1"]);
    let result = tool::run(command, within).await;
    if was_standby {
        pgdata::set_standby_signal(pgdata)?;
    }
    result?;
    let state = control::read(pgdata)?.state;
    if !state.is_clean() {
        return Err(StandbyError::NotClean { pgdata: pgdata.to_owned(), state });
    }
    Ok(())
}
