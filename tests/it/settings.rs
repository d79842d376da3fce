//! Settings, changed while clients write.

use std::time::Instant;

use serde_json::Value;

use crate::harness::{Lab, Part, millis, secs};

fn settings(lab: &Lab) -> Value {
    lab.ok(&["show-settings", "--json"]).json()
}

/// What `synchronous_standby_names` of a node says.
fn names(lab: &Lab, node: &str) -> String {
    lab.value(node, "show synchronous_standby_names").unwrap_or_default()
}

fn wait_for_names(lab: &Lab, node: &str, what: &str, is: impl Fn(&str) -> bool) {
    lab.wait_until(&format!("{node}'s sync rule has {what}"), secs(15), || is(&names(lab, node)));
}

fn count(lab: &Lab, kind: &str) -> usize {
    lab.events(&[kind]).len()
}

#[test]
fn settings_are_changed_live_each_with_an_event_and_bad_ones_are_refused() {
    let mut lab = Lab::builder().heartbeat(millis(250)).limit(secs(240)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    let before = count(&lab, "setting");

    // How many must have a commit.
    lab.ok(&["set-formation", "--number-sync-standbys", "2"]);
    wait_for_names(&lab, "node1", "both", |n| n.starts_with("ANY 2 ("));
    let refused = lab.pgctl(&["set-formation", "--number-sync-standbys", "3"]);
    refused.expect_code(5).expect_one_error_line();
    assert!(refused.stderr.contains("there are 2"), "{refused:#?}");
    let refused = lab.pgctl(&["set-node", "node3", "--replication-quorum", "false"]);
    refused.expect_code(5).expect_one_error_line();
    // The hint, typed as it is.
    let hint = refused.stderr.lines().find_map(|l| l.split("pgctl ").nth(1)).unwrap().to_owned();
    lab.ok(&hint.split_whitespace().collect::<Vec<_>>());
    lab.ok(&["set-node", "node3", "--replication-quorum", "false"]);
    wait_for_names(&lab, "node1", "node2 alone", |n| n.contains("node2") && !n.contains("node3"));
    lab.ok(&["set-node", "node3", "--replication-quorum", "true"]);
    lab.ok(&["set-formation", "--number-sync-standbys", "0"]);
    wait_for_names(&lab, "node1", "both again", |n| {
        n.starts_with("ANY 1 (") && n.contains("node2") && n.contains("node3")
    });

    // Asynchronous by choice, and back.
    for node in ["node2", "node3"] {
        lab.ok(&["set-node", node, "--replication-quorum", "false"]);
    }
    lab.wait_until("commits are acknowledged by node1 alone", secs(15), || {
        let standbys = names(&lab, "node1");
        !standbys.contains("node2") && !standbys.contains("node3")
    });
    writers.wait_for_writes(secs(10));
    for node in ["node2", "node3"] {
        lab.ok(&["set-node", node, "--replication-quorum", "true"]);
    }
    wait_for_names(&lab, "node1", "both again", |n| n.contains("node2") && n.contains("node3"));

    // Whoever has the highest priority is next.
    lab.ok(&["set-node", "node3", "--candidate-priority", "99"]);
    lab.ok(&["set-formation", "--heartbeat-interval", "200ms", "--heartbeat-misses", "4"]);
    let shown = settings(&lab);
    assert_eq!(shown["formations"][0]["heartbeat_interval_ms"], 200, "{shown}");
    assert_eq!(shown["formations"][0]["heartbeat_misses"], 4, "{shown}");
    let changes = count(&lab, "setting") - before;
    assert_eq!(changes, 11, "one event each: {:?}", lab.events(&["setting"]));
    writers.wait_until_steady();
    lab.wait_until_whole(secs(30));
    lab.kill("node1", Part::All);
    lab.wait_for("node3 takes over", secs(20), |s| s.primary() == Some("node3"));
    lab.start("node1");
    lab.wait_until_whole(secs(40));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// The rule is changed while what it is about is being lost.
#[test]
fn a_rule_change_survives_whatever_fails_meanwhile() {
    let mut lab = Lab::builder().heartbeat(millis(250)).limit(secs(300)).start();
    let writers = lab.writers(3);
    let set = |lab: &Lab, k: &str| {
        let mut command = lab.pgctl_command(&["set-formation", "--number-sync-standbys", k]);
        crate::harness::run(&mut command, secs(20));
    };
    for (round, victim, part) in [
        (0, "node2", Part::All),
        (1, "monitor", Part::All),
        (2, "node1", Part::Postgres),
        (3, "node1", Part::Keeper),
    ] {
        writers.wait_until_steady();
        let began = Instant::now();
        let victim = if victim == "node1" { lab.primary() } else { victim.to_owned() };
        set(&lab, if round % 2 == 0 { "2" } else { "1" });
        lab.kill(&victim, part);
        if part != Part::Postgres {
            lab.start(&victim);
        }
        // 2 of 2: whoever was lost has to be back.
        lab.wait_until_whole(secs(60));
        set(&lab, if round % 2 == 0 { "1" } else { "0" });
        lab.wait_until_whole(secs(30));
        println!("{victim} {part:?}: whole after {:?}", began.elapsed());
    }
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
