//! One keeper per data directory, whatever state directories, names and ports they are given.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

use vigil_daemon::Failure;

/// Held for as long as the process lives. A name in the kernel, not a file: a clone replaces the
/// directory, a rewind the files in it, and a crash leaves nothing behind.
#[derive(Debug)]
pub struct Claim(#[expect(dead_code, reason = "its life is what counts")] UnixListener);

impl Claim {
    /// # Errors
    /// Another keeper is at work there.
    pub fn of(pgdata: &Path) -> Result<Self, Failure> {
        let mut hash = DefaultHasher::new();
        real(pgdata).hash(&mut hash);
        let name = format!("pgvigil-keeper-{:016x}", hash.finish());
        let bound = SocketAddr::from_abstract_name(name)
            .and_then(|address| UnixListener::bind_addr(&address));
        match bound {
            Ok(listener) => Ok(Claim(listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(Failure::prerequisite(
                format!("another keeper is running for PGDATA {}", pgdata.display()),
            )
            .hint("stop it first, or give this node a --pgdata of its own")),
            Err(error) => Err(Failure::prerequisite(format!(
                "cannot claim PGDATA {}: {error}",
                pgdata.display()
            ))),
        }
    }
}

/// The path without links; the directory itself need not exist yet.
fn real(pgdata: &Path) -> PathBuf {
    if let Ok(path) = pgdata.canonicalize() {
        return path;
    }
    let parent = pgdata.parent().and_then(|parent| parent.canonicalize().ok());
    let name = pgdata.file_name().unwrap_or_else(|| OsStr::new(""));
    parent.map_or_else(|| pgdata.to_owned(), |parent| parent.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_second_claim_is_refused_by_whatever_path() {
        let dir = TempDir::new();
        let pgdata = dir.path().join("pg");
        let first = Claim::of(&pgdata).unwrap();
        let roundabout = dir.path().join(".").join("pg");
        assert!(Claim::of(&roundabout).unwrap_err().message.contains("another keeper"));
        assert!(Claim::of(&dir.path().join("other")).is_ok());
        drop(first);
        assert!(Claim::of(&pgdata).is_ok());
    }
}
