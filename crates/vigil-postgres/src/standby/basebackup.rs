//! A fresh copy of the upstream.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{StandbyError, Upstream, tablespaces};
use crate::durable;
use crate::install::Installation;
use crate::pgdata::{self, DataDir};
use crate::place::{self, Place};
use crate::process::processes_of;
use crate::tool;

/// What to do with a data directory that is in the place of the clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldData {
    Remove,
    /// Moves it to `<pgdata>.old-<n>`.
    Keep,
}

/// What a clone did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cloned {
    /// Where the old data directory is now.
    pub old: Option<PathBuf>,
}

/// Clones `upstream` into `pgdata`, as a standby (`standby.signal` is there before the copy takes
/// the place of the old directory). It is made beside (`<pgdata>.clone`) and swapped in at the
/// end; until then the old directory is untouched. On a mount point it is made in a subdirectory.
///
/// Tablespaces go where the source has them, or into a directory inside of that place where an
/// older copy is in the way.
///
/// Afterwards `pgvigil.conf` and `pg_hba.conf` are the *source's*: write them again before a start.
/// Dropping the future kills `pg_basebackup` and leaves the old directory as it was.
pub async fn basebackup(
    install: &Installation,
    upstream: &Upstream,
    pgdata: &Path,
    old_data: OldData,
    within: Duration,
) -> Result<Cloned, StandbyError> {
    if !processes_of(pgdata)?.is_empty() {
        return Err(StandbyError::Runs(pgdata.to_owned()));
    }
    let place = Place::choose(pgdata, "clone")?;
    tool::kill_strays("pg_basebackup", place.dir()).await;
    place.clear()?;

    let mut command = install.command("pg_basebackup");
    command.args(["--wal-method=stream", "--checkpoint=fast", "--no-password"]);
    command.arg(format!("--dbname={}", upstream.public_conninfo()));
    if let Some(slot) = &upstream.slot {
        command.arg(format!("--slot={slot}"));
    }
    let old_places = tablespaces::targets(pgdata);
    for mapping in tablespaces::choose(upstream, pgdata).await? {
        command.arg(mapping.option());
    }
    command.arg("--pgdata").arg(place.dir());
    upstream.introduce(&mut command);
    if let Err(e) = tool::run(command, within).await {
        // Best effort: the next attempt clears it too.
        let _ = place.clear();
        return Err(e.into());
    }

    let clone = place.dir();
    pgdata::remove_all_markers(clone)?;
    // The source's, where it has one, is about the source.
    durable::remove(&clone.join("recovery.signal"))?;
    pgdata::set_standby_signal(clone)?;
    durable::sync_dir(clone)?;
    let is_something = !matches!(pgdata::inspect(pgdata)?, DataDir::Missing | DataDir::Empty);
    let old = (is_something && old_data == OldData::Keep).then(|| place::free_old_name(&place));
    place.move_in(old.as_deref())?;
    if old.is_none() {
        tablespaces::clear(&old_places, &tablespaces::targets(pgdata))?;
    }
    Ok(Cloned { old })
}
