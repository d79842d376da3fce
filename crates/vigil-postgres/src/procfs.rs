//! Which processes belong to a data directory, from `/proc`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The name of the program, kept also by a zombie.
    pub(crate) name: String,
    pub(crate) zombie: bool,
    pub(crate) parent: i32,
}

/// `None` when there is no such process.
pub(crate) fn stat(pid: Pid) -> Option<Stat> {
    let text = fs::read_to_string(dir(pid).join("stat")).ok()?;
    // `pid (name) state ppid …`; the name may hold anything, also parentheses.
    let (head, rest) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    Some(Stat { name, zombie: matches!(state, "Z" | "X"), parent })
}

/// The title that a Postgres process has given itself; empty for a zombie.
pub(crate) fn title(pid: Pid) -> String {
    let bytes = fs::read(dir(pid).join("cmdline")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    text.trim_end_matches('\0').replace('\0', " ").trim().to_owned()
}

/// The pids of all processes.
pub(crate) fn all() -> Vec<Pid> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        if let Ok(number) = entry.file_name().to_string_lossy().parse() {
            pids.extend(Pid::from_raw(number));
        }
    }
    pids
}

/// Recognises the processes of one data directory.
pub(crate) struct Owner {
    /// Device and inode, `None` when the directory is gone.
    identity: Option<(u64, u64)>,
    /// What the link says once the directory is deleted.
    deleted: PathBuf,
}

impl Owner {
    pub(crate) fn of(pgdata: &Path) -> Self {
        let identity = fs::metadata(pgdata).ok().map(|m| (m.dev(), m.ino()));
        let real = fs::canonicalize(pgdata).unwrap_or_else(|_| pgdata.to_owned());
        let mut deleted = real.into_os_string();
        deleted.push(" (deleted)");
        Owner { identity, deleted: deleted.into() }
    }

    /// Whether `pid` is a server process of the directory: its working directory is this one and
    /// it runs `postgres`. The second keeps an administrator's shell alive who looks around there.
    /// Zombies have neither.
    pub(crate) fn owns(&self, pid: Pid) -> bool {
        let cwd = dir(pid).join("cwd");
        let here = match fs::metadata(&cwd) {
            Ok(meta) if self.identity == Some((meta.dev(), meta.ino())) => true,
            _ => fs::read_link(&cwd).is_ok_and(|link| link == self.deleted),
        };
        // After a package upgrade the link says `postgres (deleted)`.
        here && fs::read_link(dir(pid).join("exe")).is_ok_and(|exe| {
            exe.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"postgres"))
        })
    }
}

fn dir(pid: Pid) -> PathBuf {
    PathBuf::from(format!("/proc/{}", pid.as_raw_pid()))
}

/// The children of `parent`, zombies included. By a walk over `/proc`: the kernel's list in
/// `task/<tid>/children` may miss some while others end (`man 5 proc`), and is not in every kernel.
pub(crate) fn children(parent: Pid) -> Vec<Pid> {
    let mut found = all();
    found.retain(|pid| stat(*pid).is_some_and(|s| s.parent == parent.as_raw_pid()));
    found
}
