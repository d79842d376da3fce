//! Putting a sync rule in force, and proving it: by an LSN, because every SHOW may lie.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep};
use vigil_core::wal::Lsn;

use crate::conf::{self, ManagedConf};
use crate::durable;
use crate::error::FileError;
use crate::process::{Postmaster, ProcessError};
use crate::sql::{Refusal, Session, SqlError, Target};

/// A name that no standby has: commits wait for it for ever.
pub const NOBODY: &str = "pgvigil_nobody";

/// A setting without any effect, by which one reload is told from another.
const MARK: &str = "pgvigil.reload";

/// A change of `synchronous_standby_names`.
#[derive(Debug, Clone)]
pub struct NamesChange<'a> {
    pub pgdata: &'a Path,
    pub postmaster: &'a Postmaster,
    pub target: &'a Target,
    /// The configuration with the new names.
    pub conf: &'a ManagedConf,
    /// Standbys (`application_name`) that no longer count.
    pub removed: &'a [String],
    /// Prove by a commit that blocks even when the old names were not empty: for a caller that
    /// does not know whether somebody else has just set them (after a restart of the keeper).
    pub always_prove: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum InForceError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error("synchronous_standby_names not in force within {limit:?}: {waiting_for}")]
    Timeout { limit: Duration, waiting_for: String },
}

impl InForceError {
    /// Whether it can pass by itself.
    pub fn passes(&self) -> bool {
        matches!(self, InForceError::Sql(error) if error.passes())
    }
}

/// Writes `conf`, makes the server obey its `synchronous_standby_names`, and returns the LSN from
/// which on every commit does (on a standby `None`: there are no commits to obey). 15-20 ms.
///
/// Coming from an empty value takes a detour: the checkpointer alone switches sync waits on, and
/// as long as it is busy commits are acknowledged alone although every SHOW says otherwise. So
/// first a name that nobody has, until a probe commit is seen to wait; then the members.
///
/// Where clients hold all connections `kept`, a session that was there before, has to do; all but
/// that detour can be seen with it.
pub async fn put_names_in_force(
    change: &NamesChange<'_>,
    kept: &mut Session,
    within: Duration,
) -> Result<Option<Lsn>, InForceError> {
    let clock = Clock { end: Instant::now() + within, limit: within };
    let mut first = match Session::connect(change.target, clock.left()).await {
        Ok(session) => Some(session),
        Err(error) if error.refusal() == Some(Refusal::Full) => {
            let now = conf::read_raw(change.pgdata)?;
            reload_until_kept_sees(change.pgdata, change.postmaster, &now, kept, &clock).await?;
            None
        }
        Err(error) => return Err(error.into()),
    };
    let session = first.as_mut().unwrap_or(&mut *kept);
    let standby = session.in_recovery(clock.left()).await?;
    let old = session.show("synchronous_standby_names", clock.left()).await?;
    let new = change.conf.synchronous_standby_names.as_str();
    let from_empty = old.trim().is_empty() || change.always_prove;
    if from_empty && !new.trim().is_empty() && !standby {
        let nobody =
            ManagedConf { synchronous_standby_names: NOBODY.to_owned(), ..change.conf.clone() };
        reload_until_seen(change, &nobody, &clock).await?;
        see_a_commit_wait(change.target, session, &clock).await?;
    }
    let mut fresh = match reload_until_seen(change, change.conf, &clock).await {
        Err(InForceError::Sql(error)) if error.refusal() == Some(Refusal::Full) => {
            let text = change.conf.render();
            reload_until_kept_sees(change.pgdata, change.postmaster, &text, kept, &clock).await?;
            None
        }
        fresh => Some(fresh?),
    };
    if standby {
        return Ok(None);
    }
    let fresh = fresh.as_mut().unwrap_or(kept);
    wait_removed(fresh, change.removed, &clock).await?;
    let lsn = fresh.insert_lsn(clock.left()).await?;
    // Flushes past that LSN, and wakes commits that the new rule lets go: walsenders look at them
    // only at a standby's next reply, seconds later on an idle server.
    fresh.emit_probe(clock.left()).await?;
    Ok(Some(lsn))
}

