//! Runs the programs that come with Postgres: bounded in time, killed when the caller gives up,
//! their messages kept for the error.

use std::fs;
use std::io;
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

/// Kills programs called `program` that have `dir` among their arguments: a keeper that was killed
/// leaves its `pg_basebackup` or `pg_rewind` behind, and two writers in one directory destroy it.
/// Returns how many there were; they are gone when it returns, or 5 s have passed.
pub async fn kill_strays(program: &str, dir: &Path) -> usize {
    let wanted = dir.as_os_str().as_encoded_bytes();
    let mut strays = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(number) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let Some(pid) = Pid::from_raw(number) else { continue };
        let cmdline = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let mut args = cmdline.split(|b| *b == 0);
        let name = args.next().unwrap_or_default();
        let is_program = name.rsplit(|b| *b == b'/').next() == Some(program.as_bytes());
        let names_dir =
            args.any(|arg| arg == wanted || arg.strip_prefix(b"--pgdata=") == Some(wanted));
        if is_program && names_dir {
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
