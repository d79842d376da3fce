//! What the server itself says, in its log.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Of the end of a log so much is read, in bytes.
const TAIL: u64 = 64 << 10;

/// Where a server of this directory logs now: the file of its logging collector if it has one, else
/// `log`, where it was told to write at its start.
pub fn newest(pgdata: &Path, log: &Path) -> PathBuf {
    // A server without a collector removes the file.
    let text = std::fs::read_to_string(pgdata.join("current_logfiles")).unwrap_or_default();
    match text.lines().find_map(|line| line.strip_prefix("stderr ")) {
        Some(file) => pgdata.join(file),
        None => log.to_owned(),
    }
}

/// The last error for which `wanted` holds, without time, process and what goes before.
pub fn last_error(log: &Path, wanted: impl Fn(&str) -> bool) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    text.lines().rev().filter_map(error_in).find(|error| wanted(error)).map(str::to_owned)
}

/// `… [17] FATAL:  no space` → `no space`.
fn error_in(line: &str) -> Option<&str> {
    let first = |word: &str| line.find(word).map(|at| (at, at + word.len()));
    let (_, end) =
        ["PANIC:  ", "FATAL:  ", "ERROR:  "].into_iter().filter_map(first).min_by_key(|at| at.0)?;
    Some(line[end..].trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn the_collectors_file_is_the_log_where_there_is_one() {
        let dir = TempDir::new();
        let log = dir.path().join("postgres.log");
        assert_eq!(newest(dir.path(), &log), log);
        let names = "csvlog log/a.csv\nstderr log/a.log\n";
        std::fs::write(dir.path().join("current_logfiles"), names).unwrap();
        assert_eq!(newest(dir.path(), &log), dir.path().join("log/a.log"));
    }

    #[test]
    fn the_last_error_that_is_meant() {
        let dir = TempDir::new();
        let log = dir.path().join("postgres.log");
        assert_eq!(last_error(&log, |_| true), None);
        let text = "\
2026-12-01 04:00:00 UTC [17] FATAL:  could not connect to the primary server: FATAL:  no such role
2026-12-01 04:00:01 UTC [18] LOG:  waiting for WAL
2026-12-01 04:00:02 UTC [19] x@y/psql ERROR:  division by zero
";
        std::fs::write(&log, text).unwrap();
        assert_eq!(last_error(&log, |_| true).as_deref(), Some("division by zero"));
        let receivers = last_error(&log, |e| e.contains("primary server")).unwrap();
        assert!(receivers.starts_with("could not connect to the primary server: FATAL:"));
        assert_eq!(last_error(&log, |e| e.contains("WAL")), None);
    }
}
