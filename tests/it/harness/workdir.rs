//! A private directory with the programs in it; whatever runs out of it dies with it.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::disk;
use super::process::{self, Process};

const PREFIX: &str = "pgvigil-it-";
const PROGRAMS: [&str; 4] = ["vigil-monitor", "vigil-keeper", "pgctl", "vigil-exporter"];

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The user that Postgres runs as: `postgres` where we are root, else ourselves.
fn service_user() -> Option<(u32, u32)> {
    if !is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("root needs a user postgres: Postgres refuses to run as root");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

pub(super) fn as_service_user(command: &mut Command) -> &mut Command {
    if let Some((uid, gid)) = service_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// The PostgreSQL under test.
pub(crate) fn postgres_bin() -> PathBuf {
    if let Some(dir) = std::env::var_os("PGVIGIL_TEST_PG_BIN") {
        return dir.into();
    }
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("postgres").exists())
        .collect();
    found.sort();
    found.pop().expect("no PostgreSQL below /usr/lib/postgresql: name one in PGVIGIL_TEST_PG_BIN").1
}

/// Where the programs were built.
fn built() -> PathBuf {
    if let Some(dir) = std::env::var_os("PGVIGIL_BIN_DIR") {
        return dir.into();
    }
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    ["release", "debug"]
        .iter()
        .map(|profile| target.join(profile))
        .find(|dir| PROGRAMS.iter().all(|p| dir.join(p).exists()))
        .expect(
            "build the programs first (cargo build), or name their directory in PGVIGIL_BIN_DIR",
        )
}

/// Where there are programs with fail points: builds with debug assertions have them.
pub(crate) fn built_with_fail_points() -> Option<PathBuf> {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(usual, PathBuf::from);
    let has_them = |dir: &PathBuf| {
        PROGRAMS[..2].iter().all(|program| {
            let bytes = fs::read(dir.join(program)).unwrap_or_default();
            bytes.windows(17).any(|w| w == b"PGVIGIL_FAILPOINT")
        })
    };
    let dirs = std::env::var_os("PGVIGIL_BIN_DIR").map(PathBuf::from).into_iter();
    dirs.chain([target.join("debug")]).find(has_them)
}

/// So many scenarios at a time: what they wait for is mostly time itself, and two clusters on two
/// cores leave each other enough. More would measure each other.
const AT_ONCE: u16 = 2;

/// So many ports belong to each of them.
const PORTS: u16 = 6_000;

/// One of the places in which a scenario may run, within this process and among all processes of
/// this machine, for as long as its file is locked.
struct Turn {
    _file: File,
}

/// The place of this process, which owns a range of ports: nextest gives each scenario a process.
static PLACE: AtomicU16 = AtomicU16::new(0);

fn turn() -> Turn {
    let mut said = false;
    loop {
        for place in 0..AT_ONCE {
            let path = std::env::temp_dir().join(format!("pgvigil-it.{place}.lock"));
            // Another user's lock file cannot be written, but it can be locked.
            let file = File::open(&path).unwrap_or_else(|_| File::create(&path).unwrap());
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                PLACE.store(place, Ordering::Relaxed);
                return Turn { _file: file };
            }
        }
        if !said {
            eprintln!("other tests on this machine are at work: waiting for them");
            said = true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A port that nobody listens on, below the range that outgoing connections take theirs from.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + PLACE.load(Ordering::Relaxed) * PORTS;
    // A port of the scenario before may still be held by a connection that has ended.
    let spread = u16::try_from(std::process::id() % 499).unwrap() * 12;
    loop {
        let port = first + (spread + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS;
        let any = SocketAddr::from(([0, 0, 0, 0], port));
        if TcpListener::bind(any).is_ok() {
            return port;
        }
    }
}

/// Where a service of a host without network namespaces listens.
pub(crate) fn free_address(ip: IpAddr) -> SocketAddr {
    SocketAddr::new(ip, free_port())
}

pub(crate) struct Workdir {
    pub(crate) path: PathBuf,
    _turn: Turn,
}

/// Removes what a killed test run left, with the processes in it.
fn remove_leftovers(base: &Path) {
    for entry in fs::read_dir(base).unwrap().flatten() {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|n| n.strip_prefix(PREFIX)?.split('-').next()?.parse().ok());
        let foreign =
            entry.metadata().is_ok_and(|m| m.uid() != rustix::process::geteuid().as_raw());
        let kept = foreign || entry.path().join("kept").exists();
        if owner.is_some_and(|pid: i32| Process::of(pid).is_none()) && !kept {
            process::kill_all(|| process::under(&entry.path()));
            disk::unmount_below(&entry.path());
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

impl Workdir {
    pub(crate) fn create() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let turn = turn();
        let base = Path::new("/var/tmp");
        remove_leftovers(base);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = base.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let dir = Self { path, _turn: turn };
        for name in ["bin", "log"] {
            fs::create_dir(dir.path.join(name)).unwrap();
        }
        for open in [dir.path.clone(), dir.bin("")] {
            fs::set_permissions(open, PermissionsExt::from_mode(0o755)).unwrap();
        }
        dir.make_home("sock");
        dir.make_home("tmp");
        dir
    }

    /// Puts the programs where the service user can run them. Links where possible: they survive
    /// a build that happens meanwhile.
    pub(crate) fn add_programs(&self) {
        self.add_programs_of(&built());
    }

    /// The same, from another directory. What is not there comes from the usual one: a test build
    /// makes only the programs that have tests.
    pub(crate) fn add_programs_of(&self, preferred: &Path) {
        for program in PROGRAMS {
            let there = preferred.join(program).exists();
            let dir = if there { preferred.to_owned() } else { built() };
            let (from, to) = (dir.join(program), self.bin(program));
            if fs::hard_link(&from, &to).is_err() {
                fs::copy(&from, &to)
                    .unwrap_or_else(|e| panic!("cannot copy {}: {e}", from.display()));
            }
        }
    }

    pub(crate) fn bin(&self, program: &str) -> PathBuf {
        self.path.join("bin").join(program)
    }

    pub(crate) fn sockets(&self) -> PathBuf {
        self.path.join("sock")
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path.join("log").join(format!("{name}.log"))
    }

    /// A directory that belongs to the service user.
    pub(crate) fn make_home(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).unwrap();
        if let Some((uid, gid)) = service_user() {
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
        path
    }

    /// A program that knows nothing of our environment, as the service user.
    pub(crate) fn command(&self, program: impl AsRef<Path>, home: &Path) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", home)
            .env("TMPDIR", self.path.join("tmp"))
            .env("LC_ALL", "C.UTF-8")
            .current_dir(home);
        as_service_user(&mut command);
        command
    }

    /// As [`Workdir::command`], in a mount namespace of its own: `own` directories appear `at` their
    /// paths. Started as root, which our daemons leave by themselves.
    pub(crate) fn command_with_mounts(
        &self,
        program: impl AsRef<Path>,
        home: &Path,
        mounts: &[(PathBuf, PathBuf)],
    ) -> Command {
        let mut command = Command::new("unshare");
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", home)
            .env("TMPDIR", self.path.join("tmp"))
            .env("LC_ALL", "C.UTF-8")
            .current_dir(home)
            .args(["--mount", "sh", "-c"])
            .arg("while [ \"$1\" != -- ]; do mount --bind \"$1\" \"$2\"; shift 2; done; shift; exec \"$@\"")
            .arg("sh");
        for (own, at) in mounts {
            command.arg(own).arg(at);
        }
        command.arg("--").arg(program.as_ref());
        command
    }

    pub(crate) fn kill_everything(&self) {
        process::kill_all(|| process::under(&self.path));
    }
}

/// Cleans up as far as it goes: a second panic while one unwinds would end the whole program and
/// leave everything behind.
pub(crate) fn quietly(work: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        eprintln!("cleaning up failed, see above");
    }
}

impl Drop for Workdir {
    fn drop(&mut self) {
        quietly(|| self.kill_everything());
        quietly(|| disk::unmount_below(&self.path));
        let failed = std::thread::panicking();
        if failed && std::env::var_os("PGVIGIL_TEST_KEEP").is_some_and(|v| !v.is_empty()) {
            let _ = File::create(self.path.join("kept"));
            eprintln!("kept: {}", self.path.display());
        } else if let Err(e) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {e}", self.path.display());
        }
    }
}
