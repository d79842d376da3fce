//! From no sync rule to one.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::in_force::{InForceError, NamesChange, put_names_in_force};
use crate::procfs;
use crate::sql::{Refusal, Session};
use crate::testing::{LONG, Server, installation};

/// As long as the checkpointer has not seen the names, commits are acknowledged alone, whatever
/// SHOW says: then they are not in force.
#[tokio::test]
async fn names_are_in_force_only_when_commits_wait() {
    let Some(install) = installation() else { return };
    let mut primary = Server::new(&install, "n1").await;
    primary.start().await;
    let _standby = Server::standby_of(&primary, "n2").await;
    let mut conf = primary.conf.clone();
    conf.synchronous_standby_names = "ANY 1 (n2)".to_owned();
    let change = |always_prove| NamesChange {
        pgdata: &primary.pgdata,
        postmaster: primary.postmaster(),
        target: &primary.target,
        conf: &conf,
        removed: &[],
        always_prove,
    };

    let mut kept = primary.session().await;
    let checkpointer = checkpointer(primary.postmaster().pid);
    kill_process(checkpointer, Signal::STOP).unwrap();
    let result = put_names_in_force(&change(false), &mut kept, Duration::from_millis(700)).await;
    assert!(
        matches!(result, Err(InForceError::Timeout { .. } | InForceError::Sql(_))),
        "{result:?}"
    );
    kill_process(checkpointer, Signal::CONT).unwrap();

    let lsn = put_names_in_force(&change(true), &mut kept, LONG).await.unwrap().unwrap();
    let mut session = primary.session().await;
    assert_eq!(session.show("synchronous_standby_names", LONG).await.unwrap(), "ANY 1 (n2)");
    assert!(session.insert_lsn(LONG).await.unwrap() >= lsn);
    primary.execute("CREATE TABLE t (a int)").await;
    let status = session.status(LONG).await.unwrap();
    assert_eq!((status.sync_waiters, status.senders[0].sync_state.as_str()), (0, "quorum"));

    // A narrower rule: proved by the priority of the one that was removed.
    let mut conf = conf.clone();
    conf.synchronous_standby_names = "ANY 1 (n3)".to_owned();
    let removed = ["N2".to_owned()];
    let narrower = NamesChange { conf: &conf, removed: &removed, ..change(false) };
    put_names_in_force(&narrower, &mut kept, LONG).await.unwrap();
    let status = session.status(LONG).await.unwrap();
    assert_eq!(status.senders[0].sync_priority, 0);
}

/// Superusers of an application hold every connection: the session that was there before does it.
#[tokio::test]
async fn names_are_put_in_force_on_a_full_server() {
    let Some(install) = installation() else { return };
    let mut primary = Server::new(&install, "n1").await;
    primary.conf.extra.push(("max_connections".to_owned(), "8".to_owned()));
    primary.conf.synchronous_standby_names = "ANY 1 (n2, n3)".to_owned();
    primary.start().await;
    let mut kept = primary.session().await;
    let mut crowd = Vec::new();
    let full = loop {
        match Session::connect(&primary.target, LONG).await {
            Ok(session) => crowd.push(session),
            Err(error) => break error,
        }
        assert!(crowd.len() < 20);
    };
    assert_eq!(full.refusal(), Some(Refusal::Full), "{full}");
    for names in ["ANY 1 (n3)", ""] {
        let mut conf = primary.conf.clone();
        conf.synchronous_standby_names = names.to_owned();
        let removed = ["n2".to_owned()];
        let change = NamesChange {
            pgdata: &primary.pgdata,
            postmaster: primary.postmaster(),
            target: &primary.target,
            conf: &conf,
            removed: &removed,
            always_prove: false,
        };
        let lsn = put_names_in_force(&change, &mut kept, LONG).await.unwrap();
        assert!(lsn.is_some());
        let shown = crowd[0].show("synchronous_standby_names", LONG).await.unwrap();
        assert_eq!(shown, names, "seen by others, too");
        let text = std::fs::read_to_string(primary.pgdata.join("pgvigil.conf")).unwrap();
        assert_eq!(text, conf.render(), "no mark is left");
    }
}

fn checkpointer(postmaster: Pid) -> Pid {
    let is = |pid: &Pid| procfs::title(*pid).unwrap().contains(": checkpointer");
    procfs::children(postmaster).unwrap().into_iter().find(is).unwrap()
}
