//! The monitor: the shell around the groups' drivers, and the store.
//!
//! It does what the shipped shell does: commit, then tell; after a commit that failed look what the
//! store has, and begin anew if that is not what was expected. Two processes may run at once.

use std::collections::{BTreeMap, VecDeque};

use vigil_core::driver::group::{GroupDriver, GroupInput, GroupOutput};
use vigil_core::group::{Group, Plan};
use vigil_core::ids::NodeId;

use super::net::ToKeeper;
use super::{Event, World};
use crate::invariants::{Moment, loss_accepted};

/// A store that failed is left alone for so long, in milliseconds.
const PAUSE_MS: u64 = 100;

/// The store is looked at so often, in milliseconds.
const LOOK_MS: u64 = 5000;

/// One group in a monitor's process.
pub(crate) struct Cell {
    pub(crate) driver: GroupDriver,
    /// The version that the store has, as this process knows.
    version: u64,
    /// The outcome of a commit is not known.
    unsure: bool,
    /// The store is looked at from time to time, in case that another process writes to it.
    look_ms: u64,
    pause_until_ms: u64,
    /// The task waits, for its store or for CPU, until then; and whether it knows.
    busy: Option<(u64, bool)>,
    since_ms: u64,
    /// What was decided and is told once the store has answered.
    pending: Option<GroupOutput>,
    /// Mail that came meanwhile, with the times.
    inbox: Vec<(Mail, u64)>,
    /// When mail of each host last came, read or not.
    came: BTreeMap<usize, u64>,
    /// When this process last took in a report of each node, and the heartbeat by which that went,
    /// in milliseconds: kept beside the driver, to judge it by.
    heard: BTreeMap<NodeId, (u64, u64)>,
}

/// What waits for a group's task.
pub(crate) enum Mail {
    Input(Box<GroupInput>),
    /// Whose it is, is known once the mail before was read.
    Closed(u64),
}

impl Cell {
    fn new(driver: GroupDriver, version: u64) -> Self {
        Cell {
            driver,
            version,
            unsure: false,
            look_ms: 0,
            pause_until_ms: 0,
            busy: None,
            since_ms: 0,
            pending: None,
            inbox: Vec::new(),
            came: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }
}

/// One monitor process.
pub(crate) struct Monitor {
    pub(crate) up: bool,
    /// SIGSTOP.
    pub(crate) asleep: bool,
    pub(crate) life: u64,
    pub(crate) cells: Vec<Cell>,
    tick_at_ms: u64,
}

impl Monitor {
    pub(crate) fn down() -> Self {
        Monitor { up: false, asleep: false, life: 0, cells: Vec::new(), tick_at_ms: 0 }
    }

    /// Whether a node has introduced itself to this process and has told nothing yet.
    pub(crate) fn is_unasked(&self, group: usize, id: NodeId, now_ms: u64, within_ms: u64) -> bool {
        let cell = self.cells.get(group);
        let facts = cell.and_then(|cell| cell.driver.facts().node(id));
        facts.is_some_and(|node| {
            let came_ms = node.greeted_ms.unwrap_or(0);
            node.stream.is_some()
                && node.report.is_none()
                && now_ms.saturating_sub(came_ms) <= within_ms
        })
    }

    /// When mail of a host last came, read or not.
    pub(crate) fn came(&self, group: usize, host: usize) -> Option<u64> {
        self.cells.get(group)?.came.get(&host).copied()
    }

    pub(super) fn note_came(&mut self, group: usize, host: usize, now_ms: u64) {
        if let Some(cell) = self.cells.get_mut(group) {
            cell.came.insert(host, now_ms);
        }
    }

    /// When this process last heard a node, and by which heartbeat that goes.
    pub(crate) fn heard(&self, group: usize, node: NodeId) -> Option<(u64, u64)> {
        self.cells.get(group)?.heard.get(&node).copied()
    }
}

impl World {
    /// A process starts from what the store has.
    pub(super) fn start_monitor(&mut self, monitor: usize, life: u64) {
        if self.monitors[monitor].up || self.monitors[monitor].life != life {
            return;
        }
        let now = self.now();
        let cells = self.stores.iter().map(|store| {
            let record = store.record.clone();
            let version = record.version;
            // A store that was put back tells by its last sign of life how old it is.
            let driver = if store.doubtful {
                GroupDriver::doubting(record, now)
            } else {
                GroupDriver::new(record, now)
            };
            Cell::new(driver, version)
        });
        let cells = cells.collect();
        let m = &mut self.monitors[monitor];
        (m.up, m.asleep, m.cells) = (true, false, cells);
        self.note("monitor", "starts", || format!("process {monitor}"));
        self.after(5, Event::MonitorTick { monitor, life });
    }

