//! Clients write wherever something takes writes, also on the wrong side of a cut.

use super::{Event, World};

impl World {
    pub(super) fn clients(&mut self, group: usize) {
        if self.quiet {
            return;
        }
        for host in 0..self.hosts.len() {
            let h = &self.hosts[host];
            let takes = h.group == group
                && h.powered
                && !h.pg.frozen
                && !h.pg.sessions_frozen
                && h.pg.writer().is_some_and(|w| !w.stopping);
            if takes {
                let records = self.rng.range(1, 3);
                self.coverage.commits += records;
                self.write(host, records);
            }
        }
        let pause_ms = self.rng.range(1, 2 * self.scenario.client_ms);
        self.after(pause_ms, Event::Client { group });
    }
}
