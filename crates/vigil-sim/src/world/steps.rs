//! What the keepers' steps do to the modelled Postgres, and how long they take.

use vigil_core::driver::node::{NodeDriver, NodeInput};
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::limits::Limits;
use vigil_core::message::Goal;
use vigil_core::mutation::{Mutation, broken};
use vigil_core::node::step::{Step, StepDone, StepFailure};
use vigil_core::rule::SyncRule;
use vigil_core::wal::Tli;

use super::host::Running;
use super::monitor::rule_words;
use super::{Event, World};
use crate::invariants::Moment;
use crate::postgres::{Primary, Run, Standby};
use crate::wal::Wal;

/// What a step sets going in Postgres, at a moment of Postgres' own.
pub(crate) enum Effect {
    /// The backends obey a new rule.
    Rule { rule: SyncRule, step: u64 },
    /// A promotion that was triggered ends, whatever has become of the keeper.
    Promoted { rule: SyncRule, tli: Tli },
    /// The backends that outlived their postmaster have ended.
    OrphansEnd,
}

type Outcome = Result<StepDone, StepFailure>;

fn no(why: &str) -> Outcome {
    Err(StepFailure::lasting(why))
}

impl World {
    fn step_takes(&mut self, host: usize, step: &Step) -> u64 {
        let ms = match step {
            Step::Clone { .. } | Step::Rewind { .. } => self.rng.range(100, 2500),
            Step::Initdb
            | Step::StartStandby
            | Step::StartFollowing { .. }
            | Step::StartPrimary { .. } => self.rng.range(50, 400),
            Step::Promote { .. } => self.rng.range(30, 300),
            Step::Checkpoint | Step::PrepareHandover | Step::FastForward { .. } => {
                self.rng.range(20, 400)
            }
            Step::Stop { .. } | Step::Kill => self.rng.range(10, 120),
            _ => self.rng.range(5, 40),
        };
        if self.hosts[host].slow_disk { ms * 8 } else { ms }
    }

    pub(super) fn begin_step(&mut self, host: usize, id: u64, step: Step) {
        self.note_host(host, "step", || format!("{step:?}"));
        let driver = self.hosts[host].driver.as_ref();
        let leads = driver
            .and_then(|d| d.order())
            .is_some_and(|order| matches!(order.goal, Goal::Lead { .. }));
        if leads && matches!(step, Step::Stop { budget_ms: 500 } | Step::Kill) {
            self.witness(&Moment::Fenced { host });
        }
        let took_ms = self.step_takes(host, &step);
        let pg_life = self.hosts[host].pg.life;
        let middle_ms = self.rng.range(1, took_ms.max(2) - 1);
        match &step {
            Step::PutRule { rule } => {
                let effect = Effect::Rule { rule: rule.clone(), step: id };
                self.after(middle_ms, Event::Effect { host, pg_life, effect });
            }
            Step::Promote { rule, tli } => self.trigger_promotion(host, rule, *tli, middle_ms),
            Step::Stop { .. } => {
                if let Some(primary) = self.hosts[host].pg.writer_mut() {
                    primary.stopping = true;
                }
            }
            Step::Rewind { fork, .. } => {
                self.end_postgres(host, false);
                let h = &mut self.hosts[host];
                let from = Wal::number(fork.lsn);
                h.kept_from = Some(h.kept_from.map_or(from, |kept| kept.min(from)));
                h.torn = true;
            }
            Step::Clone { keep: Some(_), .. } => self.hosts[host].kept_from = Some(0),
            _ => {}
        }
        let epoch = self.order_epoch(host);
        let h = &mut self.hosts[host];
        let (begun_ms, pg_life) = (self.now_ms, h.pg.life);
        h.step =
            Some(Running { id, step, begun_ms, cancelled: false, pg_life, epoch, halfway: false });
        let life = h.keeper_life;
        self.after(took_ms, Event::StepEnds { host, life, id });
    }

    pub(super) fn cancel_step(&mut self, host: usize, id: u64) {
        let life = self.hosts[host].keeper_life;
        if let Some(running) = self.hosts[host].step.as_mut().filter(|r| r.id == id) {
            running.cancelled = true;
            self.after(5, Event::StepEnds { host, life, id });
        }
    }

