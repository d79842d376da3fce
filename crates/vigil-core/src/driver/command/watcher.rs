//! An operator's command is followed to its end.

use super::Effect;
use super::effect::Stage;
use crate::command::{OperationResult, Progress};
use crate::election::Election;
use crate::event::{Event, Operation};
use crate::facts::Facts;
use crate::goals::current_election;
use crate::group::{Group, Plan};
use crate::ids::{NodeId, Now};
use crate::message::Server;

/// An effect is followed for no longer, in milliseconds: whoever asked has gone by then.
const WATCHED_MS: u64 = 3_600_000;

pub(super) fn result(
    group: &Group,
    operation: Operation,
    from: Option<NodeId>,
    outage_ms: u64,
    phases: Vec<crate::event::Phase>,
) -> OperationResult {
    let to = group.rule().map(|r| r.primary);
    let member = to.and_then(|id| group.members.get(&id));
    OperationResult {
        operation: operation.as_str().to_owned(),
        formationid: group.key.formation.clone(),
        groupid: group.key.group,
        epoch: group.epoch.0,
        from: from.map(|id| group.name_of(id)),
        to: member.map(|m| m.name.clone()).unwrap_or_default(),
        host: member.map(|m| m.host.clone()).unwrap_or_default(),
        port: member.map_or(0, |m| m.port),
        outage_ms,
        phases,
    }
}

/// Somebody waits for an operation to end.
#[derive(Clone)]
pub(crate) struct Watcher {
    pub(crate) id: u64,
    effect: Effect,
    /// Of the node that the effect is about, which may leave meanwhile.
    name: String,
    /// Told with the effect.
    warning: Option<String>,
    from: Option<NodeId>,
    phases_told: usize,
    waiting_told: Option<(String, String)>,
    /// The episode as last seen: its end takes it out of the record.
    last: Option<crate::event::Episode>,
    began: Now,
}

impl Watcher {
    pub(crate) fn new(
        id: u64,
        effect: Effect,
        warning: Option<String>,
        group: &Group,
        now: Now,
    ) -> Self {
        let from = group.episode.as_ref().and_then(|e| e.from);
        Watcher {
            id,
            effect,
            name: effect.node().map(|node| group.name_of(node)).unwrap_or_default(),
            warning,
            from,
            phases_told: 0,
            waiting_told: None,
            last: group.episode.clone(),
            began: now,
        }
    }

    /// Tells what is new. Returns false when the operation has ended.
    pub(crate) fn look(
        &mut self,
        group: &Group,
        facts: &Facts,
        now: Now,
        events: &[Event],
        out: &mut Vec<Progress>,
    ) -> bool {
        if let Some(stage) = self.effect.stage(group, facts, &self.name, now) {
            return self.tell_stage(stage, group, facts, now, out);
        }
        let Effect::Change { operation, wish } = self.effect else { return false };
        if let Some(episode) = &group.episode {
            self.last = Some(episode.clone());
            self.tell_phases(episode.phases(), out);
            self.tell_waiting(group, facts, now, out);
            return true;
        }
        let Plan::Serving { primary } = group.plan else { return true };
        // The closing event carries the phases that came with the end.
        let closing = events.iter().rev().find(|e| !e.phases.is_empty());
        let phases = closing.map_or_else(
            || self.last.as_ref().map(crate::event::Episode::phases).unwrap_or_default(),
            |e| e.phases.clone(),
        );
        self.tell_phases(phases.clone(), out);
        let mut last = self.last.clone();
        if let Some(episode) = &mut last {
            episode.mark("end", now.wall_ms);
        }
        let outage_ms = last.map_or(now.mono_ms - self.began.mono_ms, |e| e.outage_ms());
        let result = result(group, operation, self.from, outage_ms, phases);
        // This node leads, or any but the old one.
        let as_asked = wish.map_or(self.from != Some(primary), |wish| wish == primary);
        out.push(if as_asked { Progress::Done(result) } else { Progress::RolledBack(result) });
        false
    }

    /// Of an effect that is no change of the primary, although one may come first.
    fn tell_stage(
        &mut self,
        stage: Stage,
        group: &Group,
        facts: &Facts,
        now: Now,
        out: &mut Vec<Progress>,
    ) -> bool {
        match stage {
            Stage::There(words) => {
                let warning = self.warning.take();
                let message = warning.map_or(words.clone(), |w| format!("{words}; warning: {w}"));
                out.push(Progress::Effective { message });
                return false;
            }
            Stage::Otherwise(message) => {
                out.push(Progress::Otherwise { message });
                return false;
            }
            Stage::Waits { what, who } => match &group.episode {
                Some(episode) => {
                    self.tell_phases(episode.phases(), out);
                    self.tell_waiting(group, facts, now, out);
                }
                None => self.tell_once((what, who), out),
            },
        }
        if now.mono_ms.saturating_sub(self.began.mono_ms) > WATCHED_MS {
            let message = "nobody follows it any longer".to_owned();
            out.push(Progress::Failed { message });
            return false;
        }
        true
    }

    fn tell_phases(&mut self, phases: Vec<crate::event::Phase>, out: &mut Vec<Progress>) {
        let told = self.phases_told;
        self.phases_told = told.max(phases.len());
        out.extend(phases.into_iter().skip(told).map(Progress::Phase));
    }

    fn tell_waiting(&mut self, group: &Group, facts: &Facts, now: Now, out: &mut Vec<Progress>) {
        let waits = match (&group.plan, current_election(group, facts, now)) {
            (_, Some(Election::Wait(wait))) => crate::decide::waiting_words(group, &wait),
            (Plan::Handover { from, .. }, _) => {
                ("checkpoints before the handover".to_owned(), group.name_of(*from))
            }
            (Plan::Promoting { winner, .. }, _) => {
                ("the winner to be writable".to_owned(), group.name_of(*winner))
            }
            (Plan::Serving { primary }, _) => {
                let down = facts.report(*primary).is_none_or(|r| r.server != Server::Primary);
                let what = if down { "the primary" } else { "a standby to confirm the sync rule" };
                (what.to_owned(), group.name_of(*primary))
            }
            _ => return,
        };
        self.tell_once(waits, out);
    }

    fn tell_once(&mut self, waits: (String, String), out: &mut Vec<Progress>) {
        if self.waiting_told.as_ref() != Some(&waits) {
            self.waiting_told = Some(waits.clone());
            out.push(Progress::Waiting { what: waits.0, who: waits.1 });
        }
    }
}
