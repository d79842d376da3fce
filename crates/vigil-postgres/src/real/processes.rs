//! Start, stop, kill, adopt; `pg_control`; roles.

use std::process::Command;
use std::time::Duration;

use rustix::process::{Signal, kill_process};

use crate::Stop;
use crate::control::{self, ControlState};
use crate::pgdata::{self, DataDir};
use crate::process::{self, ProcessError};
use crate::testing::{LONG, Server, eventually, installation};

#[tokio::test]
async fn pg_control_is_read_as_pg_controldata_reads_it() {
    let Some(install) = installation() else { return };
    let mut server = Server::new(&install, "n1").await;
    let inspected = pgdata::inspect(&server.pgdata).unwrap();
    let DataDir::Cluster { major, standby_signal: false, .. } = inspected else {
        panic!("{inspected:?}")
    };
    assert_eq!(major, install.major);
    server.start().await;
    assert_eq!(control::read(&server.pgdata).unwrap().state, ControlState::InProduction);
    server.stop(Stop::Fast).await;

    let control = control::read(&server.pgdata).unwrap();
    assert_eq!(control.state, ControlState::ShutDown);
    let output = Command::new(install.bin_dir.join("pg_controldata"))
        .arg(&server.pgdata)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let says = |label: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(label)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {label} in {text}")).trim().to_owned()
    };
    assert_eq!(says("Database system identifier"), control.system_id.to_string());
    assert_eq!(says("pg_control version number"), control.control_version.to_string());
    assert_eq!(says("Latest checkpoint location"), control.checkpoint.to_string());
    assert_eq!(says("Latest checkpoint's REDO location"), control.redo.to_string());
    assert_eq!(says("Latest checkpoint's TimeLineID"), control.checkpoint_tli.to_string());
    assert_eq!(says("Minimum recovery ending location"), control.min_recovery.to_string());
    assert_eq!(says("Bytes per WAL segment"), control.wal_segment_size.to_string());
    assert_eq!(says("wal_log_hints setting"), "on");
    assert!(control.wal_log_hints && control.data_checksums);
}

#[tokio::test]
async fn kill_all_leaves_nothing_and_the_next_start_works() {
    let Some(install) = installation() else { return };
    let mut server = Server::new(&install, "n1").await;
    server.start().await;
    // A backend that does not notice that its postmaster is gone.
    let busy = server.session().await.backend_pid(LONG).await;
    assert!(busy.is_ok());
    let target = server.target.clone();
    let busy = tokio::spawn(async move {
        let mut session = crate::Session::connect(&target, LONG).await.unwrap();
        let sql = "SELECT count(*) FROM generate_series(1, 1000000000000)";
        let busy = async |conn: &mut sqlx::PgConnection| sqlx::query(sql).execute(conn).await;
        let _ = session.run("busy", LONG, busy).await;
    });
    let mut session = server.session().await;
    eventually("a busy backend", async || session.status(LONG).await.unwrap().clients == 0).await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    kill_process(server.postmaster().pid, Signal::KILL).unwrap();
    server.postmaster().exited().await;
    assert!(server.postmaster().has_exited());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!process::processes_of(&server.pgdata).unwrap().is_empty(), "exited is not stopped");
    let refused = process::spawn(&install, &server.pgdata, &server.log);
    assert!(matches!(refused, Err(ProcessError::AlreadyRuns { .. })), "{refused:?}");

    assert!(process::kill_all(&server.pgdata, LONG).await.unwrap() > 0);
    assert!(process::processes_of(&server.pgdata).unwrap().is_empty());
    busy.await.unwrap();
    assert!(!server.pgdata.join("postmaster.pid").exists());
    server.start().await;
    server.stop(Stop::Fast).await;
}

#[tokio::test]
async fn a_running_server_is_adopted_and_a_foreign_pid_blocks_nothing() {
    let Some(install) = installation() else { return };
    let mut server = Server::new(&install, "n1").await;
    assert!(process::adopt(&server.pgdata).unwrap().is_none());
    // The pid of a process that is no server of this directory: ours.
    let ours = format!("{}\n{}\n1\n1\n\n\n", std::process::id(), server.pgdata.display());
    std::fs::write(server.pgdata.join("postmaster.pid"), ours).unwrap();
    assert!(process::adopt(&server.pgdata).unwrap().is_none());
    server.start().await;
    let adopted = process::adopt(&server.pgdata).unwrap().unwrap();
    assert_eq!(adopted.pid, server.postmaster().pid);
    adopted.signal(Stop::Immediate).unwrap();
    tokio::time::timeout(LONG, adopted.exited()).await.unwrap();
    eventually("all gone", async || process::processes_of(&server.pgdata).unwrap().is_empty())
        .await;
    assert!(process::adopt(&server.pgdata).unwrap().is_none());
}

#[tokio::test]
async fn a_failed_start_quotes_the_log() {
    let Some(install) = installation() else { return };
    let server = Server::new(&install, "n1").await;
    server.write_conf();
    std::fs::write(server.pgdata.join("pgvigil.conf"), "port = 'nonsense'\n").unwrap();
    let postmaster = process::spawn(&install, &server.pgdata, &server.log).unwrap();
    let error =
        process::wait_ready(&server.pgdata, &postmaster, &server.log, LONG).await.unwrap_err();
    assert!(error.to_string().contains("invalid value for parameter \"port\""), "{error}");
}

#[tokio::test]
async fn a_session_sets_passwords_unlogged_and_ends_with_a_timeout() {
    let Some(install) = installation() else { return };
    let mut server = Server::new(&install, "n1").await;
    for (name, value) in [("log_statement", "all"), ("log_min_duration_statement", "0")] {
        server.conf.extra.push((name.to_owned(), value.to_owned()));
    }
    server.start().await;
    let mut session = server.session().await;
    for _ in 0..2 {
        session.ensure_role("pgvigil repl", r"se'cr\et", LONG).await.unwrap();
    }
    session.set_password("pgvigil repl", "another secret", LONG).await.unwrap();
    assert!(session.role_exists("pgvigil repl", LONG).await.unwrap());
    session.emit_probe(LONG).await.unwrap();
    assert!(server.log_text().contains("pg_logical_emit_message"), "statements are logged");
    assert!(!server.log_text().contains("cr\\et") && !server.log_text().contains("another"));

    // What a reload cannot change is told, and only looked for after a reload.
    assert_eq!(session.status(LONG).await.unwrap().pending_restart, [""; 0]);
    server.conf.extra.push(("max_connections".to_owned(), "77".to_owned()));
    server.write_conf();
    server.postmaster().reload().unwrap();
    eventually("a pending restart", async || {
        session.status(LONG).await.unwrap().pending_restart == ["max_connections"]
    })
    .await;
    assert_eq!(session.status(LONG).await.unwrap().pending_restart, ["max_connections"]);

    // A timeout makes the session unusable, and it says so.
    let slow = async |conn: &mut sqlx::PgConnection| {
        sqlx::query("SELECT pg_sleep(60)").execute(conn).await.map(|_| ())
    };
    let error = session.run("a slow query", Duration::from_millis(50), slow).await.unwrap_err();
    assert!(error.is_broken() && !session.is_usable(), "{error}");
    let error = session.in_recovery(LONG).await.unwrap_err().to_string();
    assert!(error.contains("given up"), "{error}");
}
