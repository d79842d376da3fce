//! Processes: found by what they are, signalled by pid and start time, reaped by us.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

use super::millis;

/// One process, told apart from a later one with the same pid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) started: u64,
}

struct Stat {
    state: char,
    parent: i32,
    started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, brackets as well.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn all_pids() -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect()
}

impl Process {
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = stat(pid)?;
        (stat.state != 'Z').then_some(Self { pid, started: stat.started })
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Still there for whoever asks the kernel for its pid, and for us to end that: a child of ours
    /// that somebody waits for, or the child of another one, is theirs to reap.
    fn blocks_its_pid(self) -> bool {
        let Some(stat) = stat(self.pid) else { return false };
        let waited_for = || ours(|ours| ours.contains(&u32::try_from(self.pid).unwrap()));
        stat.started == self.started
            && (stat.state != 'Z' || (stat.parent == own_pid() && !waited_for()))
    }

    fn is_stopped(self) -> bool {
        stat(self.pid).is_none_or(|s| matches!(s.state, 'T' | 't' | 'Z'))
    }

    pub(crate) fn signal(self, signal: Signal) {
        if self.is_alive() {
            // It may have gone since: that is what most callers want anyway.
            let _ = rustix::process::kill_process(Pid::from_raw(self.pid).unwrap(), signal);
        }
    }

    /// The process and everything below it.
    pub(crate) fn tree(self) -> Vec<Self> {
        let stats: Vec<(i32, Stat)> =
            all_pids().into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
        let mut found = vec![self];
        let mut next = 0;
        while next < found.len() {
            let parent = found[next].pid;
            next += 1;
            for (pid, stat) in &stats {
                if stat.parent == parent && stat.state != 'Z' {
                    found.push(Self { pid: *pid, started: stat.started });
                }
            }
        }
        found.retain(|p| p.is_alive());
        found
    }
}

fn link(pid: i32, name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/{name}")).ok()
}

/// Every living process that works in `dir` or whose program lies in it.
pub(crate) fn under(dir: &Path) -> Vec<Process> {
    all_pids()
        .into_iter()
        .filter(|pid| {
            ["cwd", "exe"]
                .iter()
                .any(|name| link(*pid, name).is_some_and(|path| path.starts_with(dir)))
        })
        .filter_map(Process::of)
        .collect()
}

/// Every living process of a network namespace.
pub(crate) fn in_network_namespace(inode: u64) -> Vec<Process> {
    let name = format!("net:[{inode}]");
    all_pids()
        .into_iter()
        .filter(|pid| link(*pid, "ns/net").is_some_and(|path| path.as_os_str() == name.as_str()))
        .filter_map(Process::of)
        .collect()
}

/// SIGKILL in one sweep to all that `find` finds, again until it finds nothing: what was forked
/// between looking and killing dies in the next round. Nothing is left of them, not even a zombie
/// of ours.
pub(crate) fn kill_all(find: impl Fn() -> Vec<Process>) {
    let begun = Instant::now();
    let mut seen = HashSet::new();
    loop {
        let found = find();
        if found.is_empty() {
            reap_orphans();
            seen.retain(|p: &Process| p.blocks_its_pid());
            if seen.is_empty() {
                return;
            }
        }
        assert!(
            begun.elapsed() < Duration::from_secs(15),
            "processes survive SIGKILL: {found:?} {seen:?}"
        );
        for process in found {
            process.signal(Signal::KILL);
            seen.insert(process);
        }
        thread::sleep(millis(3));
    }
}

/// SIGSTOP to all that `find` finds, until all of them stand still.
pub(crate) fn freeze_all(find: impl Fn() -> Vec<Process>) -> Vec<Process> {
    let begun = Instant::now();
    loop {
        let found = find();
        if found.iter().all(|p| p.is_stopped()) {
            return found;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "processes go on after SIGSTOP: {found:?}"
        );
        for process in &found {
            process.signal(Signal::STOP);
        }
        thread::sleep(millis(3));
    }
}

/// Children that somebody of us waits for. The reaper leaves them alone.
static OURS: Mutex<Option<HashSet<u32>>> = Mutex::new(None);

fn ours<T>(with: impl FnOnce(&mut HashSet<u32>) -> T) -> T {
    let mut guard = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    with(guard.get_or_insert_default())
}

