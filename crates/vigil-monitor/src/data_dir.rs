//! The monitor's data directory: what may be one, making it, and the lock on it.
//!
//! ```text
//! <data-dir>/vigil-monitor.lock    flock while a monitor runs; its presence says: this is ours
//! <data-dir>/pgdata/               the Postgres with the monitor's state
//! <data-dir>/postgres.log          what that Postgres says
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, FlockOperation, access, flock};
use vigil_daemon::Failure;
use vigil_postgres::install::RunAs;

const LOCK: &str = "vigil-monitor.lock";

/// Paths below a data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DataDir {
    pub path: PathBuf,
}

/// Held while the monitor runs.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl DataDir {
    pub fn new(path: PathBuf) -> Self {
        DataDir { path }
    }

    pub fn pgdata(&self) -> PathBuf {
        self.path.join("pgdata")
    }

    pub fn postgres_log(&self) -> PathBuf {
        self.path.join("postgres.log")
    }

    fn lock_file(&self) -> PathBuf {
        self.path.join(LOCK)
    }

    /// Whether it is, or can be made, a data directory of ours. Changes nothing.
    pub fn check(&self) -> Result<(), Failure> {
        let shown = self.path.display();
        match fs::metadata(&self.path) {
            Ok(meta) if !meta.is_dir() => {
                return Err(Failure::prerequisite(format!("{shown} is not a directory")));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => return self.check_parent(),
            Err(e) => return Err(cannot("look at", &self.path, &e)),
        }
        if access(&self.path, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK).is_err() {
            return Err(Failure::prerequisite(format!(
                "the data directory {shown} is not writable for user {}",
                vigil_postgres::user::current_user()
            )));
        }
        let entries = fs::read_dir(&self.path).map_err(|e| cannot("list", &self.path, &e))?;
        let foreign = entries.flatten().find(|e| e.file_name() != "lost+found");
        match foreign {
            Some(entry) if !self.lock_file().exists() => Err(Failure::prerequisite(format!(
                "{shown} is not empty and not a monitor's data directory: it holds {}",
                entry.file_name().to_string_lossy()
            ))
            .hint("name a new or an empty directory with --data-dir")),
            _ => self.check_lock(),
        }
    }

    fn check_parent(&self) -> Result<(), Failure> {
        let existing = self.path.ancestors().skip(1).find(|p| p.exists());
        let above = existing.unwrap_or(Path::new("/"));
        if !above.is_dir() || access(above, Access::WRITE_OK | Access::EXEC_OK).is_err() {
            return Err(Failure::prerequisite(format!(
                "cannot create {}: {} is not a directory that user {} may write",
                self.path.display(),
                above.display(),
                vigil_postgres::user::current_user()
            )));
        }
        Ok(())
    }

    fn check_lock(&self) -> Result<(), Failure> {
        match File::open(self.lock_file()) {
            Ok(file) => self.try_lock(&file),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(cannot("open", &self.lock_file(), &e)),
        }
    }

    fn try_lock(&self, file: &File) -> Result<(), Failure> {
        let Err(error) = flock(file, FlockOperation::NonBlockingLockExclusive) else {
            return Ok(());
        };
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(cannot("lock", &self.lock_file(), &error.into()));
        }
        let mut holder = String::new();
        let mut file = file;
        let _ = file.read_to_string(&mut holder);
        let holder = match holder.trim() {
            "" => String::new(),
            pid => format!(" (process {pid})"),
        };
        Err(Failure::prerequisite(format!(
            "another vigil-monitor{holder} runs in {}",
            self.path.display()
        )))
    }

    /// Makes it and, as root, gives it to the user that Postgres runs as.
    pub fn create(&self, owner: Option<RunAs>) -> Result<(), Failure> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|e| cannot("create", &self.path, &e))?;
        let Some(RunAs { uid, gid }) = owner else { return Ok(()) };
        let meta = fs::metadata(&self.path).map_err(|e| cannot("look at", &self.path, &e))?;
        if meta.uid() != uid {
            std::os::unix::fs::chown(&self.path, Some(uid), Some(gid))
                .map_err(|e| cannot("change owner of", &self.path, &e))?;
        }
        Ok(())
    }

    /// Takes the lock, for as long as the value lives.
    pub fn lock(&self) -> Result<Lock, Failure> {
        let path = self.lock_file();
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| cannot("open", &path, &e))?;
        self.try_lock(&file)?;
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(|e| cannot("write", &path, &e))?;
        Ok(Lock { _file: file })
    }
}

fn cannot(action: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::prerequisite(format!("cannot {action} {}: {error}", path.display()))
}
