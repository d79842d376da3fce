//! The world: hosts, links, disks, time, clients, faults; and what must always hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use vigil_core::driver::group::{GroupDriver, GroupInput, GroupOutput};
use vigil_core::driver::node::{NodeDriver, NodeInput, NodeOutput};
use vigil_core::group::{Group, Plan, Settings};
use vigil_core::ids::{GroupKey, NodeId, Now};
use vigil_core::message::{Hello, Order, Report};
use vigil_core::node::record::NodeRecord;
use vigil_core::node::step::{Step, StepDone};
use vigil_core::wal::Tli;

use crate::postgres::{Postgres, Run};
use crate::rng::Rng;

/// Simulated time moves in these steps, in milliseconds.
const TICK_MS: u64 = 5;

/// How a run goes wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    pub at_ms: u64,
    pub what: String,
}

/// What a run did, for coverage.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub commits: u64,
    pub faults: u64,
    pub elections: u64,
    pub promotions: u64,
    pub rewinds: u64,
    pub clones: u64,
    pub fetches: u64,
    pub renewals: u64,
}

enum ToMonitor {
    Hello(Hello),
    Report(Box<Report>),
}

enum ToKeeper {
    Welcome(NodeId),
    Order(Box<Order>),
    Heard,
}

struct Host {
    id: Option<NodeId>,
    name: String,
    driver: Option<NodeDriver>,
    /// The state file.
    disk: NodeRecord,
    pg: Postgres,
    /// Of the stream, as the keeper sees it.
    stream: Option<u64>,
    next_connect_ms: u64,
    next_look_ms: u64,
    step: Option<(u64, Step, u64)>,
    /// The host's cable.
    cut: bool,
    /// Only the way to the monitor.
    muted: bool,
    frozen_until_ms: u64,
}

/// The whole world of one seed.
pub struct World {
    pub now_ms: u64,
    rng: Rng,
    hosts: Vec<Host>,
    monitor: Option<GroupDriver>,
    store: Group,
    next_id: i64,
    next_stream: u64,
    streams: BTreeMap<u64, usize>,
    up: VecDeque<(u64, u64, usize, ToMonitor)>,
    down: VecDeque<(u64, u64, usize, ToKeeper)>,
    next_monitor_tick_ms: u64,
    /// Highest acknowledged record count per timeline.
    acked: BTreeMap<u32, usize>,
    promoted: BTreeSet<(u64, usize)>,
    /// Clients have stopped writing.
    quiet: bool,
    pub stats: Stats,
    pub trace: Vec<String>,
    pub tracing: bool,
    pub violation: Option<Violation>,
}

impl World {
    pub fn new(seed: u64, nodes: usize, sync: u32) -> Self {
        let settings = Settings {
            number_sync_standbys: sync,
            heartbeat_interval_ms: 1000,
            ..Settings::default()
        };
        let key = GroupKey { formation: "default".into(), group: 0 };
        let store = Group::new(key, settings, "secret".to_owned());
        let hosts = (0..nodes)
            .map(|i| Host {
                id: None,
                name: format!("node{}", i + 1),
                driver: None,
                disk: NodeRecord::new("default".into(), 0, format!("node{}", i + 1)),
                pg: Postgres::none(),
                stream: None,
                next_connect_ms: i as u64 * 500,
                next_look_ms: 0,
                step: None,
                cut: false,
                muted: false,
                frozen_until_ms: 0,
            })
            .collect();
        World {
            now_ms: 1000,
            rng: Rng::new(seed),
            hosts,
            monitor: None,
            store,
            next_id: 1,
            next_stream: 1,
            streams: BTreeMap::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            next_monitor_tick_ms: 0,
            acked: BTreeMap::new(),
            promoted: BTreeSet::new(),
            quiet: false,
            stats: Stats::default(),
            trace: Vec::new(),
            tracing: false,
            violation: None,
        }
    }

    fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: 1_700_000_000_000 + self.now_ms.cast_signed() }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        if self.tracing {
            let line = format!("{:>8} {}", self.now_ms, text());
            self.trace.push(line);
        }
    }

    fn fail(&mut self, what: String) {
        if self.violation.is_none() {
            self.note(|| format!("VIOLATION {what}"));
            self.violation = Some(Violation { at_ms: self.now_ms, what });
        }
    }

    /// Runs a whole seed: form, faults, heal; checks safety always and liveness at the end.
    pub fn run(&mut self, faults: u64) {
        self.monitor = Some(GroupDriver::new(self.store.clone(), self.now()));
        self.go_until(60_000, World::is_healthy);
        if !self.is_healthy() {
            self.fail("the group did not form".into());
        }
        for _ in 0..faults {
            if self.violation.is_some() {
                return;
            }
            let pause = self.rng.range(0, 6000);
            self.go(pause);
            self.fault();
        }
        self.heal();
        let end = self.now_ms + 90_000;
        let mut since = self.now_ms;
        while self.now_ms < end && self.violation.is_none() && self.now_ms - since < 5000 {
            self.tick();
            if !self.is_healthy() {
                since = self.now_ms;
            }
        }
        if !self.is_healthy() {
            let plan = format!("{:?}", self.store.plan);
            self.fail(format!("not healthy 90 s after the last fault ended: plan {plan}"));
        }
        self.quiet = true;
        self.go(1000);
        self.check_everywhere();
    }

    fn go(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while self.now_ms < end && self.violation.is_none() {
            self.tick();
        }
    }

    fn go_until(&mut self, ms: u64, done: impl Fn(&World) -> bool) {
        let end = self.now_ms + ms;
        while self.now_ms < end && self.violation.is_none() && !done(self) {
            self.tick();
        }
    }

    /// One primary that the monitor serves, everybody else streaming from it, nothing in flight.
    pub fn is_healthy(&self) -> bool {
        let Plan::Serving { primary } = self.store.plan else { return false };
        let Some(p) = self.hosts.iter().position(|h| h.id == Some(primary)) else { return false };
        let counted = self.store.rule().is_some_and(|r| r.members.len() == self.hosts.len() - 1);
        self.hosts[p].pg.is_primary()
            && self.store.is_covered()
            && self.store.episode.is_none()
            && (counted || self.hosts.len() == 1)
            && self
                .hosts
                .iter()
                .enumerate()
                .all(|(i, h)| i == p || self.streams_from(i, p) && h.driver.is_some())
    }

    /// The monitor's view, for traces.
    pub fn monitor_view(&self) -> Vec<String> {
        let Some(monitor) = &self.monitor else { return Vec::new() };
        let view = monitor.view(self.now(), &|ms| ms.to_string());
        let mut lines: Vec<String> = view.nodes.iter().map(|n| format!("{n:?}")).collect();
        lines.push(format!("{:?} {:?} {:?}", view.waiting_on, view.alerts, view.findings));
        for (id, node) in &monitor.facts().nodes {
            lines.push(format!("{id}: {node:?}"));
        }
        lines
    }

    fn streams_from(&self, standby: usize, primary: usize) -> bool {
        let (s, p) = (&self.hosts[standby], &self.hosts[primary]);
        s.pg.upstream().is_some() && s.pg.upstream() == p.id && s.pg.is_prefix_of(&p.pg)
    }

    fn linked(&self, a: usize, b: usize) -> bool {
        a == b || !(self.hosts[a].cut || self.hosts[b].cut)
    }

    fn hears_monitor(&self, i: usize) -> bool {
        !self.hosts[i].cut && !self.hosts[i].muted
    }

    fn alive(&self, i: usize) -> bool {
        self.hosts[i].frozen_until_ms <= self.now_ms
    }

    // ---- faults

    fn fault(&mut self) {
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

    fn heal(&mut self) {
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

    fn kill_postgres(&mut self, i: usize) {
        self.hosts[i].pg.stop(false);
        if let Some((_, step, _)) = &self.hosts[i].step
            && !matches!(step, Step::Kill | Step::Stop { .. })
        {
            let id = self.hosts[i].step.take().map_or(0, |s| s.0);
            self.feed(i, NodeInput::StepEnded { id, result: Err("killed".into()) });
        }
        self.hosts[i].next_look_ms = self.now_ms;
    }

    fn kill_keeper(&mut self, i: usize) {
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

    fn close_at_monitor(&mut self, stream: u64, i: usize) {
        self.streams.remove(&stream);
        if !self.hears_monitor(i) {
            return;
        }
        if let Some(node) = self.hosts[i].id {
            self.monitor_input(GroupInput::Closed { stream, node });
        }
    }

    fn restart_monitor(&mut self) {
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

    // ---- one tick

    fn tick(&mut self) {
        self.now_ms += TICK_MS;
        for i in 0..self.hosts.len() {
            self.replicate(i);
        }
        for i in 0..self.hosts.len() {
            if self.alive(i) {
                self.host_tick(i);
            }
        }
        self.deliver();
        if self.now_ms >= self.next_monitor_tick_ms {
            self.monitor_input(GroupInput::Tick);
            let wait = self.monitor.as_ref().map_or(50, |m| m.wake_in_ms(self.now()));
            self.next_monitor_tick_ms = self.now_ms + wait;
        }
        self.clients();
    }

    fn host_tick(&mut self, i: usize) {
        if self.hosts[i].driver.is_none() && self.now_ms >= self.hosts[i].next_connect_ms {
            let record = self.hosts[i].disk.clone();
            self.hosts[i].driver = Some(NodeDriver::new(record, self.now()));
            self.note_host(i, "keeper starts");
        }
        if self.hosts[i].driver.is_none() {
            return;
        }
        if self.hosts[i].stream.is_none() && self.now_ms >= self.hosts[i].next_connect_ms {
            self.connect(i);
        }
        if let Some((id, step, _)) = self.hosts[i].step.take_if(|s| s.2 <= self.now_ms) {
            let result = self.execute(i, &step);
            self.note(|| format!("step ended {step} of host {} {:?}", i + 1, result.is_ok()));
            self.feed(i, NodeInput::StepEnded { id, result });
        }
        if self.now_ms >= self.hosts[i].next_look_ms {
            self.look(i);
        }
        if self.now_ms % 50 < TICK_MS {
            self.feed(i, NodeInput::Tick);
        }
    }

    fn note_host(&mut self, i: usize, what: &str) {
        let name = self.hosts[i].name.clone();
        self.note(|| format!("{name} {what}"));
    }

    fn look(&mut self, i: usize) {
        let names: BTreeMap<NodeId, String> =
            self.hosts.iter().filter_map(|h| Some((h.id?, h.name.clone()))).collect();
        let name = |id: NodeId| names.get(&id).cloned().unwrap_or_default();
        let seen = self.hosts[i].pg.observe(&name, self.now_ms);
        self.feed(i, NodeInput::Observed(seen));
        let wait = self.hosts[i].driver.as_ref().map_or(100, NodeDriver::look_in_ms);
        self.hosts[i].next_look_ms = self.now_ms + wait;
    }

    fn connect(&mut self, i: usize) {
        if !self.hears_monitor(i) || self.monitor.is_none() {
            self.hosts[i].next_connect_ms = self.now_ms + 200;
            return;
        }
        self.note_host(i, "connects");
        let stream = self.next_stream;
        self.next_stream += 1;
        self.hosts[i].stream = Some(stream);
        self.streams.insert(stream, i);
        let host = &self.hosts[i];
        let Some(driver) = &host.driver else { return };
        let record = driver.record();
        let hello = Hello {
            formation: "default".into(),
            group: 0,
            name: host.name.clone(),
            host: host.name.clone(),
            port: 5432,
            candidate_priority: 100 - 10 * u32::try_from(i).unwrap_or(0),
            replication_quorum: true,
            node_id: record.node_id,
            system_id: host.pg.exists.then_some(1),
            promise: record.promise,
            rules_held: record.rules_held.clone(),
            postgres_major: 17,
        };
        self.send_up(stream, i, ToMonitor::Hello(hello));
    }

    fn send_up(&mut self, stream: u64, i: usize, message: ToMonitor) {
        let at = self.now_ms + self.rng.range(0, 8);
        let at = self.up.iter().rev().find(|m| m.1 == stream).map_or(at, |m| m.0.max(at));
        self.up.push_back((at, stream, i, message));
    }

    fn send_down(&mut self, stream: u64, i: usize, message: ToKeeper) {
        let at = self.now_ms + self.rng.range(0, 8);
        let at = self.down.iter().rev().find(|m| m.1 == stream).map_or(at, |m| m.0.max(at));
        self.down.push_back((at, stream, i, message));
    }

    fn deliver(&mut self) {
        for _ in 0..self.up.len() {
            let Some((at, stream, i, message)) = self.up.pop_front() else { break };
            if at > self.now_ms || !self.hears_monitor(i) {
                // TCP holds what a cut link cannot carry; a long cut ends the stream (below).
                if self.now_ms.saturating_sub(at) < 4000 {
                    self.up.push_back((at, stream, i, message));
                } else if self.hosts[i].stream == Some(stream) {
                    self.hosts[i].stream = None;
                    self.streams.remove(&stream);
                    self.feed(i, NodeInput::StreamLost);
                }
                continue;
            }
            if !self.streams.contains_key(&stream) {
                continue;
            }
            match message {
                ToMonitor::Hello(hello) => {
                    let fresh_id = NodeId(self.next_id);
                    self.next_id += 1;
                    self.monitor_input(GroupInput::Hello { stream, hello, fresh_id });
                }
                ToMonitor::Report(report) => {
                    let Some(node) = self.hosts[i].id else { continue };
                    self.monitor_input(GroupInput::Report { stream, node, report });
                    self.send_down(stream, i, ToKeeper::Heard);
                }
            }
        }
        for _ in 0..self.down.len() {
            let Some((at, stream, i, message)) = self.down.pop_front() else { break };
            if at > self.now_ms || !self.hears_monitor(i) || !self.alive(i) {
                if self.now_ms.saturating_sub(at) < 4000 {
                    self.down.push_back((at, stream, i, message));
                } else if self.hosts[i].stream == Some(stream) {
                    // Keepalives end the stream on both sides; nothing is lost within one.
                    self.hosts[i].stream = None;
                    self.streams.remove(&stream);
                    if let Some(node) = self.hosts[i].id {
                        self.monitor_input(GroupInput::Closed { stream, node });
                    }
                    self.feed(i, NodeInput::StreamLost);
                }
                continue;
            }
            if self.hosts[i].stream != Some(stream) || self.hosts[i].driver.is_none() {
                continue;
            }
            match message {
                ToKeeper::Welcome(node_id) => {
                    self.hosts[i].id = Some(node_id);
                    self.feed(i, NodeInput::Welcomed { node_id });
                }
                ToKeeper::Order(order) => {
                    self.note(|| {
                        format!(
                            "host {} gets {:?} e{} s{}",
                            i + 1,
                            order.goal,
                            order.epoch,
                            order.seq
                        )
                    });
                    self.feed(i, NodeInput::Order(*order));
                }
                ToKeeper::Heard => self.feed(i, NodeInput::Heard),
            }
        }
    }

    fn monitor_input(&mut self, input: GroupInput) {
        let now = self.now();
        let hello = match &input {
            GroupInput::Hello { stream, .. } => Some(*stream),
            _ => None,
        };
        let Some(monitor) = &mut self.monitor else { return };
        let mut out = monitor.handle(input, now);
        if out.record.is_some() || !out.events.is_empty() {
            if self.rng.chance(1) {
                monitor.rollback();
                out = GroupOutput::default();
                self.note(|| "store: commit failed".into());
                if let Some(stream) = hello
                    && let Some(i) = self.streams.remove(&stream)
                {
                    self.hosts[i].stream = None;
                    self.hosts[i].next_connect_ms = now.mono_ms + 500;
                }
            } else {
                monitor.committed();
            }
        }
        if let Some(record) = out.record {
            if record.plan != self.store.plan {
                self.note(|| format!("plan {:?} rules {:?}", record.plan, record.rules));
                match record.plan {
                    Plan::Electing { .. } => self.stats.elections += 1,
                    Plan::Promoting { renewal: true, .. } => self.stats.renewals += 1,
                    _ => {}
                }
            }
            self.store = *record;
        }
        for event in &out.events {
            self.note(|| {
                format!("event {} {} {:?}", event.kind, event.description, event.evidence)
            });
        }
        for (stream, answer) in out.welcomes {
            let Some(i) = self.streams.get(&stream).copied() else { continue };
            match answer {
                Ok(welcome) => self.send_down(stream, i, ToKeeper::Welcome(welcome.node_id)),
                Err(refusal) => {
                    self.note(|| format!("refused host {}: {refusal}", i + 1));
                    self.streams.remove(&stream);
                    self.hosts[i].stream = None;
                    self.hosts[i].next_connect_ms = self.now_ms + 1000;
                }
            }
        }
        for (stream, _, order) in out.orders {
            if let Some(i) = self.streams.get(&stream).copied() {
                self.send_down(stream, i, ToKeeper::Order(Box::new(order)));
            }
        }
    }

    fn feed(&mut self, i: usize, input: NodeInput) {
        let now = self.now();
        let Some(driver) = &mut self.hosts[i].driver else { return };
        for output in driver.handle(input, now) {
            match output {
                NodeOutput::Save(record) => self.hosts[i].disk = *record,
                NodeOutput::Run { id, step } => {
                    self.note(|| format!("host {} begins {step:?}", i + 1));
                    let took = self.duration(&step);
                    self.hosts[i].step = Some((id, step, self.now_ms + took));
                }
                NodeOutput::Cancel { id } => {
                    let due = self.now_ms + 5;
                    if let Some(step) = &mut self.hosts[i].step
                        && step.0 == id
                    {
                        step.2 = step.2.min(due);
                    }
                }
                NodeOutput::Send(report) => {
                    if let Some(stream) = self.hosts[i].stream {
                        self.send_up(stream, i, ToMonitor::Report(report));
                    }
                }
                NodeOutput::Look => self.hosts[i].next_look_ms = self.now_ms,
                NodeOutput::Exit => {}
            }
        }
    }

    fn duration(&mut self, step: &Step) -> u64 {
        match step {
            Step::Clone { .. } | Step::Rewind { .. } => self.rng.range(200, 3000),
            Step::Initdb
            | Step::StartStandby
            | Step::StartFollowing { .. }
            | Step::StartPrimary { .. } => self.rng.range(50, 400),
            Step::Promote { .. } => self.rng.range(20, 300),
            Step::Checkpoint | Step::PrepareHandover => self.rng.range(20, 500),
            Step::Stop { .. } | Step::Kill => self.rng.range(10, 100),
            _ => self.rng.range(5, 40),
        }
    }

    // ---- what steps do

    fn host_of(&self, id: NodeId) -> Option<usize> {
        self.hosts.iter().position(|h| h.id == Some(id))
    }

    fn execute(&mut self, i: usize, step: &Step) -> Result<StepDone, String> {
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
    fn drain(&mut self, i: usize) {
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

    fn promote(
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

    fn replace(&mut self, i: usize, primary: NodeId, whole: bool) -> Result<StepDone, String> {
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

    // ---- replication and clients

    fn replicate(&mut self, i: usize) {
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

    fn clients(&mut self) {
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

    fn check_everywhere(&mut self) {
        for i in 0..self.hosts.len() {
            for (tag, len) in self.acked.clone() {
                if self.hosts[i].pg.wal.get(len - 1) != Some(&tag) {
                    self.fail(format!("acknowledged {tag}/{len} is missing on host {}", i + 1));
                }
            }
        }
    }
}
