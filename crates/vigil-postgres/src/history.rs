//! Timeline history files in `pg_wal`, and the stubs that make a promotion pick the timeline number
//! that the monitor assigned.
//!
//! A promotion takes the number after the last one of an unbroken run of `.history` files that
//! begins after its own timeline (`findNewestTimeLine`); it only looks whether they exist. So stub
//! files in the gap lead it to the assigned number. What else Postgres does with them (tried on 14,
//! 15 and 18):
//!
//! * A stub holds a comment only. A standby that finds one says "new timeline N is not a child of
//!   database system timeline M" and goes on with its own. It must not look like a child: then the
//!   stub would become part of the new timeline's history.
//! * **After the promotion the stubs stay.** A receiver fetches every history file between its own
//!   timeline and the primary's, and a standby finds the new timeline only through an unbroken
//!   run: without the stubs no standby of the old timeline could follow. Followers get the stubs
//!   through the receiver; where the upstream lacks some (it is a fresh clone), the follower writes
//!   them itself before it follows: [`write_stub_histories`].
//! * **A stub above every real history file must go before a start**
//!   ([`remove_stub_histories`]): a standby takes it for the newest timeline, looks for WAL of that
//!   one only, and is never ready.

use std::fs;
use std::path::{Path, PathBuf};

use vigil_core::wal::{BadLsn, Lsn, TimelineHistory, Tli};

use crate::durable;
use crate::error::{At, FileError};

/// First line of a stub: Postgres skips comments.
const STUB: &str = "# pgvigil stub: no server was ever on this timeline\n";

#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is not a timeline history file: {source}", path.display())]
    Bad { path: PathBuf, source: BadLsn },
    #[error("{} is a stub of pgvigil, no server was on timeline {tli}", path.display())]
    Stub { path: PathBuf, tli: Tli },
    #[error("the gap from timeline {after} to {before} is too wide for stub history files")]
    TooWide { after: Tli, before: Tli },
}

/// The history of timeline `tli`, from its file. Timeline 1 has none and needs none.
pub fn history(pgdata: &Path, tli: Tli) -> Result<TimelineHistory, HistoryError> {
    if tli.0 <= 1 {
        return Ok(TimelineHistory::first());
    }
    let path = path_of(pgdata, tli);
    let bytes = fs::read(&path).at("read", &path)?;
    let text = String::from_utf8_lossy(&bytes);
    if text.starts_with(STUB) {
        return Err(HistoryError::Stub { path, tli });
    }
    TimelineHistory::parse(tli, &text).map_err(|source| HistoryError::Bad { path, source })
}

/// The highest timeline that has a history file, stubs included: a number never to be assigned
/// again. 1 when there is none.
pub fn highest_history_tli(pgdata: &Path) -> Result<Tli, FileError> {
    Ok(list(pgdata)?.into_iter().max().unwrap_or(Tli(1)))
}

/// Puts a stub for every timeline between `after` and `before`, both exclusive, that has no
/// history file. Real files are never touched. Returns the numbers written.
///
/// Before a promotion: `after` is the timeline that the standby is on, `before` the assigned one.
/// Before following an upstream on a higher timeline: `before` is the upstream's.
pub fn write_stub_histories(
    pgdata: &Path,
    after: Tli,
    before: Tli,
) -> Result<Vec<Tli>, HistoryError> {
    if before.0.saturating_sub(after.0) > 10_000 {
        return Err(HistoryError::TooWide { after, before });
    }
    let mut written = Vec::new();
    for tli in (after.0.saturating_add(1)..before.0).map(Tli) {
        let path = path_of(pgdata, tli);
        // It appears complete, and never replaces: if the receiver brings the real file at this
        // moment, that wins. A half-made file that the startup process opens could end the server.
        if !path.exists() && durable::write_new(&path, STUB.as_bytes())? {
            written.push(tli);
        }
    }
    Ok(written)
}

/// Removes the stubs above the highest real history file: those of a promotion that did not take
/// place. Others stay, see the module's text. Returns the numbers removed. [`crate::process::spawn`]
/// does it before each start.
pub fn remove_stub_histories(pgdata: &Path) -> Result<Vec<Tli>, FileError> {
    let mut all = list(pgdata)?;
    all.sort_unstable();
    let mut removed = Vec::new();
    while let Some(tli) = all.pop() {
        let path = path_of(pgdata, tli);
        let is_stub = durable::read_opt(&path)?.is_some_and(|b| b.starts_with(STUB.as_bytes()));
        if !is_stub {
            break;
        }
        fs::remove_file(&path).at("remove", &path)?;
        removed.push(tli);
    }
    if !removed.is_empty() {
        durable::sync_dir(&pgdata.join("pg_wal"))?;
    }
    Ok(removed)
}

