//! Replication, and clients that keep what was acknowledged.

use super::World;
use crate::postgres::Run;

impl World {
    pub(super) fn replicate(&mut self, i: usize) {
        if !self.alive(i) || self.hosts[i].pg.frozen {
            return;
        }
        let now_ms = self.now_ms;
        let target = match &self.hosts[i].pg.run {
            Run::Standby { upstream: Some((id, _)), .. } => self.host_of(*id),
            Run::Standby { .. } => None,
            _ => return,
        };
        let source = target.filter(|p| {
            *p != i
                && self.linked(i, *p)
                && self.alive(*p)
                && !self.hosts[*p].pg.frozen
                && self.hosts[*p].pg.run != Run::Off
                && self.hosts[i].pg.is_prefix_of(&self.hosts[*p].pg)
        });
        if let Some(p) = source {
            let have = self.hosts[i].pg.wal.len();
            let all = self.hosts[p].pg.wal.len();
            let take = usize::try_from(self.rng.range(0, 20)).unwrap_or(0).min(all - have);
            let more: Vec<u32> = self.hosts[p].pg.wal[have..have + take].to_vec();
            let pg = &mut self.hosts[i].pg;
            if take > 0 {
                pg.wal_grew_ms = now_ms;
            }
            pg.wal.extend(more);
            if let Run::Standby { receiver, streamed, .. } = &mut pg.run {
                (*receiver, *streamed) = (true, true);
            }
            let len = pg.wal.len();
            if let Some(id) = self.hosts[i].id
                && self.hosts[p].pg.is_primary()
            {
                self.hosts[p].pg.told.insert(id, (len, now_ms));
            }
        } else if let Some(p) = target {
            // The receiver notices after its timeout, at once if the other end closed.
            let closed = self.linked(i, p) && self.hosts[p].pg.run == Run::Off;
            let silent = now_ms.saturating_sub(self.hosts[i].pg.wal_grew_ms) > 2000;
            if let Run::Standby { receiver, .. } = &mut self.hosts[i].pg.run
                && (closed || silent)
            {
                *receiver = false;
            }
        }
        let pg = &mut self.hosts[i].pg;
        let len = pg.wal.len();
        if let Run::Standby { replayed, stuck: false, .. } = &mut pg.run {
            *replayed = (*replayed + 30).min(len);
        }
    }

    pub(super) fn clients(&mut self) {
        for i in 0..self.hosts.len() {
            if !self.alive(i) || self.hosts[i].pg.frozen || !self.hosts[i].pg.is_primary() {
                continue;
            }
            let now_ms = self.now_ms;
            self.hosts[i].pg.told.retain(|_, (_, at)| now_ms.saturating_sub(*at) < 2000);
            if !self.quiet && self.rng.chance(30) {
                let tag = self.hosts[i].pg.tli();
                self.hosts[i].pg.wal.push(tag);
                self.stats.commits += 1;
            }
            let tag = self.hosts[i].pg.tli();
            let len = self.hosts[i].pg.acknowledged().min(self.hosts[i].pg.wal.len());
            if len == 0 || self.hosts[i].pg.wal[len - 1] != tag {
                continue;
            }
            let had = self.acked.get(&tag).copied().unwrap_or(0);
            if len > had {
                self.acked.insert(tag, len);
                let newer: Vec<u32> = self.acked.keys().copied().filter(|t| *t > tag).collect();
                if !newer.is_empty() {
                    self.fail(format!(
                        "host {} acknowledges on timeline {tag} after timelines {newer:?} did",
                        i + 1
                    ));
                }
            }
        }
    }

    pub(super) fn check_everywhere(&mut self) {
        for i in 0..self.hosts.len() {
            for (tag, len) in self.acked.clone() {
                if self.hosts[i].pg.wal.get(len - 1) != Some(&tag) {
                    self.fail(format!("acknowledged {tag}/{len} is missing on host {}", i + 1));
                }
            }
        }
    }
}