    /// The keeper died in the middle: what it had begun may or may not come to its end.
    pub(super) fn abandon(&mut self, host: usize, running: &Running) {
        if running.step == Step::StartStandby && self.rng.chance(50) {
            let _ = self.execute(host, &running.step, running.epoch);
        }
    }

    pub(super) fn step_ends(&mut self, host: usize, life: u64, id: u64) {
        let h = &self.hosts[host];
        if h.keeper_life != life || h.step.as_ref().is_none_or(|r| r.id != id) {
            return;
        }
        if h.keeper_frozen {
            return self.after(20, Event::StepEnds { host, life, id });
        }
        if let Some(wait_ms) = self.goes_on(host) {
            return self.after(wait_ms, Event::StepEnds { host, life, id });
        }
        let Some(running) = self.hosts[host].step.take() else { return };
        let killed = running.pg_life != self.hosts[host].pg.life
            && !matches!(running.step, Step::Kill | Step::Stop { .. });
        let result = match () {
            () if running.cancelled => no("cancelled"),
            () if killed => no("Postgres has ended"),
            () => self.execute(host, &running.step, running.epoch),
        };
        self.note_host(host, "step ends", || {
            let outcome = result.as_ref().err().map_or("ok", |failure| failure.text.as_str());
            format!("{} {outcome}", running.step)
        });
        self.feed(host, NodeInput::StepEnded { id, result });
    }

    /// A step that waits, or has a second half: how long until it is asked again.
    fn goes_on(&mut self, host: usize) -> Option<u64> {
        let now_ms = self.now_ms;
        let running = self.hosts[host].step.as_ref()?;
        let Step::DropReceiver { await_wal } = &running.step else { return None };
        if running.halfway || running.pg_life != self.hosts[host].pg.life {
            return None;
        }
        let waits = await_wal.is_some_and(|at| self.hosts[host].pg.wal.end() < at);
        if waits && now_ms - running.begun_ms < 1500 {
            return Some(20);
        }
        self.hosts[host].pg.standby()?;
        self.detach(host);
        if broken(Mutation::PledgeByReload) {
            return None;
        }
        self.hosts[host].step.as_mut()?.halfway = true;
        Some(self.rng.range(5, 30))
    }

    /// A reload without an upstream. It does not reach a receiver while replay is stuck.
    pub(super) fn detach(&mut self, host: usize) {
        let Some(standby) = self.hosts[host].pg.standby_mut() else { return };
        standby.conf = None;
        if standby.stuck.is_none() {
            self.lose_receiver(host);
        }
        self.stirred = true;
        self.look_soon(host);
    }

    fn order_epoch(&self, host: usize) -> Option<Epoch> {
        self.hosts[host].driver.as_ref().and_then(NodeDriver::order).map(|o| o.epoch)
    }

    pub(super) fn execute(&mut self, host: usize, step: &Step, epoch: Option<Epoch>) -> Outcome {
        let now_ms = self.now_ms;
        let pg = &mut self.hosts[host].pg;
        match step {
            Step::Initdb => {
                pg.exists = true;
                pg.wal = Wal::default();
                pg.wal.push(1, 1);
                pg.shut_down = true;
                self.hosts[host].torn = false;
                Ok(StepDone::Created { system_id: 1 })
            }
            Step::StartPrimary { rule } => {
                let rule = rule.clone();
                self.start(host, Run::Primary(Primary { rule, told: vec![], stopping: false }))
            }
            Step::StartStandby => {
                let len = pg.wal.len();
                let behind = self.rng.range(0, 10);
                let done_ms = now_ms + self.rng.range(0, 600);
                self.start(host, Run::Standby(Standby::started(len, behind, now_ms, done_ms)))
            }
            Step::StartFollowing { primary } => {
                let Some(epoch) = epoch else { return no("no order") };
                self.start(host, Run::Starting { source: (*primary, epoch) })?;
                self.pump_in(host, 20);
                Ok(StepDone::Plain)
            }
            Step::Bootstrap | Step::PrepareHandover => Ok(StepDone::Plain),
            Step::Checkpoint => {
                pg.checkpoint_tli = pg.wal.tli();
                Ok(StepDone::Plain)
            }
            Step::Kill => {
                self.end_postgres(host, false);
                Ok(StepDone::Plain)
            }
            Step::Stop { .. } => {
                self.stop(host);
                Ok(StepDone::Plain)
            }
            Step::DropReceiver { .. } => {
                if !broken(Mutation::PledgeByReload) {
                    self.lose_receiver(host);
                }
                match self.hosts[host].pg.standby() {
                    Some(_) => Ok(StepDone::Plain),
                    None => no("not a standby"),
                }
            }
            Step::Follow { primary } => self.follow(host, *primary, epoch),
            Step::FastForward { source, until } => self.fetch(host, *source, until.lsn),
            Step::Promote { rule, .. } | Step::PutRule { rule } => {
                let obeys = pg.writer().is_some_and(|w| w.rule == *rule);
                if !obeys || !pg.commits() {
                    return no("not in force");
                }
                let from = Wal::lsn(pg.wal.len());
                Ok(StepDone::InForce { rule: rule.id(), from })
            }
            Step::Rewind { primary, .. } => self.replace(host, *primary, false),
            Step::Clone { primary, .. } => self.replace(host, *primary, true),
        }
    }

