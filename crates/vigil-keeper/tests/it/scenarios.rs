//! What happens to clusters, from the killing of one process to the loss of everything.

use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};
use vigil_core::command::Command;

use crate::cluster::{Cluster, possible};

#[tokio::test(flavor = "multi_thread")]
async fn kills_a_switchover_and_restarts() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::new(3).await;
    cluster.wait_settled().await;
    assert_eq!(cluster.primary().await, 0);
    let [node1, node2, _] = &cluster.nodes[..] else { panic!() };
    node1.writes().await;
    assert_eq!((node1.http("/primary").await, node1.http("/replica").await), (200, 503));
    assert_eq!((node2.http("/primary").await, node2.http("/replica").await), (503, 200));
    assert_eq!((node2.http("/read-only").await, node2.http("/health").await), (200, 200));
    assert_eq!((node1.http("/liveness").await, node1.http("/metrics").await), (200, 200));

    eprintln!("=== Postgres of the primary is killed");
    kill_process(node1.postmaster(), Signal::KILL).unwrap();
    cluster.wait_primary("node1", false).await;
    cluster.wait_settled().await;
    cluster.nodes[cluster.primary().await].writes().await;

    eprintln!("=== switchover");
    cluster.memory.command(Command::Switchover { to: Some("node1".into()) }).await;
    cluster.wait_primary("node1", true).await;
    cluster.wait_settled().await;

    eprintln!("=== keeper and Postgres of the primary are killed");
    cluster.nodes[0].kill_keeper();
    cluster.nodes[0].signal_postgres(Signal::KILL);
    cluster.wait_primary("node1", false).await;
    cluster.nodes[0].start();
    cluster.wait_settled().await;

    eprintln!("=== a keeper is killed and started again: Postgres goes on");
    let primary = cluster.primary().await;
    let node = &mut cluster.nodes[primary];
    let before = node.postmaster();
    node.kill_keeper();
    node.start();
    // Written to, a primary is not replaced while its keeper is away.
    for _ in 0..15 {
        cluster.nodes[primary].writes().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.wait_settled().await;
    assert_eq!(cluster.primary().await, primary);
    assert_eq!(cluster.nodes[primary].postmaster(), before, "the same server");

    eprintln!("=== a standby stops politely");
    let standby = &mut cluster.nodes[(primary + 1) % 3];
    let began = Instant::now();
    standby.terminate();
    assert_eq!(standby.exit_code().await, 0);
    eprintln!("stopped after {:?}", began.elapsed());
    assert_eq!(standby.processes(), []);
    standby.start();
    cluster.nodes[primary].writes().await;
    cluster.wait_settled().await;

    eprintln!("=== the primary stops politely");
    let primary = cluster.primary().await;
    let node = &mut cluster.nodes[primary];
    let name = node.name.clone();
    node.terminate();
    assert_eq!(node.exit_code().await, 0);
    assert_eq!(node.processes(), []);
    cluster.wait_primary(&name, false).await;
    cluster.nodes[primary].start();
    cluster.wait_settled().await;

    for node in &cluster.nodes {
        let log = node.log_text();
        assert!(!log.contains(" ERROR "), "{}:\n{log}", node.name);
        let server = std::fs::read_to_string(node.state_dir().join("postgres.log")).unwrap();
        assert!(!server.contains("cret"), "the password is in the log of Postgres");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_server_is_killed_and_replaced() {
    if !possible() {
        return;
    }
    let cluster = Cluster::new(3).await;
    cluster.wait_settled().await;
    let frozen = cluster.nodes[0].processes();
    cluster.nodes[0].signal_postgres(Signal::STOP);
    let ms = cluster.wait_primary("node1", false).await;
    assert!(ms < 6_000, "took {ms} ms");
    cluster.wait_settled().await;
    let alive = cluster.nodes[0].processes();
    assert!(frozen.iter().all(|pid| !alive.contains(pid)), "a frozen one is still there");
}

/// A former primary whose WAL went further than what was elected.
#[tokio::test(flavor = "multi_thread")]
async fn wal_that_nobody_else_has_is_kept_and_rewound() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::new(3).await;
    cluster.wait_settled().await;
    let node1 = &mut cluster.nodes[0];
    node1.kill_keeper();
    // The walsenders are frozen: what is written now reaches nobody.
    for pid in node1.processes() {
        let title = std::fs::read_to_string(format!("/proc/{}/cmdline", pid.as_raw_pid()));
        if title.is_ok_and(|t| t.contains("walsender")) {
            kill_process(pid, Signal::STOP).unwrap();
        }
    }
    for _ in 0..10 {
        node1.writes().await;
    }
    node1.signal_postgres(Signal::KILL);
    cluster.wait_primary("node1", false).await;
    cluster.nodes[0].start();
    cluster.wait_settled().await;
    let log = cluster.nodes[0].log_text();
    assert!(log.contains("step done step=\"rewind\""), "no rewind:\n{log}");
    let kept = std::fs::read_dir(cluster.nodes[0].state_dir().join("kept-wal")).unwrap();
    assert_eq!(kept.count(), 1, "the WAL is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_goes_on_without_a_monitor_and_stops_when_it_is_alone() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::new(3).await;
    cluster.wait_settled().await;
    cluster.stop_monitor().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.nodes[0].writes().await;
    assert_eq!(cluster.nodes[0].http("/primary").await, 200);

    for standby in &mut cluster.nodes[1..] {
        standby.kill_keeper();
        standby.signal_postgres(Signal::KILL);
    }
    let began = Instant::now();
    while !cluster.nodes[0].processes().is_empty() {
        assert!(began.elapsed() < Duration::from_secs(8), "still runs, cut off from everybody");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!("fenced after {:?}", began.elapsed());
    assert_eq!(cluster.nodes[0].http("/primary").await, 503);

    cluster.start_monitor().await;
    for standby in &mut cluster.nodes[1..] {
        standby.start();
    }
    cluster.wait_settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_its_data_or_was_dropped_is_a_new_node() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::new(2).await;
    cluster.wait_settled().await;
    let id_of_node2 = async |cluster: &Cluster| {
        let view = cluster.memory.view().await;
        view.nodes.iter().find(|n| n.nodename == "node2").map(|n| n.nodeid)
    };
    let first = id_of_node2(&cluster).await;
    let node2 = &mut cluster.nodes[1];
    node2.terminate();
    assert_eq!(node2.exit_code().await, 0);
    std::fs::remove_dir_all(node2.pgdata()).unwrap();
    node2.start();
    cluster
        .wait("node2 to be another node", 30, |view| {
            let node = view.nodes.iter().find(|n| n.nodename == "node2");
            node.is_some_and(|n| Some(n.nodeid) != first)
        })
        .await;
    cluster.wait_settled().await;
    let second = id_of_node2(&cluster).await;

    cluster
        .memory
        .command(Command::DropNode { node: "node2".into(), force: false, allow_failover: false })
        .await;
    assert_eq!(cluster.nodes[1].exit_code().await, 0);
    assert_eq!(cluster.nodes[1].processes(), []);
    assert!(cluster.nodes[1].pgdata().join("PG_VERSION").exists(), "the data is kept");
    cluster.nodes[1].start();
    cluster.wait_settled().await;
    assert!(![first, second].contains(&id_of_node2(&cluster).await));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standalone_server_is_taken_over_with_one_restart() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::empty().await;
    cluster.add_node(1);
    cluster.nodes[0].start_standalone().await;
    let before = cluster.nodes[0].postmaster();
    cluster.nodes[0].start();
    cluster.wait_joined("node1").await;
    // Where it listens and which files it reads are decided at a start.
    cluster.wait_primary("node1", true).await;
    let taken_over = cluster.nodes[0].postmaster();
    assert_ne!(taken_over, before);
    cluster.nodes[0].writes().await;

    cluster.add_node(2);
    cluster.nodes[1].start();
    cluster.wait_settled().await;
    assert_eq!(cluster.nodes[0].postmaster(), taken_over, "once is enough");
    let auto_conf = cluster.nodes[0].pgdata().join("postgresql.auto.conf");
    let auto_conf = std::fs::read_to_string(auto_conf).unwrap();
    assert!(auto_conf.contains("work_mem") && !auto_conf.contains("port"), "{auto_conf}");
    kill_process(taken_over, Signal::KILL).unwrap();
    cluster.wait_primary("node1", false).await;
    cluster.wait_settled().await;
}