/// Makes this process the parent of what its children leave behind, and reaps it at once. Where
/// process 1 is slow to do so, a killed postmaster stays a zombie, looks alive to whoever reads its
/// lock file, and Postgres cannot be started again.
fn adopt_orphans() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        thread::spawn(move || {
            loop {
                thread::sleep(millis(40));
                reap_orphans();
            }
        });
    });
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

fn reap_orphans() {
    let me = own_pid();
    // Nobody becomes a child of ours to wait for meanwhile.
    ours(|ours| {
        for pid in all_pids() {
            let orphan = !u32::try_from(pid).is_ok_and(|pid| ours.contains(&pid))
                && stat(pid).is_some_and(|s| s.parent == me && s.state == 'Z');
            if orphan {
                let _ = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::NOHANG);
            }
        }
    });
}

/// A child that is killed when it is forgotten.
pub(crate) struct Owned {
    child: Child,
    pub(crate) process: Process,
}

/// Starts a program. The only way to start one here: the reaper must know of it.
pub(crate) fn own(command: &mut Command) -> Owned {
    adopt_orphans();
    ours(|ours| {
        let child = command
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {}: {e}", command.get_program().display()));
        ours.insert(child.id());
        let pid = i32::try_from(child.id()).unwrap();
        // Nobody has waited for it yet, so the entry is there even if it has ended already.
        let started = stat(pid).map_or(0, |s| s.started);
        Owned { child, process: Process { pid, started } }
    })
}

impl Owned {
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub(crate) fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if begun.elapsed() > within {
                return None;
            }
            thread::sleep(millis(3));
        }
    }
}

impl Owned {
    /// What it says on stderr when nobody reads its stdout. Both have to be pipes.
    pub(crate) fn says_unheard(mut self, within: Duration) -> String {
        drop(self.child.stdout.take());
        let mut stderr = self.child.stderr.take().expect("a pipe");
        assert!(self.wait(within).is_some(), "it does not end");
        let mut text = String::new();
        stderr.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        ours(|ours| ours.remove(&self.child.id()));
    }
}

/// What a program said, and how it ended.
#[derive(Clone, Debug)]
pub(crate) struct Output {
    /// Nothing when it ended by a signal or had to be killed.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Output {
    /// Panics with all that was said unless the program ended with this code.
    pub(crate) fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "exit code {code} expected of {self:#?}");
        self
    }

    /// Exactly one `error:` line on stderr, at most a `hint:` line besides.
    pub(crate) fn expect_one_error_line(&self) -> &Self {
        let lines: Vec<&str> = self.stderr.lines().filter(|l| !l.is_empty()).collect();
        assert!(
            lines.first().is_some_and(|l| l.starts_with("error: ")),
            "the first line is not an error line: {self:#?}"
        );
        assert!(
            lines.len() == 1 || (lines.len() == 2 && lines[1].starts_with("hint: ")),
            "more than one error line and one hint: {self:#?}"
        );
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("stdout is not JSON ({e}): {self:#?}"))
    }
}

/// A file without a name: unlike a pipe it may be inherited by daemons without holding us up.
fn scratch() -> File {
    static NEXT: Mutex<u64> = Mutex::new(0);
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    *next += 1;
    let path =
        std::env::temp_dir().join(format!("pgvigil-it-out-{}-{}", std::process::id(), *next));
    let file =
        File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
    fs::remove_file(path).unwrap();
    file
}

/// Runs a program to its end, for so long at most; afterwards it is killed, without a code.
pub(crate) fn run(command: &mut Command, within: Duration) -> Output {
    let (mut out, mut err) = (scratch(), scratch());
    let begun = Instant::now();
    let mut child = own(command
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(err.try_clone().unwrap()));
    let status = child.wait(within);
    let took = begun.elapsed();
    drop(child);
    let text = |file: &mut File| {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (stdout, mut stderr) = (text(&mut out), text(&mut err));
    if status.is_none() {
        stderr.push_str("\n(killed by the test: it did not end in time)");
    }
    if let Some(signal) = status.and_then(|s| s.signal()) {
        let _ = write!(stderr, "\n(ended by signal {signal})");
    }
    Output { code: status.and_then(|s| s.code()), stdout, stderr, took }
}
