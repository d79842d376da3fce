//! A host: the shell around the keeper's driver, its disk, its clock.

use std::collections::BTreeSet;

use vigil_core::driver::node::{NodeDriver, NodeInput, NodeOutput};
use vigil_core::ids::{Epoch, NodeId, Now};
use vigil_core::message::{Hello, Order};
use vigil_core::mutation::{Mutation, broken};
use vigil_core::node::record::NodeRecord;
use vigil_core::node::step::Step;
use vigil_core::node::witness::Witness;

use super::net::ToMonitor;
use super::{Event, World};
use crate::invariants::Moment;
use crate::postgres::{Postgres, WIRE_TIMEOUT_MS};
use crate::scenario::NodePlan;

/// A step that is being carried out.
pub(crate) struct Running {
    pub(crate) id: u64,
    pub(crate) step: Step,
    pub(crate) begun_ms: u64,
    pub(crate) cancelled: bool,
    /// Of the server when the step began.
    pub(crate) pg_life: u64,
    /// Of the order by which it was begun.
    pub(crate) epoch: Option<Epoch>,
    /// The first half of it is done.
    pub(crate) halfway: bool,
}

/// The state file of a keeper that has never been welcomed.
pub(super) fn blank_disk(group: usize, name: &str) -> NodeRecord {
    NodeRecord::new("default".into(), u32::try_from(group).unwrap_or(0), name.to_owned())
}

/// One machine with a keeper and a Postgres.
#[expect(clippy::struct_excessive_bools, reason = "independent conditions of one machine")]
pub(crate) struct Host {
    pub(crate) group: usize,
    pub(crate) name: String,
    pub(crate) plan: NodePlan,
    pub(crate) driver: Option<NodeDriver>,
    /// The state file.
    pub(crate) disk: NodeRecord,
    /// Counts the keeper's processes.
    pub(crate) keeper_life: u64,
    pub(crate) pg: Postgres,
    /// What a rewind or copy would discard was kept aside from this record on.
    pub(crate) kept_from: Option<u64>,
    /// A rewind has begun and has not ended.
    pub(crate) torn: bool,
    /// A promotion is under way in this life of the server.
    pub(crate) promotion: Option<u64>,
    pub(crate) stream: Option<u64>,
    pub(crate) step: Option<Running>,
    pub(crate) powered: bool,
    /// SIGSTOP of the keeper.
    pub(crate) keeper_frozen: bool,
    pub(crate) slow_disk: bool,
    /// The keeper cannot save its state.
    pub(crate) full_disk: bool,
    /// WAL comes and acknowledgements go only so late, in milliseconds.
    pub(crate) lag_ms: u64,
    /// The keeper dies before it carries out this many more outputs.
    pub(crate) dies_after: Option<u64>,
    /// It has left the group for good.
    pub(crate) left: bool,
    pub(crate) pumping: bool,
    /// The receiver's status interval runs.
    pub(super) status_due: bool,
    /// When its keeper asks the primary for a commit.
    asking: Witness,
    pub(super) look_at_ms: u64,
    pub(super) wake_at_ms: u64,
    clock_offset_ms: u64,
    clock_ppm: i64,
    pub(super) wall_jump_ms: i64,
}

impl Host {
    pub(crate) fn keeper_stands_still(&self) -> bool {
        self.keeper_frozen && self.driver.is_some()
    }

    /// Whether an election may ever make use of its WAL.
    pub(crate) fn is_usable(&self) -> bool {
        self.pg.exists && !self.torn && self.disk.is_whole()
    }

    pub(crate) fn is_member(&self, id: NodeId) -> bool {
        self.disk.node_id == Some(id)
    }
}

