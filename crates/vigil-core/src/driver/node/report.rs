//! What a keeper says of itself.

use super::{LEAVE_TOGETHER_MS, NodeDriver, NodeOutput};
use crate::ids::Now;
use crate::message::{Following, Goal, Problem, Report, Server};
use crate::mutation::{Mutation, broken};
use crate::node::observed::{Data, Observed, ServerView, UpView};
use crate::node::record::Replacing;
use crate::node::step::Step;
use crate::node::{Next, pledge};
use crate::state::NodeState;
use crate::wal::{Lsn, Position, Tli};

/// Two looks at the same WAL differ by no more in its age, in milliseconds.
const SAME_WAL_MS: u64 = 20;

impl NodeDriver {
    pub(super) fn report_if_due(&mut self, now: Now, out: &mut Vec<NodeOutput>) {
        if !self.stream_up {
            return;
        }
        let Some(seen) = &self.seen else { return };
        let report = self.report(seen, now);
        let due =
            now.mono_ms.saturating_sub(self.sent_ms) >= self.record.settings.heartbeat_interval_ms;
        let news = self.last_sent.as_ref().is_none_or(|last| {
            material(last) != material(&report) || self.got_wal_again(last, &report, now)
        });
        if due || news {
            self.sent_ms = now.mono_ms;
            self.last_sent = Some(report.clone());
            out.push(NodeOutput::Send(Box::new(report)));
        }
    }

    /// Whether WAL has come that the monitor, going by the last report, waits for since a heartbeat.
    /// On an idle server it comes once in a heartbeat: told with the next report that is due, it
    /// might be two heartbeats old by the one after that, and this witness would be doubted.
    fn got_wal_again(&self, last: &Report, report: &Report, now: Now) -> bool {
        let (Some(told), Some(following)) = (last.following, report.following) else {
            return false;
        };
        let sent_ago_ms = now.mono_ms.saturating_sub(self.sent_ms);
        let waits_ms = told.wal_age_ms.saturating_add(sent_ago_ms);
        waits_ms >= self.record.settings.heartbeat_interval_ms
            && following.wal_age_ms.saturating_add(SAME_WAL_MS) < waits_ms
    }

    fn report(&self, seen: &Observed, now: Now) -> Report {
        let up = match &seen.server {
            ServerView::Up(up) => Some(up),
            _ => None,
        };
        let cluster = match &seen.data {
            Data::Cluster(cluster) => Some(cluster),
            _ => None,
        };
        // What was seen before a step that attaches, or while one is under way, proves nothing.
        let attaches = self.running.as_ref().is_some_and(|r| r.step.may_attach());
        let own = pledge(&self.record, seen).filter(|_| self.fresh && !attaches);
        let position = up.map(|up| Position {
            tli: up.tli,
            lsn: up.received.unwrap_or(Lsn::ZERO).max(up.replayed),
        });
        let highest_tli =
            up.map_or(Tli(0), |up| up.tli).max(cluster.map_or(Tli(0), |c| c.highest_tli));
        Report {
            state: self.public_state(seen),
            promise: self.record.promise,
            order_seq: self.record.order_seq,
            server: self.never_seen.unwrap_or_else(|| server_word(seen)),
            pledge: self.fetching.or(own),
            own_rule: self.record.own_rule.clone(),
            in_force: self.in_force.map(|(rule, _)| rule),
            covered: self.covered,
            rules_held: self.record.rules_held.clone(),
            position: position.or(cluster.map(|c| c.checkpoint)),
            replayed: up.filter(|up| up.in_recovery).map(|up| up.replayed),
            history: up.map(|up| up.history.clone()),
            highest_tli,
            following: up.and_then(|up| following(up, now.mono_ms.saturating_sub(self.seen_ms))),
            senders: up.map(|up| up.senders.clone()).unwrap_or_default(),
            rewind_source: up.is_some_and(|up| !up.in_recovery && up.checkpoint_tli == up.tli),
            usable: self.record.is_whole() && cluster.is_some(),
            prepared: self.memory.prepared,
            leaving: self.says_that_it_leaves(seen, now),
            delayed: self.record.delayed,
            limits: up.map(|up| up.limits),
            problem: self.problem(seen),
            notices: self.record.notices.clone(),
            interval_ms: self.record.settings.heartbeat_interval_ms,
            look_age_ms: now.mono_ms.saturating_sub(self.looked_ms),
            not_let_in: self.not_let_in.clone(),
            troubles: self.troubles.clone(),
            starved_ms: up.map_or(0, |up| match up.upstream.filter(|_| up.in_recovery) {
                Some(_) if !up.detached => now.mono_ms.saturating_sub(self.streaming_ms),
                _ => 0,
            }),
            doing: self.doing(seen),
            system_id: cluster.map(|c| c.system_id),
        }
    }

    fn says_that_it_leaves(&self, seen: &Observed, now: Now) -> bool {
        let Some(since) = self.leaving_since_ms else { return false };
        let leads = matches!(&seen.server, ServerView::Up(up) if !up.in_recovery);
        !leads || now.mono_ms.saturating_sub(since) >= LEAVE_TOGETHER_MS
    }

