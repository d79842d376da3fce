//! The children of a postmaster that a failover deals with, told apart by their titles.

use rustix::process::Pid;

use crate::process::ProcessError;
use crate::procfs;

/// What a child of the postmaster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Receiver,
    Startup,
    Sender,
    /// Forked this instant, or a connection that has not said who it is: no title yet.
    Unnamed,
    Other,
}

/// The process that receives WAL, if there is one. An empty `pg_stat_wal_receiver` is no proof
/// that there is none: it is empty also while the receiver connects.
/// [`ProcessError::Unseen`] neither.
pub fn receiver_pid(postmaster: Pid) -> Result<Option<Pid>, ProcessError> {
    Ok(children(postmaster)?.into_iter().find(|(_, k)| *k == Kind::Receiver).map(|(pid, _)| pid))
}

/// The process that replays WAL; there is none on a primary.
pub fn startup_pid(postmaster: Pid) -> Result<Option<Pid>, ProcessError> {
    Ok(children(postmaster)?.into_iter().find(|(_, k)| *k == Kind::Startup).map(|(pid, _)| pid))
}

/// Whether a process that sends WAL lives.
pub fn has_senders(postmaster: Pid) -> Result<bool, ProcessError> {
    Ok(children(postmaster)?.iter().any(|(_, kind)| *kind == Kind::Sender))
}

/// All living children.
pub(crate) fn children(postmaster: Pid) -> Result<Vec<(Pid, Kind)>, ProcessError> {
    let list = || {
        let own_title = procfs::title(postmaster)?;
        let mut living = Vec::new();
        for pid in procfs::children(postmaster)? {
            if procfs::stat(pid)?.is_some_and(|s| !s.zombie) {
                let title = procfs::title(pid)?;
                let kind = if title == own_title { Kind::Unnamed } else { kind(&title) };
                living.push((pid, kind));
            }
        }
        Ok(living)
    };
    list().map_err(ProcessError::Unseen)
}

/// Titles are `postgres: walreceiver streaming 0/5000000`, with `cluster_name: ` before the kind
/// where that is set. A session's is `postgres: user database host activity`.
fn kind(title: &str) -> Kind {
    let is = |kind: &str, activities: &[&str]| {
        let marked = format!(": {kind}");
        title.rmatch_indices(&marked).next().is_some_and(|(at, _)| {
            let rest = &title[at + marked.len()..];
            rest.is_empty() || activities.iter().any(|a| rest.starts_with(a))
        })
    };
    if is("walreceiver", &[" streaming "]) {
        Kind::Receiver
    } else if is("startup", &[" recovering ", " waiting for ", " waiting"]) {
        Kind::Startup
    } else if title.starts_with("postgres: ") && title.contains(": walsender ") {
        Kind::Sender
    } else {
        Kind::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for (title, expected) in [
            ("postgres: walreceiver", Kind::Receiver),
            ("postgres: walreceiver streaming 0/5000000", Kind::Receiver),
            ("postgres: 15/main: walreceiver streaming 0/5000000", Kind::Receiver),
            ("postgres: walreceiver app 10.0.0.1(5000) idle", Kind::Other),
            ("postgres: startup recovering 000000010000000000000005", Kind::Startup),
            ("postgres: n: startup waiting for 000000010000000000000005", Kind::Startup),
            ("postgres: startup db [local] idle", Kind::Other),
            ("postgres: walsender repl 10.0.0.1(5000) streaming 0/5000000", Kind::Sender),
            ("postgres: main: walsender repl 10.0.0.1(5000) idle", Kind::Sender),
            ("postgres: checkpointer", Kind::Other),
        ] {
            assert_eq!(kind(title), expected, "{title}");
        }
    }
}
