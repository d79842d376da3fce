//! Assigned timelines, and coming back after a fork.

use std::path::Path;

use vigil_core::wal::{Position, Tli};

use crate::Stop;
use crate::control;
use crate::pgdata;
use crate::process;
use crate::receiver;
use crate::standby;
use crate::testing::{LONG, Server, eventually, installation};

async fn promote(server: &Server) {
    process::promote(&server.pgdata, server.postmaster()).unwrap();
    let mut session = server.session().await;
    eventually("read-write", async || !session.in_recovery(LONG).await.unwrap()).await;
}

async fn pledge(server: &mut Server) {
    server.conf.primary_conninfo = String::new();
    server.write_conf();
    receiver::drop_receiver(server.postmaster()).await.unwrap();
}

async fn follow(server: &mut Server, upstream: &Server) {
    server.conf.primary_conninfo = upstream.as_upstream(&server.name).primary_conninfo();
    server.write_conf();
    server.postmaster().reload().unwrap();
    server.wait_streaming().await;
}

async fn timeline(server: &Server) -> Tli {
    server.session().await.status(LONG).await.unwrap().timeline
}

fn history_file(pgdata: &Path, tli: u32) -> std::path::PathBuf {
    pgdata.join(format!("pg_wal/{tli:08X}.history"))
}

/// The gap is filled with stubs: the promotion takes the assigned number, a follower gets over the
/// gap, the old primary comes back by a rewind, and both survive a restart as a standby.
#[tokio::test]
async fn stubs_lead_to_the_assigned_timeline() {
    let Some(install) = installation() else { return };
    let mut n1 = Server::new(&install, "n1").await;
    n1.start().await;
    let mut n2 = Server::standby_of(&n1, "n2").await;
    let mut n3 = Server::standby_of(&n1, "n3").await;
    pledge(&mut n2).await;
    pledge(&mut n3).await;
    n1.execute("CREATE TABLE lost AS SELECT 1").await;

    let written = pgdata::write_stub_histories(&n2.pgdata, Tli(1), Tli(7)).unwrap();
    assert_eq!(written.len(), 5);
    // Long enough for the startup process to look at them.
    tokio::time::sleep(std::time::Duration::from_millis(400)).await;
    promote(&n2).await;
    assert_eq!(timeline(&n2).await, Tli(7));
    let history = pgdata::history(&n2.pgdata, Tli(7)).unwrap();
    assert_eq!(
        history.ancestors.iter().map(|a| a.tli).collect::<Vec<_>>(),
        [Tli(1)],
        "no stub in it"
    );
    assert_eq!(
        pgdata::remove_stub_histories(&n2.pgdata).unwrap(),
        [],
        "below a real one they stay"
    );

    follow(&mut n3, &n2).await;
    eventually("stubs come by the receiver", async || history_file(&n3.pgdata, 6).exists()).await;
    n2.execute("CREATE TABLE kept AS SELECT 1").await;
    let end = n2.session().await.insert_lsn(LONG).await.unwrap();
    let mut session = n3.session().await;
    eventually("n3 has replayed", async || {
        session.status(LONG).await.unwrap().replay_lsn >= Some(end)
    })
    .await;
    assert_eq!(timeline(&n3).await, Tli(7));
    pledge(&mut n3).await;
    let status = n3.session().await.status(LONG).await.unwrap();
    let at = status.receive_lsn.max(status.replay_lsn).unwrap();
    assert_eq!(pgdata::timeline_of_wal(&n3.pgdata, at, 1 << 20).unwrap(), Some(Tli(7)));

    // The old primary crashed with WAL of its own.
    process::kill_all(&n1.pgdata, LONG).await.unwrap();
    let segment = control::read(&n1.pgdata).unwrap().wal_segment_size;
    let fork = Position { tli: Tli(1), lsn: history.switch_point(Tli(1)).unwrap() };
    let aside = n1.log.with_file_name("aside");
    let kept = standby::keep_wal(&n1.pgdata, fork, &aside).unwrap().unwrap();
    assert_eq!(kept.bytes, kept.segments as u64 * segment);
    standby::recover_to_clean(&install, &n1.pgdata, LONG).await.unwrap();
    n2.session().await.checkpoint(LONG).await.unwrap();
    let upstream = n2.as_upstream("n1");
    let rewound = standby::rewind(&install, &upstream, &n1.pgdata, LONG).await.unwrap();
    assert!(!rewound.nothing_to_do, "{}", rewound.messages);
    n1.conf.primary_conninfo = upstream.primary_conninfo();
    n1.start().await;
    n1.wait_streaming().await;
    assert_eq!(timeline(&n1).await, Tli(7));

    // The new primary, back as a standby of nobody: still on its own timeline.
    n2.stop(Stop::Fast).await;
    pgdata::set_standby_signal(&n2.pgdata).unwrap();
    n2.start().await;
    assert_eq!(timeline(&n2).await, Tli(7));
}

/// A crash between the stubs and the promotion: left there they would forbid the next start.
#[tokio::test]
async fn stubs_of_a_promotion_that_did_not_happen_block_no_start() {
    let Some(install) = installation() else { return };
    let mut n1 = Server::new(&install, "n1").await;
    n1.start().await;
    let mut n2 = Server::standby_of(&n1, "n2").await;
    pledge(&mut n2).await;
    pgdata::write_stub_histories(&n2.pgdata, Tli(1), Tli(4)).unwrap();
    process::kill_all(&n2.pgdata, LONG).await.unwrap();
    n2.conf.primary_conninfo = n1.as_upstream("n2").primary_conninfo();
    n2.start().await;
    n2.wait_streaming().await;
    assert!(!history_file(&n2.pgdata, 2).exists());
}

/// A fresh clone has no history file for the numbers that were skipped; who comes to it from an
/// old timeline has to bring them itself.
#[tokio::test]
async fn a_follower_fills_the_gap_that_its_upstream_has() {
    let Some(install) = installation() else { return };
    let mut n1 = Server::new(&install, "n1").await;
    n1.start().await;
    let mut n2 = Server::standby_of(&n1, "n2").await;
    let mut n3 = Server::standby_of(&n1, "n3").await;
    pledge(&mut n2).await;
    pledge(&mut n3).await;
    pgdata::write_stub_histories(&n2.pgdata, Tli(1), Tli(4)).unwrap();
    promote(&n2).await;
    for tli in [2, 3] {
        std::fs::remove_file(history_file(&n2.pgdata, tli)).unwrap();
    }
    n3.conf.primary_conninfo = n2.as_upstream("n3").primary_conninfo();
    n3.write_conf();
    n3.postmaster().reload().unwrap();
    eventually("the receiver to fail", async || {
        n3.log_text().contains("could not receive timeline history file")
    })
    .await;
    assert_eq!(pgdata::write_stub_histories(&n3.pgdata, Tli(1), Tli(4)).unwrap().len(), 2);
    n3.wait_streaming().await;
    eventually("timeline 4", async || timeline(&n3).await == Tli(4)).await;
}
