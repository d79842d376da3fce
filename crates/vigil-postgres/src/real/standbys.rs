//! Pledge, slots, status, blocked replay.

use std::time::Duration;

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
