//! What must always hold. One small file each; every one looks at what just happened
//! ([`Moment`]) or, after every event that changed something, at the world as it stands.

use std::collections::{BTreeMap, BTreeSet};

use vigil_core::event::Event;
use vigil_core::group::Group;
use vigil_core::ids::Epoch;
use vigil_core::message::Report;
use vigil_core::node::record::NodeRecord;

use crate::wal::Wal;
use crate::world::World;

mod acknowledged_is_kept;
mod covered_is_held;
mod discarded_is_kept_aside;
mod enough_copies;
mod epochs_grow;
mod last_copy;
mod old_orders;
mod one_event;
mod one_writer;
mod pledges_are_true;
mod renewal;
mod rules_intersect;
mod silence;
mod starved;
mod whole_directories;
mod winner_is_complete;

/// Something that happened and that invariants are about.
pub(crate) enum Moment<'a> {
    /// Clients were told that records up to `len` of timeline `tli` are safe.
    Acknowledged {
        host: usize,
        tli: u32,
        len: u64,
    },
    Promoted {
        host: usize,
        epoch: Epoch,
        tli: u32,
    },
    /// A keeper's record became durable.
    Saved {
        host: usize,
        before: &'a NodeRecord,
        after: &'a NodeRecord,
    },
    /// A keeper took an order in.
    Obeyed {
        host: usize,
        epoch: Epoch,
        promise: Epoch,
        seq: u64,
        before: Option<u64>,
    },
    /// A monitor's decision became durable.
    Recorded {
        monitor: usize,
        group: usize,
        before: &'a Group,
        after: &'a Group,
        events: &'a [Event],
    },
    /// A directory was replaced; what was kept aside begins at that record.
    Replaced {
        host: usize,
        from: usize,
        old: &'a Wal,
        new: &'a Wal,
        kept_from: Option<u64>,
    },
    /// A keeper told the monitor something.
    Told {
        host: usize,
        report: &'a Report,
    },
    /// A keeper stops its primary because others may have been elected.
    Fenced {
        host: usize,
    },
    Started {
        host: usize,
        torn: bool,
    },
}

type Happened = fn(&World, &Moment<'_>) -> Option<String>;
type Stands = fn(&World) -> Option<String>;

const HAPPENED: &[(&str, Happened)] = &[
    ("acknowledged_is_kept", acknowledged_is_kept::check),
    ("winner_is_complete", winner_is_complete::check),
    ("epochs_grow", epochs_grow::check),
    ("old_orders", old_orders::check),
    ("last_copy", last_copy::check),
    ("enough_copies", enough_copies::check),
    ("discarded_is_kept_aside", discarded_is_kept_aside::check),
    ("whole_directories", whole_directories::check),
    ("one_event", one_event::check),
    ("silence", silence::check),
    ("starved", starved::check),
    ("pledges_are_true", pledges_are_true::check),
    ("covered_is_held", covered_is_held::check),
    ("renewal", renewal::check),
];

const STANDS: &[(&str, Stands)] =
    &[("one_writer", one_writer::check), ("rules_intersect", rules_intersect::check)];

pub(crate) fn broken_by(world: &World, moment: &Moment<'_>) -> Option<(&'static str, String)> {
    HAPPENED.iter().find_map(|(name, check)| Some((*name, check(world, moment)?)))
}

pub(crate) fn broken_now(world: &World) -> Option<(&'static str, String)> {
    STANDS.iter().find_map(|(name, check)| Some((*name, check(world)?)))
}

/// What invariants remember of one group.
#[derive(Default)]
struct Memory {
    /// The highest acknowledged record of each timeline.
    acked: BTreeMap<u32, u64>,
    epochs_led: BTreeSet<Epoch>,
    timelines: BTreeSet<u32>,
    /// An operator gave up what nodes below this epoch hold alone: their word does not count.
    given_up_below: Epoch,
    /// A disk was lost since the group was last well.
    wiped: bool,
}

/// The history that no single state shows.
pub(crate) struct Ghost {
    groups: Vec<Memory>,
    group_of: Vec<usize>,
}

impl Ghost {
    pub(crate) fn new(groups: usize) -> Self {
        Ghost { groups: (0..groups).map(|_| Memory::default()).collect(), group_of: Vec::new() }
    }

    /// Hosts are numbered as they come.
    pub(crate) fn host_added(&mut self, group: usize) {
        self.group_of.push(group);
    }

    pub(crate) fn acknowledged(&self, group: usize) -> impl Iterator<Item = (u32, u64)> {
        self.groups[group].acked.iter().map(|(tli, len)| (*tli, *len))
    }

    pub(crate) fn is_news(&self, group: usize, tli: u32, len: u64) -> bool {
        self.groups[group].acked.get(&tli).is_none_or(|had| *had < len)
    }

    pub(crate) fn may_wipe(&self, group: usize) -> bool {
        !self.groups[group].wiped
    }

    pub(crate) fn wiped(&mut self, group: usize) {
        self.groups[group].wiped = true;
    }

    pub(crate) fn well(&mut self, group: usize) {
        self.groups[group].wiped = false;
    }

    pub(crate) fn remember(&mut self, moment: &Moment<'_>) {
        match moment {
            Moment::Acknowledged { host, tli, len } => {
                let acked = self.groups[self.group_of[*host]].acked.entry(*tli).or_default();
                *acked = (*acked).max(*len);
            }
            Moment::Promoted { host, epoch, tli } => {
                let memory = &mut self.groups[self.group_of[*host]];
                memory.epochs_led.insert(*epoch);
                memory.timelines.insert(*tli);
            }
            _ => {}
        }
    }

    /// An operator accepted the loss of whatever `winner` does not hold.
    pub(crate) fn loss_accepted(&mut self, group: usize, epoch: Epoch, winner: &Wal) {
        let memory = &mut self.groups[group];
        memory.given_up_below = epoch;
        memory.acked.retain(|tli, len| {
            *len = winner.left(*tli).unwrap_or(0).min(*len);
            *len > 0
        });
    }
}

impl World {
    /// Whether a host's word was given up by an operator: it may still run on the far side of a cut.
    pub(crate) fn is_outlaw(&self, host: usize) -> bool {
        let h = &self.hosts[host];
        let below = self.ghost.groups[h.group].given_up_below;
        h.disk.promise < below || h.pg.writer().is_some_and(|w| w.rule.epoch < below)
    }

    /// Whether a group's store was put back to before an operator accepted a loss: it may side with
    /// nodes whose word was given up, until one that was there is heard.
    pub(crate) fn is_from_before_the_loss(&self, group: usize) -> bool {
        self.stores[group].record.epoch < self.ghost.groups[group].given_up_below
    }
}

/// The winner that was recorded at the price of a loss, if that is what happened.
pub(crate) fn loss_accepted(after: &Group, events: &[Event]) -> Option<vigil_core::ids::NodeId> {
    let accepted = |e: &&Event| e.description.starts_with("data loss accepted");
    events.iter().find(accepted)?;
    after.rule().map(|rule| rule.primary)
}
