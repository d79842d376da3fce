//! WAL that a rewind or a clone would destroy, put aside.

use std::fs::{self, File};
use std::io::{self, Read};
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

/// The volume of the copies is the one that the keeper's promises are written to, so this much is
/// left there, bytes.
const SPARE: u64 = 8 << 20;

/// Copies the WAL segments of `pgdata` from the one that holds `from` on: those of `from`'s
/// timeline and of every higher one, with their history files. `None` when there are none.
///
/// Copies, not hard links: single-user recovery and pg_rewind write the same files in place. Call
/// it before either. Complete and durable when it returns; done again it starts over. Nothing is
/// copied where there is no room for all of it ([`StandbyError::NoRoom`]).
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
        .filter(|s| is_written(&pgdata.join("pg_wal").join(&s.name), s.number * segment_size))
        .map(|s| s.name)
        .collect();
    wanted.sort();
    let segments = wanted.len();
    if segments == 0 {
        return Ok(None);
    }
    wanted.extend(history_files(pgdata, from)?);

    make_sure_of_room(pgdata, &wanted, into)?;
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

/// Whether a segment was begun. One that was only recycled has the name of the future and holds old
/// WAL: its first page says where that was (`xlp_pageaddr` of `XLogPageHeaderData`, 8 bytes into
/// it). What cannot be read counts: rather too much than too little.
fn is_written(segment: &Path, start: u64) -> bool {
    let mut header = [0; 16];
    let read = File::open(segment).and_then(|mut file| file.read_exact(&mut header));
    let address = || u64::from_ne_bytes(header[8..].try_into().expect("eight bytes"));
    read.is_err() || address() == start
}

fn make_sure_of_room(pgdata: &Path, names: &[String], into: &Path) -> Result<(), StandbyError> {
    let mut needed = SPARE;
    for name in names {
        let path = pgdata.join("pg_wal").join(name);
        needed += fs::metadata(&path).at("look at", &path)?.len();
    }
    // The volume of the first directory above that is there already.
    let there = into.ancestors().find(|dir| dir.exists()).unwrap_or(into);
    let stat = rustix::fs::statvfs(there).map_err(io::Error::from).at("look at", there)?;
    let left = stat.f_bavail * stat.f_frsize;
    if left < needed {
        return Err(StandbyError::NoRoom { dir: there.to_owned(), needed, left });
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_recycled_segment_is_told_by_its_first_page() {
        let dir = TempDir::new();
        let segment = dir.path().join("000000010000000000000005");
        let start: u64 = 5 << 24;
        let page = |address: u64| [&[0; 8][..], &address.to_ne_bytes(), &[0; 64]].concat();
        fs::write(&segment, page(start)).unwrap();
        assert!(is_written(&segment, start));
        fs::write(&segment, page(start - (3 << 24))).unwrap();
        assert!(!is_written(&segment, start));
        fs::write(&segment, "short").unwrap();
        assert!(is_written(&segment, start), "what cannot be told is kept");
    }

    #[test]
    fn without_room_nothing_is_copied() {
        let dir = TempDir::new();
        let wal = dir.path().join("pg_wal");
        fs::create_dir(&wal).unwrap();
        // Sparse: more than any volume of ours has.
        File::create(wal.join("huge")).unwrap().set_len(1 << 43).unwrap();
        let into = dir.path().join("kept").join("now");
        let error = make_sure_of_room(dir.path(), &["huge".to_owned()], &into).unwrap_err();
        assert!(error.to_string().contains("MB are needed to keep the WAL"), "{error}");
        assert!(!into.exists());
    }
}
