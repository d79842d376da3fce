//! Which processes belong to a data directory, from `/proc`.
//!
//! **An error is not an answer.** "No process lives" is what a failover is begun for, so it is said
//! only when the whole table was read: whoever cannot read it returns the error. The table is held
//! open from the first look on, and looks need as few descriptors as can be: listing the processes
//! of a directory needs none.

use std::fs;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::Errno;
use rustix::process::Pid;

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stat {
    /// The name of the program, kept also by a zombie.
    pub(crate) name: String,
    pub(crate) zombie: bool,
    pub(crate) parent: i32,
}

/// The process table, and a descriptor to be given up when there is no other.
struct Table {
    dir: OwnedFd,
    spare: Option<OwnedFd>,
}

static TABLE: Mutex<Option<Table>> = Mutex::new(None);

/// `PROC_SUPER_MAGIC` of linux/magic.h.
const PROC_MAGIC: i64 = 0x9fa0;

impl Table {
    fn open() -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open("/proc", flags, Mode::empty())?;
        let kind = rustix::fs::fstatfs(&dir)?.f_type;
        // Of another namespace of processes it would list others' processes under our numbers.
        let me = rustix::fs::readlinkat(&dir, "self", Vec::new());
        let own = rustix::process::getpid().as_raw_pid().to_string();
        #[allow(clippy::useless_conversion, reason = "its type differs by platform")]
        if i64::from(kind) != PROC_MAGIC || !me.is_ok_and(|me| me.as_bytes() == own.as_bytes()) {
            return Err(io::Error::other("/proc is not the table of this system's processes"));
        }
        let mut table = Self { dir, spare: None };
        table.keep_a_spare();
        Ok(table)
    }

    fn keep_a_spare(&mut self) {
        if self.spare.is_none() {
            self.spare = rustix::io::fcntl_dupfd_cloexec(&self.dir, 0).ok();
        }
    }

    /// What needs a descriptor, with the spare one if there is no other.
    fn read(&mut self, path: &str) -> io::Result<Vec<u8>> {
        let open = |dir: &OwnedFd| {
            rustix::fs::openat(dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        };
        let opened = match open(&self.dir) {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.spare = None;
                open(&self.dir)
            }
            other => other,
        };
        let result = opened.map_err(io::Error::from).and_then(|fd| {
            let mut bytes = Vec::new();
            fs::File::from(fd).read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        self.keep_a_spare();
        result
    }

    fn numbers(&self) -> io::Result<Vec<Pid>> {
        rustix::fs::seek(&self.dir, SeekFrom::Start(0))?;
        let mut buffer = [MaybeUninit::uninit(); 16 * 1024];
        let mut entries = RawDir::new(&self.dir, &mut buffer);
        let mut pids = Vec::new();
        while let Some(entry) = entries.next() {
            let entry = entry?;
            if let Ok(number) = entry.file_name().to_string_lossy().parse() {
                pids.extend(Pid::from_raw(number));
            }
        }
        if !pids.contains(&rustix::process::getpid()) {
            return Err(io::Error::other("/proc does not show all processes"));
        }
        Ok(pids)
    }
}

/// Opens the table where that was not done yet. A daemon does so at its start, while it has
/// descriptors.
pub fn hold() -> io::Result<()> {
    with_table(|_| Ok(()))
}

fn with_table<T>(work: impl FnOnce(&mut Table) -> io::Result<T>) -> io::Result<T> {
    let mut held = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *held {
        Some(table) => work(table),
        none => work(none.insert(Table::open()?)),
    }
}

/// `None` for what there is no such process for.
fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let gone = [Errno::NOENT, Errno::SRCH].map(|e| Some(e.raw_os_error()));
            if gone.contains(&error.raw_os_error()) { Ok(None) } else { Err(error) }
        }
    }
}

/// `None` when there is no such process.
pub(crate) fn stat(pid: Pid) -> io::Result<Option<Stat>> {
    let path = format!("{}/stat", pid.as_raw_pid());
    let Some(bytes) = if_there(with_table(|table| table.read(&path)))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let parse = || {
        // `pid (name) state ppid …`; the name may hold anything, also parentheses.
        let (head, rest) = text.rsplit_once(')')?;
        let name = head.split_once('(')?.1.to_owned();
        let mut fields = rest.split_whitespace();
        let state = fields.next()?;
        let parent = fields.next()?.parse().ok()?;
        Some(Stat { name, zombie: matches!(state, "Z" | "X"), parent })
    };
    parse().map(Some).ok_or_else(|| io::Error::other(format!("/proc/{path} cannot be read")))
}

