//! The processes of one data directory: start, adopt, signal, watch, kill.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::durable;
use crate::error::{At, FileError};
use crate::install::Installation;
use crate::procfs::{self, Owner};
use crate::{history, pidfile, server_log};

pub use crate::children::{has_senders, receiver_pid, startup_pid};
pub use crate::procfs::hold as hold_process_table;
pub use crate::stop::{become_subreaper, kill_all, reap_zombies};
pub use rustix::process::Pid;

#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot start {}: {source}", program.display())]
    Start { program: PathBuf, source: io::Error },
    #[error("a server already runs in {} (process {})", pgdata.display(), pid.as_raw_pid())]
    AlreadyRuns { pgdata: PathBuf, pid: Pid },
    #[error("cannot tell which processes run: {0}")]
    Unseen(#[source] io::Error),
    #[error("cannot watch process {}: {source}", pid.as_raw_pid())]
    Watch { pid: Pid, source: io::Error },
    #[error("cannot signal process {}: {source}", pid.as_raw_pid())]
    Signal { pid: Pid, source: io::Error },
    #[error("process {} is still there after {waited:?}", pid.as_raw_pid())]
    StillThere { pid: Pid, waited: Duration },
    #[error("{count} processes of {} are still there after {waited:?}", pgdata.display())]
    NotKilled { pgdata: PathBuf, count: usize, waited: Duration },
    #[error("Postgres ended while it started; it said:\n{log}")]
    Died { log: String },
    #[error("Postgres was not ready after {waited:?}; it said:\n{log}")]
    NotReady { waited: Duration, log: String },
}

/// How to stop. Fast and immediate also end a sync wait without telling success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM: waits for the sessions to end.
    Smart,
    /// SIGINT: ends the sessions, writes a shutdown checkpoint, drains the standbys.
    Fast,
    /// SIGQUIT: no checkpoint. Takes 5 s when one of the processes is frozen.
    Immediate,
}

/// A running server's first process. Dropping it changes nothing for the server.
#[derive(Debug, Clone)]
pub struct Postmaster {
    pub pid: Pid,
    pidfd: Arc<AsyncFd<OwnedFd>>,
}

/// Starts `postgres -D pgdata` in its own process group, its output appended to `log_path`, and
/// does not wait until it is ready ([`wait_ready`]). Must be called in a tokio runtime.
///
/// Before it takes away what would be in the way: a stale `postmaster.pid`, a leftover `promote`
/// file, stub history files of a promotion that did not take place.
pub fn spawn(
    install: &Installation,
    pgdata: &Path,
    log_path: &Path,
) -> Result<Postmaster, ProcessError> {
    if let Some(&pid) = processes_of(pgdata)?.first() {
        return Err(ProcessError::AlreadyRuns { pgdata: pgdata.to_owned(), pid });
    }
    reap_zombies();
    pidfile::clear_stale(pgdata)?;
    durable::remove(&pgdata.join("promote"))?;
    history::remove_stub_histories(pgdata)?;
    let log = OpenOptions::new().create(true).append(true).mode(0o600).open(log_path);
    let log = log.at("open", log_path)?;
    let log_too = log.try_clone().at("open", log_path)?;
    let mut command = install.command("postgres");
    command.arg("-D").arg(pgdata).stdout(log).stderr(log_too);
    let started = command.spawn().map_err(|source| ProcessError::Start {
        program: install.bin_dir.join("postgres"),
        source,
    })?;
    // std's handle neither kills nor waits when dropped; `exited` reaps.
    let pid = Pid::from_child(&started);
    Postmaster::watch(pid)
}

/// The server that already runs in `pgdata`, started by whomever.
pub fn adopt(pgdata: &Path) -> Result<Option<Postmaster>, ProcessError> {
    let file = match pidfile::read(pgdata) {
        Ok(Some(file)) => file,
        Ok(None) => return Ok(None),
        // Without a descriptor the file cannot be read, but that nothing lives can be told.
        Err(error) => {
            return if processes_of(pgdata)?.is_empty() { Ok(None) } else { Err(error.into()) };
        }
    };
    let unseen = ProcessError::Unseen;
    let owner = Owner::of(pgdata).map_err(unseen)?;
    let is_child_of_server = |pid: Pid| {
        let parent = procfs::stat(pid)?.and_then(|s| Pid::from_raw(s.parent));
        parent.map_or(Ok(false), |parent| owner.owns(parent))
    };
    if !owner.owns(file.pid).map_err(unseen)? || is_child_of_server(file.pid).map_err(unseen)? {
        return Ok(None);
    }
    let postmaster = match Postmaster::watch(file.pid) {
        Err(ProcessError::Watch { source, .. })
            if source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            return Ok(None);
        }
        other => other?,
    };
    // Looked at again now that the pidfd pins the process: the pid may have been reused between.
    Ok(owner.owns(file.pid).map_err(unseen)?.then_some(postmaster))
}

