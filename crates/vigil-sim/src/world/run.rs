//! A whole run: form, faults, heal; safety always, liveness at the end.

use std::cmp::Reverse;

use vigil_core::group::Plan;

use super::{Event, World};
use crate::postgres::words;

/// So many events in one second are a storm that feeds itself: some hundred are usual.
const STORM: u64 = 20_000;
/// A group forms within so long, in milliseconds.
const FORMS_MS: u64 = 90_000;
/// Once nothing is broken any more, a group is well again within so long, in milliseconds. A
/// standby whose WAL is gone is cloned anew after two minutes: that is the longest way.
const HEALS_MS: u64 = 240_000;
/// It has to stay well for so long, in milliseconds.
const STAYS_WELL_MS: u64 = 1_200;
/// Nothing is broken any more: so many rules in flight are elections without end, each slower than
/// the one before.
const MOST_RULES: usize = 100;
/// An operator looks after so long, and decides to go on without the missing, in milliseconds.
const OPERATOR_MS: u64 = 6_000;
/// A winner that does not come up makes way for somebody else within so long, in milliseconds: the
/// time that the core gives it, and that of an election.
const MAKES_WAY_MS: u64 = 15_000;
/// The operator finds out what keeps a node from being promoted after so long, in milliseconds.
const MENDS_MS: u64 = 60_000;

impl World {
    /// Runs the scenario to its end or to the first violation.
    pub fn run(&mut self) {
        self.start_monitor(0, 0);
        for group in 0..self.stores.len() {
            self.at(0, Event::Client { group });
        }
        self.go_until(FORMS_MS, World::is_well);
        if !self.is_well() {
            self.fail("liveness", format!("the group did not form: {}", self.ailment()));
        }
        let schedule = self.scenario.schedule.clone();
        let mut at_ms = self.now_ms;
        for (number, fault) in schedule.iter().enumerate() {
            at_ms += fault.after_ms;
            self.at(at_ms, Event::Fault(number));
        }
        self.go_until(at_ms.saturating_sub(self.now_ms) + 1, |_| false);
        let rest_ms = self.rng.range(0, 4000);
        self.go_until(rest_ms, |_| false);
        self.heal();
        self.recover();
        self.keepers_go();
        self.quiet = true;
        let acked: Vec<Vec<(u32, u64)>> =
            (0..self.stores.len()).map(|group| self.ghost.acknowledged(group).collect()).collect();
        self.go_until(400, |_| false);
        self.everything_is_everywhere(&acked);
        self.coverage.runs += 1;
        self.coverage.simulated_ms += self.now_ms;
    }

    pub(super) fn recover(&mut self) {
        let begun_ms = self.now_ms;
        let mut well_since = None;
        let mut asked_ms = begun_ms;
        while self.violation.is_none() && self.now_ms - begun_ms < HEALS_MS {
            self.go_until(100, |_| false);
            self.winners_make_way();
            if self.now_ms - begun_ms > MENDS_MS {
                self.hosts.iter_mut().for_each(|host| host.plan.promotes = true);
            }
            if let Some(count) = self.rules_in_flight().filter(|count| *count > MOST_RULES) {
                return self.fail("liveness", format!("{count} rules are in flight"));
            }
            if !self.is_well() {
                well_since = None;
                if self.now_ms - asked_ms > OPERATOR_MS {
                    asked_ms = self.now_ms;
                    self.operator_looks(self.now_ms - begun_ms);
                }
            } else if self.now_ms - *well_since.get_or_insert(self.now_ms) >= STAYS_WELL_MS {
                return;
            }
        }
        self.fail(
            "liveness",
            format!("not well {HEALS_MS} ms after the last fault: {}", self.ailment()),
        );
    }

    /// Nothing is broken but a promotion that does not end: whoever could lead instead is let.
    fn winners_make_way(&mut self) {
        let kept = (0..self.stores.len()).find_map(|group| {
            let Plan::Promoting { winner, .. } = self.stores[group].record.plan else {
                return None;
            };
            let w = self.host_of(group, winner)?;
            let cell = self.monitors[0].cells.get(group)?;
            let stands_ms = cell.driver.facts().plan_age_ms(self.now());
            let other = self.of_group(group).find(|(host, _)| self.could_lead(group, *host))?;
            let stands = !self.hosts[w].plan.promotes && stands_ms > MAKES_WAY_MS;
            stands.then(|| format!("{} could lead", other.1.name))
        });
        if let Some(who) = kept {
            self.fail("winner_makes_way", format!("the winner does not come up, {who}"));
        }
    }

