//! The keeper's own directory: the record that must be on disk before it is acted on, and the mark
//! of the data directory that the record belongs to. One keeper at a time holds its lock.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vigil_core::node::record::NodeRecord;
use vigil_daemon::Failure;
use vigil_postgres::FileError;
use vigil_postgres::durable;

use crate::identity::Mark;

const RECORD: &str = "node.json";
const MARK: &str = "pgdata.json";
const LOCK: &str = "lock";

/// An open state directory. The lock is held until it is dropped, or the process ends.
#[derive(Debug)]
pub struct StateDir {
    dir: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Opens the directory, makes it if there is none, and locks it.
    ///
    /// # Errors
    /// It cannot be made or written, or another keeper uses it.
    pub fn open(dir: &Path) -> Result<Self, Failure> {
        let cannot = |action: &str, e: io::Error| {
            Failure::prerequisite(format!("cannot {action} state directory {}: {e}", dir.display()))
                .hint("name a directory that this user may write with --state-dir")
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| cannot("create", e))?;
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join(LOCK))
            .map_err(|e| cannot("write to", e))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(StateDir { dir: dir.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Failure::prerequisite(format!(
                "another keeper is running with state directory {}",
                dir.display()
            ))
            .hint("stop it first, or give each node a --pgdata and --state-dir of its own")),
            Err(e) => Err(cannot("lock", e.into())),
        }
    }

    /// The record in a directory that is not opened yet, if there is a readable one.
    pub fn peek(dir: &Path) -> Option<NodeRecord> {
        serde_json::from_slice(&fs::read(dir.join(RECORD)).ok()?).ok()
    }

    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn load_record(&self) -> Result<Option<NodeRecord>, Failure> {
        self.load(RECORD)
    }

    /// Durable when it returns.
    ///
    /// # Errors
    /// The disk.
    pub fn save_record(&self, record: &NodeRecord) -> Result<(), FileError> {
        self.save(RECORD, record)
    }

    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn load_mark(&self) -> Result<Option<Mark>, Failure> {
        self.load(MARK)
    }

    /// Durable when it returns.
    ///
    /// # Errors
    /// The disk.
    pub fn save_mark(&self, mark: &Mark) -> Result<(), FileError> {
        self.save(MARK, mark)
    }

    /// Forgets who this node was: it joins as a new one. What it was is kept in one old file.
    ///
    /// # Errors
    /// The disk.
    pub fn forget(&self) -> Result<(), FileError> {
        let record = self.dir.join(RECORD);
        if let Ok(old) = fs::read(&record) {
            durable::write(&self.dir.join("node.json.old"), &old)?;
        }
        durable::remove(&record)?;
        durable::remove(&self.dir.join(MARK))?;
        Ok(())
    }

    fn load<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Failure> {
        let path = self.dir.join(name);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                let text = format!("cannot read {}: {e}", path.display());
                return Err(Failure::prerequisite(text));
            }
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|e| {
            Failure::prerequisite(format!("state file {} is damaged: {e}", path.display()))
                .hint("move it away: this node then joins as a new one and keeps its data")
        })
    }

    fn save<T: Serialize>(&self, name: &str, value: &T) -> Result<(), FileError> {
        let path = self.dir.join(name);
        let mut text = serde_json::to_vec_pretty(value).map_err(|e| FileError {
            action: "encode",
            path: path.clone(),
            source: e.into(),
        })?;
        text.push(b'\n');
        // Also where the temporary file beside it is what failed: that name tells nobody anything.
        durable::write(&path, &text).map_err(|error| FileError { path, ..error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use vigil_core::ids::{Epoch, NodeId};

    fn record() -> NodeRecord {
        let mut record = NodeRecord::new("default".into(), 0, "node1".into());
        record.node_id = Some(NodeId(7));
        record.promise = Epoch(3);
        record
    }

    #[test]
    fn what_was_saved_is_loaded_and_a_torn_write_is_not() {
        let dir = TempDir::new();
        let state = StateDir::open(dir.path()).unwrap();
        assert_eq!(state.load_record().unwrap(), None);
        state.save_record(&record()).unwrap();
        // A crash in the middle of the next write leaves a temporary file behind.
        fs::write(dir.path().join("node.json.4711-0-1.tmp"), b"{\"formation\": \"def").unwrap();
        assert_eq!(state.load_record().unwrap(), Some(record()));
        let other = NodeRecord { promise: Epoch(4), ..record() };
        state.save_record(&other).unwrap();
        assert_eq!(state.load_record().unwrap(), Some(other));
    }

    #[test]
    fn a_damaged_file_stops_the_keeper_with_a_way_out() {
        let dir = TempDir::new();
        let state = StateDir::open(dir.path()).unwrap();
        fs::write(dir.path().join(RECORD), b"{").unwrap();
        let failure = state.load_record().unwrap_err();
        assert!(failure.lines().contains("damaged") && failure.hint.is_some());
        state.forget().unwrap();
        assert_eq!(state.load_record().unwrap(), None);
    }

    #[test]
    fn one_keeper_at_a_time() {
        let dir = TempDir::new();
        let first = StateDir::open(dir.path()).unwrap();
        let second = StateDir::open(dir.path()).unwrap_err();
        assert!(second.message.contains("another keeper"), "{second}");
        drop(first);
        assert!(StateDir::open(dir.path()).is_ok());
    }
}
