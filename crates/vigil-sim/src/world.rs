//! The world: hosts, links, disks, time, clients, faults; and what must always hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use vigil_core::driver::group::GroupDriver;
use vigil_core::driver::node::NodeDriver;
use vigil_core::group::{Group, Plan, Settings};
use vigil_core::ids::{GroupKey, NodeId, Now};
use vigil_core::message::{Hello, Order, Report};
use vigil_core::node::record::NodeRecord;
use vigil_core::node::step::Step;

use crate::postgres::Postgres;
use crate::rng::Rng;

mod clients;
mod faults;
mod links;
mod steps;

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
    Hello(Box<Hello>),
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
}
