//! What is done to the parts of a lab.

use rustix::process::Signal;

use super::Lab;
use super::host::Part;
use crate::harness::process::{self, Process};
use crate::harness::{millis, secs};

impl Lab {
    /// SIGKILL: of everything at once it is the loss of power.
    pub(crate) fn kill(&mut self, name: &str, part: Part) {
        self.kill_together(&[(name, part)]);
    }

    /// SIGKILL to several at the same moment.
    pub(crate) fn kill_together(&mut self, targets: &[(&str, Part)]) {
        let find = || -> Vec<Process> {
            let parts = targets.iter();
            parts.flat_map(|(n, part)| self.host(n).find(*part)).collect()
        };
        let once = |part| matches!(part, Part::Postgres | Part::Postmaster);
        if targets.iter().any(|(_, part)| once(*part)) {
            // The keeper lives and may start Postgres again at once: that one is left alone.
            let mut found = find();
            for process in &found {
                process.signal(Signal::KILL);
            }
            if targets.iter().all(|(_, part)| *part == Part::Postgres) {
                // Forked between looking and killing.
                let late = find();
                for process in &late {
                    process.signal(Signal::KILL);
                }
                found.extend(late);
            }
            process::kill_all(|| found.iter().copied().filter(|p| p.is_alive()).collect());
        } else {
            process::kill_all(find);
        }
        for (name, part) in targets {
            if matches!(part, Part::All | Part::Keeper) {
                let host = self.host_mut(name);
                host.daemon = None;
                host.frozen.clear();
            }
        }
    }

    /// Polite: SIGTERM to the daemon, or a fast stop of Postgres behind the keeper's back.
    pub(crate) fn stop(&mut self, name: &str, part: Part) {
        if matches!(part, Part::Postgres | Part::Postmaster) {
            let postmaster = self.host(name).postmaster();
            let it = postmaster.unwrap_or_else(|| panic!("Postgres of {name} is not running"));
            it.signal(Signal::INT);
            self.wait_until("Postgres ends after SIGINT", secs(30), || !it.is_alive());
            return;
        }
        let daemon = self.host(name).daemon.as_ref().expect("the daemon is running");
        daemon.process.signal(Signal::TERM);
        self.wait_for_end(name);
    }

    /// SIGTERM to several daemons, one after the other as fast as Docker may do it on a busy machine.
    pub(crate) fn stop_together(&mut self, names: &[&str]) {
        for (i, name) in names.iter().enumerate() {
            std::thread::sleep(millis(if i == 0 { 0 } else { 60 }));
            let daemon = self.host(name).daemon.as_ref().expect("the daemon is running");
            daemon.process.signal(Signal::TERM);
        }
        for name in names {
            self.wait_for_end(name);
        }
    }

    fn wait_for_end(&mut self, name: &str) {
        let mut daemon = self.host_mut(name).daemon.take().expect("the daemon is running");
        let Some(status) = daemon.wait(secs(30)) else {
            self.host_mut(name).daemon = Some(daemon);
            self.fail(&format!("{name} does not end within 30 s of SIGTERM"));
        };
        assert_eq!(status.code(), Some(0), "{name} after SIGTERM");
    }

    /// Starts the daemon of a host that was killed or stopped.
    pub(crate) fn start(&mut self, name: &str) {
        self.start_daemon(name);
    }

    /// The same of a node that comes back as another one, once its old stream is known to be over.
    pub(crate) fn start_when_missed(&mut self, name: &str) {
        self.wait_for(&format!("{name} is missed"), secs(10), |s| {
            s.node(name).is_none_or(|n| n.health == 0)
        });
        self.start_daemon(name);
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&mut self, name: &str, part: Part) {
        let frozen = process::freeze_all(|| self.host(name).find(part));
        assert!(!frozen.is_empty(), "nothing of {name} is running");
        self.host_mut(name).frozen.extend(frozen);
    }

    /// SIGCONT to what is left of the frozen.
    pub(crate) fn thaw(&mut self, name: &str) {
        let frozen = std::mem::take(&mut self.host_mut(name).frozen);
        for process in frozen {
            process.signal(Signal::CONT);
        }
    }

    /// What a part of a host consists of now.
    pub(crate) fn processes(&self, name: &str, part: Part) -> Vec<Process> {
        self.host(name).find(part)
    }

    pub(crate) fn postmaster(&self, name: &str) -> Option<Process> {
        self.host(name).postmaster()
    }

    pub(crate) fn is_running(&self, name: &str) -> bool {
        !self.host(name).keeper().is_empty()
    }

    pub(crate) fn postgres_processes(&self, name: &str) -> Vec<Process> {
        self.host(name).postgres()
    }
}
