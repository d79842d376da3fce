//! What the runs have met: faults by plan phase, and the rare things.

use std::collections::BTreeMap;

use vigil_core::event::Event;
use vigil_core::group::{Group, Plan};

use crate::invariants::loss_accepted;
use crate::scenario::Kind;

/// The phases of a group's plan, in the table's order.
pub const PHASES: [&str; 6] =
    ["forming", "serving", "handover", "electing", "promoting", "recovering"];

/// Counts over any number of runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub runs: u64,
    pub events: u64,
    pub simulated_ms: u64,
    pub commits: u64,
    pub faults: u64,
    /// (kind, phase) → how often.
    pub table: BTreeMap<(Kind, usize), u64>,
    pub elections: u64,
    pub promotions: u64,
    pub renewals: u64,
    pub handovers: u64,
    pub fetches: u64,
    pub rewinds: u64,
    pub clones: u64,
    pub degrades: u64,
    pub losses_accepted: u64,
    pub recoveries: u64,
    /// Faults while a rule was in flight.
    pub mid_change: u64,
}

impl Coverage {
    pub(crate) fn fault(&mut self, kind: Kind, plan: &str, covered: bool) {
        self.faults += 1;
        self.mid_change += u64::from(!covered);
        let phase = PHASES.iter().position(|p| *p == plan).unwrap_or(0);
        *self.table.entry((kind, phase)).or_default() += 1;
    }

    pub(crate) fn recorded(&mut self, before: &Group, after: &Group, events: &[Event]) {
        if before.plan != after.plan {
            match after.plan {
                Plan::Electing { .. } => self.elections += 1,
                Plan::Promoting { renewal: true, .. } => self.renewals += 1,
                Plan::Handover { .. } => self.handovers += 1,
                Plan::Recovering => self.recoveries += 1,
                _ => {}
            }
        }
        let acks = |g: &Group| g.rule().map_or(0, |r| r.acks);
        self.degrades += u64::from(acks(before) > 0 && acks(after) == 0);
        self.losses_accepted += u64::from(loss_accepted(after, events).is_some());
    }

    pub fn add(&mut self, other: &Coverage) {
        for (cell, count) in &other.table {
            *self.table.entry(*cell).or_default() += count;
        }
        for (mine, theirs) in self.counts_mut().into_iter().zip(other.clone().counts_mut()) {
            *mine.1 += *theirs.1;
        }
    }

    fn counts_mut(&mut self) -> [(&'static str, &mut u64); 16] {
        [
            ("runs", &mut self.runs),
            ("events", &mut self.events),
            ("simulated ms", &mut self.simulated_ms),
            ("commits", &mut self.commits),
            ("faults", &mut self.faults),
            ("elections", &mut self.elections),
            ("promotions", &mut self.promotions),
            ("renewals", &mut self.renewals),
            ("handovers", &mut self.handovers),
            ("fast_forward", &mut self.fetches),
            ("rewind", &mut self.rewinds),
            ("reclone", &mut self.clones),
            ("degrade", &mut self.degrades),
            ("allow-data-loss", &mut self.losses_accepted),
            ("recovering", &mut self.recoveries),
            ("rule change in flight", &mut self.mid_change),
        ]
    }

    /// The table, and below it the rare things.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("{:<18}{}", "fault", columns(&PHASES.map(str::to_owned)))];
        for (kind, _) in Kind::ALL {
            let cells = std::array::from_fn(|phase| {
                self.table.get(&(*kind, phase)).copied().unwrap_or(0).to_string()
            });
            lines.push(format!("{:<18}{}", format!("{kind:?}"), columns(&cells)));
        }
        for (name, count) in self.clone().counts_mut() {
            lines.push(format!("{name:<24}{count:>12}"));
        }
        lines
    }
}

fn columns(cells: &[String; PHASES.len()]) -> String {
    cells.iter().fold(String::new(), |line, cell| line + &format!("{cell:>11}"))
}
