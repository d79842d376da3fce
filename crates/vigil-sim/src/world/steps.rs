//! What the keepers' steps do to the modelled Postgres.

use vigil_core::driver::node::NodeDriver;
use vigil_core::ids::NodeId;
use vigil_core::node::step::{Step, StepDone};
use vigil_core::wal::Tli;

use super::World;
use crate::postgres::{Postgres, Run};

impl World {
    pub(super) fn host_of(&self, id: NodeId) -> Option<usize> {
        self.hosts.iter().position(|h| h.id == Some(id))
    }

    pub(super) fn execute(&mut self, i: usize, step: &Step) -> Result<StepDone, String> {
        let no = |what: &str| Err(what.to_owned());
        match step {
            Step::Initdb => {
                self.hosts[i].pg.exists = true;
                self.hosts[i].pg.wal = vec![1];
                self.hosts[i].pg.shut_down = true;
                Ok(StepDone::Created { system_id: 1 })
            }
            Step::StartPrimary { rule } => {
                let pg = &mut self.hosts[i].pg;
                if !pg.exists || pg.run != Run::Off {
                    return no("not stopped");
                }
                pg.run = Run::Primary;
                pg.shut_down = false;
                pg.rule = Some(rule.clone());
                Ok(StepDone::Plain)
            }
            Step::StartStandby => {
                let replayed = self.hosts[i].pg.wal.len().saturating_sub(1);
                let replayed = usize::try_from(self.rng.range(0, replayed as u64)).unwrap_or(0);
                if self.hosts[i].disk.replacing.is_some() {
                    self.fail(format!("host {} starts a half-replaced directory", i + 1));
                    return no("half-replaced");
                }
                let pg = &mut self.hosts[i].pg;
                if !pg.exists || pg.run != Run::Off {
                    return no("not stopped");
                }
                pg.shut_down = false;
                pg.run = Run::Standby {
                    upstream: None,
                    receiver: false,
                    streamed: false,
                    replayed,
                    stuck: false,
                };
                Ok(StepDone::Plain)
            }
            Step::StartFollowing { primary } => {
                let Some(order) = self.hosts[i].driver.as_ref().and_then(NodeDriver::order) else {
                    return no("no order");
                };
                let epoch = order.epoch;
                let pg = &mut self.hosts[i].pg;
                if !pg.exists || pg.run != Run::Off {
                    return no("not stopped");
                }
                pg.run = Run::Standby {
                    upstream: Some((*primary, epoch)),
                    receiver: false,
                    streamed: false,
                    replayed: pg.wal.len().saturating_sub(3),
                    stuck: false,
                };
                Ok(StepDone::Plain)
            }
            Step::Bootstrap | Step::PrepareHandover => Ok(StepDone::Plain),
            Step::Checkpoint => {
                let pg = &mut self.hosts[i].pg;
                pg.checkpoint_tli = pg.tli();
                Ok(StepDone::Plain)
            }
            Step::Kill => {
                let pg = &mut self.hosts[i].pg;
                if pg.run != Run::Off {
                    pg.stop(false);
                }
                Ok(StepDone::Plain)
            }
            Step::Stop { .. } => {
                self.drain(i);
                let clean = !self.hosts[i].pg.frozen && self.rng.chance(90);
                if self.hosts[i].pg.run != Run::Off {
                    self.hosts[i].pg.stop(clean);
                }
                Ok(StepDone::Plain)
            }
            Step::DropReceiver { .. } => {
                if let Run::Standby { upstream, receiver, .. } = &mut self.hosts[i].pg.run {
                    (*upstream, *receiver) = (None, false);
                    return Ok(StepDone::Plain);
                }
                no("not a standby")
            }
            Step::Follow { primary } => {
                let Some(order) = self.hosts[i].driver.as_ref().and_then(NodeDriver::order) else {
                    return no("no order");
                };
                let epoch = order.epoch;
                if let Run::Standby { upstream, .. } = &mut self.hosts[i].pg.run {
                    *upstream = Some((*primary, epoch));
                    return Ok(StepDone::Plain);
                }
                no("not a standby")
            }
            Step::FastForward { source, until } => {
                self.stats.fetches += 1;
                let Some(s) = self.host_of(*source) else { return no("no such host") };
                let wal = self.hosts[s].pg.wal.clone();
                let able = self.linked(i, s)
                    && matches!(self.hosts[s].pg.run, Run::Standby { .. })
                    && self.hosts[i].pg.is_prefix_of(&self.hosts[s].pg);
                if !able || !matches!(self.hosts[i].pg.run, Run::Standby { .. }) {
                    return no("cannot fetch");
                }
                let end = Postgres::len_at(until.lsn).min(wal.len());
                self.hosts[i].pg.wal = wal[..end.max(self.hosts[i].pg.wal.len())].to_vec();
                if let Run::Standby { streamed, .. } = &mut self.hosts[i].pg.run {
                    *streamed = true;
                }
                Ok(StepDone::Plain)
            }
            Step::Promote { rule, tli } => self.promote(i, rule, *tli),
            Step::PutRule { rule } => {
                let pg = &mut self.hosts[i].pg;
                if !pg.is_primary() || pg.frozen {
                    return no("not a primary");
                }
                pg.rule = Some(rule.clone());
                let from = Postgres::lsn(pg.wal.len());
                Ok(StepDone::InForce { rule: rule.id(), from })
            }
            Step::Rewind { primary, .. } | Step::Clone { primary, .. } => {
                self.replace(i, *primary, matches!(step, Step::Clone { .. }))
            }
        }
    }