    pub(super) fn start(&mut self, host: usize, run: Run) -> Outcome {
        let h = &mut self.hosts[host];
        if !h.pg.exists || h.pg.run != Run::Off {
            return no("not stopped");
        }
        h.pg.begin(run);
        let own = Limits { max_connections: h.plan.connections, ..Limits::DEFAULT };
        h.pg.limits = h.disk.room.map_or(own, |room| own.max(room));
        let torn = h.torn;
        self.witness(&Moment::Started { host, torn });
        Ok(StepDone::Plain)
    }

    fn follow(&mut self, host: usize, primary: NodeId, epoch: Option<Epoch>) -> Outcome {
        let Some(epoch) = epoch else { return no("no order") };
        let Some(standby) = self.hosts[host].pg.standby_mut() else { return no("not a standby") };
        standby.conf = Some((primary, epoch));
        self.pump_in(host, 1);
        Ok(StepDone::Plain)
    }

    fn fetch(&mut self, host: usize, source: NodeId, until: vigil_core::wal::Lsn) -> Outcome {
        self.coverage.fetches += 1;
        let Some(from) = self.host_of(self.hosts[host].group, source) else {
            return no("no such host");
        };
        let theirs = &self.hosts[from].pg;
        let able = self.linked(host, from)
            && self.linked(from, host)
            && theirs.standby().is_some()
            && !theirs.frozen
            && self.hosts[host].pg.wal.is_prefix_of(&theirs.wal);
        if !able || self.hosts[host].pg.standby().is_none() {
            return no("cannot fetch");
        }
        let fetched = theirs.wal.up_to(Wal::number(until).max(self.hosts[host].pg.wal.len()));
        let pg = &mut self.hosts[host].pg;
        pg.wal = fetched;
        if let Some(standby) = pg.standby_mut() {
            standby.streamed = true;
        }
        Ok(StepDone::Plain)
    }

    fn trigger_promotion(&mut self, host: usize, rule: &SyncRule, tli: Tli, middle_ms: u64) {
        let Some(standby) = self.hosts[host].pg.standby_mut() else { return };
        if standby.conf.is_some() || standby.receiver.is_some() {
            return;
        }
        // Whatever blocks replay is terminated.
        standby.stuck = None;
        if !self.hosts[host].plan.promotes {
            return self.promotion_stands_still(host, tli);
        }
        let when_ms = match self.rng.range(0, 99) {
            0..=2 => return,
            // Slower than the step waits.
            3..=17 => middle_ms + self.rng.range(300, 7000),
            _ => middle_ms,
        };
        let pg_life = self.hosts[host].pg.life;
        self.hosts[host].promotion = Some(pg_life);
        let effect = Effect::Promoted { rule: rule.clone(), tli };
        self.after(when_ms, Event::Effect { host, pg_life, effect });
    }

    /// It does not end. It may have got as far as the new timeline.
    fn promotion_stands_still(&mut self, host: usize, tli: Tli) {
        let switches = self.rng.chance(50);
        let pg = &mut self.hosts[host].pg;
        let pg_life = pg.life;
        if switches && pg.wal.tli() < tli.0 {
            pg.wal.push(tli.0, 1);
        }
        self.hosts[host].promotion = Some(pg_life);
        self.look_soon(host);
    }

