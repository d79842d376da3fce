//! Becoming a standby of another server: clone, rewind, and keeping what would be lost.

mod basebackup;
mod kept_wal;
mod own_files;
mod rewind;
mod tablespaces;
mod upstream;
mod wal_dir;

pub use basebackup::{Cloned, OldData, basebackup, basebackup_with};
pub use kept_wal::{KeptWal, keep_wal};
pub use own_files::{copy_own_files, put_own_files_aside};
pub use rewind::{Rewound, recover_to_clean, rewind};
pub use upstream::Upstream;

use std::path::PathBuf;

use crate::control::{ControlError, ControlState};
use crate::error::FileError;
use crate::tool::ToolError;

#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Tool(#[from] ToolError),
    #[error(transparent)]
    Process(#[from] crate::process::ProcessError),
    #[error(transparent)]
    Sql(#[from] crate::sql::SqlError),
    #[error("a server runs in {}: stop it first", .0.display())]
    Runs(PathBuf),
    #[error("{} was not stopped cleanly ({state:?}): a rewind needs that", pgdata.display())]
    NotClean { pgdata: PathBuf, state: ControlState },
    #[error(
        "{} has {} MB left, {} MB are needed to keep the WAL that would be given up: make room there",
        dir.display(), left >> 20, needed >> 20
    )]
    NoRoom { dir: PathBuf, needed: u64, left: u64 },
    #[error(
        "a rewind would touch files that are not this node's: another node may have its tablespace in \
         {}", .0.display()
    )]
    SharedPlace(PathBuf),
    #[error("{} has neither checksums nor wal_log_hints: it cannot be rewound", .0.display())]
    NotRewindable(PathBuf),
    #[error("the primary has no replication slot {0} for this node yet")]
    NoSlot(String),
}

impl StandbyError {
    /// Whether it can pass by itself.
    pub fn passes(&self) -> bool {
        match self {
            StandbyError::Tool(error) => error.passes(),
            StandbyError::Sql(error) => error.passes(),
            _ => false,
        }
    }
}