    /// A fast stop waits for connected standbys to receive everything.
    pub(super) fn drain(&mut self, i: usize) {
        if !self.hosts[i].pg.is_primary() || self.hosts[i].pg.frozen {
            return;
        }
        let tag = self.hosts[i].pg.tli();
        self.hosts[i].pg.wal.push(tag);
        for s in 0..self.hosts.len() {
            if s != i && self.linked(s, i) && self.alive(s) && self.streams_from(s, i) {
                let wal = self.hosts[i].pg.wal.clone();
                self.hosts[s].pg.wal = wal;
                if let Run::Standby { streamed, .. } = &mut self.hosts[s].pg.run {
                    *streamed = true;
                }
            }
        }
    }

    pub(super) fn promote(
        &mut self,
        i: usize,
        rule: &vigil_core::rule::SyncRule,
        tli: Tli,
    ) -> Result<StepDone, String> {
        let pg = &mut self.hosts[i].pg;
        match &pg.run {
            Run::Standby { upstream: None, receiver: false, .. } => {}
            _ => return Err("not a detached standby".to_owned()),
        }
        if pg.frozen {
            return Err("hangs".to_owned());
        }
        pg.run = Run::Primary;
        pg.rule = Some(rule.clone());
        pg.told.clear();
        pg.wal.push(tli.0);
        let from = Postgres::lsn(pg.wal.len());
        self.stats.promotions += 1;
        if !self.promoted.insert((rule.epoch.0, 0)) {
            self.fail(format!("two promotions in epoch {}", rule.epoch));
        }
        self.note(|| format!("host {} PROMOTED on timeline {tli}", i + 1));
        let wal = self.hosts[i].pg.wal.clone();
        let lost: Vec<(u32, usize)> = self
            .acked
            .iter()
            // A promotion that comes too late (its epoch is over) can acknowledge nothing.
            .filter(|(tag, len)| **tag < tli.0 && wal.get(**len - 1) != Some(tag))
            .map(|(t, l)| (*t, *l))
            .collect();
        if !lost.is_empty() {
            self.fail(format!("host {} is promoted without acknowledged {lost:?}", i + 1));
        }
        Ok(StepDone::InForce { rule: rule.id(), from })
    }

    pub(super) fn replace(
        &mut self,
        i: usize,
        primary: NodeId,
        whole: bool,
    ) -> Result<StepDone, String> {
        let Some(p) = self.host_of(primary) else { return Err("no such host".to_owned()) };
        if !self.linked(i, p) || !self.hosts[p].pg.is_primary() || self.hosts[p].pg.frozen {
            return Err("the primary cannot be reached".to_owned());
        }
        if whole {
            self.stats.clones += 1;
        } else {
            self.stats.rewinds += 1;
        }
        let wal = self.hosts[p].pg.wal.clone();
        let own = self.hosts[i].pg.wal.clone();
        for (tag, len) in self.acked.clone() {
            let held = own.get(len - 1) == Some(&tag);
            let elsewhere = self
                .hosts
                .iter()
                .enumerate()
                .any(|(j, h)| j != i && h.pg.wal.get(len - 1) == Some(&tag));
            if held && wal.get(len - 1) != Some(&tag) && !elsewhere {
                self.fail(format!("host {} wipes the last copy of {tag}/{len}", i + 1));
            }
        }
        let pg = &mut self.hosts[i].pg;
        pg.wal = wal;
        pg.exists = true;
        pg.run = Run::Off;
        pg.shut_down = false;
        Ok(if whole { StepDone::Created { system_id: 1 } } else { StepDone::Plain })
    }
}
