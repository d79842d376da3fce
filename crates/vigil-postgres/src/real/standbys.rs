//! Pledge, slots, status, blocked replay.

use std::time::Duration;

use vigil_core::wal::{Lsn, Position, Tli};

use crate::process::Stop;
use crate::receiver::{self, Dropped};
use crate::sql::SlotMade;
use crate::testing::{LONG, Server, eventually, installation};

#[tokio::test]
async fn a_pledge_ends_the_receiver_also_when_replay_is_paused() {
    let Some(install) = installation() else { return };
    let mut primary = Server::new(&install, "n1").await;
    primary.start().await;
    let mut standby = Server::standby_of(&primary, "n2").await;
    let status = primary.session().await.status(LONG).await.unwrap();
    assert!(!status.in_recovery && status.timeline.0 == 1 && status.flush_lsn.is_some());
    assert_eq!(status.senders.len(), 1);
    assert_eq!(status.senders[0].application_name, "n2");
    let conninfo = standby.conf.primary_conninfo.clone();
    for pause in [false, true] {
        if pause {
            standby.execute("SELECT pg_wal_replay_pause()").await;
        }
        standby.conf.primary_conninfo = String::new();
        standby.write_conf();
        let dropped = receiver::drop_receiver(standby.postmaster()).await.unwrap();
        // Without a pause the reload does it, in time unless the machine is very busy.
        assert!(
            dropped == Dropped::BySigterm || (!pause && dropped == Dropped::ByReload),
            "{dropped:?}"
        );
        assert!(receiver::no_receiver(standby.postmaster()).await.unwrap());
        primary.session().await.emit_probe(LONG).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(
            receiver::no_receiver(standby.postmaster()).await.unwrap(),
            "it does not come back"
        );
        let status = standby.session().await.status(LONG).await.unwrap();
        assert!(status.receiver.is_none() && status.replay_paused == pause, "{status:?}");
        if !pause {
            let mut session = standby.session().await;
            eventually("all local WAL replayed", async || {
                let wait = session.status(LONG).await.unwrap().startup_wait;
                wait.as_deref() == Some("RecoveryRetrieveRetryInterval")
            })
            .await;
            standby.conf.primary_conninfo.clone_from(&conninfo);
            standby.write_conf();
            standby.postmaster().reload().unwrap();
            standby.wait_streaming().await;
        }
    }
}

#[tokio::test]
async fn slots_live_and_move_on_a_standby_too() {
    let Some(install) = installation() else { return };
    let mut primary = Server::new(&install, "n1").await;
    primary.start().await;
    let standby = Server::standby_of(&primary, "n2").await;
    let mut session = standby.session().await;
    assert_eq!(session.ensure_slot("pgvigil_3", LONG).await.unwrap(), SlotMade::Created);
    assert_eq!(session.ensure_slot("pgvigil_3", LONG).await.unwrap(), SlotMade::Existed);
    let slot = session.status(LONG).await.unwrap().slots.remove(0);
    assert!(slot.physical && !slot.active && slot.restart_lsn.is_some(), "{slot:?}");
    primary.session().await.emit_probe(LONG).await.unwrap();
    let far = primary.session().await.insert_lsn(LONG).await.unwrap();
    eventually("the slot moves", async || {
        session.advance_slot("pgvigil_3", far, LONG).await.unwrap()
    })
    .await;
    assert!(session.status(LONG).await.unwrap().slots[0].restart_lsn > slot.restart_lsn);
    assert!(session.drop_slot("pgvigil_3", LONG).await.unwrap());
    assert!(!session.drop_slot("pgvigil_3", LONG).await.unwrap());
}

/// A reader holds a lock that replay needs: the promotion would wait for ever.
#[tokio::test]
async fn sessions_that_block_replay_are_ended() {
    let Some(install) = installation() else { return };
    let mut primary = Server::new(&install, "n1").await;
    primary.start().await;
    primary.execute("CREATE TABLE t AS SELECT 1 AS a").await;
    let standby = Server::standby_of(&primary, "n2").await;
    let mut session = standby.session().await;
    assert_eq!(session.terminate_replay_blockers(LONG).await.unwrap(), 0);
    let mut reader = standby.session().await;
    let read = async |conn: &mut sqlx::PgConnection| {
        sqlx::raw_sql("SET application_name = 'app'; BEGIN; SELECT * FROM public.t")
            .execute(conn)
            .await
    };
    eventually("the table", async || reader.run("read", LONG, read).await.is_ok()).await;
    primary.execute("ALTER TABLE t ADD b int").await;
    eventually("blocked replay", async || {
        session.status(LONG).await.unwrap().startup_wait.as_deref() == Some("relation")
    })
    .await;
    assert_eq!(session.terminate_replay_blockers(LONG).await.unwrap(), 1);
    eventually("replay", async || {
        session.status(LONG).await.unwrap().startup_wait.as_deref() != Some("relation")
    })
    .await;
    assert!(reader.in_recovery(LONG).await.is_err());
}

