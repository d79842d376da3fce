//! The monitor's memory is lost, or is an old one.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Lab, Part, run, secs};

/// Of the default heartbeat. A primary that the loss of the monitor had stopped would be away for
/// longer, and this machine's disk is busy meanwhile.
const SILENCE: Duration = secs(3);

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    run(command.arg("-a").arg(from).arg(to), secs(60)).expect_code(0);
}

/// (number-sync-standbys, priority of each node by name)
fn settings(lab: &Lab) -> (Value, Vec<(String, i64)>) {
    let json = lab.ok(&["show-settings", "--json"]).json();
    let mut nodes: Vec<(String, i64)> = json["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| {
            let name = n["nodename"].as_str().unwrap().to_owned();
            (name, n["candidatepriority"].as_i64().unwrap())
        })
        .collect();
    nodes.sort();
    (json["formations"][0]["number_sync_standbys"].clone(), nodes)
}

#[test]
fn keepers_bring_back_what_a_monitor_without_its_data_needs() {
    let mut lab = Lab::builder().limit(secs(300)).start();
    let writers = lab.writers(2);
    lab.ok(&["set-formation", "--number-sync-standbys", "1"]);
    lab.ok(&["set-node", "node2", "--candidate-priority", "0"]);
    lab.change(&["perform-switchover", "--to", "node3"]);
    lab.wait_until_whole(secs(30));
    let before = settings(&lab);
    let epoch = lab.state().unwrap().highest_epoch();

    // While all is well.
    writers.wait_until_steady();
    let failures = writers.failures();
    let lost = Instant::now();
    lab.kill("monitor", Part::All);
    fs::remove_dir_all(lab.data_dir("monitor")).unwrap();
    lab.start("monitor");
    let state = lab.wait_until_whole(secs(60));
    let gap = writers.gap(lost);
    println!("healthy: the longest pause is {gap:?}");
    assert!(gap < SILENCE, "clients noticed: {gap:?}");
    assert_eq!(writers.failures(), failures, "no session was broken");
    assert_eq!(state.primary(), Some("node3"));
    assert_eq!(state.highest_epoch(), epoch, "no election");
    assert_eq!(settings(&lab), before);
    lab.wait_for_event("node", "rebuilt from what the keepers hold", secs(5));

    // While the primary is dead: who is left waits for it.
    writers.wait_until_steady();
    lab.kill_together(&[("monitor", Part::All), ("node3", Part::All)]);
    fs::remove_dir_all(lab.data_dir("monitor")).unwrap();
    lab.start("monitor");
    lab.wait_until("the monitor says whom it waits for", secs(20), || {
        let explain = lab.pgctl(&["explain", "--json"]);
        explain.code == Some(0) && explain.json()["waiting_on"].to_string().contains("node3")
    });
    lab.holds("nobody is promoted", secs(5), || {
        ["node1", "node2"].iter().all(|node| lab.is_in_recovery(node) != Some(false))
    });
    lab.start("node3");
    lab.wait_until_whole(secs(60));
    assert_eq!(settings(&lab), before);
    writers.wait_until_steady();
    let primary = lab.primary();
    lab.kill(&primary, Part::All);
    lab.wait_for("failovers work as before", secs(20), |s| {
        s.primary().is_some_and(|p| p != primary && p != "node2")
    });
    lab.start(&primary);
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn an_old_memory_of_the_monitor_does_no_harm() {
    let mut lab = Lab::builder().limit(secs(300)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    lab.stop("monitor", Part::All);
    let (data, backup) = (lab.data_dir("monitor"), lab.data_dir("monitor").with_extension("old"));
    copy(&data, &backup);
    lab.start("monitor");
    lab.wait_until_whole(secs(30));

    // What the backup does not know of.
    lab.change(&["perform-switchover", "--to", "node2"]);
    lab.wait_until_whole(secs(30));
    writers.wait_until_steady();
    let epoch = lab.state().unwrap().highest_epoch();
    lab.kill("node2", Part::Postgres);
    lab.wait_for("a failover is over", secs(20), |s| {
        s.primary().is_some() && s.highest_epoch() > epoch
    });
    lab.wait_until_whole(secs(60));
    for _ in 0..3 {
        lab.ok(&["set-formation", "--number-sync-standbys", "1"]);
        lab.ok(&["set-formation", "--number-sync-standbys", "0"]);
    }
    lab.wait_until_whole(secs(30));
    writers.wait_until_steady();
    let primary = lab.primary();
    let epoch = lab.state().unwrap().highest_epoch();

    let failures = writers.failures();
    let lost = Instant::now();
    lab.kill("monitor", Part::All);
    fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    lab.start("monitor");
    let state = lab.wait_until_whole(secs(60));
    let gap = writers.gap(lost);
    println!("the longest pause is {gap:?}");
    assert!(gap < SILENCE, "clients noticed: {gap:?}");
    assert_eq!(writers.failures(), failures, "no session was broken");
    assert_eq!(state.primary(), Some(primary.as_str()));
    assert_eq!(state.highest_epoch(), epoch);

    // Its orders are obeyed from now on.
    lab.change(&["perform-failover"]);
    lab.wait_until_whole(secs(30));
    lab.ok(&["set-formation", "--number-sync-standbys", "1"]);
    writers.wait_until_steady();
    lab.kill(&lab.primary(), Part::Postgres);
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
