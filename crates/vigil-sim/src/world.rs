//! The world: hosts, links, disks, time, clients. Everything that happens is an entry of one queue.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use vigil_core::group::{Group, Settings};
use vigil_core::ids::{GroupKey, NodeId, Now};

use crate::coverage::Coverage;
use crate::invariants::{self, Ghost, Moment};
use crate::rng::Rng;
use crate::scenario::Scenario;

mod clients;
mod epilogue;
mod faults;
mod host;
mod lab;
mod monitor;
mod net;
mod replication;
mod run;
mod steps;

pub(crate) use host::Host;
pub use lab::Lab;
pub(crate) use monitor::Monitor;
use net::{Net, Stream, ToKeeper};
use steps::Effect;

/// How a run goes wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub at_ms: u64,
    /// The invariant, by its file's name.
    pub invariant: &'static str,
    pub what: String,
}

/// What may happen next.
pub(crate) enum Event {
    Fault(usize),
    Strike(usize),
    Undo(faults::Undo),
    StartKeeper {
        host: usize,
        life: u64,
    },
    Connect {
        host: usize,
        life: u64,
    },
    /// Valid only if the host still wants it at this very time.
    Look {
        host: usize,
    },
    Wake {
        host: usize,
    },
    StepEnds {
        host: usize,
        life: u64,
        id: u64,
    },
    /// A step's effect on Postgres, in a certain life of it.
    Effect {
        host: usize,
        pg_life: u64,
        effect: Effect,
    },
    /// Messages of a stream are due.
    Up {
        stream: u64,
    },
    Down {
        stream: u64,
    },
    Stray {
        stream: u64,
        message: ToKeeper,
    },
    LostAtKeeper {
        stream: u64,
    },
    ClosedAtMonitor {
        stream: u64,
    },
    MonitorTick {
        monitor: usize,
        life: u64,
    },
    /// The store answers a monitor that waits for it, or its task for a group gets to its mail.
    Continues {
        monitor: usize,
        life: u64,
        group: usize,
    },
    Client {
        group: usize,
    },
    /// The receiver of this standby gets on.
    Pump {
        host: usize,
    },
    /// A receiver's status interval has passed.
    Status {
        host: usize,
    },
    /// A standby's word arrives at a walsender.
    Told {
        primary: usize,
        pg_life: u64,
        standby: usize,
        flushed: u64,
    },
    /// A walsender notices that its standby has gone.
    Gone {
        primary: usize,
        pg_life: u64,
        standby: usize,
    },
}

struct Entry {
    at_ms: u64,
    number: u64,
    event: Event,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at_ms, self.number).cmp(&(other.at_ms, other.number))
    }
}

/// One group's store, as the monitor's Postgres has it.
pub(crate) struct Store {
    pub(crate) record: Group,
    /// Every record that was committed before.
    past: Vec<Group>,
    fails: bool,
    /// A flush takes up to so long, in milliseconds.
    slow_ms: u64,
    /// Put back or lost, and not yet made good by what keepers told.
    pub(crate) doubtful: bool,
}

/// The whole world of one seed.
#[expect(clippy::struct_excessive_bools, reason = "independent conditions of one world")]
pub struct World {
    pub now_ms: u64,
    pub(crate) scenario: Scenario,
    rng: Rng,
    queue: BinaryHeap<Reverse<Entry>>,
    entries: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) stores: Vec<Store>,
    pub(crate) monitors: Vec<Monitor>,
    pub(crate) net: Net,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    next_id: i64,
    next_command: u64,
    /// Faults that wait for a change of the primary.
    armed: Vec<usize>,
    /// When a fault last began or ended, or a keeper started, in milliseconds. Not counted: what an
    /// operator does.
    pub(crate) calm_since_ms: u64,
    /// The same, but for what keeps only a keeper or the monitor from its work.
    pub(crate) whole_since_ms: u64,
    /// The faults are over.
    healed: bool,
    /// Clients have stopped writing.
    quiet: bool,
    /// A second, and so many events in it.
    this_second: (u64, u64),
    /// Something changed that the standing invariants look at.
    stirred: bool,
    pub(crate) ghost: Ghost,
    pub coverage: Coverage,
    pub trace: Vec<String>,
    tracing: bool,
    pub violation: Option<Violation>,
}

