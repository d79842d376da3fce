//! Nodes that are stopped on purpose: maintenance, and polite stops.

use std::time::{Duration, Instant};

use crate::harness::{Lab, Part, millis, secs};

/// A handover waits no longer than this for the old primary's last checkpoint.
const HANDOVER: Duration = secs(4);

#[test]
fn maintenance_of_a_standby_survives_restarts_of_everything() {
    let mut lab = Lab::builder().heartbeat(millis(250)).limit(secs(240)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    lab.ok(&["enable-maintenance", "node3"]);
    let rests = |s: &crate::harness::State| {
        s.node("node3").is_some_and(|n| n.reported == "maintenance" && n.goal == "maintenance")
    };
    lab.wait_for("node3 is in maintenance", secs(15), rests);
    let refused = lab.pgctl(&["enable-maintenance", "node3"]);
    refused.expect_code(5).expect_one_error_line();
    let refused = lab.pgctl(&["perform-switchover", "--to", "node3"]);
    refused.expect_code(5).expect_one_error_line();
    assert!(refused.stderr.contains("maintenance"), "{refused:#?}");
    assert!(lab.postgres_processes("node3").is_empty());

    // Its keeper, without and with a monitor to ask.
    lab.kill("monitor", Part::All);
    lab.kill("node3", Part::All);
    lab.start("node3");
    lab.holds("Postgres of node3 stays down", secs(3), || {
        lab.postgres_processes("node3").is_empty()
    });
    lab.start("monitor");
    lab.wait_for("node3 is still in maintenance", secs(20), rests);
    // The whole cluster.
    let all = [("node1", Part::All), ("node2", Part::All), ("node3", Part::All)];
    lab.kill_together(&all);
    for (node, _) in all {
        lab.start(node);
    }
    lab.wait_for("a primary serves", secs(40), |s| s.primary().is_some());
    lab.wait_for("node3 is still in maintenance", secs(20), rests);
    assert!(lab.postgres_processes("node3").is_empty());
    // A failover goes past it, once commits need the other one: a primary that acknowledged alone
    // would be waited for. What was shown at first may have been the monitor's memory.
    writers.wait_until_steady();
    let settled = |s: &crate::harness::State| {
        s.primary().is_some_and(|p| s.is(p, "primary")) && s.waits_for_nothing()
    };
    let state = lab.wait_for("the group has settled", secs(20), settled);
    let primary = state.primary().unwrap().to_owned();
    writers.wait_until_steady();
    let other = if primary == "node1" { "node2" } else { "node1" };
    lab.kill(&primary, Part::Postgres);
    lab.wait_for("the other one takes over", secs(20), |s| s.primary() == Some(other));
    lab.do_as_told("node3", "maintenance");
    lab.wait_until_whole(secs(60));
    lab.pgctl(&["disable-maintenance", "node3"]).expect_code(5).expect_one_error_line();
    assert!(lab.events(&["maintenance"]).len() >= 2);
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn a_primary_hands_over_before_it_rests() {
    let lab = Lab::builder().limit(secs(240)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    let refused = lab.pgctl(&["enable-maintenance", "node1"]);
    refused.expect_code(5).expect_one_error_line();
    assert!(refused.stderr.contains("--allow-failover"), "{refused:#?}");
    let asked = Instant::now();
    lab.ok(&["enable-maintenance", "node1", "--allow-failover"]);
    lab.wait_for("node1 is in maintenance", secs(20), |s| {
        s.node("node1").is_some_and(|n| n.reported == "maintenance") && s.primary() == Some("node2")
    });
    writers.wait_for_writes(secs(10));
    let gap = writers.gap(asked);
    println!("outage {gap:?}");
    assert!(gap < HANDOVER, "{gap:?}");
    lab.wait_for_event("switchover", "took over from node1", secs(10));
    assert!(lab.events(&["failover"]).is_empty(), "a handover, not a failover");
    lab.ok(&["disable-maintenance", "node1"]);
    let state = lab.wait_until_whole(secs(60));
    assert_eq!(state.primary(), Some("node2"), "no failback by itself");
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// `systemctl stop`, `docker stop`: SIGTERM, and a bounded patience.
#[test]
fn a_politely_stopped_primary_hands_over_first_and_comes_back_by_itself() {
    let mut lab = Lab::builder().limit(secs(240)).start();
    let writers = lab.writers(2);
    for _ in 0..2 {
        writers.wait_until_steady();
        let primary = lab.primary();
        let stopped = Instant::now();
        lab.stop(&primary, Part::All);
        let took = stopped.elapsed();
        assert!(took < secs(9), "docker stop kills after 10 s: {took:?}");
        lab.wait_for("somebody else serves", secs(10), |s| {
            s.primary().is_some_and(|p| p != primary)
        });
        writers.wait_for_writes(secs(10));
        let gap = writers.gap(stopped);
        println!("{primary} stopped in {took:?}, outage {gap:?}");
        assert!(gap < HANDOVER, "{gap:?}");
        lab.wait_for_event("switchover", &format!("took over from {primary}"), secs(10));
        assert!(lab.events(&["failover"]).is_empty(), "a handover, not a failover");
        assert!(lab.postgres_processes(&primary).is_empty());
        lab.start(&primary);
        lab.wait_until_whole(secs(60));
    }
    // With nobody to hand over to, it stops all the same.
    for node in lab.others(&[&lab.primary()]) {
        lab.stop(&node, Part::All);
    }
    let last = lab.primary();
    let stopped = Instant::now();
    lab.stop(&last, Part::All);
    println!("the last one stopped in {:?}", stopped.elapsed());
    assert!(stopped.elapsed() < secs(9));
    for node in lab.node_names() {
        lab.start(&node);
    }
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    // All at once, as in `docker compose down`: nobody waits for an election that cannot be won, and
    // the role stays where it is, though its holder, whom nobody prefers, hears of it first and comes
    // back last.
    for attempt in 1.. {
        lab.change(&["perform-promotion", "node3"]);
        lab.wait_until_whole(secs(60));
        let degraded = lab.events(&["degrade"]).len();
        let stopped = Instant::now();
        lab.stop_together(&["node3", "node1", "node2"]);
        println!("all stopped in {:?}", stopped.elapsed());
        assert!(stopped.elapsed() < secs(9));
        // The others had left the rule when it went: it alone can lead then.
        let alone = lab.events(&["degrade"]).len() > degraded;
        for node in lab.node_names() {
            lab.start(&node);
        }
        let state = lab.wait_until_whole(secs(60));
        if alone {
            assert_eq!(state.primary(), Some("node3"), "the role came back with its holder");
            break;
        }
        assert!(attempt < 3, "three times the others did not leave within half a second");
    }
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
