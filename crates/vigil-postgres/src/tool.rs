//! Runs the programs that come with Postgres: bounded in time, killed when the caller gives up,
//! their messages kept for the error.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("cannot run {program}: {source}")]
    Start { program: String, source: io::Error },
    #[error("{program} failed ({status}): {messages}")]
    Failed { program: String, status: String, messages: String },
    #[error("{program} did not end within {limit:?}; it was killed; it said: {messages}")]
    TimedOut { program: String, limit: Duration, messages: String },
}

impl ToolError {
    /// Whether another node, or its server, is the reason, and only at present. The programs have
    /// words alone to say so (always these: they run with `LC_ALL=C`).
    pub fn passes(&self) -> bool {
        const WORDS: &[&str] = &[
            "connection to server",
            "could not connect",
            "could not receive data",
            "server closed the",
            "too many clients already",
            "remaining connection slots",
            "the database system is",
            "number of requested standby connections exceeds",
            "is active for PID",
        ];
        match self {
            ToolError::Failed { messages, .. } | ToolError::TimedOut { messages, .. } => {
                WORDS.iter().any(|words| messages.contains(words))
            }
            ToolError::Start { .. } => false,
        }
    }
}

/// Runs `command` to its end and returns what it printed (stdout, then stderr). Dropping the
/// future kills the program with all its children.
pub(crate) async fn run(mut command: Command, within: Duration) -> Result<String, ToolError> {
    let path = Path::new(command.get_program());
    let program = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = tokio::process::Command::from(command).kill_on_drop(true).spawn();
    let mut child =
        started.map_err(|source| ToolError::Start { program: program.clone(), source })?;
    let _group = KillGroup(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));

    let mut out = child.stdout.take();
    let mut err = child.stderr.take();
    let (mut out_text, mut err_text) = (String::new(), String::new());
    let all = async {
        tokio::join!(drain(&mut out, &mut out_text), drain(&mut err, &mut err_text));
        child.wait().await
    };
    let ended = tokio::time::timeout(within, all).await;
    let messages = format!("{out_text}{err_text}");
    match ended {
        Ok(Ok(status)) if status.success() => Ok(messages),
        Ok(Ok(status)) => Err(ToolError::Failed {
            program,
            status: status.to_string(),
            messages: tail(&messages, 20),
        }),
        Ok(Err(source)) => Err(ToolError::Start { program, source }),
        Err(_) => {
            Err(ToolError::TimedOut { program, limit: within, messages: tail(&messages, 20) })
        }
    }
}

/// The last `lines` lines of a text, without the white space around.
pub(crate) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Kills programs called `program` that write into `dir`: a keeper that was killed leaves its
/// `pg_basebackup` or `pg_rewind` behind, and two writers in one directory destroy it. A path on a
/// command line says nothing by itself: other containers have directories of the same name, and
/// their processes may be seen here. What counts is the directory that it is over there.
/// Returns how many there were; they are gone when it returns, or 5 s have passed.
pub async fn kill_strays(program: &str, dir: &Path) -> usize {
    let Some(identity) = identity(dir) else { return 0 };
    let mut strays = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Some(pid) = Pid::from_raw(number) else { continue };
        let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut args = cmdline.split(|b| *b == 0);
        let name = args.next().unwrap_or_default();
        let is_program = name.rsplit(|b| *b == b'/').next() == Some(program.as_bytes());
        if is_program && args.any(|arg| is_over_there(&entry.path(), arg, identity)) {
            strays.push(pid);
        }
    }
    for pid in &strays {
        tracing::warn!(pid = pid.as_raw_pid(), program, dir = %dir.display(), "killing a stray");
        // It may have ended by itself: then there is nothing to do.
        let _ = rustix::process::kill_process(*pid, Signal::KILL);
    }
    for pid in &strays {
        let _ = crate::process::wait_gone(*pid, Duration::from_secs(5)).await;
    }
    strays.len()
}

/// Device and inode.
fn identity(dir: &Path) -> Option<(u64, u64)> {
    fs::metadata(dir).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Whether an argument of a process names this directory, as that process sees it.
fn is_over_there(process: &Path, arg: &[u8], wanted: (u64, u64)) -> bool {
    let path = Path::new(OsStr::from_bytes(arg.strip_prefix(b"--pgdata=").unwrap_or(arg)));
    // Ours name their directories from the root on.
    path.strip_prefix("/")
        .is_ok_and(|path| identity(&process.join("root").join(path)) == Some(wanted))
}

async fn drain<R: AsyncRead + Unpin>(pipe: &mut Option<R>, into: &mut String) {
    let Some(pipe) = pipe else { return };
    let mut buffer = [0; 4096];
    loop {
        match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => into.push_str(&String::from_utf8_lossy(&buffer[..n])),
        }
    }
}

/// Kills the process group of a program when the caller is done with it, however that came.
struct KillGroup(Option<Pid>);

impl Drop for KillGroup {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Usually the group is gone already.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    /// Looks like `pg_basebackup` at work on `dir`, for ten seconds at most.
    fn copying_to(dir: &Path, mounted: Option<&Path>) -> std::process::Child {
        let sleep = ["-c", "exec -a pg_basebackup bash -c 'sleep 10; :' \"$0\""];
        let mut command = Command::new(if mounted.is_some() { "unshare" } else { "bash" });
        if let Some(from) = mounted {
            command.args([
                "--mount",
                "bash",
                "-c",
                "mount --bind \"$1\" \"$2\"; shift 2; exec \"$@\"",
                "sh",
            ]);
            command.arg(from).arg(dir).arg("bash");
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command.args(sleep).arg(dir).spawn().unwrap()
    }

    #[tokio::test]
    async fn only_the_strays_of_this_very_directory_are_killed() {
        let (home, other) = (TempDir::new(), TempDir::new());
        let mut strays = vec![copying_to(home.path(), None)];
        let mut strangers = vec![copying_to(other.path(), None)];
        if rustix::process::geteuid().is_root() {
            // Another container, whose directory has the same path.
            strangers.push(copying_to(home.path(), Some(other.path())));
        }
        let wanted = strays.len() + strangers.len();
        let named = || {
            let all = fs::read_dir("/proc").unwrap().flatten();
            all.filter(|p| {
                let cmdline = fs::read(p.path().join("cmdline")).unwrap_or_default();
                cmdline.starts_with(b"pg_basebackup\0")
                    && [home.path(), other.path()]
                        .iter()
                        .any(|dir| cmdline.ends_with(&[dir.as_os_str().as_bytes(), b"\0"].concat()))
            })
            .count()
        };
        for _ in 0..500 {
            if named() == wanted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(kill_strays("pg_basebackup", home.path()).await, 1);
        for stray in &mut strays {
            // It is gone, and whoever killed it has reaped it as well.
            assert!(stray.wait().map_or(true, |status| !status.success()));
        }
        for stranger in &mut strangers {
            assert!(stranger.try_wait().unwrap().is_none(), "a stranger was killed");
            stranger.kill().unwrap();
            stranger.wait().unwrap();
        }
    }
}