impl World {
    /// A machine that nobody has heard of; its keeper starts soon.
    pub(super) fn add_host(&mut self, group: usize, plan: NodePlan) {
        let host = self.hosts.len();
        let number = self.of_group(group).count() + 1;
        let letter = if group == 0 { "node" } else { "other" };
        let name = format!("{letter}{number}");
        let drift = self.scenario.drift_ppm;
        let clock_ppm = self.rng.range(0, 2 * drift).cast_signed() - drift.cast_signed();
        self.hosts.push(Host {
            group,
            disk: blank_disk(group, &name),
            name,
            plan,
            driver: None,
            keeper_life: 0,
            pg: Postgres::none(),
            kept_from: None,
            torn: false,
            promotion: None,
            stream: None,
            step: None,
            powered: true,
            keeper_frozen: false,
            slow_disk: false,
            full_disk: false,
            lag_ms: 0,
            dies_after: None,
            left: false,
            pumping: false,
            status_due: false,
            asking: Witness::default(),
            look_at_ms: 0,
            wake_at_ms: 0,
            clock_offset_ms: self.rng.range(0, 1_000_000),
            clock_ppm,
            wall_jump_ms: 0,
        });
        self.ghost.host_added(group);
        let pause_ms = self.rng.range(0, 300);
        self.after(pause_ms, Event::StartKeeper { host, life: 0 });
    }

    /// The host's own clocks: no two run alike.
    pub(super) fn clock(&self, host: usize) -> Now {
        let h = &self.hosts[host];
        let drift = self.now_ms.cast_signed() * h.clock_ppm / 1_000_000;
        let wall_ms = self.now().wall_ms + h.wall_jump_ms;
        Now { mono_ms: (self.now_ms + h.clock_offset_ms).saturating_add_signed(drift), wall_ms }
    }

    pub(super) fn start_keeper(&mut self, host: usize, life: u64) {
        let h = &self.hosts[host];
        if h.driver.is_some() || h.keeper_life != life || !h.powered || h.left {
            return;
        }
        self.calm_since_ms = self.now_ms;
        self.whole_since_ms = self.now_ms;
        let driver = NodeDriver::new(h.disk.clone(), self.clock(host));
        let h = &mut self.hosts[host];
        h.driver = Some(driver);
        h.dies_after = None;
        let life = h.keeper_life;
        // The epoch of the order that named the upstream went with the keeper before.
        if let Some(standby) = h.pg.standby_mut()
            && let Some(conf) = &mut standby.conf
        {
            conf.1 = Epoch(0);
        }
        self.note_host(host, "keeper", || "starts".into());
        self.look_soon(host);
        self.after(1, Event::Connect { host, life });
    }

    /// SIGKILL. `power`: the machine is gone with it, nobody is told.
    pub(super) fn kill_keeper(&mut self, host: usize, power: bool) {
        let h = &mut self.hosts[host];
        h.keeper_life += 1;
        h.keeper_frozen = false;
        if h.driver.take().is_none() {
            return;
        }
        let step = h.step.take();
        if let Some(running) = step.filter(|_| !power) {
            self.abandon(host, &running);
        }
        if power {
            if let Some(stream) = self.hosts[host].stream.take() {
                self.streams.entry(stream).and_modify(|s| s.at_keeper = false);
                self.after(4000, Event::ClosedAtMonitor { stream });
            }
        } else {
            self.close_at_keeper(host);
        }
    }

    pub(super) fn connect(&mut self, host: usize, life: u64) {
        let h = &self.hosts[host];
        if h.keeper_life != life || h.stream.is_some() || h.driver.is_none() {
            return;
        }
        let opened = if h.keeper_frozen { None } else { self.open_stream(host) };
        let Some(stream) = opened else {
            let pause_ms = self.rng.range(100, 300);
            return self.after(pause_ms, Event::Connect { host, life });
        };
        self.hosts[host].stream = Some(stream);
        let h = &self.hosts[host];
        let Some(driver) = &h.driver else { return };
        let record = driver.record();
        let hello = Hello {
            formation: "default".into(),
            group: record.group,
            name: h.name.clone(),
            host: h.name.clone(),
            port: 5432,
            candidate_priority: h.plan.priority,
            replication_quorum: h.plan.quorum,
            node_id: record.node_id,
            system_id: h.pg.exists.then_some(1),
            promise: record.promise,
            rules_held: record.rules_held.clone(),
            settings: Some(record.settings),
            peers: record.peers.clone(),
            postgres_major: 17,
        };
        self.send_up(stream, ToMonitor::Hello(Box::new(hello)));
    }

    pub(super) fn welcomed(&mut self, host: usize, node_id: NodeId) {
        self.note_host(host, "welcomed", || format!("as #{node_id}"));
        self.feed(host, NodeInput::Welcomed { node_id });
    }

