//! Becoming and being a primary.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep};
use vigil_core::event::EventKind;
use vigil_core::node::step::StepDone;
use vigil_core::rule::SyncRule;
use vigil_core::wal::Tli;
use vigil_postgres::in_force::{NamesChange, put_names_in_force, reload_seen_by_kept};
use vigil_postgres::process::{self, Postmaster};
use vigil_postgres::{Session, WalTail, pgdata};

use super::{Executor, QUERY};
use crate::local::Role;

const NAMES_WITHIN: Duration = Duration::from_secs(5);
/// Replay of a backlog runs at 100 MB/s, and a promotion waits for it.
const PROMOTE_WITHIN: Duration = Duration::from_mins(1);
/// A query on the standby that blocks replay blocks the promotion; new ones may come.
const BLOCKERS_EVERY: Duration = Duration::from_millis(100);
const CHECKPOINT_WITHIN: Duration = Duration::from_mins(10);

impl Executor {
    pub(super) async fn promote(&self, rule: &SyncRule, tli: Tli) -> Result<StepDone> {
        let local = &self.local;
        let postmaster = local.running()?;
        // In force before it can accept a write; meanwhile the way to the timeline is made.
        let (session, tail) =
            tokio::join!(self.names_on_standby(&postmaster, rule), self.stubs_up_to(tli));
        let (mut fresh, tail) = (session?, tail?);
        let mut kept;
        let session = if let Some(session) = &mut fresh {
            session
        } else {
            kept = local.work().await?;
            &mut *kept
        };
        local.forget_role();
        process::promote(&local.pgdata, &postmaster)?;
        self.wait_writable(session).await?;
        if let Some(done) = self.stop_if_cut_off(&tail, tli).await? {
            return Ok(done);
        }
        local.set_proved(&postmaster);
        let from = session.insert_lsn(QUERY).await?;
        // So that there is WAL beyond `from` to be flushed by the standbys.
        session.emit_probe(QUERY).await?;
        let reached = session.status(QUERY).await?.timeline;
        if reached != tli {
            tracing::error!(%reached, ordered = %tli, "promoted to another timeline than ordered");
        }
        tracing::info!(epoch = rule.epoch.0, timeline = reached.0, %from, "promoted");
        Ok(StepDone::InForce { rule: rule.id(), from })
    }

    /// A promotion takes the number after the last one that has a history file.
    async fn stubs_up_to(&self, tli: Tli) -> Result<WalTail> {
        let (end, segment_size) = self.own_end().await?;
        pgdata::write_stub_histories(&self.local.pgdata, end.tli, tli)?;
        Ok(WalTail::of(&self.local.pgdata, end, segment_size))
    }

    /// What this node has pledged must be part of what it leads with. If it is not, it serves no
    /// longer than it takes to see that.
    async fn stop_if_cut_off(&self, tail: &WalTail, tli: Tli) -> Result<Option<StepDone>> {
        let local = &self.local;
        let cut = match tail.cut_off_at(tli) {
            Ok(cut) => cut,
            Err(error) => {
                tracing::error!(%error, "cannot tell where the promotion forked off");
                None
            }
        };
        let Some(fork) = cut else { return Ok(None) };
        self.kill().await?;
        let text = format!(
            "{} was promoted at {fork} although it had WAL up to {}: its Postgres was stopped at \
             once and does not lead; the log of Postgres ({}) says why replay ended there. The node \
             will be copied anew from another primary",
            self.record.name,
            tail.end().lsn,
            local.log.display()
        );
        local.notice(EventKind::Node, text);
        Ok(Some(StepDone::CutOff))
    }

    /// A standby's names were never empty, so that a reload is all it takes. A fresh session that
    /// shows them proves it: it was forked after all other processes had been signalled. `None`:
    /// all connections are in use, and the kept one has seen it.
    async fn names_on_standby(
        &self,
        postmaster: &Postmaster,
        rule: &SyncRule,
    ) -> Result<Option<Session>> {
        let local = &self.local;
        let conf = local.write_conf(&self.record, Role::Primary(rule))?;
        let wanted = &conf.synchronous_standby_names;
        postmaster.reload()?;
        let end = Instant::now() + NAMES_WITHIN;
        loop {
            let Some(mut fresh) = local.fresh_unless_full().await? else {
                let (pgdata, text) = (&local.pgdata, conf.render());
                let mut kept = local.work().await?;
                reload_seen_by_kept(pgdata, postmaster, &text, &mut kept, NAMES_WITHIN).await?;
                return Ok(None);
            };
            let shown = fresh.show("synchronous_standby_names", QUERY).await?;
            if shown == *wanted {
                return Ok(Some(fresh));
            }
            if Instant::now() >= end {
                bail!("synchronous_standby_names stays `{shown}`, `{wanted}` is ordered");
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// An open connection that says so is the proof: a session works.
    async fn wait_writable(&self, session: &mut Session) -> Result<()> {
        let end = Instant::now() + PROMOTE_WITHIN;
        let mut look_for_blockers_at = Instant::now();
        while session.in_recovery(5 * QUERY).await? {
            if Instant::now() >= end {
                bail!("still in recovery {PROMOTE_WITHIN:?} after the promotion was triggered");
            }
            if Instant::now() >= look_for_blockers_at {
                look_for_blockers_at = Instant::now() + BLOCKERS_EVERY;
                match session.terminate_replay_blockers(QUERY).await {
                    Ok(0) => {}
                    Ok(ended) => tracing::info!(ended, "ended sessions that blocked replay"),
                    // It was promoted in between.
                    Err(error) if !error.is_broken() => tracing::debug!(%error, "blockers"),
                    Err(error) => return Err(error.into()),
                }
            }
            sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    pub(super) async fn put_rule(&self, rule: &SyncRule) -> Result<StepDone> {
        let local = &self.local;
        let postmaster = local.running()?;
        let conf = local.conf(&self.record, Role::Primary(rule))?;
        vigil_postgres::conf::ensure_included(&local.pgdata)?;
        let removed: Vec<String> = self
            .record
            .peers
            .iter()
            .filter(|peer| !rule.members.contains(&peer.id))
            .map(|peer| peer.name.clone())
            .collect();
        self.mend_conf().await?;
        let change = NamesChange {
            pgdata: &local.pgdata,
            postmaster: &postmaster,
            target: &local.target(),
            conf: &conf,
            removed: &removed,
            // Who set the names before this keeper came is not known.
            always_prove: !local.has_proved(&postmaster),
        };
        let mut kept = local.work().await?;
        let from = put_names_in_force(&change, &mut kept, NAMES_WITHIN).await?;
        let from = from.context("the server is a standby")?;
        local.set_proved(&postmaster);
        tracing::info!(
            rule = %rule.id(), names = conf.synchronous_standby_names, %from, "rule in force"
        );
        Ok(StepDone::InForce { rule: rule.id(), from })
    }

    pub(super) async fn prepare_handover(&self) -> Result<StepDone> {
        for _ in 0..2 {
            self.checkpoint().await?;
        }
        Ok(StepDone::Plain)
    }

    pub(super) async fn checkpoint(&self) -> Result<StepDone> {
        match self.local.fresh_unless_full().await? {
            Some(mut session) => session.checkpoint(CHECKPOINT_WITHIN).await?,
            None => self.local.work().await?.checkpoint(CHECKPOINT_WITHIN).await?,
        }
        Ok(StepDone::Plain)
    }
}
