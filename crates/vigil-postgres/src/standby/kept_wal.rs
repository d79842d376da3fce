//! WAL that a rewind or a clone would destroy, put aside.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use vigil_core::wal::Position;

use super::StandbyError;
use crate::control;
use crate::durable;
use crate::error::{At, FileError};
use crate::history;

/// What was kept, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptWal {
    pub dir: PathBuf,
    pub segments: usize,
    pub bytes: u64,
}

/// Copies the WAL segments of `pgdata` from the one that holds `from` on: those of `from`'s
/// timeline and of every higher one, with their history files. `None` when there are none.
///
/// Copies, not hard links: single-user recovery and pg_rewind write the same files in place. Call
/// it before either. Complete and durable when it returns; done again it starts over.
pub fn keep_wal(
    pgdata: &Path,
    from: Position,
    into: &Path,
) -> Result<Option<KeptWal>, StandbyError> {
    let segment_size = control::read(pgdata)?.wal_segment_size;
    let first = from.lsn.0 / segment_size;
    let mut wanted: Vec<String> = history::segments(pgdata, segment_size)?
        .into_iter()
        .filter(|s| s.number >= first && s.tli >= from.tli)
        .map(|s| s.name)
        .collect();
    // Recycled segments, not yet written, have the names of the future; they hold old WAL and
    // cannot be told apart by name. They are copied too: rather too much than too little.
    wanted.sort();
    let segments = wanted.len();
    if segments == 0 {
        return Ok(None);
    }
    wanted.extend(history_files(pgdata, from)?);

    fs::create_dir_all(into).at("create", into)?;
    durable::give_to_owner_of_dir(into)?;
    let mut bytes = 0;
    for name in wanted {
        bytes += copy(&pgdata.join("pg_wal").join(&name), &into.join(&name))?;
    }
    durable::sync_dir(into)?;
    durable::sync_dir(durable::parent(into))?;
    Ok(Some(KeptWal { dir: into.to_owned(), segments, bytes }))
}

fn history_files(pgdata: &Path, from: Position) -> Result<Vec<String>, FileError> {
    let highest = history::highest_history_tli(pgdata)?;
    let name = |tli: u32| format!("{tli:08X}.history");
    let exists = |name: &String| pgdata.join("pg_wal").join(name).exists();
    Ok((from.tli.0..=highest.0).map(name).filter(exists).collect())
}

fn copy(source: &Path, target: &Path) -> Result<u64, FileError> {
    let mut reader = File::open(source).at("open", source)?;
    let mut options = fs::OpenOptions::new();
    let mut writer = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(target)
        .at("create", target)?;
    durable::give_to_owner_of_dir(target)?;
    // Reflinks or copies in the kernel where it can.
    let bytes = io::copy(&mut reader, &mut writer).at("copy to", target)?;
    writer.sync_all().at("fsync", target)?;
    Ok(bytes)
}