/// A standby that was told to stop somewhere goes on receiving; what it has acknowledged must not
/// end with its promotion.
#[tokio::test]
async fn recovery_targets_have_no_effect_and_a_server_that_has_one_is_recognised() {
    let Some(install) = installation() else { return };
    let mut primary = Server::new(&install, "n1").await;
    primary.start().await;
    primary.execute("SELECT pg_create_restore_point('here')").await;
    let end = primary.session().await.status(LONG).await.unwrap().insert_lsn.unwrap();
    let mut standby = Server::standby_of(&primary, "n2").await;
    standby.stop(Stop::Fast).await;
    let lsn = Lsn(end.0 + 20_000).to_string();
    let targets = [
        ("recovery_target_lsn", lsn.as_str()),
        ("recovery_target_name", "here"),
        ("recovery_target_xid", "100000"),
        ("recovery_target_time", "2001-01-01"),
        ("recovery_target", "immediate"),
    ];
    let conf = standby.pgdata.join("postgresql.conf");
    let clean = std::fs::read_to_string(&conf).unwrap();
    for (n, (name, value)) in targets.into_iter().enumerate() {
        // In either of the two places that a user or a tool may write to.
        let line = format!("{name} = '{value}'\narchive_cleanup_command = 'false'\n");
        std::fs::write(&conf, format!("{line}{clean}")).unwrap();
        let auto = standby.pgdata.join("postgresql.auto.conf");
        std::fs::write(&auto, if n % 2 == 0 { "" } else { &line }).unwrap();
        crate::conf::strip_auto_conf(&standby.pgdata, &standby.conf.names()).unwrap();
        standby.start().await;
        standby.wait_streaming().await;
        let status = standby.session().await.status(LONG).await.unwrap();
        assert!(!status.recovery_target, "{name}");
        standby.stop(Stop::Fast).await;
    }

    // Started by somebody else, and promoted: the tail of its WAL is missed.
    let end = primary.session().await.status(LONG).await.unwrap().insert_lsn.unwrap();
    let lsn = Lsn(end.0 + 20_000).to_string();
    standby.conf.extra.push(("recovery_target_lsn".to_owned(), lsn));
    standby.start().await;
    standby.wait_streaming().await;
    let status = standby.session().await.status(LONG).await.unwrap();
    assert!(status.recovery_target);
    primary.execute("CREATE TABLE t AS SELECT generate_series(1, 2000) AS n").await;
    let end = primary.session().await.status(LONG).await.unwrap().flush_lsn.unwrap();
    let mut session = standby.session().await;
    eventually("all is received", async || {
        session.status(LONG).await.unwrap().receive_lsn >= Some(end)
    })
    .await;
    primary.stop(Stop::Immediate).await;
    let control = crate::control::read(&standby.pgdata).unwrap();
    let end = Position { tli: Tli(1), lsn: end };
    let tail = crate::WalTail::of(&standby.pgdata, end, control.wal_segment_size);
    crate::process::promote(&standby.pgdata, standby.postmaster()).unwrap();
    eventually("promoted", async || !session.in_recovery(LONG).await.unwrap()).await;
    let cut = tail.cut_off_at(Tli(2)).unwrap();
    assert!(cut.is_some_and(|fork| fork < end.lsn), "{cut:?}");
}

#[tokio::test]
async fn a_promotion_that_keeps_all_wal_is_not_called_short() {
    let Some(install) = installation() else { return };
    let mut primary = Server::new(&install, "n1").await;
    primary.start().await;
    let standby = Server::standby_of(&primary, "n2").await;
    primary.execute("CREATE TABLE t AS SELECT generate_series(1, 20000) AS n").await;
    primary.stop(Stop::Immediate).await;
    let mut session = standby.session().await;
    eventually("no receiver is left", async || {
        session.status(LONG).await.unwrap().receiver.is_none()
    })
    .await;
    let end = session.status(LONG).await.unwrap().receive_lsn.unwrap();
    let control = crate::control::read(&standby.pgdata).unwrap();
    let end = Position { tli: Tli(1), lsn: end };
    let tail = crate::WalTail::of(&standby.pgdata, end, control.wal_segment_size);
    crate::process::promote(&standby.pgdata, standby.postmaster()).unwrap();
    eventually("promoted", async || !session.in_recovery(LONG).await.unwrap()).await;
    assert_eq!(tail.cut_off_at(Tli(2)).unwrap(), None);
}
