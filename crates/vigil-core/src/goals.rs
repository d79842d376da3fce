//! Every node's goal, computed afresh from the plan each time: the monitor walks no node through
//! states, so there is no state that a node can be stuck in.

use std::collections::BTreeMap;

use crate::election::{Call, Election, WaitFor, elect, future_history, still_leads};
use crate::event::Cause;
use crate::facts::{Facts, Reach};
use crate::group::{Group, HandoverPlan, Member, Plan};
use crate::ids::{Epoch, NodeId, Now};
use crate::limits::Limits;
use crate::message::{Goal, Report, Server};
use crate::mutation::{Mutation, broken};
use crate::room;
use crate::rule::SyncRule;
use crate::state::NodeState;
use crate::sync::primary_state;
use crate::wal::TimelineHistory;

/// A goal with the epoch it belongs to and its public name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assignment {
    pub epoch: Epoch,
    pub goal: Goal,
    pub state: NodeState,
    /// See [`Order::room`](crate::message::Order::room).
    pub room: Option<Limits>,
}

impl Assignment {
    fn new(epoch: Epoch, goal: Goal, state: NodeState) -> Self {
        Assignment { epoch, goal, state, room: None }
    }
}

/// The goals of all members.
pub fn goals(group: &Group, facts: &Facts, now: Now) -> BTreeMap<NodeId, Assignment> {
    let ctx = Context { group, facts, now, election: current_election(group, facts, now) };
    let mut goals: BTreeMap<NodeId, Assignment> =
        group.members.values().filter_map(|m| Some((m.id, ctx.goal_of(m)?))).collect();
    for (id, room) in room::to_be_made(group, facts, now) {
        if let Some(assignment) = goals.get_mut(&id) {
            assignment.room = Some(room);
        }
    }
    goals
}

/// The election that is going on, as it stands.
pub fn current_election(group: &Group, facts: &Facts, now: Now) -> Option<Election> {
    let Plan::Electing { epoch, handover, accept_loss } = group.plan else { return None };
    let episode = group.episode.as_ref();
    let call = Call {
        epoch,
        from: handover.map(|h| h.from).or(episode.and_then(|e| e.from)),
        wanted: handover.map(|h| h.to).or(episode.and_then(|e| e.wanted)),
        renewable: may_renew(group),
        accept_loss,
    };
    Some(elect(group, facts, call, now))
}

/// Whether the old primary may simply go on: not if it was asked to go, or hangs.
fn may_renew(group: &Group) -> bool {
    let cause = group.episode.as_ref().map(|e| e.cause);
    !matches!(cause, Some(Cause::Operator | Cause::Leaving | Cause::PostgresHung))
}

struct Context<'a> {
    group: &'a Group,
    facts: &'a Facts,
    now: Now,
    election: Option<Election>,
}

