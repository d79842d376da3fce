//! What the HTTP server shows: one picture, made by the agent after everything that happens.

use std::time::Instant;

use serde::Serialize;
use vigil_core::ids::{Epoch, NodeId, RuleId};
use vigil_core::message::{Barrier, NotLetIn, Order};
use vigil_core::node::observed::{Data, Observed, ServerView};
use vigil_core::node::record::NodeRecord;
use vigil_core::state::NodeState;
use vigil_core::wal::{Lsn, Tli};

/// A look older than this tells nothing any more.
const FRESH_MS: u128 = 2_000;
/// A standby that has not streamed for so long is stale.
const STALE_MS: u128 = 10_000;
/// The agent's loop turns at least every 50 ms.
const ALIVE_MS: u128 = 5_000;

/// One picture of this keeper and its Postgres.
#[derive(Clone, Debug)]
pub struct Status {
    pub record: NodeRecord,
    pub order: Option<Order>,
    pub seen: Option<Observed>,
    pub in_force: Option<RuleId>,
    /// The step that runs.
    pub step: Option<&'static str>,
    pub monitor_connected: bool,
    pub leaving: bool,
    /// When the last look was taken in.
    pub looked_at: Option<Instant>,
    /// When a look was last refused, and why; `None` since the newest one that was not.
    pub not_let_in: Option<(Instant, NotLetIn)>,
    pub streamed_at: Option<Instant>,
    /// The slots for peers, with the bytes of WAL that each holds back.
    pub slots: Vec<(String, u64)>,
    /// When the agent's loop last turned.
    pub turned_at: Instant,
}

/// The JSON that goes with every answer.
#[allow(clippy::struct_excessive_bools)] // it is what is shown, not a state machine
#[derive(Serialize, Debug)]
pub struct StatusJson<'a> {
    /// Patroni's words, which load balancers' scripts know.
    pub state: &'static str,
    pub role: &'static str,
    pub name: &'a str,
    pub formation: &'a str,
    pub group: u32,
    pub node_id: Option<NodeId>,
    pub goal_state: Option<NodeState>,
    pub epoch: Epoch,
    pub rule_in_force: Option<String>,
    pub timeline: Option<Tli>,
    pub lsn: Option<Lsn>,
    pub streaming: bool,
    pub hung: bool,
    pub step: Option<&'static str>,
    pub monitor_connected: bool,
    pub leaving: bool,
    pub looked_ms_ago: Option<u64>,
    /// Why Postgres could not be looked at last.
    pub not_let_in: Option<&'a str>,
}

impl Status {
    fn fresh(&self) -> bool {
        self.looked_at.is_some_and(|at| at.elapsed().as_millis() <= FRESH_MS)
    }

    /// The server that was seen answers that it does not let its keeper in. What was seen of another
    /// one is not kept, and no server becomes a standby while it runs.
    fn is_refused_by_the_same(&self) -> bool {
        self.not_let_in.as_ref().is_some_and(|(at, why)| {
            let answers = !matches!(why.barrier, Barrier::Silence | Barrier::Machine);
            answers && at.elapsed().as_millis() <= FRESH_MS
        })
    }

    fn up(&self) -> Option<&vigil_core::node::observed::UpView> {
        match &self.seen.as_ref()?.server {
            ServerView::Up(up) => Some(up),
            _ => None,
        }
    }

    /// Whether writes may be accepted under this keeper's epoch right now.
    pub fn is_primary(&self) -> bool {
        let writable = self.up().is_some_and(|up| !up.in_recovery);
        let may_end = matches!(self.step, Some("stop" | "kill" | "promote"));
        writable && (self.fresh() || self.is_refused_by_the_same()) && !may_end && self.leads()
    }

    fn leads(&self) -> bool {
        let promise = self.record.promise;
        if let Some(rule) = self.in_force {
            return rule.epoch == promise;
        }
        // Taken over after a restart of the keeper, and no monitor has said anything yet: the
        // promise on disk is as good as before.
        let own = self.record.own_rule.as_ref().map(|r| r.epoch);
        self.order.is_none() && own == Some(promise) && self.record.led_in == Some(promise)
    }

    pub fn is_replica(&self) -> bool {
        let standby = self.up().is_some_and(|up| up.in_recovery);
        let recent = self.streamed_at.is_some_and(|at| at.elapsed().as_millis() <= STALE_MS);
        standby && recent && self.fresh()
    }

    pub fn is_healthy(&self) -> bool {
        self.up().is_some() && self.fresh()
    }

    pub fn is_alive(&self) -> bool {
        self.turned_at.elapsed().as_millis() <= ALIVE_MS
    }

    /// Whether a former primary was stopped because it could not know if it still is one.
    pub fn is_fenced(&self) -> bool {
        let led = self.record.led_in.is_some() && self.record.led_in == Some(self.record.promise);
        let down = self.seen.as_ref().is_some_and(|seen| seen.server == ServerView::Down);
        led && down && !self.monitor_connected
    }

    pub fn is_hung(&self) -> bool {
        self.seen.as_ref().is_some_and(|seen| seen.server == ServerView::Hung)
    }

    pub fn json(&self) -> StatusJson<'_> {
        let up = self.up();
        let state = match self.seen.as_ref().map(|seen| (&seen.data, &seen.server)) {
            None => "unknown",
            Some((_, ServerView::Up(_))) => "running",
            Some((_, ServerView::Starting)) => "starting",
            Some((_, ServerView::Hung)) => "hung",
            Some((_, ServerView::Orphans)) => "stopping",
            Some((Data::None, ServerView::Down)) => "uninitialized",
            Some((_, ServerView::Down)) => "stopped",
        };
        let role = match up {
            Some(up) if !up.in_recovery => "primary",
            Some(_) => "replica",
            None => "none",
        };
        StatusJson {
            state,
            role,
            name: &self.record.name,
            formation: &self.record.formation,
            group: self.record.group,
            node_id: self.record.node_id,
            goal_state: self.order.as_ref().map(|o| o.goal_state),
            epoch: self.record.promise,
            rule_in_force: self.in_force.map(|rule| rule.to_string()),
            timeline: up.map(|up| up.tli),
            lsn: up.map(|up| up.received.unwrap_or(Lsn::ZERO).max(up.replayed)),
            streaming: up.is_some_and(|up| up.streaming),
            hung: self.is_hung(),
            step: self.step,
            monitor_connected: self.monitor_connected,
            leaving: self.leaving,
            looked_ms_ago: self.looked_at.map(|at| crate::clock::ms(at.elapsed())),
            not_let_in: self.not_let_in.as_ref().map(|(_, why)| why.text.as_str()),
        }
    }
}
