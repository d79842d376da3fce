//! What goes wrong, and its end.

use vigil_core::driver::group::{GroupDriver, GroupInput};
use vigil_core::driver::node::NodeInput;
use vigil_core::node::step::Step;

use super::World;
use crate::postgres::Run;

impl World {
    pub(super) fn fault(&mut self) {
        self.stats.faults += 1;
        let n = self.hosts.len() as u64;
        let primary = self.hosts.iter().position(|h| h.pg.is_primary());
        let any = usize::try_from(self.rng.range(0, n - 1)).unwrap_or(0);
        let victim = primary.filter(|_| self.rng.chance(60)).unwrap_or(any);
        let name = self.hosts[victim].name.clone();
        match self.rng.range(0, 12) {
            0 | 1 => {
                self.note(|| format!("FAULT kill {name}"));
                self.kill_postgres(victim);
                self.kill_keeper(victim);
                self.hosts[victim].next_connect_ms = self.now_ms + self.rng.range(0, 15_000);
            }
            2 | 3 => {
                self.note(|| format!("FAULT kill postgres of {name}"));
                self.kill_postgres(victim);
            }
            4 => {
                self.note(|| format!("FAULT kill keeper of {name}"));
                self.kill_keeper(victim);
                self.hosts[victim].next_connect_ms = self.now_ms + self.rng.range(0, 8000);
            }
            5 => {
                let cut = !self.hosts[victim].cut;
                self.note(|| format!("FAULT {} {name}", if cut { "cut" } else { "join" }));
                self.hosts[victim].cut = cut;
            }
            6 => {
                let until = self.now_ms + self.rng.range(100, 10_000);
                self.note(|| format!("FAULT freeze {name} until {until}"));
                self.hosts[victim].frozen_until_ms = until;
            }
            7 => {
                self.note(|| "FAULT restart monitor".into());
                self.restart_monitor();
            }
            8 => {
                self.note(|| format!("FAULT hang postgres of {name}"));
                self.hosts[victim].pg.frozen = self.hosts[victim].pg.run != Run::Off;
            }
            9 => {
                let muted = !self.hosts[victim].muted;
                self.note(|| {
                    format!("FAULT {name} {} the monitor", if muted { "loses" } else { "hears" })
                });
                self.hosts[victim].muted = muted;
            }
            10 => {
                // The monitor's own cable: nobody is heard for a while, nobody vouches.
                let muted = !self.hosts.iter().any(|h| h.muted);
                self.note(|| format!("FAULT monitor {}", if muted { "cut off" } else { "back" }));
                for host in &mut self.hosts {
                    host.muted = muted;
                }
            }
            11 => {
                self.note(|| "COMMAND switchover".into());
                let command = vigil_core::command::Command::Switchover { to: None };
                self.monitor_input(GroupInput::Command { id: 1, command });
            }
            _ => {
                self.note(|| format!("FAULT stuck replay on {name}"));
                if let Run::Standby { stuck, .. } = &mut self.hosts[victim].pg.run {
                    *stuck = !*stuck;
                }
            }
        }
    }

    pub(super) fn heal(&mut self) {
        self.note(|| "HEAL".into());
        for host in &mut self.hosts {
            host.cut = false;
            host.muted = false;
            host.frozen_until_ms = 0;
            host.pg.frozen = false;
            host.next_connect_ms = host.next_connect_ms.min(self.now_ms + 500);
            if let Run::Standby { stuck, .. } = &mut host.pg.run {
                *stuck = false;
            }
        }
    }

    pub(super) fn kill_postgres(&mut self, i: usize) {
        self.hosts[i].pg.stop(false);
        if let Some((_, step, _)) = &self.hosts[i].step
            && !matches!(step, Step::Kill | Step::Stop { .. })
        {
            let id = self.hosts[i].step.take().map_or(0, |s| s.0);
            self.feed(i, NodeInput::StepEnded { id, result: Err("killed".into()) });
        }
        self.hosts[i].next_look_ms = self.now_ms;
    }

    pub(super) fn kill_keeper(&mut self, i: usize) {
        self.hosts[i].driver = None;
        self.hosts[i].step = None;
        if let Some(stream) = self.hosts[i].stream.take() {
            self.close_at_monitor(stream, i);
        }
        // What the keeper remembered of its standby's upstream is gone with it.
        if let Run::Standby { upstream: Some((_, epoch)), .. } = &mut self.hosts[i].pg.run {
            *epoch = vigil_core::ids::Epoch(0);
        }
    }

    pub(super) fn close_at_monitor(&mut self, stream: u64, i: usize) {
        self.streams.remove(&stream);
        if !self.hears_monitor(i) {
            return;
        }
        if let Some(node) = self.hosts[i].id {
            self.monitor_input(GroupInput::Closed { stream, node });
        }
    }

    pub(super) fn restart_monitor(&mut self) {
        self.streams.clear();
        self.up.clear();
        self.down.clear();
        for host in &mut self.hosts {
            host.next_connect_ms = self.now_ms + 200;
        }
        for i in 0..self.hosts.len() {
            if self.hosts[i].stream.take().is_some() {
                self.feed(i, NodeInput::StreamLost);
            }
        }
        self.monitor = Some(GroupDriver::new(self.store.clone(), self.now()));
    }
}