impl Postmaster {
    fn watch(pid: Pid) -> Result<Self, ProcessError> {
        let pidfd = open_pidfd(pid).map_err(|source| ProcessError::Watch { pid, source })?;
        Ok(Postmaster { pid, pidfd: Arc::new(pidfd) })
    }

    /// Waits until the process has ended, and reaps it if it was our child. "Exited" is not
    /// "stopped": other processes of the directory may still commit ([`processes_of`]).
    pub async fn exited(&self) {
        wait_readable(&self.pidfd).await;
        reap_through(&self.pidfd);
    }

    /// Whether it is known to have ended already. Asks the pidfd, which takes no other descriptor.
    pub fn has_exited(&self) -> bool {
        let mut fds = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
    }

    /// Asks the server to stop. An `Ok` says only that the signal was sent.
    pub fn signal(&self, stop: Stop) -> Result<(), ProcessError> {
        self.send(match stop {
            Stop::Smart => Signal::TERM,
            Stop::Fast => Signal::INT,
            Stop::Immediate => Signal::QUIT,
        })
    }

    /// Makes the server read its configuration again. When the call returns, the postmaster may
    /// not even have seen the signal; a *fresh* connection that shows the new value proves it.
    pub fn reload(&self) -> Result<(), ProcessError> {
        self.send(Signal::HUP)
    }

    /// Through the pidfd: never hits another process, however late.
    pub(crate) fn send(&self, signal: Signal) -> Result<(), ProcessError> {
        rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal)
            .map_err(|e| ProcessError::Signal { pid: self.pid, source: e.into() })
    }
}

/// The server processes of `pgdata`; zombies do not count, other programs neither. All of them, or
/// [`ProcessError::Unseen`]: that nothing is listed proves that nothing lives.
pub fn processes_of(pgdata: &Path) -> Result<Vec<Pid>, ProcessError> {
    let list = || {
        let owner = Owner::of(pgdata)?;
        let mut found = Vec::new();
        for pid in procfs::all()? {
            if owner.owns(pid)? {
                found.push(pid);
            }
        }
        Ok(found)
    };
    list().map_err(ProcessError::Unseen)
}

/// Waits until the server takes connections. `standby`: hot standby, consistent. Polls
/// `postmaster.pid` every 2 ms. Log lines of this start are quoted in the error.
pub async fn wait_ready(
    pgdata: &Path,
    postmaster: &Postmaster,
    log_path: &Path,
    within: Duration,
) -> Result<(), ProcessError> {
    let ready = async {
        loop {
            let file = pidfile::read(pgdata)?;
            // An older file of another process says nothing.
            let status = file.filter(|f| f.pid == postmaster.pid).and_then(|f| f.status);
            if matches!(status.as_deref(), Some("ready" | "standby")) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::select! {
        result = ready => result,
        () = postmaster.exited() => {
            Err(ProcessError::Died { log: last_words(&server_log::newest(pgdata, log_path)) })
        }
        () = tokio::time::sleep(within) => {
            let log = last_words(&server_log::newest(pgdata, log_path));
            Err(ProcessError::NotReady { waited: within, log })
        }
    }
}

/// Triggers a promotion and does not wait: seeing `pg_is_in_recovery()` turn false over an open
/// connection is the proof.
pub fn promote(pgdata: &Path, postmaster: &Postmaster) -> Result<(), ProcessError> {
    let path = pgdata.join("promote");
    std::fs::write(&path, b"").at("create", &path)?;
    durable::give_to_owner_of_dir(&path)?;
    postmaster.send(Signal::USR1)
}

/// Sends SIGTERM; a process that is gone is no error.
pub fn terminate(pid: Pid) -> Result<(), ProcessError> {
    match rustix::process::kill_process(pid, Signal::TERM) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(e) => Err(ProcessError::Signal { pid, source: e.into() }),
    }
}

/// Waits until `pid` has ended (a zombie has), child of ours or not.
pub async fn wait_gone(pid: Pid, within: Duration) -> Result<(), ProcessError> {
    let pidfd = match open_pidfd(pid) {
        Ok(pidfd) => pidfd,
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => return Ok(()),
        Err(source) => return Err(ProcessError::Watch { pid, source }),
    };
    match tokio::time::timeout(within, wait_readable(&pidfd)).await {
        Ok(()) => {
            reap_through(&pidfd);
            Ok(())
        }
        Err(_) => Err(ProcessError::StillThere { pid, waited: within }),
    }
}

/// The last lines of the server's log.
pub fn log_tail(log_path: &Path) -> String {
    use std::io::{Read, Seek, SeekFrom};
    const BYTES: u64 = 8192;
    let read = || -> io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(log_path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(BYTES)))?;
        let mut bytes = Vec::new();
        file.take(BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => crate::tool::tail(&String::from_utf8_lossy(&bytes), 12),
        Err(e) => format!("(cannot read {}: {e})", log_path.display()),
    }
}

