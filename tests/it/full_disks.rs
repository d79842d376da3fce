//! Disks on which a keeper cannot save what it promises.

use crate::harness::{Lab, Part, secs};

/// Whoever is well stays what it is. A standby that could promise nothing is not waited for: it is
/// out of the sync rule before an election would need its word.
#[test]
fn a_full_state_disk_replaces_nobody_and_keeps_no_election_waiting() {
    if !rustix::process::geteuid().is_root() {
        return; // nobody else may mount
    }
    let mut lab = Lab::builder().disks(true).limit(secs(240)).start();
    lab.expect_error("cannot save the state");
    let writers = lab.writers(2);
    writers.wait_until_steady();
    let is_known = |lab: &Lab, node: &str| lab.has_finding(node, "state_not_saved");

    lab.state_disk("node1").fill();
    lab.wait_until("node1's disk is known to be full", secs(30), || is_known(&lab, "node1"));
    writers.wait_for_writes(secs(20));
    assert_eq!(lab.primary(), "node1", "it was well all the while");
    lab.state_disk("node1").free();
    lab.wait_until("node1's disk is well", secs(30), || !is_known(&lab, "node1"));

    lab.state_disk("node2").fill();
    lab.wait_until("node2's disk is known to be full", secs(30), || is_known(&lab, "node2"));
    lab.wait_for("node2 is not counted", secs(30), |s| {
        s.node("node2").is_some_and(|n| !n.counted) && s.waits_for_nothing()
    });
    lab.kill("node1", Part::All);
    lab.wait_for("node3 takes over", secs(40), |s| {
        s.node("node3").is_some_and(|n| n.reported == "primary" || n.reported == "wait_primary")
    });
    writers.wait_for_writes(secs(40));

    lab.state_disk("node2").free();
    lab.start("node1");
    lab.wait_until_whole(secs(90));
    assert!(!is_known(&lab, "node2"));
    writers.verify_everywhere(&lab);
}
