//! The lock file beside the Unix socket. After the death of keeper and Postgres its process id may
//! be a zombie's that nobody reaps, or belong to another program by now: Postgres then refuses to
//! start, although the lock names this very data directory and no process of it lives.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use vigil_postgres::process::ProcessError;
use vigil_postgres::{durable, process};

const EMPTY_FOR: Duration = Duration::from_secs(2);

/// Removes the lock if it is of this data directory and nothing lives there.
pub(crate) fn clear_stale(
    socket_dir: &Path,
    port: u16,
    pgdata: &Path,
) -> Result<bool, ProcessError> {
    let lock = socket_dir.join(format!(".s.PGSQL.{port}.lock"));
    let text = std::fs::read_to_string(&lock).unwrap_or_default();
    if is_empty_leftover(&lock) && process::processes_of(pgdata)?.is_empty() {
        let socket = socket_dir.join(format!(".s.PGSQL.{port}"));
        if UnixStream::connect(&socket).is_err() {
            tracing::warn!(lock = %lock.display(), "removing an empty lock file");
            return Ok(durable::remove(&lock)?);
        }
    }
    // Of another data directory, or none: Postgres itself decides.
    if directory_in(&text).as_deref() != Some(pgdata) || !process::processes_of(pgdata)?.is_empty()
    {
        return Ok(false);
    }
    tracing::debug!(lock = %lock.display(), "removing a stale lock file");
    Ok(durable::remove(&lock)?)
}

/// A power cut can leave it empty; a server that is just being started fills it at once.
fn is_empty_leftover(lock: &Path) -> bool {
    let Ok(meta) = std::fs::metadata(lock) else { return false };
    let age = meta.modified().ok().and_then(|at| at.elapsed().ok());
    meta.len() == 0 && age.is_some_and(|age| age > EMPTY_FOR)
}

/// Line 2: the data directory.
fn directory_in(text: &str) -> Option<PathBuf> {
    text.lines().nth(1).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn only_the_lock_of_our_own_dead_server_goes() {
        let dir = TempDir::new();
        let lock = dir.path().join(".s.PGSQL.5499.lock");
        std::fs::write(&lock, "4711\n/data/other\n1\n5499\n/tmp\n").unwrap();
        assert!(!clear_stale(dir.path(), 5499, Path::new("/data/n1")).unwrap());
        assert!(clear_stale(dir.path(), 5499, Path::new("/data/other")).unwrap());
        assert!(!lock.exists());
        let file = std::fs::File::create(&lock).unwrap();
        assert!(!clear_stale(dir.path(), 5499, Path::new("/data/n1")).unwrap(), "it is new");
        file.set_modified(std::time::SystemTime::now() - 2 * EMPTY_FOR).unwrap();
        assert!(clear_stale(dir.path(), 5499, Path::new("/data/n1")).unwrap());
    }
}
