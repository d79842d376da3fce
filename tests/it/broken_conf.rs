//! A line in `postgresql.conf` that Postgres cannot read, and for which it obeys no reload and does
//! not start.

use std::fs;
use std::time::Instant;

use crate::harness::{Lab, Part, millis, secs};

/// Adds a broken line at the top, as a hasty user would, and reloads as they would.
fn spoil(lab: &Lab, node: &str, line: &str) {
    let path = lab.data_dir(node).join("postgresql.conf");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{line}\n{text}")).unwrap();
    lab.sql(node, "select pg_reload_conf()").unwrap();
}

/// The group's events name file and line, and the line is still there, as a comment.
fn wait_until_told(lab: &Lab, node: &str, line: &str) {
    let path = lab.data_dir(node).join("postgresql.conf");
    lab.wait_for_event("setting", &format!("{} line 1: ", path.display()), secs(15));
    let text = fs::read_to_string(&path).unwrap();
    let first = text.lines().next().unwrap();
    assert!(first.starts_with("# pgvigil, ") && first.ends_with(line), "{first}");
}

#[test]
fn a_broken_line_holds_up_no_change_of_the_group() {
    let mut lab = Lab::builder().heartbeat(millis(250)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();

    // A standby is to follow another primary, and the old primary is to start as one.
    let line = "max_connections 1OO of course";
    for node in lab.node_names() {
        spoil(&lab, &node, line);
    }
    lab.change(&["perform-switchover", "--to", "node2"]);
    lab.wait_until_whole(secs(40));
    assert_eq!(lab.primary(), "node2");
    for node in lab.node_names() {
        wait_until_told(&lab, &node, line);
    }
    writers.wait_until_steady();

    // The only standby left is to detach itself and to take over.
    lab.stop("node1", Part::All);
    spoil(&lab, "node3", "no_such_setting = on");
    lab.kill("node2", Part::All);
    lab.wait_for("node3 takes over", secs(20), |s| s.primary() == Some("node3"));
    wait_until_told(&lab, "node3", "no_such_setting = on");
    writers.wait_for_writes(secs(10));
    lab.start("node1");
    lab.start("node2");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();

    // A primary is to do without its standbys.
    spoil(&lab, "node3", "include 'missing.conf'");
    let killed = Instant::now();
    lab.kill_together(&[("node1", Part::All), ("node2", Part::All)]);
    writers.wait_for_writes(secs(15));
    let gap = writers.gap(killed);
    println!("alone after {gap:?}");
    assert!(gap < secs(12), "writes resumed after {gap:?} only");
    wait_until_told(&lab, "node3", "include 'missing.conf'");
    lab.start("node1");
    lab.start("node2");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