/// Writes `conf`, reloads, and returns a fresh session that shows the new names: it was forked by
/// a postmaster that had signalled all its children before.
async fn reload_until_seen(
    change: &NamesChange<'_>,
    conf: &ManagedConf,
    clock: &Clock,
) -> Result<Session, InForceError> {
    conf.write(change.pgdata)?;
    change.postmaster.reload()?;
    loop {
        let mut fresh = Session::connect(change.target, clock.left()).await?;
        let shown = fresh.show("synchronous_standby_names", clock.left()).await?;
        if shown == conf.synchronous_standby_names {
            return Ok(fresh);
        }
        clock.check(|| {
            let wanted = &conf.synchronous_standby_names;
            format!("a new session shows `{shown}`, not `{wanted}`: is it set elsewhere too?")
        })?;
        sleep(Duration::from_millis(2)).await;
    }
}

/// For a server on which no new connection is free: makes `text` the managed file, reloads, and
/// returns when every process of the server has been signalled to read it.
///
/// That `kept` itself has read it proves nothing of the others: it may have been signalled first.
/// But the postmaster does one reload after the other. So there is a second one, with a mark that
/// is new, and when `kept` sees this the first is over.
pub async fn reload_seen_by_kept(
    pgdata: &Path,
    postmaster: &Postmaster,
    text: &str,
    kept: &mut Session,
    within: Duration,
) -> Result<(), InForceError> {
    let clock = Clock { end: Instant::now() + within, limit: within };
    reload_until_kept_sees(pgdata, postmaster, text, kept, &clock).await
}

async fn reload_until_kept_sees(
    pgdata: &Path,
    postmaster: &Postmaster,
    text: &str,
    kept: &mut Session,
    clock: &Clock,
) -> Result<(), InForceError> {
    static MARKS: AtomicU64 = AtomicU64::new(0);
    let file = pgdata.join(conf::FILE);
    let without: String =
        text.lines().filter(|l| !l.starts_with(MARK)).flat_map(|l| [l, "\n"]).collect();
    for _ in 0..2 {
        // New also after a restart of this program.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let mark = format!("{} {}", now.as_nanos(), MARKS.fetch_add(1, Ordering::Relaxed));
        durable::write_if_changed(&file, format!("{without}{MARK} = '{mark}'\n").as_bytes())?;
        postmaster.reload()?;
        while kept.show_if_known(MARK, clock.left()).await?.as_ref() != Some(&mark) {
            clock.check(|| "the kept session does not see the reload".to_owned())?;
            sleep(Duration::from_millis(2)).await;
        }
    }
    durable::write_if_changed(&file, without.as_bytes())?;
    Ok(())
}

/// Commits probes until one is seen to wait for a standby. It is then terminated, never cancelled:
/// a cancelled one would be told success.
async fn see_a_commit_wait(
    target: &Target,
    observer: &mut Session,
    clock: &Clock,
) -> Result<(), InForceError> {
    loop {
        let mut probe = Session::connect(target, clock.left()).await?;
        let pid = probe.backend_pid(clock.left()).await?;
        probe.commit_with_sync(clock.left()).await?;
        let waits = async {
            loop {
                if observer.waits_for_sync(pid, clock.left()).await? {
                    return Ok::<(), InForceError>(());
                }
                clock.check(|| "a probe commit that waits".to_owned())?;
                sleep(Duration::from_millis(2)).await;
            }
        };
        let seen = tokio::select! {
            // First the probe: if it is through, it was acknowledged alone.
            biased;
            through = probe.emit_probe(clock.left()) => { through?; false }
            waits = waits => { waits?; true }
        };
        if seen {
            observer.terminate_backend(pid, clock.left()).await?;
            return Ok(());
        }
        clock.check(|| "the checkpointer to switch sync waits on".to_owned())?;
        sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until the walsender of each removed standby says priority 0, or is gone. `sync_state`
/// would prove nothing.
async fn wait_removed(
    session: &mut Session,
    removed: &[String],
    clock: &Clock,
) -> Result<(), InForceError> {
    if removed.is_empty() {
        return Ok(());
    }
    loop {
        let still = session.synchronous_senders(clock.left()).await?;
        // Postgres compares these names without regard to case.
        let left: Vec<_> = still
            .into_iter()
            .filter(|name| removed.iter().any(|r| r.eq_ignore_ascii_case(name)))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        clock.check(|| format!("the walsender of {} to see the new names", left.join(", ")))?;
        sleep(Duration::from_millis(2)).await;
    }
}

/// One budget for all steps.
struct Clock {
    end: Instant,
    limit: Duration,
}

impl Clock {
    fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    fn check(&self, waiting_for: impl FnOnce() -> String) -> Result<(), InForceError> {
        if self.left().is_zero() {
            let waiting_for = waiting_for();
            return Err(InForceError::Timeout { limit: self.limit, waiting_for });
        }
        Ok(())
    }
}
