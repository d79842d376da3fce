//! Streaming replication: WAL that grows, receivers that get it, walsenders that are told.

use super::{Event, World};
use crate::invariants::Moment;
use crate::postgres::{Run, Standby, WIRE_TIMEOUT_MS};

/// `wal_retrieve_retry_interval`, milliseconds.
const RETRY_MS: u64 = 100;
/// A receiver replies so often, and looks whether it still hears something
/// (`wal_receiver_status_interval`), milliseconds.
const STATUS_MS: u64 = 1000;

impl World {
    /// Appends records on a server that takes writes.
    pub(super) fn write(&mut self, host: usize, records: u64) {
        let now_ms = self.now_ms;
        let pg = &mut self.hosts[host].pg;
        let tli = pg.wal.tli();
        pg.wal.push(tli, records);
        pg.grew_ms = now_ms;
        self.grown(host);
        self.acknowledge(host);
    }

    /// There is more WAL at `host`: its receivers will get it.
    pub(super) fn grown(&mut self, host: usize) {
        let life = self.hosts[host].pg.life;
        for standby in 0..self.hosts.len() {
            let attached = self.hosts[standby].pg.standby().and_then(|s| s.receiver);
            if attached == Some((host, life)) && !self.hosts[standby].pumping {
                self.hosts[standby].pumping = true;
                let wait_ms = self.latency() + self.hosts[standby].lag_ms;
                self.after(wait_ms, Event::Pump { host: standby });
            }
        }
    }

    /// A receiver should do something soon.
    pub(super) fn pump_in(&mut self, host: usize, ms: u64) {
        if !self.hosts[host].pumping {
            self.hosts[host].pumping = true;
            self.after(ms, Event::Pump { host });
        }
    }

    /// The receiver of a standby: connects, receives, tells, notices that the other end is gone.
    pub(super) fn pump(&mut self, host: usize) {
        self.hosts[host].pumping = false;
        if self.hosts[host].pg.frozen || !self.hosts[host].powered {
            return self.pump_in(host, RETRY_MS);
        }
        if let Run::Starting { source } = self.hosts[host].pg.run {
            return self.become_consistent(host, source);
        }
        self.obey_reload(host);
        let Some(standby) = self.hosts[host].pg.standby() else { return };
        let len = self.hosts[host].pg.wal.len();
        let replayed_all = standby.replayed(len, self.now_ms) == len;
        match (standby.receiver, standby.conf) {
            (Some((source, life)), _) => self.receive(host, source, life),
            // Only who has replayed all that it has starts a receiver.
            (None, Some(_)) if !replayed_all => self.pump_in(host, RETRY_MS),
            (None, Some((id, _))) => {
                let group = self.hosts[host].group;
                let source = self.host_of(group, id).filter(|s| *s != host);
                if !source.is_some_and(|source| self.attach(host, source)) {
                    let jitter_ms = self.rng.range(0, RETRY_MS);
                    self.pump_in(host, RETRY_MS + jitter_ms);
                }
            }
            (None, None) => {}
        }
    }

    /// A reload ends a receiver that is connected to somebody else, unless replay is stuck.
    fn obey_reload(&mut self, host: usize) {
        let group = self.hosts[host].group;
        let Some(standby) = self.hosts[host].pg.standby() else { return };
        let Some((source, _)) = standby.receiver.filter(|_| standby.stuck.is_none()) else {
            return;
        };
        if standby.conf.and_then(|(id, _)| self.host_of(group, id)) != Some(source) {
            self.lose_receiver(host);
        }
    }

    /// A copied directory answers once it has got its source's WAL.
    fn become_consistent(
        &mut self,
        host: usize,
        source: (vigil_core::ids::NodeId, vigil_core::ids::Epoch),
    ) {
        let from = self.host_of(self.hosts[host].group, source.0);
        if from.is_some_and(|from| self.may_stream(host, from)) {
            let len = self.hosts[host].pg.wal.len();
            let started = Standby {
                conf: Some(source),
                ..Standby::started(len, 0, self.now_ms, self.now_ms)
            };
            self.hosts[host].pg.run = Run::Standby(started);
            self.look_soon(host);
        }
        self.pump_in(host, RETRY_MS);
    }

    /// Whether `source` would stream to `host` now. Diverged WAL is refused, but for the case that
    /// was seen to slip through: WAL past the point where the source left the same timeline.
    fn may_stream(&self, host: usize, source: usize) -> bool {
        let (mine, theirs) = (&self.hosts[host].pg, &self.hosts[source].pg);
        let both_ways = self.linked(host, source) && self.linked(source, host);
        let len = mine.wal.len();
        let slips = theirs.wal.left(mine.wal.tli()).is_some() && len <= theirs.wal.len();
        let fits = mine.wal.is_prefix_of(&theirs.wal) || slips;
        both_ways && theirs.serves() && fits && len >= theirs.floor
    }

