//! Whether a promotion kept all WAL that the standby had: it ends where replay ended, and replay
//! ends early at a recovery target or at a record that cannot be read any more.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use vigil_core::wal::{Lsn, Position, Tli};

use crate::history::{self, HistoryError};

/// Bytes of a page of WAL, of its header, and of the longer header of a segment's first page.
const PAGE: u64 = 8192;
const HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

/// The end of a standby's WAL before its promotion.
#[derive(Debug)]
pub struct WalTail {
    pgdata: PathBuf,
    end: Position,
    segment_size: u64,
    /// The last segments, kept open: a promotion renames or removes them. Numbers are LSNs divided
    /// by the segment size.
    files: Vec<(u64, File)>,
}

impl WalTail {
    /// Of a standby without a receiver that is about to be promoted and has WAL up to `end`.
    pub fn of(pgdata: &Path, end: Position, segment_size: u64) -> Self {
        let last = end.lsn.0.saturating_sub(1) / segment_size;
        let open = |number| {
            let path = history::segment_path(pgdata, end.tli, number, segment_size);
            Some((number, File::open(path).ok()?))
        };
        let files = (last.saturating_sub(1)..=last).filter_map(open).collect();
        WalTail { pgdata: pgdata.to_owned(), end, segment_size, files }
    }

    /// Where it ends.
    pub fn end(&self) -> Position {
        self.end
    }

    /// Where the promotion to `tli` forked off, if records that were complete lie behind that. An
    /// incomplete last record is never kept, and nobody was told that it is there.
    pub fn cut_off_at(&self, tli: Tli) -> Result<Option<Lsn>, HistoryError> {
        let history = history::history(&self.pgdata, tli)?;
        let own = history.ancestors.iter().find(|a| a.tli == self.end.tli);
        let Some(fork) = own.map(|a| a.lsn) else { return Ok(None) };
        if fork >= self.end.lsn {
            return Ok(None);
        }
        let is_incomplete = self
            .record_length(fork)
            .is_some_and(|length| self.end_of_record(fork, length) > self.end.lsn.0);
        Ok((!is_incomplete).then_some(fork))
    }

    /// What the record that starts at `fork` says of its length, in bytes; 0 where nothing was
    /// written.
    fn record_length(&self, fork: Lsn) -> Option<u64> {
        let start = self.past_header(fork.0);
        let number = start / self.segment_size;
        let mut bytes = [0; 4];
        let (_, file) = self.files.iter().find(|(n, _)| *n == number)?;
        file.read_exact_at(&mut bytes, start % self.segment_size).ok()?;
        Some(u64::from(u32::from_ne_bytes(bytes)))
    }

    fn end_of_record(&self, fork: Lsn, length: u64) -> u64 {
        let mut at = self.past_header(fork.0);
        let mut left = length;
        loop {
            let room = PAGE - at % PAGE;
            if left <= room {
                return at + left;
            }
            left -= room;
            at = self.past_header(at + room);
        }
    }

    /// A record never starts in a page's header.
    fn past_header(&self, at: u64) -> u64 {
        let header = if at % self.segment_size < PAGE { LONG_HEADER } else { HEADER };
        at.max(at - at % PAGE + header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    const SEGMENT: u64 = 1 << 20;

    /// `fork` and what the record there says of its length, against WAL up to `end`.
    fn cut_off(fork: u64, length: u32, end: u64) -> Option<u64> {
        let dir = TempDir::new();
        std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
        let last = (end - 1) / SEGMENT;
        for number in last.saturating_sub(1)..=last {
            let path = history::segment_path(dir.path(), Tli(1), number, SEGMENT);
            let file = File::create(path).unwrap();
            file.set_len(SEGMENT).unwrap();
            if fork / SEGMENT == number {
                file.write_all_at(&length.to_ne_bytes(), fork % SEGMENT).unwrap();
            }
        }
        let tail = WalTail::of(dir.path(), Position { tli: Tli(1), lsn: Lsn(end) }, SEGMENT);
        // What a promotion does with them.
        for number in last.saturating_sub(1)..=last {
            std::fs::remove_file(history::segment_path(dir.path(), Tli(1), number, SEGMENT))
                .unwrap();
        }
        let text = format!("1\t{}\tno recovery target specified\n", Lsn(fork));
        std::fs::write(dir.path().join("pg_wal/00000002.history"), text).unwrap();
        tail.cut_off_at(Tli(2)).unwrap().map(|lsn| lsn.0)
    }

    #[test]
    fn only_complete_records_are_missed() {
        let at = 5 * SEGMENT + 100 * PAGE + 8000;
        assert_eq!(cut_off(at, 100, at), None, "all of it is kept");
        assert_eq!(cut_off(at, 100, at + 99), None, "an incomplete record");
        assert_eq!(cut_off(at, 100, at + 100), Some(at));
        assert_eq!(cut_off(at, 0, at + 10), Some(at), "that is no record");
        // Over the end of a page, and of a segment.
        assert_eq!(cut_off(at, 200, at + 223), None);
        assert_eq!(cut_off(at, 200, at + 224), Some(at));
        let at = 6 * SEGMENT - 8;
        assert_eq!(cut_off(at, 100, at + 8 + 40 + 91), None);
        assert_eq!(cut_off(at, 100, at + 8 + 40 + 92), Some(at));
        // Far behind what is open: never so much in one record.
        assert_eq!(cut_off(SEGMENT + 40, 100, at), Some(SEGMENT + 40));
    }
}