impl Context<'_> {
    fn goal_of(&self, member: &Member) -> Option<Assignment> {
        let group = self.group;
        // Nothing in the record is known to be the newest, not even who is in maintenance.
        if group.plan == Plan::Recovering {
            return None;
        }
        let rule = group.rule();
        let serving = rule.map_or(group.epoch, |r| r.epoch);
        let assign = |epoch, goal, state| Some(Assignment::new(epoch, goal, state));
        let counted = rule.is_some_and(|r| r.members.contains(&member.id));
        let bound = |r: &SyncRule| r.primary == member.id || r.members.contains(&member.id);
        // An election asks everybody whom a rule in flight names for a pledge.
        let needed = matches!(group.plan, Plan::Electing { .. }) && group.rules.iter().any(bound);
        let leads = group.primary() == Some(member.id);
        let last = group.members.len() == 1;
        if member.dropped && (last || !needed && !leads) {
            return assign(serving, Goal::Drop, NodeState::Dropped);
        }
        if member.is_out() && !counted && !needed && !leads {
            return assign(serving, Goal::Stop, NodeState::Maintenance);
        }
        match &group.plan {
            Plan::Forming { founder } if *founder == Some(member.id) => {
                let rule = rule?.clone();
                assign(rule.epoch, Goal::Found { rule }, NodeState::Single)
            }
            Plan::Forming { .. } => assign(Epoch(0), Goal::Wait, NodeState::Init),
            Plan::Recovering => None,
            Plan::Serving { primary } => self.serving(member, *primary, false),
            Plan::Handover { from, .. } => self.serving(member, *from, true),
            Plan::Electing { epoch, handover, .. } => self.electing(member, *epoch, *handover),
            Plan::Promoting { winner, tli, renewal, .. } => {
                let rule = rule?;
                if *winner == member.id {
                    return Some(self.lead(rule, *tli, *renewal, false));
                }
                let report = self.facts.report(*winner);
                let history = report.and_then(|r| winners_history(r, *tli, *renewal));
                Some(follow(rule, history, false))
            }
        }
    }

    fn serving(&self, member: &Member, primary: NodeId, prepare: bool) -> Option<Assignment> {
        let rule = self.group.rule()?;
        let leaving = self.facts.report(member.id).is_some_and(|r| r.leaving);
        if member.id == primary {
            if leaving && !prepare && !self.can_hand_over(primary) {
                return Some(Assignment::new(rule.epoch, Goal::Stop, NodeState::Demoted));
            }
            return Some(self.lead(rule, self.served_tli(rule), false, prepare));
        }
        if leaving
            && (!rule.members.contains(&member.id) || self.group.settings.number_sync_standbys > 0)
        {
            return Some(Assignment::new(rule.epoch, Goal::Stop, NodeState::Demoted));
        }
        let report = self.facts.fresh(primary, &self.group.settings, self.now);
        let serves = report.filter(|r| still_leads(r, rule));
        let history = serves.and_then(|r| r.history.clone());
        // After a loss was accepted S is one rule, and that one may not be covered yet: the episode
        // tells.
        let covered = self.group.is_covered() && self.group.episode.is_none();
        let open = covered && serves.is_some_and(|r| r.rewind_source);
        Some(follow(rule, history, open))
    }

    /// The timeline that the primary of `rule` is on. 0 if it does not serve: it was promoted once in
    /// its epoch, and whatever it is on now, it is not promoted again.
    fn served_tli(&self, rule: &SyncRule) -> crate::wal::Tli {
        let serves = self.facts.report(rule.primary).filter(|r| still_leads(r, rule));
        serves.and_then(|r| r.history.as_ref()).map_or(crate::wal::Tli(0), |h| h.tli)
    }

    /// Whether a primary that wants to leave has somebody to hand over to.
    fn can_hand_over(&self, primary: NodeId) -> bool {
        self.group.members.values().any(|m| {
            m.id != primary
                && m.may_lead()
                && self
                    .facts
                    .fresh(m.id, &self.group.settings, self.now)
                    .is_some_and(|r| r.server == Server::Standby && !r.leaving && !r.delayed)
        })
    }

    /// Whether an election may be won by a node that was not asked to stop. If not, those that were
    /// need not wait for its end: it goes on when they are back.
    fn somebody_stays(&self) -> bool {
        self.group.members.values().filter(|m| !m.is_out() && !m.dropped).any(|m| {
            let leaving = self.facts.report(m.id).is_some_and(|r| r.leaving);
            let reach = self.facts.reach(m.id, &self.group.settings, self.now);
            !leaving && reach != Reach::Unreachable
        })
    }

    fn lead(
        &self,
        rule: &SyncRule,
        tli: crate::wal::Tli,
        renewal: bool,
        prepare: bool,
    ) -> Assignment {
        let goal = Goal::Lead { rule: rule.clone(), tli, renewal, prepare };
        Assignment::new(rule.epoch, goal, primary_state(self.group, rule))
    }

    fn electing(
        &self,
        member: &Member,
        epoch: Epoch,
        handover: Option<HandoverPlan>,
    ) -> Option<Assignment> {
        let facts = self.facts;
        let rule = self.group.rule();
        if facts.report(member.id).is_some_and(|r| r.leaving) && !self.somebody_stays() {
            return Some(Assignment::new(epoch, Goal::Stop, NodeState::Demoted));
        }
        let mut await_wal = None;
        if let Some(HandoverPlan { from, .. }) = handover
            && member.id != from
        {
            let pledge = facts.node(from).and_then(|n| n.pledge).filter(|p| p.epoch == epoch);
            await_wal = pledge.and_then(|p| p.position);
            let stopping = facts.plan_age_ms(self.now) < HANDOVER_STOP_MS
                && facts.is_reachable(from, &self.group.settings, self.now);
            if pledge.is_none() && stopping {
                // They have to receive the shutdown checkpoint: no pledge before it is written.
                return self.serving(member, from, true);
            }
        }
        let report = facts.fresh(member.id, &self.group.settings, self.now);
        if self.waits_in_the_mail(member.id) && !broken(Mutation::PledgeInTheMail) {
            return None;
        }
        if let (Some(rule), Some(report)) = (rule, report)
            && rule.primary == member.id
            && may_renew(self.group)
            && still_leads(report, rule)
        {
            // It may be a false alarm: it stays as it is until the election is decided.
            return Some(self.lead(rule, self.served_tli(rule), false, false));
        }
        if let Some(Election::Fetch { who, source, until }) = self.election
            && who == member.id
        {
            let goal = Goal::FastForward { source, until };
            return Some(Assignment::new(epoch, goal, NodeState::FastForward));
        }
        let was_primary = rule.is_some_and(|r| r.primary == member.id);
        let state = if was_primary { NodeState::Demoted } else { NodeState::ReportLsn };
        // Whatever is being done to a node in maintenance, it is not started meanwhile.
        let restart = self.position_needed() && !member.is_out();
        let goal = Goal::Pledge { await_wal, restart };
        Some(Assignment::new(epoch, goal, state))
    }

    /// Whether an order would only wait for a primary that is silent, and stop it when it is back,
    /// however the election goes. It is asked once it has told how it is.
    fn waits_in_the_mail(&self, id: NodeId) -> bool {
        let leads = self.group.rule().filter(|rule| rule.primary == id && may_renew(self.group));
        let Some((rule, node)) = leads.zip(self.facts.node(id)) else { return false };
        let silent = !self.facts.is_reachable(id, &self.group.settings, self.now);
        node.report.as_ref().is_none_or(|report| silent && still_leads(report, rule))
    }

    /// Whether stopped nodes should be started to learn where their WAL ends: not while live ones
    /// can decide without them.
    fn position_needed(&self) -> bool {
        matches!(self.election, Some(Election::Wait(WaitFor::Pledges(_) | WaitFor::Candidate)))
    }
}

fn follow(rule: &SyncRule, history: Option<TimelineHistory>, open: bool) -> Assignment {
    let goal = Goal::Follow { primary: rule.primary, history, open };
    Assignment::new(rule.epoch, goal, NodeState::Secondary)
}

/// A primary that hands over and has not stopped after so long is treated as lost, milliseconds.
pub const HANDOVER_STOP_MS: u64 = 4_000;

/// The timelines of a winner: its own word once it serves on the assigned one, before that what
/// they will be.
fn winners_history(
    report: &Report,
    tli: crate::wal::Tli,
    renewal: bool,
) -> Option<TimelineHistory> {
    let present = report.history.as_ref()?;
    if renewal || report.server == Server::Primary && present.tli >= tli {
        return Some(present.clone());
    }
    let position = report.pledge.and_then(|p| p.position)?;
    Some(future_history(present, position, tli))
}