    fn attach(&mut self, host: usize, source: usize) -> bool {
        if !self.may_stream(host, source) {
            return false;
        }
        let (now_ms, life) = (self.now_ms, self.hosts[source].pg.life);
        let Some(standby) = self.hosts[host].pg.standby_mut() else { return false };
        standby.receiver = Some((source, life));
        standby.streamed = true;
        standby.heard_ms = now_ms;
        self.stirred = true;
        self.look_soon(host);
        if !std::mem::replace(&mut self.hosts[host].status_due, true) {
            self.after(STATUS_MS, Event::Status { host });
        }
        self.receive(host, source, life);
        true
    }

    /// Also a receiver that gets nothing does something now and then.
    pub(super) fn status(&mut self, host: usize) {
        let receives = self.hosts[host].pg.streams();
        self.hosts[host].status_due = receives;
        if receives {
            self.pump_in(host, 0);
            self.after(STATUS_MS, Event::Status { host });
        }
    }

    fn receive(&mut self, host: usize, source: usize, life: u64) {
        let open = self.linked(source, host);
        let theirs = &self.hosts[source].pg;
        if open
            && (theirs.life != life
                || !matches!(theirs.run, Run::Primary(_) | Run::Orphans(_) | Run::Standby(_)))
        {
            self.lose_receiver(host);
            return self.pump_in(host, RETRY_MS);
        }
        if !open || theirs.frozen {
            let heard_ms = self.hosts[host].pg.standby().map_or(0, |s| s.heard_ms);
            if self.now_ms - heard_ms > WIRE_TIMEOUT_MS {
                self.lose_receiver(host);
            }
            return self.pump_in(host, RETRY_MS);
        }
        let now_ms = self.now_ms;
        let theirs = &self.hosts[source].pg.wal;
        let mine = &self.hosts[host].pg.wal;
        let news = mine.len() < theirs.len() && mine.is_prefix_of(theirs);
        if news {
            let wal = theirs.clone();
            let pg = &mut self.hosts[host].pg;
            pg.wal = wal;
            pg.grew_ms = now_ms;
            self.grown(host);
        }
        let pg = &mut self.hosts[host].pg;
        let flushed = pg.wal.len();
        if let Some(standby) = pg.standby_mut() {
            standby.heard_ms = now_ms;
        }
        let wait_ms = self.latency();
        if self.linked(host, source) {
            let pg_life = life;
            self.after(wait_ms, Event::Told { primary: source, pg_life, standby: host, flushed });
        } else {
            // It cannot tell; it tries again.
            self.pump_in(host, RETRY_MS);
        }
    }

    /// The receiver's process ends; the walsender notices when it can.
    pub(super) fn lose_receiver(&mut self, host: usize) {
        let Some(standby) = self.hosts[host].pg.standby_mut() else { return };
        let Some((primary, pg_life)) = standby.receiver.take() else { return };
        self.stirred = true;
        self.look_soon(host);
        self.notice_gone(primary, pg_life, host);
    }

    pub(super) fn notice_gone(&mut self, primary: usize, pg_life: u64, standby: usize) {
        // Behind whatever it told before.
        let wait_ms = if self.linked(standby, primary) { 10 } else { WIRE_TIMEOUT_MS };
        self.after(wait_ms, Event::Gone { primary, pg_life, standby });
    }

    pub(super) fn gone(&mut self, primary: usize, pg_life: u64, standby: usize) {
        let attached = self.hosts[standby].pg.standby().and_then(|s| s.receiver);
        let pg = &mut self.hosts[primary].pg;
        if pg.life != pg_life || attached == Some((primary, pg_life)) {
            return;
        }
        if let Some(writer) = pg.writer_mut() {
            writer.told.retain(|t| t.0 != standby);
        }
        self.look_soon(primary);
    }

    pub(super) fn told(&mut self, primary: usize, pg_life: u64, standby: usize, flushed: u64) {
        let now_ms = self.now_ms;
        let pg = &mut self.hosts[primary].pg;
        if pg.life != pg_life || pg.frozen {
            return;
        }
        let Some(writer) = pg.writer_mut() else { return };
        match writer.told.iter_mut().find(|t| t.0 == standby) {
            Some(told) => (told.1, told.2) = (told.1.max(flushed), now_ms),
            None => {
                writer.told.push((standby, flushed, now_ms));
                self.look_soon(primary);
            }
        }
        self.acknowledge(primary);
    }

    /// Commits whose acknowledgements are there are answered.
    pub(super) fn acknowledge(&mut self, host: usize) {
        let pg = &self.hosts[host].pg;
        if pg.writer().is_none() || pg.frozen || self.is_outlaw(host) {
            return;
        }
        let group = self.hosts[host].group;
        let is_member = |h: usize, m| self.hosts[h].group == group && self.hosts[h].is_member(m);
        let len = pg.acknowledged(is_member);
        let tli = pg.wal.tli();
        if len > 0 && pg.wal.holds(tli, len) && self.ghost.is_news(group, tli, len) {
            self.witness(&Moment::Acknowledged { host, tli, len });
        }
    }
}