    /// A standby that has pledged in this epoch, and that nothing keeps from leading.
    fn could_lead(&self, group: usize, host: usize) -> bool {
        let (h, record) = (&self.hosts[host], &self.stores[group].record);
        let failed = |id| record.episode.as_ref().is_some_and(|e| e.failed.contains(&id));
        let member = h.disk.node_id.and_then(|id| record.members.get(&id));
        let facts = self.monitors[0].cells.get(group).map(|cell| cell.driver.facts());
        let report = facts.zip(h.disk.node_id).and_then(|(facts, id)| facts.report(id));
        let stays = report.is_some_and(|r| !r.leaving);
        member.is_some_and(|m| m.may_lead() && !failed(m.id) && record.primary() != Some(m.id))
            && stays
            && h.plan.promotes
            && h.pg.standby().is_some_and(|s| s.receiver.is_none())
            && h.is_usable()
            && h.stream.is_some()
            && h.disk.promise == record.epoch
    }

    /// The most that any group has.
    fn rules_in_flight(&self) -> Option<usize> {
        self.stores.iter().map(|s| s.record.rules.len()).max()
    }

    fn operator_looks(&mut self, after_ms: u64) {
        for group in 0..self.stores.len() {
            self.tidy_up(group);
            let record = &self.stores[group].record;
            let named = record.rules.iter().flat_map(|r| r.members.iter().chain([&r.primary]));
            let gone = |id| self.host_of(group, id).is_none_or(|host| self.hosts[host].left);
            let missing = named.chain(record.members.keys()).any(|id| gone(*id));
            if after_ms > 2 * OPERATOR_MS && missing {
                self.accept_loss(group);
            }
        }
    }

    pub(super) fn go_until(&mut self, ms: u64, done: impl Fn(&World) -> bool) {
        let end_ms = self.now_ms + ms;
        let mut ask_ms = self.now_ms;
        while self.violation.is_none() {
            let Some(Reverse(entry)) = self.queue.peek() else { break };
            if entry.at_ms > end_ms {
                break;
            }
            let Some(Reverse(entry)) = self.queue.pop() else { break };
            self.look_for_a_storm(entry.at_ms);
            self.now_ms = entry.at_ms;
            self.happen(entry.event);
            self.coverage.events += 1;
            if std::mem::take(&mut self.stirred) && self.violation.is_none() {
                self.check_standing();
            }
            if self.now_ms >= ask_ms {
                if done(self) {
                    return;
                }
                ask_ms = self.now_ms + 20;
            }
        }
        if self.violation.is_none() {
            self.now_ms = end_ms;
        }
    }

    fn look_for_a_storm(&mut self, at_ms: u64) {
        let second = at_ms / 1000;
        let (of, events) = self.this_second;
        self.this_second = (second, if of == second { events + 1 } else { 0 });
        let rules = self.stores.iter().map(|s| s.record.rules.len()).max().unwrap_or_default();
        if events > STORM || rules > 4 * MOST_RULES {
            let what = format!("{events} events in second {second}, {rules} rules in flight");
            self.fail("storm", what);
        }
    }

