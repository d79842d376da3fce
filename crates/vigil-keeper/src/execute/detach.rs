//! Whom a standby receives from.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};
use vigil_core::ids::NodeId;
use vigil_core::node::step::StepDone;
use vigil_core::wal::{Lsn, Position, TimelineHistory, Tli};
use vigil_postgres::process::{self, Postmaster};
use vigil_postgres::receiver::{self, Dropped, ReceiverError};
use vigil_postgres::{Session, conf, control, pgdata};

use super::{Executor, QUERY};
use crate::local::Role;

const AWAIT_WAL: Duration = Duration::from_millis(1_500);
const FETCH_WITHIN: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(1);

impl Executor {
    pub(super) async fn drop_receiver(&self, await_wal: Option<Position>) -> Result<StepDone> {
        let postmaster = self.local.running()?;
        if let Some(until) = await_wal
            && let Err(error) = self.await_wal(&postmaster, until).await
        {
            tracing::debug!("waiting for WAL up to {until}: {error:#}");
        }
        self.detach(&postmaster).await
    }

    /// Best effort: until it is there, or nobody is left to bring it.
    async fn await_wal(&self, postmaster: &Postmaster, until: Position) -> Result<()> {
        let mut session = self.local.work().await?;
        let end = Instant::now() + AWAIT_WAL;
        while Instant::now() < end {
            if received(&mut session).await? >= until.lsn
                || process::receiver_pid(postmaster.pid)?.is_none()
            {
                return Ok(());
            }
            sleep(POLL).await;
        }
        bail!("not received within {AWAIT_WAL:?}")
    }

    /// After it no receiver exists and none will come back.
    pub(super) async fn detach(&self, postmaster: &Postmaster) -> Result<StepDone> {
        self.local.set_upstream(None);
        let conf = self.local.write_conf(&self.record, Role::Detached)?;
        self.reset_overrides(&conf.names()).await?;
        let ended = self.end_receivers(postmaster).await;
        // A receiver that connects in vain ends every moment, whatever the server was told: that
        // none is there proves nothing as long as another one may come.
        if self.ignores("primary_conninfo", &conf.primary_conninfo).await
            && self.mend_conf().await?
        {
            return self.end_receivers(postmaster).await;
        }
        ended
    }

    async fn end_receivers(&self, postmaster: &Postmaster) -> Result<StepDone> {
        for _ in 0..2 {
            match receiver::drop_receiver(postmaster).await {
                Ok(how) => {
                    if how == Dropped::BySigterm {
                        tracing::info!("replay is stuck: the receiver was ended by a signal");
                    }
                }
                Err(ReceiverError::StillThere { pid }) => {
                    // Stopped or hanging. What runs could acknowledge again as soon as it wakes.
                    let pid = pid.as_raw_pid();
                    tracing::warn!(pid, "the receiver cannot be ended: killing Postgres");
                    return self.kill().await;
                }
                Err(error) => return Err(error.into()),
            }
            if receiver::no_receiver(postmaster).await? {
                return Ok(StepDone::Plain);
            }
        }
        bail!("a receiver came back after it was dropped")
    }

    /// A `primary_conninfo` that ALTER SYSTEM or `pg_basebackup -R` has set would win over ours, and
    /// the receiver would come back.
    async fn reset_overrides(&self, names: &[String]) -> Result<()> {
        let overridden = conf::auto_conf_overrides(&self.local.pgdata, names)?;
        if overridden.is_empty() {
            return Ok(());
        }
        let mut session = self.local.work().await?;
        for name in &overridden {
            session.reset_system_setting(name, QUERY).await?;
        }
        self.local.notice_reset(&overridden);
        Ok(())
    }

    /// Points the receiver at `primary` and returns: the looks tell when it streams.
    pub(super) async fn follow(&self, primary: NodeId) -> Result<StepDone> {
        let postmaster = self.local.running()?;
        if let Some(history) = self.primary_history() {
            self.fill_gaps(history).await?;
        }
        let conninfo = self.attach(&postmaster, primary)?;
        if self.ignores("primary_conninfo", &conninfo).await && self.mend_conf().await? {
            postmaster.reload()?;
        }
        self.local.set_upstream(Some((primary, self.record.promise)));
        Ok(StepDone::Plain)
    }

    /// Returns the `primary_conninfo` that it will have.
    fn attach(&self, postmaster: &Postmaster, upstream: NodeId) -> Result<String> {
        let conf = self.local.write_conf(&self.record, Role::Follower(upstream))?;
        postmaster.reload()?;
        Ok(conf.primary_conninfo)
    }

    /// A receiver fetches every history file between its own timeline and the primary's; numbers
    /// that no server was ever on have none, and the primary may lack even the stubs.
    async fn fill_gaps(&self, history: &TimelineHistory) -> Result<()> {
        if gaps(history).next().is_none() {
            return Ok(());
        }
        let own = self.own_timeline().await?;
        self.fill_gaps_above(own, history)
    }

    pub(super) fn fill_gaps_above(&self, own: Tli, history: &TimelineHistory) -> Result<()> {
        for tli in gaps(history).filter(|tli| *tli > own.0) {
            pgdata::write_stub_histories(&self.local.pgdata, Tli(tli - 1), Tli(tli + 1))?;
        }
        Ok(())
    }

    /// The timeline of the end of this standby's WAL.
    async fn own_timeline(&self) -> Result<Tli> {
        Ok(self.own_end().await?.0.tli)
    }

    /// The end of this standby's WAL, and the size of a segment in bytes.
    pub(super) async fn own_end(&self) -> Result<(Position, u64)> {
        let mut session = self.local.work().await?;
        let status = session.status(QUERY).await?;
        let end = status.receive_lsn.max(status.replay_lsn).unwrap_or(Lsn::ZERO);
        let segment = control::read(&self.local.pgdata)?.wal_segment_size;
        let on_disk = pgdata::timeline_of_wal(&self.local.pgdata, end, segment)?;
        Ok((Position { tli: on_disk.unwrap_or(status.timeline), lsn: end }, segment))
    }

    pub(super) async fn fast_forward(&self, source: NodeId, until: Position) -> Result<StepDone> {
        let postmaster = self.local.running()?;
        self.local.set_upstream(None);
        self.attach(&postmaster, source)?;
        let fetched = self.fetch(until).await;
        self.detach(&postmaster).await?;
        fetched?;
        Ok(StepDone::Plain)
    }

    async fn fetch(&self, until: Position) -> Result<()> {
        let mut session = self.local.work().await?;
        let end = Instant::now() + FETCH_WITHIN;
        loop {
            let have = received(&mut session).await?;
            if have >= until.lsn {
                return Ok(());
            }
            if Instant::now() >= end {
                bail!("received only up to {have} of {until} within {FETCH_WITHIN:?}");
            }
            sleep(POLL).await;
        }
    }
}

/// Timeline numbers below a server's own that no ancestor of it ever had.
fn gaps(history: &TimelineHistory) -> impl Iterator<Item = u32> {
    let is_real = |tli: u32| history.ancestors.iter().any(|a| a.tli == Tli(tli));
    (2..history.tli.0).filter(move |tli| !is_real(*tli))
}

async fn received(session: &mut Session) -> Result<Lsn> {
    let status = session.status(QUERY).await?;
    Ok(status.receive_lsn.max(status.replay_lsn).unwrap_or(Lsn::ZERO))
}
