//! Nodes come and go while clients write.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::harness::{Lab, Part, fingerprint, millis, postgres_bin, run, secs};

fn node_id(lab: &Lab, name: &str) -> Option<i64> {
    let state = lab.state().ok()?;
    let nodes = state.json["nodes"].as_array()?.clone();
    nodes.iter().find(|n| n["nodename"] == name)?["nodeid"].as_i64()
}

#[test]
fn nodes_join_leave_and_move_while_clients_write() {
    let mut lab = Lab::builder().nodes(1).heartbeat(millis(250)).limit(secs(300)).start();
    lab.add_node("node2");
    lab.add_node("node3");
    let writers = lab.writers(2);
    writers.wait_until_steady();

    // From one to three.
    lab.start("node2");
    lab.wait_until_so_many_are_whole(2, secs(60));
    lab.start("node3");
    lab.wait_until_so_many_are_whole(3, secs(60));
    writers.wait_until_steady();

    // A node that lives is told: it stops, keeps its data, and ends.
    let old_id = node_id(&lab, "node3");
    lab.ok(&["drop-node", "node3"]);
    assert_eq!(lab.wait_for_exit("node3", secs(20)), Some(0));
    assert!(lab.postgres_processes("node3").is_empty());
    assert!(lab.data_dir("node3").join("PG_VERSION").exists());
    lab.wait_until_so_many_are_whole(2, secs(20));
    lab.wait_for_event("node", "node3 has left the group", secs(5));
    let slots = "select count(*) from pg_replication_slots where slot_name like 'pgvigil%'";
    lab.wait_until("its slot is gone", secs(10), || {
        lab.value("node1", slots).as_deref() == Some("1")
    });
    // Started again, it is a new node.
    lab.start("node3");
    lab.wait_until_so_many_are_whole(3, secs(60));
    assert!(node_id(&lab, "node3") > old_id);

    // One that is dead cannot be told: only by force; and it may come back.
    lab.kill("node3", Part::All);
    lab.wait_for("node3 is missed", secs(10), |s| s.node("node3").is_some_and(|n| n.health == 0));
    let refused = lab.pgctl(&["drop-node", "node3"]);
    refused.expect_code(5).expect_one_error_line();
    assert!(refused.stderr.contains("--force"), "{refused:#?}");
    lab.ok(&["drop-node", "node3", "--force"]);
    lab.wait_until_so_many_are_whole(2, secs(20));
    lab.pgctl(&["drop-node", "node3"]).expect_code(4).expect_one_error_line();
    lab.pgctl(&["drop-node", "node1"]).expect_code(5).expect_one_error_line();
    lab.start("node3");
    lab.wait_until_so_many_are_whole(3, secs(60));

    // A node that returns under another address, as standby and as primary.
    lab.stop("node2", Part::All);
    lab.set_option("node2", "--pg-listen", "127.0.0.1,127.0.0.2");
    lab.set_option("node2", "--host", "127.0.0.2");
    lab.start("node2");
    lab.wait_until_whole(secs(60));
    lab.change(&["perform-switchover", "--to", "node2"]);
    lab.wait_until_whole(secs(60));
    let upstream = |node: &str| lab.value(node, "show primary_conninfo").unwrap_or_default();
    for node in ["node1", "node3"] {
        assert!(upstream(node).contains("host=127.0.0.2 "), "{}", upstream(node));
    }
    writers.wait_until_steady();
    lab.kill("node2", Part::Keeper);
    lab.set_option("node2", "--host", "127.0.0.1");
    lab.start("node2");
    for node in ["node1", "node3"] {
        lab.wait_until(&format!("{node} follows to the new address"), secs(20), || {
            lab.value(node, "show primary_conninfo").unwrap_or_default().contains("host=127.0.0.1 ")
        });
    }
    lab.wait_until_whole(secs(30));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

fn initdb(lab: &Lab, data: &Path) {
    let mut command = lab.workdir().command(postgres_bin().join("initdb"), data.parent().unwrap());
    command.args(["--no-sync", "--auth=trust", "-U", "postgres", "-D"]).arg(data);
    run(&mut command, secs(60)).expect_code(0);
}

#[test]
fn wiped_data_is_cloned_and_foreign_data_or_a_second_keeper_is_refused() {
    let mut lab = Lab::builder().heartbeat(millis(250)).limit(secs(300)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    let id = node_id(&lab, "node3");

    // The disk is new, or only the data is gone under a keeper that runs.
    lab.kill("node3", Part::All);
    fs::remove_dir_all(lab.data_dir("node3")).unwrap();
    lab.start_when_missed("node3");
    lab.wait_until_so_many_are_whole(3, secs(60));
    assert!(node_id(&lab, "node3") > id);
    let data = lab.data_dir("node3");
    lab.freeze("node3", Part::Keeper);
    lab.kill("node3", Part::Postgres);
    fs::remove_dir_all(&data).unwrap();
    lab.thaw("node3");
    lab.wait_until("node3 has data again", secs(60), || data.join("PG_VERSION").exists());
    lab.wait_until_so_many_are_whole(3, secs(60));
    writers.wait_until_steady();

    // Another cluster in the place of its data: refused, and not touched.
    lab.kill("node3", Part::All);
    let aside = data.with_extension("aside");
    fs::rename(&data, &aside).unwrap();
    initdb(&lab, &data);
    let before = fingerprint(&data);
    lab.expect_error("another cluster");
    lab.start("node3");
    let code = lab.wait_for_exit("node3", secs(20));
    assert!(matches!(code, Some(2 | 8)), "exit code {code:?}");
    assert_eq!(fingerprint(&data), before, "foreign data was touched");
    assert!(lab.log("node3").contains("system identifier"), "{}", lab.log("node3"));
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&aside, &data).unwrap();
    lab.start("node3");
    lab.wait_until_so_many_are_whole(3, secs(60));

    // A second keeper for the same directory, under whatever name and ports.
    lab.add_node("node9");
    let second = data.display().to_string();
    lab.set_option("node9", "--pgdata", &second);
    let port = lab.tcp("node3").port().to_string();
    for state_dir in [None, Some(lab.data_dir("node9").with_extension("state"))] {
        for pg_port in [None, Some(port.as_str())] {
            if let Some(dir) = &state_dir {
                lab.set_option("node9", "--state-dir", &dir.display().to_string());
            }
            if let Some(port) = pg_port {
                lab.set_option("node9", "--pg-port", port);
            }
            let bin = lab.workdir().bin("vigil-keeper");
            let mut command: Command = lab.workdir().command(bin, data.parent().unwrap());
            let output = run(command.args(lab.args("node9")), secs(20));
            output.expect_code(8).expect_one_error_line();
            assert!(output.stderr.contains("another keeper"), "{output:#?}");
        }
    }
    lab.remove_host("node9");
    let state = lab.wait_until_so_many_are_whole(3, secs(10));
    assert_eq!(state.nodes.len(), 3);
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn formations_and_groups_are_made_kept_apart_and_dropped() {
    let mut lab = Lab::builder().nodes(1).heartbeat(millis(250)).limit(secs(300)).start();
    let writers = lab.writers(1);
    lab.ok(&["create-formation", "second"]);
    lab.pgctl(&["create-formation", "second"]).expect_code(5).expect_one_error_line();
    for (node, group) in [("node2", "0"), ("node3", "0"), ("node4", "1")] {
        lab.add_node(node);
        lab.set_option(node, "--formation", "second");
        lab.set_option(node, "--group", group);
        lab.start(node);
        // The first one of a group makes it.
        lab.wait_until(&format!("{node} is there"), secs(60), || {
            let output = lab.pgctl(&["--formation", "second", "show-state", "--json"]);
            let state = crate::harness::State::parse(&output.stdout);
            state.is_ok_and(|s| s.node(node).is_some_and(|n| n.reported == n.goal && n.health == 1))
        });
    }
    let of_second = |args: &[&str]| {
        let mut all = vec!["--formation", "second"];
        all.extend_from_slice(args);
        lab.pgctl(&all)
    };
    // One of two groups cannot meet it: none is changed.
    let before = of_second(&["show-settings", "--json"]).stdout;
    let refused = of_second(&["set-formation", "--number-sync-standbys", "1"]);
    refused.expect_code(5).expect_one_error_line();
    assert_eq!(of_second(&["show-settings", "--json"]).stdout, before);
    let names = lab.value("node2", "show synchronous_standby_names").unwrap();
    assert!(names.starts_with("ANY 1 ("), "{names}");
    of_second(&["set-formation", "--heartbeat-misses", "4"]).expect_code(0);
    // A node name without its group is not enough where there are several.
    of_second(&["perform-failover"]).expect_code(2).expect_one_error_line();
    let moved = of_second(&["--group", "0", "perform-failover", "--json"]);
    moved.expect_code(0);
    // The first formation is another one.
    lab.wait_until_so_many_are_whole(1, secs(10));

    // Empty it: the standby, then the primaries, which are the last of their groups.
    let refused = of_second(&["drop-formation", "second"]);
    refused.expect_code(5).expect_one_error_line();
    lab.pgctl(&["drop-formation", "default"]).expect_code(5).expect_one_error_line();
    let primary = if moved.json()["to"] == "node2" { "node2" } else { "node3" };
    let standby = if primary == "node2" { "node3" } else { "node2" };
    for (group, node) in [("0", standby), ("0", primary), ("1", "node4")] {
        let args = ["--formation", "second", "--group", group, "drop-node", node];
        lab.pgctl(&args).expect_code(0);
        assert_eq!(lab.wait_for_exit(node, secs(20)), Some(0), "{node}");
        lab.wait_until(&format!("{node} has left the record"), secs(10), || {
            let output = lab.pgctl(&["--formation", "second", "show-state", "--json"]);
            crate::harness::State::parse(&output.stdout).is_ok_and(|s| s.node(node).is_none())
        });
    }
    let state = lab.pgctl(&["--formation", "second", "show-state", "--json"]).json();
    assert_eq!(state["nodes"].as_array().map(Vec::len), Some(0), "{state}");
    lab.wait_until("the group is gone as well", secs(10), || {
        lab.pgctl(&["--formation", "second", "--group", "1", "show-state"]).code == Some(4)
    });
    lab.ok(&["drop-formation", "second"]);
    lab.pgctl(&["--formation", "second", "show-state"]).expect_code(4).expect_one_error_line();
    // A keeper that wants to join what is not there is told so.
    lab.expect_error("no formation");
    lab.expect_error("there is no formation");
    lab.start("node4");
    assert_eq!(lab.wait_for_exit("node4", secs(20)), Some(2));
    for node in ["node2", "node3", "node4"] {
        lab.remove_host(node);
    }
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