    fn check_standing(&mut self) {
        if let Some((invariant, what)) = crate::invariants::broken_now(self) {
            self.fail(invariant, what);
        }
        for group in 0..self.stores.len() {
            if !self.ghost.may_wipe(group) && self.is_group_well(group) {
                self.ghost.well(group);
            }
        }
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Fault(number) => self.fault(number),
            Event::Strike(number) => self.strike(number),
            Event::Undo(undo) => self.undo(undo),
            Event::StartKeeper { host, life } => self.start_keeper(host, life),
            Event::Connect { host, life } => self.connect(host, life),
            Event::Look { host } => self.look(host),
            Event::Wake { host } => self.wake(host),
            Event::StepEnds { host, life, id } => self.step_ends(host, life, id),
            Event::Effect { host, pg_life, effect } => self.effect(host, pg_life, effect),
            Event::Up { stream } => self.up(stream),
            Event::Down { stream } => self.down(stream),
            Event::Stray { stream, message } => self.stray(stream, message),
            Event::LostAtKeeper { stream } => self.lost_at_keeper(stream),
            Event::ClosedAtMonitor { stream } => self.closed_at_monitor(stream),
            Event::Continues { monitor, life, group } => self.continues(monitor, life, group),
            Event::MonitorTick { monitor, life } => self.monitor_tick(monitor, life),
            Event::Client { group } => self.clients(group),
            Event::Pump { host } => self.pump(host),
            Event::Status { host } => self.status(host),
            Event::Told { primary, pg_life, standby, flushed } => {
                self.told(primary, pg_life, standby, flushed);
            }
            Event::Gone { primary, pg_life, standby } => self.gone(primary, pg_life, standby),
        }
    }

    /// One primary in every group, everybody else streams from it, nothing is in flight.
    pub fn is_well(&self) -> bool {
        (0..self.stores.len()).all(|group| self.is_group_well(group))
    }

    fn is_group_well(&self, group: usize) -> bool {
        self.unwell(group).is_none()
    }

    /// What is not as it should be.
    fn unwell(&self, group: usize) -> Option<&'static str> {
        let record = &self.stores[group].record;
        let Plan::Serving { primary } = record.plan else { return Some("no primary serves") };
        if !record.is_covered() || record.episode.is_some() {
            return Some("a rule is not covered");
        }
        let Some(p) = self.host_of(group, primary) else { return Some("the primary has no host") };
        let Some(writer) = self.hosts[p].pg.writer() else { return Some("the primary is not one") };
        if Some(&writer.rule) != record.rule() {
            return Some("the primary has another rule in force");
        }
        for member in record.members.values().filter(|m| m.id != primary) {
            if member.dropped {
                return Some("a dropped node is still there");
            }
            if member.maintenance {
                continue;
            }
            let Some(s) = self.host_of(group, member.id) else {
                return Some("a member is missing");
            };
            let h = &self.hosts[s];
            if h.driver.is_none() || h.stream.is_none() || !h.pg.receives_from(p) {
                return Some("a standby does not stream");
            }
            if !h.pg.limits.suffice_for(self.hosts[p].pg.limits) {
                return Some("a standby has less room than its primary");
            }
            if !h.pg.wal.is_prefix_of(&self.hosts[p].pg.wal) {
                return Some("a standby has other WAL");
            }
            if vigil_core::election::counts(member) && !writer.rule.members.contains(&member.id) {
                return Some("a counted standby is not in the rule");
            }
        }
        None
    }

    fn ailment(&self) -> String {
        let words = (0..self.stores.len()).filter_map(|group| {
            let plan = &self.stores[group].record.plan;
            self.unwell(group).map(|why| format!("group {group}: {why}, {plan:?}"))
        });
        words.collect::<Vec<_>>().join("; ")
    }

    /// Every acknowledged commit is on every node that streams.
    fn everything_is_everywhere(&mut self, acked: &[Vec<(u32, u64)>]) {
        for (group, acked) in acked.iter().enumerate() {
            let members: Vec<usize> = self.stores[group]
                .record
                .members
                .values()
                .filter(|m| !m.maintenance)
                .filter_map(|m| self.host_of(group, m.id))
                .filter(|h| self.hosts[*h].pg.streams() || self.hosts[*h].pg.is_primary())
                .collect();
            for host in members {
                for (tli, len) in acked {
                    if !self.hosts[host].pg.wal.holds(*tli, *len) {
                        let name = self.hosts[host].name.clone();
                        self.fail("everywhere", format!("{name} lacks acknowledged {tli}/{len}"));
                    }
                }
            }
        }
    }

    /// How it ended, and how the monitor sees it; for traces.
    pub fn last_view(&self) -> Vec<String> {
        let host = |h: &super::Host| {
            let (end, run) = (words(h.pg.position()), &h.pg.run);
            let keeper = match (&h.driver, h.keeper_frozen) {
                (None, _) => "dead",
                (_, true) => "frozen",
                _ => "alive",
            };
            let (promise, stream) = (h.disk.promise, h.stream);
            format!(
                "{}: {end} promise {promise} keeper {keeper} stream {stream:?} {run:?} look {} wake {}",
                h.name, h.look_at_ms, h.wake_at_ms
            )
        };
        let mut lines: Vec<String> = self.hosts.iter().map(host).collect();
        for cell in self.monitors.iter().flat_map(|m| &m.cells) {
            let view = cell.driver.view(self.now(), &|ms| ms.to_string());
            lines.extend(view.nodes.iter().map(|n| format!("{n:?}")));
            lines.push(format!("{:?} {:?} {:?}", view.waiting_on, view.alerts, view.findings));
            let facts = &cell.driver.facts().nodes;
            lines.extend(facts.iter().map(|(id, node)| format!("{id}: {node:?}")));
        }
        lines
    }
}
