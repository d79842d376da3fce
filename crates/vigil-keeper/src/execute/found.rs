//! The first node of a group: a new cluster, and what others need to join it.

use std::time::Duration;

use anyhow::Result;
use vigil_core::node::step::StepDone;
use vigil_core::rule::SyncRule;
use vigil_postgres::conf;
use vigil_postgres::pgdata::{self, InitdbOptions};

use super::{Executor, QUERY};
use crate::local::{Role, slot_of};

const INITDB_WITHIN: Duration = Duration::from_mins(5);

impl Executor {
    pub(super) async fn initdb(&self) -> Result<StepDone> {
        let local = &self.local;
        let options = InitdbOptions::default();
        let control =
            pgdata::initdb(&local.install, &local.pgdata, &options, INITDB_WITHIN).await?;
        local.write_before_start(&self.record, Role::Detached)?;
        Ok(StepDone::Created { system_id: control.system_id })
    }

    pub(super) async fn start_primary(&self, rule: &SyncRule) -> Result<StepDone> {
        self.leave_recovery_alone()?;
        self.local.write_before_start(&self.record, Role::Primary(rule))?;
        pgdata::clear_standby_signal(&self.local.pgdata)?;
        self.spawn(Duration::from_mins(1)).await?;
        Ok(StepDone::Plain)
    }

    /// Role, slots and access rules for the peers. A standalone server that was taken over may
    /// also have settings of ours set by ALTER SYSTEM.
    pub(super) async fn bootstrap(&self) -> Result<StepDone> {
        let local = &self.local;
        let postmaster = local.running()?;
        local.mark(&self.record)?;
        let mut session = local.work().await?;
        if local.hba(&self.record).write(&local.pgdata)?.changed() {
            postmaster.reload()?;
        }
        let rule = self.record.own_rule.as_ref();
        if let Some(rule) = rule {
            let names = local.conf(&self.record, Role::Primary(rule))?.names();
            let overridden = conf::auto_conf_overrides(&local.pgdata, &names)?;
            for name in &overridden {
                session.reset_system_setting(name, QUERY).await?;
            }
            if !overridden.is_empty() {
                postmaster.reload()?;
                local.notice_reset(&overridden);
            }
        }
        local.ensure_role(&self.record, &mut session).await?;
        let own = self.node_id()?;
        for peer in self.record.peers.iter().filter(|p| p.id != own) {
            session.ensure_slot(&slot_of(peer.id), QUERY).await?;
        }
        Ok(StepDone::Plain)
    }
}