    pub(super) fn kill_monitor(&mut self, monitor: usize) {
        let m = &mut self.monitors[monitor];
        if !m.up {
            return;
        }
        (m.up, m.asleep) = (false, false);
        m.life += 1;
        m.cells.clear();
        self.note("monitor", "killed", || format!("process {monitor}"));
        let streams: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, s)| s.monitor == monitor && s.at_monitor)
            .map(|(id, _)| *id)
            .collect();
        for stream in streams {
            self.close_at_monitor(stream);
        }
    }

    pub(super) fn monitor_tick(&mut self, monitor: usize, life: u64) {
        let m = &self.monitors[monitor];
        if !m.up || m.life != life {
            return;
        }
        if m.asleep {
            return self.after(20, Event::MonitorTick { monitor, life });
        }
        for group in 0..self.stores.len() {
            if self.monitors[monitor].cells[group].busy.is_none() {
                self.settle(monitor, group);
                self.monitor_input(monitor, group, GroupInput::Tick);
            }
        }
        let now = self.now();
        let wait = |cell: &Cell| cell.driver.wake_in_ms(now).max(15);
        let wait_ms = self.monitors[monitor].cells.iter().map(wait).min().unwrap_or(100);
        self.monitors[monitor].tick_at_ms = self.now_ms + wait_ms;
        self.after(wait_ms, Event::MonitorTick { monitor, life });
    }

    pub(super) fn monitor_input(&mut self, monitor: usize, group: usize, input: GroupInput) {
        self.mail(monitor, group, Mail::Input(Box::new(input)));
    }

    pub(super) fn mail(&mut self, monitor: usize, group: usize, mail: Mail) {
        let now_ms = self.now_ms;
        if !self.monitors[monitor].up {
            return;
        }
        let Some(cell) = self.monitors[monitor].cells.get_mut(group) else { return };
        cell.inbox.push((mail, now_ms));
        if cell.busy.is_none() {
            self.read_mail(monitor, group, false);
        }
    }

    /// The task of a group gets no CPU for a while; its mail waits.
    pub(super) fn delay_mail(&mut self, group: usize, ms: u64) {
        let Some(cell) = self.monitors[0].cells.get_mut(group) else { return };
        if cell.busy.is_none() {
            self.keep_busy(0, group, ms, false);
        }
    }

    fn keep_busy(&mut self, monitor: usize, group: usize, ms: u64, knows: bool) {
        let now_ms = self.now_ms;
        let m = &mut self.monitors[monitor];
        let life = m.life;
        m.cells[group].busy = Some((now_ms + ms, knows));
        m.cells[group].since_ms = now_ms;
        self.after(ms, Event::Continues { monitor, life, group });
    }

    pub(super) fn continues(&mut self, monitor: usize, life: u64, group: usize) {
        let now = self.now();
        let m = &mut self.monitors[monitor];
        if m.life != life {
            return;
        }
        if m.asleep {
            return self.after(20, Event::Continues { monitor, life, group });
        }
        let Some(cell) = m.cells.get_mut(group) else { return };
        let Some((_, knows)) = cell.busy.take_if(|(until_ms, _)| *until_ms <= now.mono_ms) else {
            return;
        };
        if knows {
            cell.driver.waited(now.mono_ms - cell.since_ms, now);
        }
        if let Some(output) = cell.pending.take() {
            self.deliver(output);
        }
        self.read_mail(monitor, group, true);
    }

    /// Reads all that waits, and decides once; then come the commands, one by one.
    fn read_mail(&mut self, monitor: usize, group: usize, tick: bool) {
        let now_ms = self.now_ms;
        let Some(cell) = self.monitors[monitor].cells.get_mut(group) else { return };
        let mut inputs = Vec::new();
        let mut commands = VecDeque::new();
        for (next, came_ms) in std::mem::take(&mut cell.inbox) {
            match next {
                Mail::Input(input) if matches!(*input, GroupInput::Command { .. }) => {
                    commands.push_back((input, came_ms));
                }
                Mail::Input(input) => inputs.push((*input, came_ms)),
                Mail::Closed(stream) => {
                    inputs.retain(|(input, _)| {
                        !matches!(input, GroupInput::Hello { stream: s, .. } if *s == stream)
                    });
                    if let Some(node) = self.streams.get(&stream).and_then(|s| s.node) {
                        inputs.push((GroupInput::Closed { stream, node }, came_ms));
                    }
                }
            }
        }
        inputs.extend(tick.then_some((GroupInput::Tick, now_ms)));
        if !inputs.is_empty() {
            self.drive(monitor, group, inputs);
        }
        while let Some((command, came_ms)) = commands.pop_front() {
            let Some(cell) = self.monitors[monitor].cells.get_mut(group) else { return };
            if cell.busy.is_some() {
                let left = std::iter::once((command, came_ms)).chain(commands);
                let later = std::mem::take(&mut cell.inbox);
                let left = left.map(|(command, came_ms)| (Mail::Input(command), came_ms));
                cell.inbox = left.chain(later).collect();
                return;
            }
            self.drive(monitor, group, vec![(*command, came_ms)]);
        }
    }

    fn drive(&mut self, monitor: usize, group: usize, inputs: Vec<(GroupInput, u64)>) {
        let now = self.now();
        let told = inputs.iter().filter_map(|(input, came_ms)| match input {
            GroupInput::Report { stream, node, .. } => Some((*stream, *node, *came_ms)),
            _ => None,
        });
        let told: Vec<(u64, NodeId, u64)> = told.collect();
        let Some(cell) = self.monitors[monitor].cells.get_mut(group) else { return };
        let output = cell.driver.handle_all(inputs, now);
        for (stream, node, came_ms) in told {
            self.note_heard(monitor, group, node, stream, came_ms);
        }
        if output.record.is_some() || !output.events.is_empty() {
            if !self.commit(monitor, group, &output) {
                let cell = &mut self.monitors[monitor].cells[group];
                cell.driver.rollback();
                for (stream, _) in output.welcomes {
                    self.close_at_monitor(stream);
                }
                return;
            }
            self.monitors[monitor].cells[group].driver.committed();
            if self.stores[group].slow_ms > 0 {
                let ms = self.rng.range(1, self.stores[group].slow_ms);
                self.monitors[monitor].cells[group].pending = Some(output);
                return self.keep_busy(monitor, group, ms, true);
            }
        }
        self.deliver(output);
    }

    fn note_heard(
        &mut self,
        monitor: usize,
        group: usize,
        node: NodeId,
        stream: u64,
        came_ms: u64,
    ) {
        let Some(cell) = self.monitors[monitor].cells.get_mut(group) else { return };
        let facts = cell.driver.facts().node(node).filter(|n| n.stream == Some(stream));
        if let Some(report) = facts.and_then(|n| n.report.as_ref()) {
            cell.heard.insert(node, (came_ms, report.interval_ms));
        }
    }

    /// Whether it is durable. A failed commit may have been one that was not.
    fn commit(&mut self, monitor: usize, group: usize, output: &GroupOutput) -> bool {
        let now_ms = self.now_ms;
        if now_ms < self.monitors[monitor].cells[group].pause_until_ms
            || !self.settle(monitor, group)
        {
            return false;
        }
        let fails = self.stores[group].fails || self.rng.range(0, 999) < 3;
        let cell = &mut self.monitors[monitor].cells[group];
        let stale = self.stores[group].record.version != cell.version;
        if stale || fails {
            cell.unsure = true;
            cell.pause_until_ms = now_ms + PAUSE_MS;
            self.note(
                "store",
                "commit fails",
                || if stale { "stale".into() } else { String::new() },
            );
            // It did get there; only the answer was lost.
            if !stale && self.rng.chance(30) {
                self.store(monitor, group, output);
            }
            return false;
        }
        self.store(monitor, group, output);
        self.monitors[monitor].cells[group].version = self.stores[group].record.version;
        true
    }

    /// When the outcome of a commit is not known, the store is asked. Whether it is as expected.
    fn settle(&mut self, monitor: usize, group: usize) -> bool {
        let now_ms = self.now_ms;
        let store = &self.stores[group];
        let cell = &mut self.monitors[monitor].cells[group];
        if now_ms >= cell.look_ms {
            cell.unsure |= cell.look_ms > 0;
            cell.look_ms = now_ms + LOOK_MS;
        }
        if !cell.unsure {
            return true;
        }
        if now_ms < cell.pause_until_ms {
            return false;
        }
        if store.fails {
            cell.pause_until_ms = now_ms + PAUSE_MS;
            return false;
        }
        cell.unsure = false;
        let expected = store.record.version == cell.version;
        if !expected {
            self.begin_anew(monitor, group);
        }
        expected
    }

    fn begin_anew(&mut self, monitor: usize, group: usize) {
        self.note("monitor", "begins anew", || format!("group {group}"));
        let record = self.stores[group].record.clone();
        let version = record.version;
        let driver = GroupDriver::new(record, self.now());
        self.monitors[monitor].cells[group] = Cell::new(driver, version);
        let streams: Vec<u64> = self
            .streams
            .iter()
            .filter(|(_, s)| s.monitor == monitor && s.at_monitor)
            .filter(|(_, s)| self.hosts[s.host].group == group)
            .map(|(id, _)| *id)
            .collect();
        for stream in streams {
            self.close_at_monitor(stream);
        }
    }

    fn store(&mut self, monitor: usize, group: usize, output: &GroupOutput) {
        for event in &output.events {
            self.note("event", event.kind.as_str(), || {
                format!("{} {:?}", event.description, event.evidence)
            });
        }
        let store = &mut self.stores[group];
        let before = match &output.record {
            Some(record) => std::mem::replace(&mut store.record, (**record).clone()),
            None => store.record.clone(),
        };
        let after = self.stores[group].record.clone();
        if before.plan != after.plan || before.rules != after.rules {
            self.note("plan", after.plan.name(), || {
                let rules: Vec<String> = after.rules.iter().map(rule_words).collect();
                format!("{:?} S = {}", after.plan, rules.join(" "))
            });
        }
        self.coverage.recorded(&before, &after, &output.events);
        self.witness(&Moment::Recorded {
            monitor,
            group,
            before: &before,
            after: &after,
            events: &output.events,
        });
        if let Some(winner) = loss_accepted(&after, &output.events)
            && let Some(host) = self.host_of(group, winner)
        {
            let wal = self.hosts[host].pg.wal.clone();
            self.ghost.loss_accepted(group, after.epoch, &wal);
        }
        let store = &mut self.stores[group];
        if !matches!(after.plan, Plan::Recovering | Plan::Forming { .. }) {
            store.doubtful = false;
        }
        let amid = before.plan != after.plan && !matches!(after.plan, Plan::Serving { .. });
        if output.record.is_some() {
            store.past.push(before);
        }
        if amid {
            self.strike_amid(group);
        }
    }

    fn deliver(&mut self, output: GroupOutput) {
        for (stream, answer) in output.welcomes {
            match answer {
                Ok(welcome) => {
                    if let Some(s) = self.streams.get_mut(&stream) {
                        s.node = Some(welcome.node_id);
                    }
                    self.send_down(stream, ToKeeper::Welcome(welcome.node_id));
                }
                Err(refusal) => {
                    self.note("monitor", "refuses", || refusal.to_string());
                    self.close_at_monitor(stream);
                }
            }
        }
        for (stream, _, order) in output.orders {
            self.send_down(stream, ToKeeper::Order(Box::new(order)));
        }
    }

    /// What an operator's hand does: the command goes to a monitor that answers.
    pub(super) fn command(&mut self, group: usize, command: vigil_core::command::Command) {
        self.next_command += 1;
        let id = self.next_command;
        let answers = |m: &&Monitor| m.up && !m.asleep;
        if let Some(monitor) = self.monitors.iter().position(|m| answers(&m)) {
            self.note("operator", "command", || format!("{command:?}"));
            self.monitor_input(monitor, group, GroupInput::Command { id, command });
        }
    }

    /// The store as it was some time ago, or as on the first day. Every process over it has gone.
    pub(super) fn put_store_back(&mut self, group: usize, lost: bool) {
        let empty = |record: &Group| {
            Group::new(record.key.clone(), self.scenario_settings(group), "secret".to_owned())
        };
        let fresh = empty(&self.stores[group].record);
        let past = self.stores[group].past.len();
        let pick = self.rng.below(past);
        let store = &mut self.stores[group];
        let old = if lost { None } else { store.past.get(pick).cloned() };
        store.record = old.unwrap_or(fresh);
        store.doubtful = true;
        let version = store.record.version;
        self.note("store", "put back", || format!("group {group}, version {version}"));
    }

    fn scenario_settings(&self, group: usize) -> vigil_core::group::Settings {
        vigil_core::group::Settings {
            number_sync_standbys: self.scenario.groups[group].number_sync_standbys,
            heartbeat_interval_ms: self.scenario.heartbeat_ms,
            heartbeat_misses: self.scenario.misses,
            ..vigil_core::group::Settings::default()
        }
    }
}

/// A rule in a word: id, primary, acknowledgements, members.
pub(crate) fn rule_words(rule: &vigil_core::rule::SyncRule) -> String {
    let members: Vec<String> = rule.members.iter().map(ToString::to_string).collect();
    format!("{}:{}>{}({})", rule.id(), rule.primary, rule.acks, members.join(","))
}