    fn problem(&self, seen: &Observed) -> Option<Problem> {
        if let Some(unsaved) = &self.unsaved {
            return Some(unsaved.problem());
        }
        if let Data::Foreign { reason } = &seen.data {
            let (code, text) = ("foreign_data".to_owned(), reason.clone());
            return Some(Problem { code, text, failures: 0 });
        }
        let waits = matches!(self.order.as_ref().map(|o| &o.goal), None | Some(Goal::Wait));
        if self.record.found_as_standby && waits {
            let text = "its data is a standby's: start the keeper of its primary first".to_owned();
            return Some(Problem { code: "standby_alone".to_owned(), text, failures: 0 });
        }
        // One failure is an event of the step; repeated ones are a problem for people.
        let retry = self.retry.as_ref().filter(|r| r.failures >= 2)?;
        let (code, text) = (format!("{}_failed", retry.what), retry.text.clone());
        Some(Problem { code, text, failures: retry.lasting })
    }

    fn doing(&self, seen: &Observed) -> Option<String> {
        if let Some(running) = &self.running {
            return Some(running.step.name().to_owned());
        }
        match self.next(seen) {
            Next::Wait(_) if self.never_seen.is_some() => {
                Some("waiting for Postgres to let its keeper in".to_owned())
            }
            Next::Wait(what) => Some(format!("waiting for {what}")),
            _ => None,
        }
    }

    /// Whether this node led in the ordered epoch, has stopped, and cannot lead in it again.
    fn is_spent(&self, seen: &Observed) -> bool {
        self.fresh
            && self.running.is_none()
            && self.record.led_in == self.order.as_ref().map(|o| o.epoch)
            && matches!(self.next(seen), Next::Wait(_))
            && !matches!(seen.server, ServerView::Starting | ServerView::Hung)
    }

    pub(super) fn is_cloning(&self) -> bool {
        self.running.as_ref().is_some_and(|r| matches!(r.step, Step::Clone { .. }))
    }

    fn public_state(&self, seen: &Observed) -> NodeState {
        let Some(order) = &self.order else { return NodeState::Init };
        let up = match &seen.server {
            ServerView::Up(up) => Some(up),
            _ => None,
        };
        let writable = up.is_some_and(|up| !up.in_recovery);
        let streaming = up.is_some_and(|up| up.streaming);
        let down = seen.server == ServerView::Down;
        match &order.goal {
            Goal::Wait => NodeState::Init,
            Goal::Found { rule } | Goal::Lead { rule, .. } => {
                let in_epoch = self.in_force.is_some_and(|(id, _)| id.epoch == rule.epoch);
                if writable && in_epoch {
                    order.goal_state
                } else if self.is_spent(seen) {
                    NodeState::Demoted
                } else if writable || self.record.led_in == Some(rule.epoch) && !down {
                    NodeState::StopReplication
                } else if matches!(order.goal, Goal::Found { .. }) {
                    NodeState::Init
                } else if down {
                    NodeState::Demoted
                } else {
                    NodeState::PreparePromotion
                }
            }
            Goal::Follow { .. } => match self.record.replacing {
                Some(Replacing::Clone) => NodeState::WaitStandby,
                Some(Replacing::Beside) if self.is_cloning() => NodeState::WaitStandby,
                Some(Replacing::Rewind) => NodeState::Demoted,
                _ if seen.data == Data::None => NodeState::WaitStandby,
                _ if writable => NodeState::Draining,
                _ if streaming => NodeState::Secondary,
                _ if up.is_some_and(|up| up.upstream.is_some() && !up.detached) => {
                    NodeState::Catchingup
                }
                _ if up.is_some() => NodeState::JoinSecondary,
                Some(Replacing::Beside) | None => NodeState::Demoted,
            },
            Goal::Pledge { .. } if writable => NodeState::Draining,
            Goal::Pledge { .. } if down => NodeState::Demoted,
            Goal::Pledge { .. } => NodeState::ReportLsn,
            Goal::FastForward { .. } => NodeState::FastForward,
            Goal::Stop if down => order.goal_state,
            Goal::Stop if writable => NodeState::Draining,
            Goal::Stop => NodeState::WaitMaintenance,
            Goal::Drop => NodeState::Dropped,
        }
    }
}

fn server_word(seen: &Observed) -> Server {
    match (&seen.data, &seen.server) {
        (Data::None, ServerView::Down) => Server::NoData,
        (_, ServerView::Down) => Server::Stopped,
        (_, ServerView::Orphans) if broken(Mutation::StoppedWithBackends) => Server::Stopped,
        (_, ServerView::Orphans) => Server::Unknown,
        (_, ServerView::Starting) => Server::Starting,
        (_, ServerView::Hung) => Server::Hung,
        (_, ServerView::Up(up)) if up.in_recovery => Server::Standby,
        (_, ServerView::Up(_)) => Server::Primary,
    }
}

fn following(up: &UpView, seen_ago_ms: u64) -> Option<Following> {
    let (primary, epoch) = up.upstream.filter(|_| up.in_recovery && !up.detached)?;
    let wal_age_ms = up.wal_age_ms.map_or(u64::MAX / 2, |age| age.saturating_add(seen_ago_ms));
    Some(Following { primary, epoch, streaming: up.streaming, wal_age_ms })
}

/// A report without what changes at every look: what is left is worth sending at once.
fn material(report: &Report) -> Report {
    let mut report = report.clone();
    if report.server == Server::Primary || report.following.is_some() {
        report.position = None;
    }
    if let Some(following) = &mut report.following {
        following.wal_age_ms = 0;
    }
    for sender in &mut report.senders {
        (sender.flush, sender.replay, sender.reply_age_ms) = (Lsn::ZERO, Lsn::ZERO, 0);
    }
    report.order_seq = 0;
    report.look_age_ms = 0;
    report.starved_ms = 0;
    report.doing = None;
    report
}
