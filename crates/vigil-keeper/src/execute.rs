//! The hands: one function per step, doing exactly what `vigil_core::node::step` says.

mod broken_conf;
mod detach;
mod found;
mod lead;
mod replace;
mod start;
mod stop;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use vigil_core::ids::NodeId;
use vigil_core::message::{Goal, Order};
use vigil_core::node::record::NodeRecord;
use vigil_core::node::step::{Step, StepDone};
use vigil_core::wal::TimelineHistory;

use crate::local::Local;

/// A query that needs no lock takes a millisecond; longer than this and the server is in trouble.
const QUERY: Duration = Duration::from_secs(1);

/// What a step works with.
pub struct Executor {
    pub local: Arc<Local>,
    pub record: Arc<NodeRecord>,
    /// For the timelines of the primary that it names.
    pub order: Option<Order>,
}

impl Executor {
    /// Carries `step` out. Dropping the future breaks it off.
    ///
    /// # Errors
    /// It did not work; whatever was done can be done again.
    pub async fn run(&self, step: &Step) -> Result<StepDone> {
        match step {
            Step::Initdb => self.initdb().await,
            Step::StartPrimary { rule } => self.start_primary(rule).await,
            Step::Bootstrap => self.bootstrap().await,
            Step::StartStandby => self.start_standby().await,
            Step::StartFollowing { primary } => self.start_following(*primary).await,
            Step::Kill => self.kill().await,
            Step::Stop { budget_ms } => self.stop(Duration::from_millis(*budget_ms)).await,
            Step::DropReceiver { await_wal } => self.drop_receiver(*await_wal).await,
            Step::Follow { primary } => self.follow(*primary).await,
            Step::FastForward { source, until } => self.fast_forward(*source, *until).await,
            Step::Promote { rule, tli } => self.promote(rule, *tli).await,
            Step::PutRule { rule } => self.put_rule(rule).await,
            Step::PrepareHandover => self.prepare_handover().await,
            Step::Checkpoint => self.checkpoint().await,
            Step::Rewind { primary, fork } => self.rewind(*primary, *fork).await,
            Step::Clone { primary, keep } => self.clone_from(*primary, *keep).await,
        }
    }

    fn node_id(&self) -> Result<NodeId> {
        self.record.node_id.context("the monitor has not given this node an id yet")
    }

    /// The timelines of the primary that the present order names, as far as it tells them.
    fn primary_history(&self) -> Option<&TimelineHistory> {
        match &self.order.as_ref()?.goal {
            Goal::Follow { history, .. } => history.as_ref(),
            _ => None,
        }
    }
}
