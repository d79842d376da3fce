//! `global/pg_control`, read in this process: running `pg_controldata` costs 20-30 ms.
//!
//! Layout from `src/include/catalog/pg_control.h`; the part that is read here is the same from
//! PostgreSQL 13 (control version 1300) to 18 (1800), only the checksum's place differs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vigil_core::limits::Limits;
use vigil_core::wal::{Lsn, Tli};

use crate::crc32c::crc32c;
use crate::durable;
use crate::error::{At, FileError};

/// What `pg_control` says. It is the truth about a stopped server, and a hint about a running one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// Given by initdb, the same on all nodes of a group.
    pub system_id: u64,
    /// 1300 for PostgreSQL 13 to 16, 1700, 1800.
    pub control_version: u32,
    pub catalog_version: u32,
    pub state: ControlState,
    /// Start of the last checkpoint record. After a fast stop it is the end of all WAL but itself.
    pub checkpoint: Lsn,
    /// Where recovery would begin.
    pub redo: Lsn,
    /// Timeline of that checkpoint. After a promotion it stays the old one until the next
    /// checkpoint ends.
    pub checkpoint_tli: Tli,
    /// A standby is consistent from here on; zero on a primary.
    pub min_recovery: Lsn,
    /// Timeline of `min_recovery`; 0 on a primary.
    pub min_recovery_tli: Tli,
    /// `wal_log_hints` of the last run.
    pub wal_log_hints: bool,
    /// Whether data pages have checksums. `pg_rewind` needs them or `wal_log_hints`.
    pub data_checksums: bool,
    /// Bytes in a WAL segment.
    pub wal_segment_size: u64,
    /// Of the primary that wrote the WAL so far.
    pub limits: Limits,
}

/// `DBState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ControlState {
    /// initdb has not run to its end.
    StartingUp,
    /// A primary that was stopped cleanly: no WAL can be inserted any more.
    ShutDown,
    /// A standby that was stopped cleanly.
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ControlState {
    /// Whether `pg_rewind` takes it: stopped cleanly, as primary or as standby.
    pub fn is_clean(self) -> bool {
        matches!(self, ControlState::ShutDown | ControlState::ShutDownInRecovery)
    }

    fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => ControlState::StartingUp,
            1 => ControlState::ShutDown,
            2 => ControlState::ShutDownInRecovery,
            3 => ControlState::ShuttingDown,
            4 => ControlState::InCrashRecovery,
            5 => ControlState::InArchiveRecovery,
            6 => ControlState::InProduction,
            _ => return None,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} is damaged or of an unknown format: {reason}", path.display())]
    Bad { path: PathBuf, reason: String },
    #[error("{} does not name a PostgreSQL version: `{text}`", path.display())]
    Version { path: PathBuf, text: String },
}

/// Reads `global/pg_control`. A read that falls into a write by the server is repeated, for at
/// most 50 ms.
pub fn read(pgdata: &Path) -> Result<Control, ControlError> {
    let path = pgdata.join("global/pg_control");
    let mut last = None;
    for attempt in 0..50 {
        if attempt > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let bytes = std::fs::read(&path).at("read", &path)?;
        match parse(&bytes) {
            Ok((control, Checked::Sum)) => return Ok(control),
            // Of a version whose checksum we do not find: believed when it reads the same twice.
            Ok((control, Checked::No)) if last.as_deref() == Some(&bytes[..]) => {
                return Ok(control);
            }
            Err(reason) if attempt == 49 => return Err(ControlError::Bad { path, reason }),
            _ => {}
        }
        last = Some(bytes);
    }
    Err(ControlError::Bad { path, reason: "its content changes with every read".to_owned() })
}

/// The major version in `PG_VERSION`.
pub fn pgdata_major(pgdata: &Path) -> Result<u32, ControlError> {
    let path = pgdata.join("PG_VERSION");
    let text = std::fs::read_to_string(&path).at("read", &path)?;
    let text = text.trim();
    text.parse().map_err(|_| ControlError::Version { path, text: text.to_owned() })
}

/// Whether `pgdata` holds a `PG_VERSION` file at all.
pub(crate) fn has_version(pgdata: &Path) -> Result<bool, FileError> {
    durable::read_opt(&pgdata.join("PG_VERSION")).map(|text| text.is_some())
}

enum Checked {
    Sum,
    No,
}

fn parse(bytes: &[u8]) -> Result<(Control, Checked), String> {
    let version = u32_at(bytes, 8)?;
    if version > 1_000_000 {
        return Err(format!("control version {version}: other byte order or not a control file"));
    }
    // Offset of the checksum: 288 up to 17, 292 in 18 (default_char_signedness was added).
    let checksum_offsets: &[usize] = match version {
        1300..=1799 => &[288],
        1800 => &[292],
        _ => &[],
    };
    let sum_ok =
        |&at: &usize| bytes.get(..at).is_some_and(|body| u32_at(bytes, at) == Ok(crc32c(body)));
    let checked = match checksum_offsets {
        [] => Checked::No,
        offsets if offsets.iter().any(sum_ok) => Checked::Sum,
        _ => return Err(format!("wrong checksum (control version {version})")),
    };
    // floatFormat: a constant that stands behind all fields whose place we rely on.
    if f64::from_bits(u64_at(bytes, 208)?).to_bits() != 1_234_567.0_f64.to_bits() {
        return Err(format!("unknown layout (control version {version})"));
    }
    let state = u32_at(bytes, 16)?;
    let wal_segment_size = u64::from(u32_at(bytes, 228)?);
    if !wal_segment_size.is_power_of_two() || !(1 << 20..=1 << 30).contains(&wal_segment_size) {
        return Err(format!("WAL segments of {wal_segment_size} bytes"));
    }
    let control = Control {
        system_id: u64_at(bytes, 0)?,
        control_version: version,
        catalog_version: u32_at(bytes, 12)?,
        state: ControlState::from_number(state).ok_or_else(|| format!("state {state}"))?,
        checkpoint: Lsn(u64_at(bytes, 32)?),
        redo: Lsn(u64_at(bytes, 40)?),
        checkpoint_tli: Tli(u32_at(bytes, 48)?),
        min_recovery: Lsn(u64_at(bytes, 136)?),
        min_recovery_tli: Tli(u32_at(bytes, 144)?),
        wal_log_hints: bytes.get(176).is_some_and(|b| *b != 0),
        data_checksums: u32_at(bytes, 252)? != 0,
        wal_segment_size,
        limits: Limits {
            max_connections: u32_at(bytes, 180)?,
            max_worker_processes: u32_at(bytes, 184)?,
            max_wal_senders: u32_at(bytes, 188)?,
            max_prepared_transactions: u32_at(bytes, 192)?,
            max_locks_per_transaction: u32_at(bytes, 196)?,
        },
    };
    Ok((control, checked))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, String> {
    field(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, String> {
    field(bytes, at).map(u64::from_ne_bytes)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], String> {
    let slice = bytes.get(at..at + N).ok_or_else(|| format!("only {} bytes long", bytes.len()))?;
    slice.try_into().map_err(|_| "unreachable: the slice has this length".to_owned())
}
