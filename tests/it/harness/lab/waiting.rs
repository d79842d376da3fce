//! Waiting for what must come, and the end of a scenario for which it does not.

use std::fmt::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use super::Lab;
use crate::harness::log::last_lines;
use crate::harness::network::CLIENT;
use crate::harness::process::run;
use crate::harness::state::State;
use crate::harness::{millis, secs};

impl Lab {
    /// Panics with all that helps to understand.
    pub(crate) fn fail(&self, what: &str) -> ! {
        let diagnosis = self.diagnosis();
        self.told.set(true);
        panic!("{what}\n{diagnosis}");
    }

    pub(super) fn diagnosis(&self) -> String {
        let mut text = match self.state() {
            Ok(state) => format!("{state}"),
            Err(why) => format!("no state: {why}\n"),
        };
        let mut command = self.pgctl_command(&["explain", "--timeout", "3s"]);
        let explain = self.on_host(CLIENT, || run(&mut command, secs(8)));
        let _ = write!(text, "-- pgctl explain\n{}{}", explain.stdout, explain.stderr);
        for host in &self.hosts {
            let name = &host.name;
            let _ = writeln!(
                text,
                "-- {name}: daemon {:?}, postmaster {:?}\n{}",
                host.daemon.as_ref().map(|d| d.process.pid),
                host.postmaster().map(|p| p.pid),
                last_lines(&self.log(name), 30)
            );
        }
        text
    }

    /// Waits for a state of the cluster.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut(&State) -> bool,
    ) -> State {
        let begun = Instant::now();
        let until = (begun + within).min(self.until);
        loop {
            let state = self.state();
            if let Ok(state) = state
                && condition(&state)
            {
                return state;
            }
            if Instant::now() > until {
                let waited = begun.elapsed().as_secs_f64();
                self.fail(&format!("{what}: not within {waited:.1} s"));
            }
            thread::sleep(millis(80));
        }
    }

    /// Waits for something that is not in the state.
    pub(crate) fn wait_until(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut() -> bool,
    ) {
        let begun = Instant::now();
        let until = (begun + within).min(self.until);
        while !condition() {
            if Instant::now() > until {
                let waited = begun.elapsed().as_secs_f64();
                self.fail(&format!("{what}: not within {waited:.1} s"));
            }
            thread::sleep(millis(10));
        }
    }

    /// Watches that something stays true for so long.
    pub(crate) fn holds(&self, what: &str, during: Duration, mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        while begun.elapsed() < during {
            if !condition() {
                let after = begun.elapsed().as_secs_f64();
                self.fail(&format!("{what}: no longer after {after:.1} s"));
            }
            thread::sleep(millis(100));
        }
    }

    /// One primary, all others secondary: every host's node.
    pub(crate) fn wait_until_whole(&self, within: Duration) -> State {
        self.wait_until_so_many_are_whole(self.hosts.len() - 1, within)
    }

    /// The same where a host has no node of the group, or no longer one.
    pub(crate) fn wait_until_so_many_are_whole(&self, nodes: usize, within: Duration) -> State {
        let what = format!("the group of {nodes} is whole");
        self.wait_for(&what, within, |s| s.is_whole(nodes) && self.bear_out(s))
    }

    /// The servers say the same themselves: right after a fault the monitor's state is of before it.
    fn bear_out(&self, state: &State) -> bool {
        let streams = "select status from pg_stat_wal_receiver";
        state.primary().is_some_and(|primary| self.is_in_recovery(primary) == Some(false))
            && state
                .standbys()
                .iter()
                .all(|standby| self.value(standby, streams).as_deref() == Some("streaming"))
    }

    /// The primary. Its goal may be ahead of its report for a moment after each change of the rule.
    pub(crate) fn primary(&self) -> String {
        let state = self.wait_for("there is a primary", secs(20), |s| s.primary().is_some());
        state.primary().unwrap().to_owned()
    }

    /// Waits until every standby has replayed what the primary has.
    pub(crate) fn wait_for_replay(&self) {
        let primary = self.primary();
        let end = self
            .value(&primary, "select pg_current_wal_flush_lsn()")
            .unwrap_or_else(|| self.fail("the primary does not tell its WAL position"));
        for standby in self.others(&[&primary]) {
            let statement = format!("select pg_last_wal_replay_lsn() >= '{end}'");
            let what = format!("{standby} has replayed {end} of {primary}");
            self.wait_until(&what, secs(30), || {
                self.value(&standby, &statement).as_deref() == Some("t")
            });
        }
    }
}
