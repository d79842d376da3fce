//! The data directory: what it is, making one, its signal files and our markers in it.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::{self, Control, ControlError, ControlState};
use crate::durable;
use crate::error::{At, FileError};
use crate::install::Installation;
use crate::tool::{self, ToolError};

pub use crate::history::{
    HistoryError, highest_history_tli, history, remove_stub_histories, timeline_of_wal,
    write_stub_histories,
};

/// What is at the path of a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataDir {
    Missing,
    Empty,
    Cluster {
        major: u32,
        control: Control,
        /// It would start as a standby.
        standby_signal: bool,
    },
    /// Something is there, but no data directory that could be started.
    NotACluster {
        reason: String,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum PgdataError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error("{} is not empty: initdb needs a new or an empty directory", .0.display())]
    NotEmpty(PathBuf),
}

/// Looks at `pgdata`, changes nothing.
pub fn inspect(pgdata: &Path) -> Result<DataDir, FileError> {
    let mut entries = match fs::read_dir(pgdata) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(DataDir::Missing),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Ok(DataDir::NotACluster { reason: "it is not a directory".to_owned() });
        }
        Err(e) => return Err(e).at("list", pgdata),
    };
    // A file system mounted here has a directory of its own, an unfinished clone is ours.
    let is_nothing = |name: &OsStr| name == "lost+found" || crate::place::is_ours(name);
    if entries.all(|e| e.is_ok_and(|e| is_nothing(&e.file_name()))) {
        return Ok(DataDir::Empty);
    }
    if !control::has_version(pgdata)? {
        return Ok(DataDir::NotACluster { reason: "it has no PG_VERSION".to_owned() });
    }
    let read = control::pgdata_major(pgdata).and_then(|m| Ok((m, control::read(pgdata)?)));
    Ok(match read {
        Ok((_, Control { state: ControlState::StartingUp, .. })) => {
            DataDir::NotACluster { reason: "initdb did not finish".to_owned() }
        }
        Ok((major, control)) => {
            DataDir::Cluster { major, control, standby_signal: has_standby_signal(pgdata) }
        }
        Err(ControlError::File(e)) if !e.is_not_found() => return Err(e),
        Err(e) => DataDir::NotACluster { reason: e.to_string() },
    })
}

/// Choices for a new cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InitdbOptions {
    /// Megabytes, a power of two from 1 to 1024; `None`: 16. Small segments make promotions
    /// faster: a new one is filled with zeros each time.
    pub wal_segment_mb: Option<u32>,
    /// `None`: `C.UTF-8`.
    pub locale: Option<String>,
    /// More options of initdb, each its own argument.
    pub extra: Vec<String>,
}

/// Makes a new cluster with superuser `postgres`, checksums and UTF-8. It is made beside and then
/// renamed, so that a crash leaves nothing that looks like a cluster; where that cannot be (a
/// mount point), in place.
pub async fn initdb(
    install: &Installation,
    pgdata: &Path,
    options: &InitdbOptions,
    within: Duration,
) -> Result<Control, PgdataError> {
    if !matches!(inspect(pgdata)?, DataDir::Missing | DataDir::Empty) {
        return Err(PgdataError::NotEmpty(pgdata.to_owned()));
    }
    let place = Place::choose(pgdata, "initdb")?;
    place.clear()?;
    let made = run_initdb(install, place.dir(), options, within).await;
    if let Err(e) = made {
        // Best effort: the next attempt clears it too.
        let _ = place.clear();
        return Err(e);
    }
    place.move_in(None)?;
    Ok(control::read(pgdata)?)
}

async fn run_initdb(
    install: &Installation,
    dir: &Path,
    options: &InitdbOptions,
    within: Duration,
) -> Result<(), PgdataError> {
    let mut command = install.command("initdb");
    command.arg("-D").arg(dir).args([
        "--username=postgres",
        "--data-checksums",
        "--encoding=UTF8",
        "--auth-local=peer",
        "--auth-host=scram-sha-256",
        "--no-instructions",
    ]);
    command.arg(format!("--locale={}", options.locale.as_deref().unwrap_or("C.UTF-8")));
    if install.major < 14 {
        // `--no-instructions` came with 14.
        let args: Vec<OsString> = command.get_args().map(ToOwned::to_owned).collect();
        command = install.command("initdb");
        command.args(args.into_iter().filter(|a| a != "--no-instructions"));
    }
    if let Some(mb) = options.wal_segment_mb {
        command.arg(format!("--wal-segsize={mb}"));
    }
    command.args(&options.extra);
    tool::run(command, within).await?;
    Ok(())
}

/// Makes the next start one as a standby. Durable when it returns.
pub fn set_standby_signal(pgdata: &Path) -> Result<(), FileError> {
    durable::write(&pgdata.join("standby.signal"), b"")
}

/// Makes the next start one as a primary. Durable when it returns. A `recovery.signal` is left alone:
/// it is a user's who restores a backup.
pub fn clear_standby_signal(pgdata: &Path) -> Result<(), FileError> {
    durable::remove(&pgdata.join("standby.signal"))?;
    Ok(())
}

/// Whether a restored backup's recovery from an archive is to be done, or not finished.
pub fn has_recovery_signal(pgdata: &Path) -> bool {
    pgdata.join("recovery.signal").exists()
}

pub fn has_standby_signal(pgdata: &Path) -> bool {
    pgdata.join("standby.signal").exists()
}

/// The text of the marker `name` (file `pgvigil.<name>`), `None` when it is not set.
pub fn read_marker(pgdata: &Path, name: &str) -> Result<Option<String>, FileError> {
    durable::read_text_opt(&marker(pgdata, name))
}

/// Sets the marker `name`. Durable when it returns. **Not for what must outlive a rewind or a
/// clone**: `pg_rewind` replaces it by the source's or removes it, like every other file here.
pub fn write_marker(pgdata: &Path, name: &str, text: &str) -> Result<(), FileError> {
    durable::write(&marker(pgdata, name), text.as_bytes())
}

/// Takes the marker `name` away; `false` when it was not set.
pub fn remove_marker(pgdata: &Path, name: &str) -> Result<bool, FileError> {
    durable::remove(&marker(pgdata, name))
}

/// Removes all markers: those in a fresh copy are the source's, not ours.
pub(crate) fn remove_all_markers(pgdata: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(pgdata).at("list", pgdata)? {
        let name = entry.at("list", pgdata)?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("pgvigil.") && name != "pgvigil.conf" {
            durable::remove(&pgdata.join(&*name))?;
        }
    }
    Ok(())
}

fn marker(pgdata: &Path, name: &str) -> PathBuf {
    pgdata.join(format!("pgvigil.{name}"))
}

pub(crate) use crate::place::Place;