    pub(super) fn ordered(&mut self, host: usize, order: Order) {
        let Some(driver) = &self.hosts[host].driver else { return };
        let (promise, before) = (driver.record().promise, driver.order().map(|o| o.seq));
        let (epoch, seq) = (order.epoch, order.seq);
        self.note_host(host, "order", || {
            format!("e{epoch} s{seq} {} {:?}", order.goal_state, order.goal)
        });
        self.feed(host, NodeInput::Order(order));
        let now = self.hosts[host].driver.as_ref().and_then(|d| d.order());
        if now.is_some_and(|o| (o.epoch, o.seq) == (epoch, seq)) {
            self.witness(&Moment::Obeyed { host, epoch, promise, seq, before });
        }
    }

    pub(super) fn look_soon(&mut self, host: usize) {
        let pause_ms = self.rng.range(1, 4);
        self.look_at(host, self.now_ms + pause_ms);
    }

    fn look_at(&mut self, host: usize, at_ms: u64) {
        let h = &mut self.hosts[host];
        if h.driver.is_none() || h.look_at_ms > self.now_ms && h.look_at_ms <= at_ms {
            return;
        }
        h.look_at_ms = at_ms;
        self.at(at_ms, Event::Look { host });
    }

    pub(super) fn look(&mut self, host: usize) {
        if self.hosts[host].look_at_ms != self.now_ms || self.hosts[host].driver.is_none() {
            return;
        }
        if self.hosts[host].keeper_frozen {
            self.hosts[host].look_at_ms = 0;
            return self.look_at(host, self.now_ms + 20);
        }
        self.probe(host);
        let asks_in_ms = self.ask_for_commit(host);
        let seen = self.hosts[host].pg.observe(self.now_ms, |h| self.hosts[h].name.clone());
        self.feed(host, NodeInput::Observed(seen));
        let h = &self.hosts[host];
        let Some(driver) = &h.driver else { return };
        // The shell looks every few milliseconds while something is under way; a change of the
        // model asks for a look by itself, so it need not be as often here.
        let wait_ms = if h.step.is_some() { 100 } else { driver.look_in_ms().max(20) };
        let wait_ms =
            self.probe_in_ms(host).map_or(wait_ms, |probe_ms| wait_ms.min(probe_ms.max(1)));
        let wait_ms = asks_in_ms.map_or(wait_ms, |asks_ms| wait_ms.min(asks_ms.max(5)));
        self.look_at(host, self.now_ms + wait_ms);
    }

    /// A standby's keeper that misses WAL commits something on its primary; until it may have to
    /// again, in milliseconds.
    fn ask_for_commit(&mut self, host: usize) -> Option<u64> {
        let pg = &self.hosts[host].pg;
        let (primary, life) = pg.standby().filter(|_| !pg.frozen)?.receiver?;
        let (age_ms, interval_ms) = (self.now_ms - pg.grew_ms, self.pace_ms(host));
        let due_ms = self.hosts[host].asking.due_in_ms(age_ms, interval_ms, self.now_ms);
        if due_ms > 0 {
            return Some(due_ms);
        }
        self.hosts[host].asking.asks(self.now_ms);
        let theirs = &self.hosts[primary].pg;
        let takes = theirs.life == life
            && theirs.commits()
            && theirs.writer().is_some_and(|w| !w.stopping)
            && self.linked(host, primary)
            && self.linked(primary, host)
            && !broken(Mutation::WitnessSilent);
        if takes {
            self.write(primary, 1);
        }
        Some(10)
    }

    /// How often this keeper's probe makes WAL move, in milliseconds.
    pub(crate) fn pace_ms(&self, host: usize) -> u64 {
        let driver = self.hosts[host].driver.as_ref();
        driver.map_or(self.scenario.heartbeat_ms, |d| d.record().settings.heartbeat_interval_ms)
    }

    fn probe_in_ms(&self, host: usize) -> Option<u64> {
        let pg = &self.hosts[host].pg;
        let due_ms = pg.grew_ms + self.pace_ms(host);
        pg.commits().then(|| due_ms.saturating_sub(self.now_ms))
    }

