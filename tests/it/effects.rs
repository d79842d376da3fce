//! Commands return when their effect is there: what a script does next meets what it asked for.

use crate::harness::{Lab, Part, millis, secs};

fn names(lab: &Lab, node: &str) -> String {
    lab.value(node, "show synchronous_standby_names").unwrap_or_default()
}

#[test]
fn a_command_returns_when_its_effect_is_there() {
    let mut lab = Lab::builder().heartbeat(millis(500)).limit(secs(200)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();

    // A standby: nothing of its Postgres runs, and no commit waits for it.
    lab.ok(&["enable-maintenance", "node3"]);
    assert!(lab.postgres_processes("node3").is_empty());
    assert!(!names(&lab, "node1").contains("node3"));
    lab.ok(&["disable-maintenance", "node3"]);
    let receives = "select status from pg_stat_wal_receiver";
    assert_eq!(lab.value("node3", receives).as_deref(), Some("streaming"));

    // Settings: the primary obeys them. With nobody to spare, that is said.
    let output = lab.ok(&["set-formation", "--number-sync-standbys", "2"]);
    assert!(names(&lab, "node1").starts_with("ANY 2 ("), "{}", names(&lab, "node1"));
    assert!(output.stdout.contains("the loss of one blocks all commits"), "{output:#?}");
    lab.ok(&["set-formation", "--number-sync-standbys", "0"]);
    lab.ok(&["set-node", "node3", "--replication-quorum", "false"]);
    assert!(!names(&lab, "node1").contains("node3"));
    lab.ok(&["set-node", "node3", "--replication-quorum", "true"]);
    let recorded = lab.ok(&["set-node", "node3", "--candidate-priority", "70", "--no-wait"]);
    assert!(recorded.stdout.contains("candidate priority 70"), "{recorded:#?}");

    // A keeper that is away proves nothing: exit 6, and it goes on.
    lab.kill("node3", Part::Keeper);
    let output = lab.pgctl(&["enable-maintenance", "node3", "--timeout", "2s"]);
    output.expect_code(6);
    assert!(output.stderr.contains("node3"), "{output:#?}");
    lab.start("node3");
    lab.wait_until("node3 is stopped", secs(30), || lab.postgres_processes("node3").is_empty());
    lab.ok(&["disable-maintenance", "node3"]);

    // A primary: somebody else serves, and then it rests, or leaves.
    lab.ok(&["enable-maintenance", "node1", "--allow-failover"]);
    assert!(lab.postgres_processes("node1").is_empty());
    assert_eq!(lab.is_in_recovery("node2"), Some(false));
    lab.ok(&["disable-maintenance", "node1"]);
    assert_eq!(lab.value("node1", receives).as_deref(), Some("streaming"));
    writers.wait_until_steady();
    lab.pgctl(&["drop-node", "node2"]).expect_code(5).expect_one_error_line();
    lab.ok(&["drop-node", "node2", "--allow-failover"]);
    assert!(lab.postgres_processes("node2").is_empty());
    let state = lab.state().unwrap();
    assert!(state.node("node2").is_none(), "{state}");
    assert_eq!(lab.wait_for_exit("node2", secs(20)), Some(0));
    lab.remove_host("node2");
    lab.wait_until_whole(secs(40));
    writers.wait_until_steady();
}
