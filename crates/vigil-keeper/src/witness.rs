//! A standby's keeper sees to it that WAL comes also from an idle primary whose keeper is away: it
//! commits something there itself (when: `vigil_core::node::witness`). What counts is the WAL that
//! comes by the receiver, not the answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::sleep;
use vigil_core::node::observed::ServerView;
use vigil_core::node::witness::Witness;
use vigil_postgres::sql::remote::Committer;
use vigil_postgres::standby::Upstream;

use crate::clock::{Clock, ms};
use crate::local::Local;
use crate::status::Status;

/// Nobody who is there takes longer to let a session in.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// A commit that does not end is not asked for again over another session before this: that new
/// sessions can commit while all that there were hang is no health.
const GIVE_UP: Duration = Duration::from_secs(30);
/// WAL is here so long after its commit has ended.
const ARRIVES: Duration = Duration::from_millis(5);
/// Whether there is a primary to receive from, and which, is looked at at least so often.
const IDLE: Duration = Duration::from_secs(1);
/// A session that cannot be had is tried again after so long.
const AGAIN: Duration = Duration::from_millis(500);

/// Asks for ever; `look`: the observer is to look at what has come.
pub(crate) async fn witness(
    local: Arc<Local>,
    status: watch::Receiver<Arc<Status>>,
    look: Arc<Notify>,
) {
    let clock = Clock::new();
    let mut witness = Witness::default();
    let mut kept: Option<(Upstream, Committer)> = None;
    loop {
        let now_ms = clock.now().mono_ms;
        let Some(fed) = Fed::of(&local, &status.borrow()) else {
            kept = None;
            sleep(IDLE).await;
            continue;
        };
        let committer = match kept.take().filter(|(primary, _)| *primary == fed.primary) {
            Some((_, committer)) => committer,
            None => match Committer::connect(&fed.primary, CONNECT_WITHIN).await {
                Ok(committer) => committer,
                Err(error) => {
                    tracing::debug!(%error, "no session on the primary");
                    sleep(AGAIN).await;
                    continue;
                }
            },
        };
        let due_ms = witness.due_in_ms(fed.age_ms, fed.interval_ms, now_ms);
        if due_ms > 0 {
            kept = Some((fed.primary, committer));
            sleep(Duration::from_millis(due_ms).min(IDLE)).await;
            continue;
        }
        witness.asks(now_ms);
        let answer = tokio::select! {
            answer = committer.commit(GIVE_UP) => answer,
            () = another(&local, &status, &fed.primary) => continue,
        };
        match answer {
            Ok(committer) => {
                kept = Some((fed.primary, committer));
                sleep(ARRIVES).await;
                look.notify_one();
                sleep(Duration::from_millis(fed.interval_ms / 4).min(IDLE)).await;
            }
            Err(error) => {
                tracing::debug!(%error, "the primary does not commit");
                sleep(AGAIN).await;
            }
        }
    }
}

/// Until somebody else is received from, or nobody.
async fn another(local: &Local, status: &watch::Receiver<Arc<Status>>, primary: &Upstream) {
    loop {
        sleep(IDLE).await;
        let now = Fed::of(local, &status.borrow());
        if now.is_none_or(|fed| fed.primary != *primary) {
            return;
        }
    }
}

/// A standby that streams.
struct Fed {
    primary: Upstream,
    /// Since WAL last came, in milliseconds.
    age_ms: u64,
    interval_ms: u64,
}

impl Fed {
    fn of(local: &Local, status: &Status) -> Option<Self> {
        let Some(ServerView::Up(up)) = status.seen.as_ref().map(|seen| &seen.server) else {
            return None;
        };
        let (primary, _) = up.upstream.filter(|_| up.in_recovery && up.streaming)?;
        let since_ms = status.looked_at.map_or(0, |at| ms(at.elapsed()));
        Some(Fed {
            primary: local.upstream_of(&status.record, primary).ok()?,
            age_ms: up.wal_age_ms.unwrap_or(u64::MAX).saturating_add(since_ms),
            interval_ms: status.record.settings.heartbeat_interval_ms,
        })
    }
}
