//! Processes that get little of the machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use super::process::{Output, Process, run};
use super::{millis, secs, workdir};

/// The kernel's unit of time for quotas, µs.
const PERIOD_US: u32 = 100_000;

/// Some processes, and what they start, share a small part of one processor as long as this lives.
/// By a control group of either version. For root only.
pub(crate) struct Throttle {
    dir: PathBuf,
}

/// Where groups can be made, and whether these are groups of version 2.
fn root() -> Option<(&'static Path, bool)> {
    let (v1, v2) = (Path::new("/sys/fs/cgroup/cpu"), Path::new("/sys/fs/cgroup"));
    if v1.join("cpu.cfs_quota_us").exists() || v1.join("cgroup.procs").exists() {
        return Some((v1, false));
    }
    let controllers = fs::read_to_string(v2.join("cgroup.subtree_control")).ok()?;
    controllers.split_whitespace().any(|name| name == "cpu").then_some((v2, true))
}

impl Throttle {
    /// Why there cannot be one here, if so.
    pub(crate) fn missing() -> Option<&'static str> {
        let Some((root, _)) = root() else { return Some("no control groups for processors") };
        let probe = root.join(format!("pgvigil-it-{}-probe", std::process::id()));
        let made = fs::create_dir(&probe).is_ok();
        let _ = fs::remove_dir(&probe);
        (!made).then_some("control groups cannot be made")
    }

    pub(crate) fn to(percent: u32, processes: &[Process]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let (root, unified) = root().unwrap();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = root.join(format!("pgvigil-it-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let throttle = Self { dir };
        let quota_us = PERIOD_US / 100 * percent;
        if unified {
            throttle.write("cpu.max", &format!("{quota_us} {PERIOD_US}"));
        } else {
            throttle.write("cpu.cfs_period_us", &PERIOD_US.to_string());
            throttle.write("cpu.cfs_quota_us", &quota_us.to_string());
        }
        for process in processes {
            // It may have ended.
            let _ = fs::write(throttle.dir.join("cgroup.procs"), process.pid.to_string());
        }
        throttle
    }

    fn write(&self, file: &str, value: &str) {
        fs::write(self.dir.join(file), value).unwrap();
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        let parent = self.dir.parent().unwrap().join("cgroup.procs");
        let begun = Instant::now();
        while fs::remove_dir(&self.dir).is_err() && begun.elapsed() < secs(10) {
            let inside = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
            for pid in inside.lines() {
                let _ = fs::write(&parent, pid);
            }
            std::thread::sleep(millis(5));
        }
    }
}

/// A process may open only so many files until this is dropped; those that it has open stay.
pub(crate) struct FewDescriptors {
    of: Process,
    before: String,
}

impl FewDescriptors {
    pub(crate) fn of(process: Process, limit: u64) -> Self {
        let limits = fs::read_to_string(format!("/proc/{}/limits", process.pid)).unwrap();
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        let before = line.split_whitespace().nth(3).unwrap().to_owned();
        set_soft_limit(process, &limit.to_string()).expect_code(0);
        Self { of: process, before }
    }
}

/// As the user whose process it is: in a container root may not.
fn set_soft_limit(of: Process, limit: &str) -> Output {
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={}", of.pid)).arg(format!("--nofile={limit}:"));
    run(workdir::as_service_user(&mut command), secs(5))
}

impl Drop for FewDescriptors {
    fn drop(&mut self) {
        if self.of.is_alive() {
            set_soft_limit(self.of, &self.before);
        }
    }
}
