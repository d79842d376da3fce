//! A node's data directory is its user's: what is in it, and what a user or a tool has left there.

use std::fs;

use crate::harness::{Lab, Part, millis, secs};

/// Puts `lines` before everything else in a node's `postgresql.conf`.
fn put_first(lab: &Lab, node: &str, lines: &str) {
    let conf = lab.data_dir(node).join("postgresql.conf");
    let old = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{lines}\n{old}")).unwrap();
}

/// A standby that has a recovery target receives and acknowledges on, and would end at the target
/// when it is promoted.
#[test]
fn a_recovery_target_that_was_left_behind_costs_no_commit() {
    let mut lab = Lab::builder().heartbeat(millis(250)).limit(secs(240)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    lab.sql("node1", "create table ballast (t text)").unwrap();
    lab.sql("node1", "select pg_create_restore_point('here')").unwrap();
    let ahead = lab.value("node1", "select pg_current_wal_lsn() + 200000").unwrap();
    for (node, target) in [
        ("node2", format!("recovery_target_lsn = '{ahead}'")),
        ("node3", "recovery_target_name = 'here'".to_owned()),
    ] {
        put_first(&lab, node, &target);
        lab.stop(node, Part::All);
        lab.start(node);
        lab.wait_until_whole(secs(60));
    }
    lab.sql("node1", "insert into ballast select repeat('x', 100) from generate_series(1, 5000)")
        .unwrap();
    writers.wait_until_steady();
    lab.kill("node1", Part::All);
    lab.wait_for("another one takes over", secs(20), |s| {
        s.primary().is_some_and(|primary| primary != "node1")
    });
    writers.wait_for_writes(secs(20));
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