/// What the server said last about itself, in short: this is read by people who may not see its
/// log, so nothing of what clients sent (statements, details), and nothing about their attempts.
fn last_words(log_path: &Path) -> String {
    let words = words_of(&log_tail(log_path));
    let path = log_path.display();
    if words.is_empty() { format!("see {path}") } else { format!("{words} (more in {path})") }
}

fn words_of(log: &str) -> String {
    const LEVELS: [&str; 3] = ["PANIC:  ", "FATAL:  ", "LOG:  "];
    const NOISE: [&str; 8] = [
        "the database system is",
        "database system is shut down",
        "starting PostgreSQL",
        "listening on",
        "redirecting log output",
        "authentication failed",
        "pg_hba.conf entry",
        "connection ",
    ];
    const BYTES: usize = 300;
    let said = |line: &str| -> Option<String> {
        if line.starts_with(char::is_whitespace) {
            return None; // the rest of somebody's statement
        }
        let level = LEVELS.iter().find_map(|level| line.split_once(level)).map(|(_, words)| words);
        let words = level.or_else(|| line.strip_prefix("postgres: "))?;
        (!NOISE.iter().any(|noise| words.contains(noise))).then(|| words.trim().to_owned())
    };
    let mut text = String::new();
    for words in log.lines().rev().filter_map(said) {
        if text.contains(&words) {
            continue;
        }
        let longer = if text.is_empty() { words } else { format!("{words}; {text}") };
        if longer.len() > BYTES && !text.is_empty() {
            break;
        }
        text = longer;
    }
    text.truncate(text.floor_char_boundary(BYTES));
    text
}

/// Takes the exit status of a Postgres process if it is our child and has ended, so that no zombie
/// stays: to Postgres a zombie that is named in a lock file is alive.
pub(crate) fn reap(pid: Pid) {
    // What cannot be seen now is reaped another time.
    if matches!(procfs::stat(pid), Ok(Some(s)) if s.zombie && s.name == "postgres") {
        // Not our child: then it is not for us to do.
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
    }
}

/// As [`reap`]; cannot meet another process that got the same pid.
fn reap_through(pidfd: &AsyncFd<OwnedFd>) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let _ = rustix::process::waitid(WaitId::PidFd(pidfd.get_ref().as_fd()), options);
}

// Deprecated because it takes types whose descriptor can change or close under it; an `OwnedFd`
// cannot. Its successor is an unsafe function, and there is no unsafe code here.
#[allow(deprecated)]
fn open_pidfd(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

/// A pidfd becomes readable when the process ends, and stays so.
async fn wait_readable(pidfd: &AsyncFd<OwnedFd>) {
    // An error means that the runtime shuts down; there is nobody to tell then.
    let _ = pidfd.readable().await;
}

#[cfg(test)]
mod tests {
    use super::words_of;

    #[test]
    fn a_log_is_told_in_short_and_without_what_clients_sent() {
        let log = "2026-12-01 00:00:00 UTC [7] LOG:  invalid value for parameter \"work_mem\"\n\
            2026-12-01 00:00:00 UTC [9] ERROR:  cannot execute ALTER ROLE\n\
            2026-12-01 00:00:00 UTC [9] STATEMENT:  alter role app\n\
            \tpassword 'hunter2'\n\
            2026-12-01 00:00:00 UTC [9] FATAL:  the database system is starting up\n\
            2026-12-01 00:00:00 UTC [7] FATAL:  configuration file contains errors\n\
            2026-12-01 00:00:00 UTC [7] LOG:  database system is shut down\n";
        let words = "invalid value for parameter \"work_mem\"; configuration file contains errors";
        assert_eq!(words_of(log), words);
        assert_eq!(
            words_of("postgres: could not access the directory"),
            "could not access the directory"
        );
        let lengthy = format!("LOG:  {}\nFATAL:  end", "é".repeat(400));
        assert_eq!(words_of(&lengthy), "end");
    }
}
