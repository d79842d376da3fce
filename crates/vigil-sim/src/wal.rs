//! The write-ahead log of the model: numbered records, each with the timeline that wrote it.

use vigil_core::wal::{Lsn, Position, TimelineHistory, Tli};

/// Bytes of a record in the model.
pub const RECORD: u64 = 100;

/// Records 1 to `len`, as runs of the same timeline. A timeline belongs to one promotion, so
/// (timeline, number) is a record's identity, and whoever holds a record holds all before it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wal {
    /// (timeline, number of its last record), oldest first.
    runs: Vec<(u32, u64)>,
}

impl Wal {
    pub fn len(&self) -> u64 {
        self.runs.last().map_or(0, |run| run.1)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The timeline of the last record.
    pub fn tli(&self) -> u32 {
        self.runs.last().map_or(1, |run| run.0)
    }

    /// Appends `count` records.
    pub fn push(&mut self, tli: u32, count: u64) {
        let end = self.len() + count;
        match self.runs.last_mut() {
            Some(run) if run.0 == tli => run.1 = end,
            _ => self.runs.push((tli, end)),
        }
    }

    /// The timeline of record `number`.
    pub fn tag(&self, number: u64) -> Option<u32> {
        self.runs.iter().find(|run| number <= run.1).map(|run| run.0)
    }

    pub fn holds(&self, tli: u32, number: u64) -> bool {
        self.tag(number) == Some(tli)
    }

    /// How many records both have in common.
    pub fn common(&self, other: &Wal) -> u64 {
        let mut shared = 0;
        for (mine, theirs) in self.runs.iter().zip(&other.runs) {
            if mine.0 != theirs.0 {
                break;
            }
            shared = mine.1.min(theirs.1);
            if mine.1 != theirs.1 {
                break;
            }
        }
        shared
    }

    pub fn is_prefix_of(&self, other: &Wal) -> bool {
        self.common(other) == self.len()
    }

    /// The first `len` records.
    #[must_use]
    pub fn up_to(&self, len: u64) -> Wal {
        let mut runs = Vec::with_capacity(self.runs.len());
        let mut start = 0;
        for (tli, end) in &self.runs {
            if start >= len {
                break;
            }
            runs.push((*tli, (*end).min(len)));
            start = *end;
        }
        Wal { runs }
    }

    /// Whether a server on this WAL came through `tli`, and how far.
    pub fn left(&self, tli: u32) -> Option<u64> {
        self.runs.iter().find(|run| run.0 == tli).map(|run| run.1)
    }

    pub fn lsn(number: u64) -> Lsn {
        Lsn(number * RECORD)
    }

    pub fn number(lsn: Lsn) -> u64 {
        lsn.0 / RECORD
    }

    pub fn end(&self) -> Position {
        Position { tli: Tli(self.tli()), lsn: Self::lsn(self.len()) }
    }

    pub fn history(&self) -> TimelineHistory {
        let left = self.runs.len().saturating_sub(1);
        let ancestors = self.runs[..left]
            .iter()
            .map(|run| Position { tli: Tli(run.0), lsn: Self::lsn(run.1) })
            .collect();
        TimelineHistory { tli: Tli(self.tli()), ancestors }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wal(runs: &[(u32, u64)]) -> Wal {
        Wal { runs: runs.to_vec() }
    }

    #[test]
    fn records_are_known_by_timeline_and_number() {
        let (old, new) = (wal(&[(1, 10)]), wal(&[(1, 8), (3, 12)]));
        assert_eq!((old.common(&new), new.common(&old)), (8, 8));
        assert!(!old.is_prefix_of(&new) && old.up_to(8).is_prefix_of(&new));
        assert!(new.holds(3, 9) && new.holds(1, 8) && !new.holds(1, 9) && !new.holds(3, 13));
        assert_eq!(new.up_to(9), wal(&[(1, 8), (3, 9)]));
        assert_eq!(new.left(1), Some(8));
        assert_eq!(wal(&[]).common(&new), 0);
        assert_eq!(new.history().ancestors, [old.up_to(8).end()]);
    }
}