/// The timeline of the WAL that ends at `end`: the highest one that has a segment with the byte
/// before it. For a standby whose receiver is gone, which no SQL function answers. `None` when no
/// such segment is there.
pub fn timeline_of_wal(
    pgdata: &Path,
    end: Lsn,
    wal_segment_size: u64,
) -> Result<Option<Tli>, FileError> {
    let segment = end.0.saturating_sub(1) / wal_segment_size;
    let found = segments(pgdata, wal_segment_size)?;
    Ok(found.into_iter().filter(|s| s.number == segment).map(|s| s.tli).max())
}

/// A file in `pg_wal` that is a whole segment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    pub(crate) tli: Tli,
    /// LSN divided by the segment size.
    pub(crate) number: u64,
    pub(crate) name: String,
}

pub(crate) fn segments(pgdata: &Path, wal_segment_size: u64) -> Result<Vec<Segment>, FileError> {
    let per_id = 0x1_0000_0000 / wal_segment_size;
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let parse = |name: String| {
        if name.len() != 24 || !name.is_ascii() {
            return None;
        }
        let (tli, high, low) = (hex(&name[..8])?, hex(&name[8..16])?, hex(&name[16..])?);
        let number = u64::from(high) * per_id + u64::from(low);
        Some(Segment { tli: Tli(tli), number, name })
    };
    Ok(names(pgdata)?.into_iter().filter_map(parse).collect())
}

/// Where segment `number` (an LSN divided by the segment size) of timeline `tli` is.
pub(crate) fn segment_path(pgdata: &Path, tli: Tli, number: u64, segment_size: u64) -> PathBuf {
    let per_id = 0x1_0000_0000 / segment_size;
    let name = format!("{:08X}{:08X}{:08X}", tli.0, number / per_id, number % per_id);
    pgdata.join("pg_wal").join(name)
}

fn list(pgdata: &Path) -> Result<Vec<Tli>, FileError> {
    let parse = |name: String| {
        let number = name.strip_suffix(".history").filter(|n| n.len() == 8)?;
        u32::from_str_radix(number, 16).ok().map(Tli)
    };
    Ok(names(pgdata)?.into_iter().filter_map(parse).collect())
}

fn names(pgdata: &Path) -> Result<Vec<String>, FileError> {
    let dir = pgdata.join("pg_wal");
    let mut names = Vec::new();
    for entry in fs::read_dir(&dir).at("list", &dir)? {
        names.push(entry.at("list", &dir)?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn path_of(pgdata: &Path, tli: Tli) -> PathBuf {
    pgdata.join(format!("pg_wal/{:08X}.history", tli.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn stubs_fill_the_gap_and_hide_no_real_file() {
        let dir = TempDir::new();
        fs::create_dir(dir.path().join("pg_wal")).unwrap();
        let real = "1\t0/5000000\tno recovery target specified\n";
        fs::write(path_of(dir.path(), Tli(3)), real).unwrap();
        assert_eq!(write_stub_histories(dir.path(), Tli(1), Tli(6)).unwrap(), [2, 4, 5].map(Tli));
        assert_eq!(write_stub_histories(dir.path(), Tli(1), Tli(6)).unwrap(), []);
        assert_eq!(highest_history_tli(dir.path()).unwrap(), Tli(5));
        assert_eq!(history(dir.path(), Tli(3)).unwrap().ancestors.len(), 1);
        assert!(matches!(history(dir.path(), Tli(4)), Err(HistoryError::Stub { .. })));
        assert_eq!(remove_stub_histories(dir.path()).unwrap(), [5, 4].map(Tli));
        assert_eq!(highest_history_tli(dir.path()).unwrap(), Tli(3));
        assert!(path_of(dir.path(), Tli(2)).exists(), "below a real one a stub stays");
    }

    #[test]
    fn the_timeline_of_wal_is_the_highest_with_that_byte() {
        let dir = TempDir::new();
        fs::create_dir(dir.path().join("pg_wal")).unwrap();
        for name in
            ["000000010000000000000005", "000000020000000000000005", "000000010000000000000006"]
        {
            fs::write(dir.path().join("pg_wal").join(name), "").unwrap();
        }
        let at = |lsn: &str| timeline_of_wal(dir.path(), lsn.parse().unwrap(), 1 << 24).unwrap();
        assert_eq!(at("0/5000028"), Some(Tli(2)));
        assert_eq!(at("0/6000000"), Some(Tli(2)), "the end of segment 5");
        assert_eq!(at("0/6000001"), Some(Tli(1)));
        assert_eq!(at("0/9000000"), None);
    }
}