    pub(super) fn effect(&mut self, host: usize, pg_life: u64, effect: Effect) {
        let h = &self.hosts[host];
        if h.pg.life != pg_life {
            return;
        }
        if h.pg.frozen && !matches!(effect, Effect::OrphansEnd) {
            return self.after(50, Event::Effect { host, pg_life, effect });
        }
        match effect {
            Effect::Rule { rule, step } => {
                let runs = h.step.as_ref().is_some_and(|r| r.id == step && !r.cancelled);
                if let (true, true, Some(writer)) =
                    (runs, h.pg.is_primary(), self.hosts[host].pg.writer_mut())
                {
                    writer.rule = rule;
                    self.stirred = true;
                    self.acknowledge(host);
                }
            }
            Effect::Promoted { rule, tli } => self.promoted(host, &rule, tli),
            Effect::OrphansEnd => self.end_postgres(host, false),
        }
    }

    fn promoted(&mut self, host: usize, rule: &SyncRule, tli: Tli) {
        let pg = &mut self.hosts[host].pg;
        if pg.standby().is_none() {
            return;
        }
        pg.wal.push(tli.0, 1);
        pg.run = Run::Primary(Primary { rule: rule.clone(), told: vec![], stopping: false });
        self.note_host(host, "PROMOTED", || format!("timeline {tli} {}", rule_words(rule)));
        self.coverage.promotions += 1;
        self.witness(&Moment::Promoted { host, epoch: rule.epoch, tli: tli.0 });
        self.look_soon(host);
        self.grown(host);
        self.acknowledge(host);
    }

    /// A fast stop that may take longer than its budget.
    fn stop(&mut self, host: usize) {
        let pg = &self.hosts[host].pg;
        let clean = pg.commits() && self.rng.chance(92);
        self.stopped(host, clean);
    }

    /// The end of a fast stop: the shutdown checkpoint is written and sent to whoever receives.
    pub(super) fn stopped(&mut self, host: usize, clean: bool) {
        if clean {
            let pg = &mut self.hosts[host].pg;
            let (tli, life) = (pg.wal.tli(), pg.life);
            pg.wal.push(tli, 1);
            let wal = pg.wal.clone();
            for standby in 0..self.hosts.len() {
                let s = &self.hosts[standby].pg;
                let attached = s.standby().and_then(|s| s.receiver) == Some((host, life));
                if attached && !s.frozen && self.linked(host, standby) && s.wal.is_prefix_of(&wal) {
                    self.hosts[standby].pg.wal = wal.clone();
                }
            }
        }
        self.end_postgres(host, clean);
    }

    /// No process of the data directory lives any more.
    pub(super) fn end_postgres(&mut self, host: usize, clean: bool) {
        let now_ms = self.now_ms;
        if self.hosts[host].pg.run == Run::Off {
            return;
        }
        self.lose_receiver(host);
        let pg = &mut self.hosts[host].pg;
        let life = pg.life;
        pg.ailing_ms = now_ms;
        pg.end(clean);
        self.stirred = true;
        for standby in 0..self.hosts.len() {
            let attached = self.hosts[standby].pg.standby().and_then(|s| s.receiver);
            if attached == Some((host, life)) {
                let wait_ms = self.latency() + 1;
                self.pump_in(standby, wait_ms);
            }
        }
        self.look_soon(host);
    }

    /// Rewind or base backup: both end with the primary's WAL, not started.
    fn replace(&mut self, host: usize, primary: NodeId, whole: bool) -> Outcome {
        let Some(from) = self.host_of(self.hosts[host].group, primary) else {
            return no("no such host");
        };
        let serves = self.hosts[from].pg.commits();
        if !serves || !self.linked(host, from) || !self.linked(from, host) {
            return no("the primary cannot be reached");
        }
        let new = self.hosts[from].pg.wal.clone();
        let old = self.hosts[host].pg.wal.clone();
        if !whole && old.common(&new) < self.hosts[from].pg.floor {
            return no("WAL that the rewind needs has been recycled");
        }
        self.end_postgres(host, false);
        let kept_from = self.hosts[host].kept_from.take();
        if whole {
            self.coverage.clones += 1;
        } else {
            self.coverage.rewinds += 1;
        }
        self.witness(&Moment::Replaced { host, from, old: &old, new: &new, kept_from });
        let h = &mut self.hosts[host];
        h.pg.wal = new;
        h.pg.exists = true;
        h.pg.shut_down = false;
        h.torn = false;
        Ok(if whole { StepDone::Created { system_id: 1 } } else { StepDone::Plain })
    }
}
