//! `postmaster.pid`: who runs a data directory, and whether it is ready.

use std::path::Path;

use rustix::process::Pid;

use crate::durable;
use crate::error::FileError;
use crate::process::{ProcessError, processes_of};
use crate::procfs::{self, Owner};

/// The lines of the file that we use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PidFile {
    pub(crate) pid: Pid,
    /// Line 8: `starting`, `ready`, `standby`, `stopping`.
    pub(crate) status: Option<String>,
}

/// `None` when there is no file, or nothing in it yet.
pub(crate) fn read(pgdata: &Path) -> Result<Option<PidFile>, FileError> {
    let text = durable::read_text_opt(&pgdata.join("postmaster.pid"))?.unwrap_or_default();
    Ok(parse(&text))
}

fn parse(text: &str) -> Option<PidFile> {
    let mut lines = text.lines();
    // A single-user server writes its pid with a minus sign.
    let number: i32 = lines.next()?.trim().trim_start_matches('-').parse().ok()?;
    let status = lines.nth(6).map(|s| s.trim().to_owned()).filter(|s| !s.is_empty());
    Some(PidFile { pid: Pid::from_raw(number)?, status })
}

/// Removes a `postmaster.pid` that would block a start for no reason: its pid is now a zombie or
/// somebody else's process, and no process of the directory lives. When the pid is free Postgres
/// itself gets over the file; when a process of the directory lives the file stays: the interlock
/// must hold.
pub(crate) fn clear_stale(pgdata: &Path) -> Result<bool, ProcessError> {
    let Some(file) = read(pgdata)? else {
        // A power cut can leave it empty. A server that is just writing it would be seen.
        let path = pgdata.join("postmaster.pid");
        let is_empty = std::fs::metadata(&path).is_ok_and(|meta| meta.len() == 0);
        if !is_empty || !processes_of(pgdata)?.is_empty() {
            return Ok(false);
        }
        tracing::warn!(pgdata = %pgdata.display(), "removing an empty postmaster.pid");
        return Ok(durable::remove(&path)?);
    };
    crate::process::reap(file.pid);
    let is_free = procfs::stat(file.pid).map_err(ProcessError::Unseen)?.is_none();
    let is_ours = || Owner::of(pgdata)?.owns(file.pid);
    if is_free || is_ours().map_err(ProcessError::Unseen)? || !processes_of(pgdata)?.is_empty() {
        return Ok(false);
    }
    tracing::warn!(
        pid = file.pid.as_raw_pid(),
        pgdata = %pgdata.display(),
        "removing a stale postmaster.pid: its pid belongs to another process now"
    );
    Ok(durable::remove(&pgdata.join("postmaster.pid"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_of_a_dead_server_goes() {
        let dir = crate::testing::TempDir::new();
        let path = dir.path().join("postmaster.pid");
        assert!(!clear_stale(dir.path()).unwrap());
        std::fs::write(&path, "").unwrap();
        assert!(clear_stale(dir.path()).unwrap() && !path.exists());
    }

    #[test]
    fn lines() {
        let text = "4711\n/data\n1700000000\n5432\n/tmp\nlocalhost\n  5432001  65537\nstandby \n";
        let file = parse(text).unwrap();
        assert_eq!((file.pid.as_raw_pid(), file.status.as_deref()), (4711, Some("standby")));
        assert_eq!(parse("4711\n/data\n").unwrap().status, None);
        assert_eq!(parse(""), None);
    }
}
