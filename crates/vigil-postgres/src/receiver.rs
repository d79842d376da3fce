//! Dropping a standby's walreceiver: the half of a pledge that Postgres has to do.

use std::time::Duration;

use rustix::process::Pid;
use tokio::time::Instant;

use crate::children::{self, Kind};
use crate::process::{Postmaster, ProcessError, terminate, wait_gone};

/// How long a receiver gets to end by itself after the reload: 4-10 ms is usual.
const AFTER_RELOAD: Duration = Duration::from_millis(30);
/// How long it gets after SIGTERM: 2-7 ms is usual.
const AFTER_SIGTERM: Duration = Duration::from_millis(200);
/// A child without a title may be a receiver that was forked this instant; one that still has none
/// after this time is a connection that has not said who it is.
const UNNAMED: Duration = Duration::from_millis(20);

/// How the receiver went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dropped {
    /// There was none.
    None,
    ByReload,
    /// Replay was stuck: the reload alone would never have done it.
    BySigterm,
}

#[derive(Debug, thiserror::Error)]
pub enum ReceiverError {
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the receiver (process {}) is still there after a reload and SIGTERM: it is stopped or hangs in the kernel", pid.as_raw_pid())]
    StillThere { pid: Pid },
}

/// Reloads, and returns when no receiver exists. The caller has written `primary_conninfo = ''`
/// before. **Read the LSN after it, and call [`no_receiver`] after that**: a startup process that
/// has not seen the reload yet may start a receiver once more.
///
/// On [`ReceiverError::StillThere`] the way on is to kill the whole node; SIGKILL for the receiver
/// alone would take it down as well.
pub async fn drop_receiver(postmaster: &Postmaster) -> Result<Dropped, ReceiverError> {
    let mut receiver = settled_receiver(postmaster.pid).await?;
    postmaster.reload()?;
    let mut dropped = Dropped::None;
    // Once more for a receiver that was started again before the reload was seen.
    for _ in 0..3 {
        if let Some(pid) = receiver {
            dropped = dropped.max(end_receiver(pid).await?);
        }
        receiver = settled_receiver(postmaster.pid).await?;
        if receiver.is_none() {
            break;
        }
    }
    match receiver {
        None => Ok(dropped),
        Some(pid) => Err(ReceiverError::StillThere { pid }),
    }
}

async fn end_receiver(pid: Pid) -> Result<Dropped, ReceiverError> {
    if wait_gone(pid, AFTER_RELOAD).await.is_ok() {
        return Ok(Dropped::ByReload);
    }
    terminate(pid)?;
    match wait_gone(pid, AFTER_SIGTERM).await {
        Ok(()) => Ok(Dropped::BySigterm),
        Err(ProcessError::StillThere { .. }) => Err(ReceiverError::StillThere { pid }),
        Err(e) => Err(e.into()),
    }
}

/// Whether no receiver exists at this moment: the proof, by processes, not by a view.
pub async fn no_receiver(postmaster: &Postmaster) -> Result<bool, ReceiverError> {
    Ok(settled_receiver(postmaster.pid).await?.is_none())
}

/// The receiver, after a moment in which a child without a title could have become one.
async fn settled_receiver(postmaster: Pid) -> Result<Option<Pid>, ProcessError> {
    let end = Instant::now() + UNNAMED;
    loop {
        let children = children::children(postmaster)?;
        let find = |wanted| children.iter().find(|(_, k)| *k == wanted).map(|(pid, _)| *pid);
        if let Some(pid) = find(Kind::Receiver) {
            return Ok(Some(pid));
        }
        if find(Kind::Unnamed).is_none() || Instant::now() >= end {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
