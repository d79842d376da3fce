//! Positions in the write-ahead log: LSNs, timelines, and which history a position belongs to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::mutation::{Mutation, broken};

/// A byte position in the WAL. Shown as Postgres shows it (`0/5000028`), stored as `u64`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lsn(pub u64);

impl Lsn {
    pub const ZERO: Lsn = Lsn(0);

    /// Bytes from `earlier` to `self`, 0 if `earlier` is not earlier.
    pub fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not `HEX/HEX`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an LSN: `{0}`, expected two hexadecimal numbers like `0/5000028`")]
pub struct BadLsn(pub String);

impl FromStr for Lsn {
    type Err = BadLsn;

    fn from_str(text: &str) -> Result<Self, BadLsn> {
        let bad = || BadLsn(text.to_owned());
        let (high, low) = text.split_once('/').ok_or_else(bad)?;
        if high.is_empty() || low.is_empty() || high.len() > 8 || low.len() > 8 {
            return Err(bad());
        }
        let parse = |part: &str| u32::from_str_radix(part, 16).map_err(|_| bad());
        Ok(Lsn(u64::from(parse(high)?) << 32 | u64::from(parse(low)?)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A timeline number. In a group it belongs to exactly one promotion: the monitor assigns it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Tli(pub u32);

impl fmt::Display for Tli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How far a node's WAL goes. Ordered by timeline first: because a timeline number belongs to one
/// promotion, this is Raft's (last term, index), and the only order in which positions compare.
/// Bare LSNs do not: a node may hold WAL past a fork.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Position {
    pub tli: Tli,
    pub lsn: Lsn,
}

impl Position {
    /// Whether WAL up to here holds everything that WAL up to `other` holds.
    pub fn reaches(self, other: Position) -> bool {
        if broken(Mutation::BareLsn) { self.lsn >= other.lsn } else { self >= other }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on timeline {}", self.lsn, self.tli)
    }
}

/// The timeline that a server is on and the ones that it came from, as its `.history` file tells.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimelineHistory {
    /// The timeline that the server is on.
    pub tli: Tli,
    /// The ones before, oldest first, each with the LSN at which it was left.
    pub ancestors: Vec<Position>,
}

impl TimelineHistory {
    /// A server that was never promoted.
    pub fn first() -> Self {
        TimelineHistory { tli: Tli(1), ancestors: Vec::new() }
    }

    /// Reads the text of a `.history` file: lines of `tli<TAB>lsn<TAB>reason`, `#` comments.
    pub fn parse(tli: Tli, text: &str) -> Result<Self, BadLsn> {
        let mut ancestors = Vec::new();
        for line in text.lines() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut fields = line.split_whitespace();
            let (Some(number), Some(lsn)) = (fields.next(), fields.next()) else {
                return Err(BadLsn(line.to_owned()));
            };
            let number = number.parse().map_err(|_| BadLsn(line.to_owned()))?;
            ancestors.push(Position { tli: Tli(number), lsn: lsn.parse()? });
        }
        Ok(TimelineHistory { tli, ancestors })
    }

    /// Where this history left timeline `tli`; `None` when it is the current one or foreign.
    pub fn switch_point(&self, tli: Tli) -> Option<Lsn> {
        self.ancestors.iter().find(|a| a.tli == tli).map(|a| a.lsn)
    }

    /// Whether WAL that ends at `end` is a prefix of a server with this history, so that it can be
    /// followed without a rewind. "LSN not above the fork" alone is wrong: the timeline must be an
    /// ancestor (or the current one) and must have been left at or after `end` (DESIGN §4.18).
    pub fn holds(&self, end: Position) -> bool {
        end.tli == self.tli || self.switch_point(end.tli).is_some_and(|left| end.lsn <= left)
    }

    /// The LSN up to which WAL of another history is shared with this one.
    pub fn fork_with(&self, other: &TimelineHistory) -> Option<Position> {
        let left = |h: &TimelineHistory, tli: Tli| match h.switch_point(tli) {
            Some(lsn) => Some(lsn),
            None if h.tli == tli => Some(Lsn(u64::MAX)),
            None => None,
        };
        let mine = self.ancestors.iter().map(|a| a.tli).chain([self.tli]);
        let shared = |tli| {
            let lsn = left(self, tli)?.min(left(other, tli)?);
            Some(Position { tli, lsn })
        };
        mine.rev().find_map(shared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_round_trips_and_bad_text_is_refused() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        for bad in ["", "0", "/", "0/", "/0", "x/0", "0/123456789", "0/0/0", "-1/0"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn history_decides_who_needs_a_rewind() {
        let text = "1\t0/5000000\tno recovery target specified\n\n2\t0/7000000\treason\n";
        let history = TimelineHistory::parse(Tli(3), text).unwrap();
        let at = |tli, lsn: &str| Position { tli: Tli(tli), lsn: lsn.parse().unwrap() };
        assert!(history.holds(at(3, "0/9000000")), "its own timeline");
        assert!(history.holds(at(1, "0/5000000")), "exactly at the fork");
        assert!(!history.holds(at(1, "0/5000001")), "past the fork");
        assert!(!history.holds(at(4, "0/1000000")), "a foreign timeline, however low the LSN");
        let other = TimelineHistory::parse(Tli(4), "1\t0/5000000\tx\n2\t0/6000000\tx\n").unwrap();
        assert_eq!(history.fork_with(&other), Some(at(2, "0/6000000")));
    }
}
