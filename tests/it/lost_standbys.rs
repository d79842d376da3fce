//! Both standbys are lost: what the group does then is a matter of number-sync-standbys.

use std::time::Instant;

use crate::harness::{Lab, Part, State, millis, secs};

fn names(value: &serde_json::Value, name: &str) -> bool {
    value.to_string().contains(name)
}

/// `pgctl explain` and the state both say whom the group waits for.
fn waits_for(lab: &Lab, name: &str) -> bool {
    let explain = lab.pgctl(&["explain", "--json"]);
    if explain.code != Some(0) {
        return false;
    }
    let json = explain.json();
    let state = lab.state().map(|s| s.json["waiting_on"].clone());
    names(&json["waiting_on"], name) && state.is_ok_and(|waiting| names(&waiting, name))
}

#[test]
fn without_standbys_writes_resume_degraded_and_no_stale_standby_is_promoted() {
    let mut lab = Lab::builder().start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let killed = Instant::now();
    lab.kill_together(&[("node2", Part::All), ("node3", Part::All)]);
    lab.wait_for("node1 degrades", secs(12), |s| s.is("node1", "wait_primary"));
    writers.wait_for_writes(secs(10));
    let gap = writers.gap(killed);
    println!("outage {gap:?}");
    assert!(gap < secs(10), "writes resumed after {gap:?} only");
    writers.wait_until_steady();

    // Now node1 alone holds what was acknowledged last.
    lab.kill("node1", Part::All);
    lab.start("node2");
    lab.wait_until("explain names node1", secs(30), || waits_for(&lab, "node1"));
    let never = |state: &Result<State, String>| {
        !state.as_ref().is_ok_and(|s| s.primary().is_some())
            && lab.is_in_recovery("node2") != Some(false)
    };
    lab.holds("node2 is not promoted", secs(10), || never(&lab.state()));
    let text = lab.pgctl(&["explain"]);
    text.expect_code(0);
    assert!(text.stdout.contains("node1"), "{text:?}");

    lab.start("node1");
    lab.wait_for("node1 serves again", secs(40), |s| s.primary() == Some("node1"));
    lab.start("node3");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn with_one_sync_standby_required_writes_block_until_one_returns() {
    let mut lab = Lab::builder().heartbeat(millis(500)).number_sync_standbys(1).start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    lab.kill_together(&[("node2", Part::All), ("node3", Part::All)]);
    let killed = Instant::now();
    // What was sent after the standbys died cannot have been flushed by one of them.
    lab.holds("nothing is acknowledged", secs(12), || writers.acks_of("node1", killed) == 0);
    let in_recovery = lab.value("node1", "select pg_is_in_recovery()");
    assert_eq!(in_recovery.as_deref(), Some("f"), "node1 must wait, not stop");
    let explain = lab.pgctl(&["explain"]);
    explain.expect_code(0);
    assert!(
        explain.stdout.contains("node2") || explain.stdout.contains("node3"),
        "explain does not say that writes wait for a standby: {explain:?}"
    );

    lab.start("node2");
    writers.wait_for_writes(secs(30));
    lab.start("node3");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn one_of_two_standbys_may_go_without_a_pause() {
    let mut lab = Lab::builder().start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let killed = Instant::now();
    lab.kill("node3", Part::All);
    lab.holds("the writers go on", secs(5), || {
        let since = Instant::now().checked_sub(secs(2)).unwrap();
        killed.elapsed() < secs(2) || writers.acked_since(since) > 0
    });
    let gap = writers.gap(killed);
    assert!(gap < secs(2), "the writers waited {gap:?}");
    lab.start("node3");
    lab.wait_until_whole(secs(60));
    // A polite stop leaves the rule at once.
    let stopped = Instant::now();
    lab.stop("node2", Part::All);
    lab.start("node2");
    lab.wait_until_whole(secs(60));
    let gap = writers.gap(stopped);
    assert!(gap < secs(2), "the writers waited {gap:?}");
    assert!(writers.failures().is_empty(), "{:?}", writers.failures());
    writers.verify_everywhere(&lab);
}

#[test]
fn with_all_priorities_0_an_election_waits_says_so_and_is_ended_by_a_command() {
    let mut lab = Lab::builder().heartbeat(millis(250)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    for node in lab.node_names() {
        lab.ok(&["set-node", &node, "--candidate-priority", "0"]);
    }
    let refused = lab.pgctl(&["perform-switchover"]);
    refused.expect_code(5).expect_one_error_line();
    lab.kill("node1", Part::All);
    lab.wait_until("explain says that a candidate is missing", secs(20), || {
        lab.pgctl(&["explain"]).stdout.contains("--candidate-priority")
            && lab.state().is_ok_and(|s| s.json["waiting_on"].to_string().contains("priority"))
    });
    lab.holds("nobody is promoted", secs(3), || {
        ["node2", "node3"].iter().all(|node| lab.is_in_recovery(node) != Some(false))
    });
    lab.ok(&["set-node", "node2", "--candidate-priority", "1"]);
    lab.wait_for("node2 takes over", secs(20), |s| s.primary() == Some("node2"));
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    lab.do_as_told("node3", "priority_0");
    lab.change(&["perform-switchover", "--to", "node3"]);
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// number-sync-standbys 1 and two standbys: one is gone for good, later the primary is lost.
#[test]
fn two_losses_one_after_the_other_are_survived() {
    let mut lab = Lab::builder().heartbeat(millis(250)).number_sync_standbys(1).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    lab.kill("node3", Part::All);
    lab.wait_until("the rule shrinks to node2", secs(20), || {
        let names = lab.value("node1", "show synchronous_standby_names").unwrap_or_default();
        names.starts_with("ANY 1") && names.contains("node2") && !names.contains("node3")
    });
    // Only once it is confirmed is the old rule, of which node3 may hold a commit, out of the way.
    lab.wait_for("the rule is confirmed", secs(10), State::waits_for_nothing);
    writers.wait_until_steady();
    let killed = Instant::now();
    lab.kill("node1", Part::All);
    lab.wait_for("node2 takes over", secs(20), |s| {
        s.node("node2").is_some_and(|n| n.reported == "primary" || n.reported == "wait_primary")
    });
    // With nobody left it waits for one; the first that comes back will do.
    lab.holds("nothing is acknowledged by node2 alone", secs(2), || {
        writers.acks_of("node2", killed) == 0
    });
    lab.start("node1");
    writers.wait_for_writes(secs(60));
    lab.start("node3");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// The last resort: the one node that holds the newest commits is not waited for any longer. What it
/// has beyond the others is kept when it comes back after all.
#[test]
fn a_loss_is_accepted_with_the_command_that_explain_names() {
    let mut lab = Lab::builder().heartbeat(millis(250)).start();
    lab.sql("node1", "create table kept (i int)").unwrap();
    lab.sql("node1", "insert into kept values (1)").unwrap();
    lab.wait_for_replay();
    lab.kill_together(&[("node2", Part::All), ("node3", Part::All)]);
    lab.wait_for("node1 degrades", secs(12), |s| s.is("node1", "wait_primary"));
    lab.sql("node1", "insert into kept values (2)").unwrap();
    lab.kill("node1", Part::All);
    for node in ["node2", "node3"] {
        lab.start(node);
    }
    lab.wait_until("explain names node1 and the way out", secs(30), || {
        lab.has_finding("node1", "election_waits")
    });
    lab.do_as_told("node1", "election_waits");
    let primary = lab.primary();
    assert_ne!(primary, "node1");
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    lab.wait_for_event("rejoin", "node1", secs(5));
    lab.wait_for_event("rejoin", " is in ", secs(5));
    lab.sql(&primary, "insert into kept values (3)").unwrap();
    lab.wait_for_replay();
    for node in lab.node_names() {
        let rows = lab.value(&node, "select string_agg(i::text, ' ' order by i) from kept");
        assert_eq!(rows.as_deref(), Some("1 3"), "{node}");
    }
}