impl World {
    pub fn new(scenario: Scenario, tracing: bool) -> Self {
        let settings = |sync| Settings {
            number_sync_standbys: sync,
            heartbeat_interval_ms: scenario.heartbeat_ms,
            heartbeat_misses: scenario.misses,
            ..Settings::default()
        };
        let stores = scenario.groups.iter().zip(0u32..).map(|(plan, group)| {
            let key = GroupKey { formation: "default".into(), group };
            let settings = settings(plan.number_sync_standbys);
            Store {
                record: Group::new(key, settings, "secret".to_owned()),
                past: Vec::new(),
                fails: false,
                slow_ms: 0,
                doubtful: false,
            }
        });
        let stores: Vec<Store> = stores.collect();
        let mut world = World {
            now_ms: 1_000,
            rng: Rng::new(scenario.seed),
            queue: BinaryHeap::new(),
            entries: 0,
            hosts: Vec::new(),
            ghost: Ghost::new(scenario.groups.len()),
            stores,
            monitors: vec![Monitor::down(), Monitor::down()],
            net: Net::default(),
            streams: BTreeMap::new(),
            next_stream: 1,
            next_id: 1,
            next_command: 1,
            armed: Vec::new(),
            calm_since_ms: 0,
            whole_since_ms: 0,
            healed: false,
            quiet: false,
            this_second: (0, 0),
            stirred: false,
            coverage: Coverage::default(),
            trace: Vec::new(),
            tracing,
            violation: None,
            scenario,
        };
        for (group, plan) in world.scenario.groups.clone().iter().enumerate() {
            for node in &plan.nodes {
                world.add_host(group, *node);
            }
        }
        world
    }

    /// The monitor's clock, and that of the trace.
    pub(crate) fn now(&self) -> Now {
        Now { mono_ms: self.now_ms, wall_ms: 1_700_000_000_000 + self.now_ms.cast_signed() }
    }

    fn at(&mut self, at_ms: u64, event: Event) {
        self.entries += 1;
        let entry = Entry { at_ms: at_ms.max(self.now_ms), number: self.entries, event };
        self.queue.push(Reverse(entry));
    }

    fn after(&mut self, ms: u64, event: Event) {
        self.at(self.now_ms + ms, event);
    }

    /// How long a packet takes, in milliseconds.
    fn latency(&mut self) -> u64 {
        self.rng.range(0, 6)
    }

    /// One line of the trace: when, who, what, and the details.
    pub(crate) fn note(&mut self, who: &str, what: &str, details: impl FnOnce() -> String) {
        if self.tracing {
            let line = format!("{:>8}  {who:<8}  {what:<12}  {}", self.now_ms, details());
            self.trace.push(line);
        }
    }

    fn note_host(&mut self, host: usize, what: &str, details: impl FnOnce() -> String) {
        if self.tracing {
            let name = self.hosts[host].name.clone();
            self.note(&name, what, details);
        }
    }

    /// The first violation is what a run ends with.
    pub(crate) fn fail(&mut self, invariant: &'static str, what: String) {
        if self.violation.is_none() {
            self.note("world", "VIOLATION", || format!("{invariant}: {what}"));
            self.violation = Some(Violation { at_ms: self.now_ms, invariant, what });
        }
    }

    /// Shows something that happened to the invariants, then remembers it.
    pub(crate) fn witness(&mut self, moment: &Moment<'_>) {
        self.stirred = true;
        if let Some((invariant, what)) = invariants::broken_by(self, moment) {
            self.fail(invariant, what);
        }
        self.ghost.remember(moment);
    }

    pub(crate) fn host_of(&self, group: usize, id: NodeId) -> Option<usize> {
        self.hosts.iter().position(|h| h.group == group && h.disk.node_id == Some(id))
    }

    /// The hosts of a group.
    pub(crate) fn of_group(&self, group: usize) -> impl Iterator<Item = (usize, &Host)> {
        self.hosts.iter().enumerate().filter(move |(_, h)| h.group == group)
    }

    /// Packets from `from` get to `to`.
    pub(crate) fn linked(&self, from: usize, to: usize) -> bool {
        from == to || self.hosts[from].powered && self.hosts[to].powered && self.net.open(from, to)
    }
}