    /// The keeper's write probe, and what walsenders know of their standbys.
    fn probe(&mut self, host: usize) {
        let now_ms = self.now_ms;
        let pg = &self.hosts[host].pg;
        if !pg.is_primary() || pg.frozen {
            return;
        }
        if self.probe_in_ms(host) == Some(0) {
            self.write(host, 1);
        }
        let life = self.hosts[host].pg.life;
        let talks: BTreeSet<usize> = (0..self.hosts.len())
            .filter(|s| {
                let standby = self.hosts[*s].pg.standby();
                standby.and_then(|s| s.receiver) == Some((host, life))
                    && !self.hosts[*s].pg.frozen
                    && self.linked(*s, host)
            })
            .collect();
        let Some(primary) = self.hosts[host].pg.writer_mut() else { return };
        for told in primary.told.iter_mut().filter(|t| talks.contains(&t.0)) {
            told.2 = told.2.max(now_ms.saturating_sub(200));
        }
        primary.told.retain(|t| now_ms.saturating_sub(t.2) < WIRE_TIMEOUT_MS);
    }

    pub(super) fn wake(&mut self, host: usize) {
        if self.hosts[host].wake_at_ms != self.now_ms || self.hosts[host].driver.is_none() {
            return;
        }
        if self.hosts[host].keeper_frozen {
            self.hosts[host].wake_at_ms = self.now_ms + 20;
            return self.after(20, Event::Wake { host });
        }
        self.feed(host, NodeInput::Tick);
    }

    fn plan_wake(&mut self, host: usize) {
        let now = self.clock(host);
        let h = &self.hosts[host];
        let Some(driver) = &h.driver else { return };
        let at_ms = self.now_ms + driver.wake_in_ms(now).clamp(5, 1000);
        if h.wake_at_ms <= self.now_ms || at_ms < h.wake_at_ms {
            self.hosts[host].wake_at_ms = at_ms;
            self.at(at_ms, Event::Wake { host });
        }
    }

    /// One input for the keeper's driver; its outputs are carried out in their order, and the
    /// keeper may die between any two of them.
    pub(super) fn feed(&mut self, host: usize, input: NodeInput) {
        let now = self.clock(host);
        let Some(driver) = &mut self.hosts[host].driver else { return };
        let mut exits = false;
        for output in driver.handle(input, now) {
            match &mut self.hosts[host].dies_after {
                Some(0) => {
                    self.note_host(host, "keeper", || "dies while it acts".into());
                    self.kill_keeper(host, false);
                    self.restart_keeper_later(host);
                    return;
                }
                Some(left) => *left -= 1,
                None => {}
            }
            match output {
                NodeOutput::Save(_) if self.hosts[host].full_disk => {
                    self.note_host(host, "keeper", || "cannot save".into());
                    return self.feed(host, NodeInput::NotSaved { reason: "no room".into() });
                }
                NodeOutput::Save(record) => self.save(host, *record),
                NodeOutput::Run { id, step } => self.begin_step(host, id, step),
                NodeOutput::Cancel { id } => self.cancel_step(host, id),
                NodeOutput::Send(report) => {
                    self.witness(&Moment::Told { host, report: &report });
                    if let Some(stream) = self.hosts[host].stream {
                        self.send_up(stream, ToMonitor::Report(report));
                    }
                }
                NodeOutput::Look => self.look_soon(host),
                NodeOutput::Exit => exits = true,
            }
        }
        if exits {
            return self.exit(host);
        }
        self.plan_wake(host);
    }

    fn save(&mut self, host: usize, record: NodeRecord) {
        let before = std::mem::replace(&mut self.hosts[host].disk, record);
        let after = self.hosts[host].disk.clone();
        self.witness(&Moment::Saved { host, before: &before, after: &after });
    }

    /// The keeper ends by itself: it was asked to stop, or has left the group.
    fn exit(&mut self, host: usize) {
        use vigil_core::message::Goal;
        let order = self.hosts[host].driver.as_ref().and_then(NodeDriver::order);
        let dropped = matches!(order.map(|o| &o.goal), Some(Goal::Drop));
        self.note_host(host, "keeper", || {
            if dropped { "exits, dropped".into() } else { "exits".into() }
        });
        self.kill_keeper(host, false);
        if dropped {
            self.hosts[host].left = true;
        } else {
            self.restart_keeper_later(host);
        }
    }

    pub(super) fn restart_keeper_later(&mut self, host: usize) {
        let life = self.hosts[host].keeper_life;
        let pause_ms = self.rng.range(50, 3000);
        self.after(pause_ms, Event::StartKeeper { host, life });
    }
}
