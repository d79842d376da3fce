//! After everything was well again, in some of the runs: the primary's keeper goes, and nobody writes.
//! Alone that is no failover; with sessions in which no commit ends it is one.

use super::World;
use crate::rng::Rng;

/// A keeper that is killed or upgraded is back within so long, in milliseconds.
const AWAY_MS: u64 = 30_000;
/// A primary that stands still is replaced so long after the deadline at the latest, beside what two
/// heartbeats explain, in milliseconds.
const REPLACED_MS: u64 = 2_000;

impl World {
    pub(super) fn keepers_go(&mut self) {
        let mut rng = Rng::new(self.scenario.seed ^ 0x0E91_1060);
        if self.violation.is_some() || !rng.chance(10) {
            return;
        }
        self.quiet = true;
        let Some(primary) = self.primary_of(0) else { return };
        if rng.chance(50) { self.keeper_is_away(primary) } else { self.stands_still(primary) }
    }

    fn primary_of(&self, group: usize) -> Option<usize> {
        self.host_of(group, self.stores[group].record.primary()?)
    }

    fn keeper_is_away(&mut self, primary: usize) {
        let epoch = self.stores[0].record.epoch;
        self.note("world", "EPILOGUE", || "the primary's keeper is away".into());
        self.kill_keeper(primary, false);
        self.go_until(AWAY_MS, |_| false);
        if self.stores[0].record.epoch != epoch {
            return self.fail("idle_is_kept", "an idle primary was replaced".to_owned());
        }
        let life = self.hosts[primary].keeper_life;
        self.start_keeper(primary, life);
        self.recover();
    }

    /// Only where others can be elected without it: one of them has every commit.
    fn stands_still(&mut self, primary: usize) {
        let record = &self.stores[0].record;
        let (epoch, settings) = (record.epoch, record.settings);
        let Some(rule) = record.rule() else { return };
        let others = record.members.values().filter(|m| m.id != rule.primary);
        if rule.acks == 0 || others.clone().count() == 0 || others.clone().any(|m| !m.may_lead()) {
            return;
        }
        self.note("world", "EPILOGUE", || "the primary's sessions and keeper stand still".into());
        let enough_ms = settings.silence_ms() + 2 * settings.heartbeat_interval_ms + REPLACED_MS;
        self.freeze(primary, true, true, enough_ms);
        self.go_until(enough_ms, |_| false);
        if self.stores[0].record.epoch == epoch {
            return self.fail("stands_still", "a primary that stands still is kept".to_owned());
        }
        let life = self.hosts[primary].pg.life;
        self.thaw(primary, life, true);
        self.recover();
    }
}