/// The title that a Postgres process has given itself; empty for a zombie, and for one that is gone.
pub(crate) fn title(pid: Pid) -> io::Result<String> {
    let path = format!("{}/cmdline", pid.as_raw_pid());
    let bytes = if_there(with_table(|table| table.read(&path)))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_end_matches('\0').replace('\0', " ").trim().to_owned())
}

/// The pids of all processes.
pub(crate) fn all() -> io::Result<Vec<Pid>> {
    with_table(|table| table.numbers())
}

/// Recognises the processes of one data directory.
pub(crate) struct Owner {
    /// Device and inode, `None` when the directory is gone.
    identity: Option<(u64, u64)>,
    /// What the link says once the directory is deleted.
    deleted: PathBuf,
}

impl Owner {
    pub(crate) fn of(pgdata: &Path) -> io::Result<Self> {
        let identity = if_there(fs::metadata(pgdata))?.map(|m| (m.dev(), m.ino()));
        let real = fs::canonicalize(pgdata).unwrap_or_else(|_| pgdata.to_owned());
        let mut deleted = real.into_os_string();
        deleted.push(" (deleted)");
        Ok(Owner { identity, deleted: deleted.into() })
    }

    /// Whether `pid` is a server process of the directory: its working directory is this one and
    /// it runs `postgres`. The second keeps an administrator's shell alive who looks around there.
    /// Zombies have neither.
    pub(crate) fn owns(&self, pid: Pid) -> io::Result<bool> {
        let number = pid.as_raw_pid();
        with_table(|table| {
            let (cwd, exe) = (format!("{number}/cwd"), format!("{number}/exe"));
            let there = |result: rustix::io::Result<_>| mine(result.map_err(io::Error::from));
            let stat = rustix::fs::statat(&table.dir, &cwd, AtFlags::empty());
            let identity = there(stat.map(|s| (s.st_dev, s.st_ino)))?;
            let here = identity.is_some() && identity == self.identity || {
                let link = mine(read_link(&table.dir, &cwd))?;
                link.is_some_and(|link| link == self.deleted)
            };
            // After a package upgrade the link says `postgres (deleted)`.
            let runs = |exe: PathBuf| {
                let name = exe.file_name();
                name.is_some_and(|name| name.as_encoded_bytes().starts_with(b"postgres"))
            };
            Ok(here && mine(read_link(&table.dir, &exe))?.is_some_and(runs))
        })
    }
}

fn read_link(dir: &OwnedFd, path: &str) -> io::Result<PathBuf> {
    let link = rustix::fs::readlinkat(dir, path, Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(link.as_bytes())))
}

/// `None` for what is gone, and for what this user may not see: no server of ours runs as another.
fn mine<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        other => if_there(other),
    }
}

/// The children of `parent`, zombies included. By a walk over `/proc`: the kernel's list in
/// `task/<tid>/children` may miss some while others end (`man 5 proc`), and is not in every kernel.
pub(crate) fn children(parent: Pid) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for pid in all()? {
        if stat(pid)?.is_some_and(|s| s.parent == parent.as_raw_pid()) {
            found.push(pid);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    #[test]
    fn without_descriptors_the_table_is_read_or_the_error_is_told() {
        hold().unwrap();
        let mut child = Command::new("sleep").arg("10").stdout(Stdio::null()).spawn().unwrap();
        let pid = Pid::from_child(&child);
        let owner = Owner::of(Path::new(".")).unwrap();
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum }).unwrap();
        let seen = (all(), owner.owns(pid), stat(pid), title(pid), children(pid));
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
        assert!(seen.0.is_ok_and(|all| all.contains(&pid)), "listing needs none");
        assert!(!seen.1.unwrap(), "sleep is no server");
        seen.2.expect_err("not: there is no such process");
        seen.3.expect_err("not: it has no title");
        seen.4.expect_err("not: it has no children");
        assert_eq!(stat(pid).unwrap().unwrap().name, "sleep", "it heals");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(stat(pid).unwrap(), None);
    }

    #[test]
    fn the_spare_one_is_used_when_there_is_no_other() {
        hold().unwrap();
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
        let mut taken = Vec::new();
        while let Ok(file) = fs::File::open("/dev/null") {
            taken.push(file);
        }
        let me = rustix::process::getpid();
        for _ in 0..3 {
            assert!(stat(me).unwrap().is_some());
        }
        assert!(fs::File::open("/dev/null").is_err(), "and it is kept again");
    }
}
