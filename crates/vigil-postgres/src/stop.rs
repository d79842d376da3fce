//! Killing what lives of a data directory, and proving that nothing is left.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::time::Instant;

use crate::durable;
use crate::pidfile;
use crate::process::{ProcessError, processes_of, reap, wait_gone};
use crate::procfs;

/// Kills every process of `pgdata` (SIGKILL) until none is left, and returns how many there were.
/// Usually 20-30 ms. Then removes `postmaster.pid`.
///
/// The postmaster's process group is not enough: its children are each in a session of their own,
/// and some of them (a busy backend) outlive it and go on committing.
pub async fn kill_all(pgdata: &Path, within: Duration) -> Result<usize, ProcessError> {
    let end = Instant::now() + within;
    let mut killed = std::collections::HashSet::new();
    // Twice without a find: a process that was just being forked in the first look is seen in the
    // second, because its parent was still alive in the first.
    let mut clean_looks = 0;
    loop {
        let alive = processes_of(pgdata)?;
        if alive.is_empty() {
            clean_looks += 1;
            if clean_looks == 2 {
                break;
            }
            continue;
        }
        clean_looks = 0;
        if Instant::now() >= end {
            let count = alive.len();
            return Err(ProcessError::NotKilled {
                pgdata: pgdata.to_owned(),
                count,
                waited: within,
            });
        }
        for pid in alive {
            killed.insert(pid);
            // It may be gone by now.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for pid in &killed {
        // A dying process leaves its directory before it can be reaped, and until it was a start
        // would find its pid in the lock files alive.
        wait_gone(*pid, end.saturating_duration_since(Instant::now())).await?;
        reap(*pid);
    }
    reap_zombies();
    if let Some(file) = pidfile::read(pgdata)? {
        reap(file.pid);
        durable::remove(&pgdata.join("postmaster.pid"))?;
    }
    Ok(killed.len())
}

/// Reaps Postgres processes that were handed to us when their parent died (we are their subreaper
/// or process 1). Nobody else waits for them. Returns how many.
pub fn reap_zombies() -> usize {
    let own = rustix::process::getpid();
    let is_ours =
        |pid: &Pid| matches!(procfs::stat(*pid), Ok(Some(s)) if s.zombie && s.name == "postgres");
    // What cannot be seen now is reaped another time.
    let children = procfs::children(own).unwrap_or_default();
    let zombies: Vec<Pid> = children.into_iter().filter(is_ours).collect();
    for pid in &zombies {
        reap(*pid);
    }
    zombies.len()
}

/// Makes orphans of our children our children, so that we can reap what a killed postmaster
/// leaves. Once at the start of the program.
pub fn become_subreaper() -> Result<(), std::io::Error> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}
