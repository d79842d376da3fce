//! An idle primary whose keeper is away: nothing of its own makes WAL move, and all the same it is no
//! failover, as long as commits end there. When none can end, it is one.

use std::fs;

use rustix::process::Signal;

use crate::harness::{Lab, Part, all_of_it, millis, secs};

/// The sessions over which the standbys' keepers commit; they are there before they are needed.
fn witnesses(lab: &Lab, node: &str) -> Vec<crate::harness::Process> {
    let mut found = lab.postgres_processes(node);
    found.retain(|p| {
        let title = fs::read_to_string(format!("/proc/{}/cmdline", p.pid)).unwrap_or_default();
        title.contains("pgvigil_repl") && !title.contains("walsender")
    });
    found
}

#[test]
fn an_idle_primary_is_judged_by_whether_commits_end() {
    let mut lab = Lab::builder().heartbeat(millis(500)).limit(secs(240)).start();
    let epoch = lab.state().unwrap().highest_epoch();
    lab.wait_until("both standbys' keepers have a session", secs(20), || {
        witnesses(&lab, "node1").len() == 2
    });

    // Nobody writes, and nobody probes but the standbys' keepers.
    lab.kill("node1", Part::Keeper);
    let (away, end) = (secs(if all_of_it() { 30 } else { 8 }), "select pg_current_wal_lsn()");
    let before = lab.value("node1", end);
    lab.holds("node1 goes on", away, || {
        lab.is_in_recovery("node1") == Some(false)
            && lab.state().is_ok_and(|s| s.highest_epoch() == epoch)
    });
    assert_ne!(lab.value("node1", end), before, "WAL has moved");
    lab.start("node1");
    let state = lab.wait_until_whole(secs(40));
    assert_eq!((state.primary(), state.highest_epoch()), (Some("node1"), epoch), "{state}");

    // Its sessions hang, its walsenders live and say so: that vouches for nothing.
    lab.kill("node1", Part::Keeper);
    let frozen = witnesses(&lab, "node1");
    assert!(!frozen.is_empty());
    for process in &frozen {
        process.signal(Signal::STOP);
    }
    lab.wait_for("node2 takes over", secs(20), |s| s.primary() == Some("node2"));
    for process in &frozen {
        process.signal(Signal::CONT);
    }
    lab.start("node1");
    lab.wait_until_whole(secs(60));

    // All of it stands still.
    lab.kill("node2", Part::Keeper);
    lab.freeze("node2", Part::Postgres);
    lab.wait_for("node1 takes over", secs(20), |s| s.primary() == Some("node1"));
    lab.thaw("node2");
    lab.start("node2");
    lab.wait_until_whole(secs(60));
}
