//! A fresh copy of the upstream.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::own_files::copy_own_files;
use super::wal_dir::WalDir;
use super::{StandbyError, Upstream, tablespaces};
use crate::durable;
use crate::install::Installation;
use crate::pgdata::{self, DataDir};
use crate::place::{self, Place};
use crate::process::processes_of;
use crate::sql::remote;
use crate::tool;

const READ_WITHIN: Duration = Duration::from_secs(5);

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
    /// Files of the node's own, or of the source's configuration, that it does not have, and why.
    pub left_out: Vec<String>,
}

/// As [`basebackup_with`], the node's own files being those in `pgdata`.
pub async fn basebackup(
    install: &Installation,
    upstream: &Upstream,
    pgdata: &Path,
    old_data: OldData,
    within: Duration,
) -> Result<Cloned, StandbyError> {
    basebackup_with(install, upstream, pgdata, pgdata, old_data, within).await
}

/// Clones `upstream` into `pgdata`, as a standby (`standby.signal` is there before the copy takes
/// the place of the old directory). It is made beside (`<pgdata>.clone`) and swapped in at the
/// end; until then the old directory is untouched. On a mount point it is made in a subdirectory.
///
/// The node's own files, which are in `own`, come into the copy before that. A `pg_wal` on another
/// volume stays there. Tablespaces go where the source has them, or beside that place where
/// something is in the way.
///
/// Afterwards our part of the configuration is to be written again before a start.
/// Dropping the future kills `pg_basebackup` and leaves the old directory as it was.
pub async fn basebackup_with(
    install: &Installation,
    upstream: &Upstream,
    pgdata: &Path,
    own: &Path,
    old_data: OldData,
    within: Duration,
) -> Result<Cloned, StandbyError> {
    if !processes_of(pgdata)?.is_empty() {
        return Err(StandbyError::Runs(pgdata.to_owned()));
    }
    if let Some(slot) = &upstream.slot
        && !remote::has_slot(upstream, slot, READ_WITHIN).await?
    {
        // pg_basebackup would find out only after a checkpoint over there.
        return Err(StandbyError::NoSlot(slot.clone()));
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
    let wal = WalDir::of(pgdata);
    if let Some(wal) = &wal {
        wal.clear()?;
        command.arg(wal.option());
    }
    command.arg("--pgdata").arg(place.dir());
    upstream.introduce(&mut command);
    if let Err(e) = tool::run(command, within).await {
        // Best effort: the next attempt clears both too.
        let _ = place.clear();
        let _ = wal.as_ref().map(WalDir::clear);
        return Err(e.into());
    }

    let clone = place.dir();
    pgdata::remove_all_markers(clone)?;
    // The source's, where it has one, is about the source.
    durable::remove(&clone.join("recovery.signal"))?;
    pgdata::set_standby_signal(clone)?;
    let mut left_out = what_links_named(upstream, clone).await?;
    left_out.extend(copy_own_files(own, clone)?);
    place::take_mode(clone, pgdata)?;
    durable::sync_dir(clone)?;
    let is_something = !matches!(pgdata::inspect(pgdata)?, DataDir::Missing | DataDir::Empty);
    let old = (is_something && old_data == OldData::Keep).then(|| place::free_old_name(&place));
    place.move_in(old.as_deref())?;
    if old.is_none() {
        if let Some(wal) = &wal {
            wal.move_up(pgdata)?;
        }
        tablespaces::clear(&old_places, &tablespaces::targets(pgdata))?;
    }
    Ok(Cloned { old, left_out })
}

/// A copy has no links. Where the source's configuration is one, the file that it names is fetched.
async fn what_links_named(upstream: &Upstream, clone: &Path) -> Result<Vec<String>, StandbyError> {
    let mut left_out = Vec::new();
    for name in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        let path = clone.join(name);
        if path.exists() {
            continue;
        }
        match remote::read_file(upstream, name, READ_WITHIN).await {
            Ok(Some(bytes)) => durable::write(&path, &bytes)?,
            Ok(None) => {}
            Err(e) => left_out.push(format!("{name} of the source ({e})")),
        }
    }
    Ok(left_out)
}
