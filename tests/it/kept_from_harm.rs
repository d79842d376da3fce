//! What would do harm if nobody looked after it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Instant;

use crate::harness::{Lab, Part, Writers, config, millis, postgres_bin, query, run, secs};

/// Adds lines to a node's `postgresql.conf`, as its user would: before our include, which stays the
/// last line.
fn configure(lab: &Lab, node: &str, lines: &str) {
    let path = lab.data_dir(node).join("postgresql.conf");
    let text = fs::read_to_string(&path).unwrap();
    let at = text.rfind("include_if_exists").unwrap();
    let text = format!("{}{lines}\n{}", &text[..at], &text[at..]);
    fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn reload(lab: &Lab, node: &str) {
    lab.sql(node, "select pg_reload_conf()").unwrap();
}

#[test]
fn a_delayed_standby_is_no_candidate_and_small_limits_are_raised() {
    let mut lab = Lab::builder().heartbeat(millis(250)).limit(secs(300)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    // node2 has the better priority.
    configure(&lab, "node2", "recovery_min_apply_delay = '15s'");
    reload(&lab, "node2");
    lab.wait_until("node2 is known to be late", secs(10), || lab.has_finding("node2", "delayed"));
    let refused = lab.pgctl(&["perform-switchover", "--to", "node2"]);
    refused.expect_code(5).expect_one_error_line();
    assert!(refused.stderr.contains("recovery_min_apply_delay"), "{refused:#?}");
    lab.kill("node1", Part::All);
    lab.wait_for("node3 takes over", secs(20), |s| s.primary() == Some("node3"));
    lab.start("node1");
    // Postgres does not connect before it has replayed, late, what it has.
    lab.wait_until_so_many_are_whole(3, secs(60));
    let conf = lab.data_dir("node2").join("postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text.replace("recovery_min_apply_delay = '15s'", "")).unwrap();
    reload(&lab, "node2");
    lab.wait_until("node2 is a candidate again", secs(10), || !lab.has_finding("node2", "delayed"));
    writers.wait_until_steady();

    // A node with larger limits may become the primary, and then the others would stop replaying: so
    // the standby among them is restarted with as much before, and the primary when it is one.
    configure(&lab, "node1", "max_connections = 180\nmax_locks_per_transaction = 100");
    lab.stop("node1", Part::All);
    lab.start("node1");
    let (primary, standby) = ("node3", "node2");
    let has_room = |node: &str| lab.value(node, "show max_connections").as_deref() == Some("180");
    lab.wait_until("node2 has room for what node1 would do", secs(30), || has_room(standby));
    lab.wait_for_event("setting", "node2 starts with max_connections 180", secs(5));
    lab.wait_until_whole(secs(60));
    assert_eq!(lab.primary(), primary);
    let started = |node: &str| lab.value(node, "select pg_postmaster_start_time()").unwrap();
    let before = started(standby);
    lab.change(&["perform-switchover", "--to", "node1"]);
    lab.wait_until_whole(secs(60));
    assert!(has_room(primary), "it had to start anyway");
    let after = started(primary);
    writers.wait_until_steady();
    lab.wait_for_replay();
    assert_eq!((started(standby), started(primary)), (before, after), "nobody had to start again");
    for node in ["node2", "node3"] {
        let locks = lab.value(node, "show max_locks_per_transaction");
        assert_eq!(locks.as_deref(), Some("100"), "{node}");
    }
    lab.kill("node3", Part::All);
    lab.start("node3");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// node1 writes WAL that nobody has: with number-sync-standbys 1 and both standbys gone, nothing of
/// it is acknowledged.
fn diverge(lab: &mut Lab, writers: &Writers) {
    writers.wait_until_steady();
    lab.kill_together(&[("node2", Part::All), ("node3", Part::All)]);
    // What the writers send now is on its way for ever; checkpoints need no standby.
    for _ in 0..3 {
        lab.sql("node1", "select pg_logical_emit_message(false, 'test', repeat('x', 1000))")
            .unwrap();
        lab.sql("node1", "checkpoint").unwrap();
        lab.sql("node1", "select pg_switch_wal()").unwrap();
    }
    lab.kill("node1", Part::All);
    for node in ["node2", "node3"] {
        lab.start(node);
    }
    lab.wait_for("another one takes over", secs(40), |s| s.primary().is_some_and(|p| p != "node1"));
    writers.wait_for_writes(secs(20));
}

/// The directory that the newest rejoin event names.
fn kept_wal(lab: &Lab) -> PathBuf {
    let events = lab.events(&["rejoin"]);
    let told = events.iter().rev().filter_map(|e| e["description"].as_str());
    let mut dirs = told.filter_map(|text| text.rsplit(" is in ").next()).map(PathBuf::from);
    dirs.find(|dir| dir.exists()).unwrap_or_else(|| panic!("no kept WAL in {events:?}"))
}

#[test]
fn wal_that_is_given_up_is_kept_and_where_a_rewind_is_impossible_a_clone_helps() {
    let mut lab =
        Lab::builder().heartbeat(millis(250)).number_sync_standbys(1).limit(secs(300)).start();
    let writers = lab.writers(2);
    let data = lab.data_dir("node1");
    // A copy is made beside and takes the place of the directory.
    let directory = || fs::metadata(&data).unwrap().ino();
    let begun_with = directory();

    diverge(&mut lab, &writers);
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    assert_eq!(directory(), begun_with, "a rewind was possible");
    let first = kept_wal(&lab);
    assert!(fs::read_dir(&first).unwrap().count() > 0, "{}", first.display());

    // Once more, and what a rewind would have to read is gone.
    lab.change(&["perform-switchover", "--to", "node1"]);
    lab.wait_until_whole(secs(30));
    diverge(&mut lab, &writers);
    let mut command = lab.workdir().command(postgres_bin().join("pg_controldata"), &data);
    let control = run(command.arg(&data), secs(10)).stdout;
    let redo = control.lines().find(|l| l.contains("REDO WAL file")).unwrap();
    let redo = redo.rsplit(' ').next().unwrap();
    let mut removed = 0;
    for entry in fs::read_dir(data.join("pg_wal")).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if name.len() == 24 && name[8..] < redo[8..] {
            fs::remove_file(entry.path()).unwrap();
            removed += 1;
        }
    }
    assert!(removed > 0, "nothing was there to remove before {redo}");
    lab.start("node1");
    lab.wait_until_whole(secs(90));
    assert_ne!(directory(), begun_with, "a rewind was possible after all");
    assert_ne!(kept_wal(&lab), first, "the second WAL was kept as well");
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn what_fails_again_and_again_is_quarantined_and_failovers_are_limited() {
    let mut lab = Lab::builder().limit(secs(300)).prepare();
    lab.set_option("monitor", "--max-failovers", "2");
    lab.set_option("monitor", "--failover-window", "10m");
    lab.start_all();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    // node3 cannot start any more: a value that its keeper leaves to its user.
    lab.expect_error("a step keeps failing");
    configure(&lab, "node3", "shared_buffers = 'much'");
    lab.kill("node3", Part::Postgres);
    lab.wait_until("node3 is quarantined", secs(60), || lab.has_finding("node3", "quarantine"));
    lab.wait_for_event("quarantine", "pgctl disable-maintenance node3", secs(5));
    lab.wait_for("node3 rests", secs(10), |s| {
        s.node("node3").is_some_and(|n| n.reported == "maintenance")
    });
    let tries = lab.log("node3").matches("step failed").count();
    lab.holds("it is not tried again", secs(6), || {
        lab.log("node3").matches("step failed").count() <= tries + 1
    });
    let conf = lab.data_dir("node3").join("postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text.replace("shared_buffers = 'much'", "")).unwrap();
    lab.do_as_told("node3", "quarantine");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();

    // Two failovers by themselves, the third waits for an operator.
    for _ in 0..2 {
        let epoch = lab.state().unwrap().highest_epoch();
        lab.kill(&lab.primary(), Part::Postgres);
        lab.wait_for("a failover is over", secs(20), |s| {
            s.primary().is_some() && s.highest_epoch() > epoch
        });
        lab.wait_until_whole(secs(60));
        writers.wait_until_steady();
    }
    let primary = lab.primary();
    let killed = Instant::now();
    lab.kill(&primary, Part::Postgres);
    lab.wait_for("the loss is known", secs(10), |s| s.primary().is_none());
    lab.wait_until("the limit is told", secs(10), || {
        lab.has_finding(&primary, "failovers_limited")
    });
    let waits = lab.ok(&["explain"]).stdout;
    assert!(waits.contains("perform-failover"), "{waits}");
    lab.holds("nobody takes over", secs(4), || !lab.state().is_ok_and(|s| s.primary().is_some()));
    lab.do_as_told(&primary, "failovers_limited");
    lab.wait_for("somebody serves", secs(20), |s| s.primary().is_some());
    println!("back {:?} after the kill, by command", killed.elapsed());
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// Bytes in a node's `pg_wal`.
fn wal_bytes(lab: &Lab, node: &str) -> u64 {
    let entries = fs::read_dir(lab.data_dir(node).join("pg_wal")).unwrap().flatten();
    entries.filter_map(|e| e.metadata().ok()).filter(fs::Metadata::is_file).map(|m| m.len()).sum()
}

#[test]
fn a_standby_that_is_away_does_not_fill_the_disk_and_is_cloned_when_it_comes_back() {
    const MB: u64 = 1 << 20;
    let mut lab = Lab::builder().limit(secs(300)).start();
    let writers = lab.writers(2);
    let small = "max_slot_wal_keep_size = '64MB'\nwal_keep_size = '0'\nmax_wal_size = '64MB'\n\
                 min_wal_size = '32MB'";
    for node in lab.node_names() {
        configure(&lab, &node, small);
    }
    // Read when the role's settings are written next, at the latest at a restart.
    for node in lab.others(&["node1"]) {
        lab.stop(&node, Part::All);
        lab.start(&node);
        lab.wait_until_whole(secs(60));
    }
    lab.stop("node1", Part::All);
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    let primary = lab.primary();
    let away = lab.others(&[&primary])[1].clone();
    lab.kill(&away, Part::All);
    lab.sql(&primary, "create table ballast (text text)").unwrap();
    let mut most = 0;
    for _ in 0..16 {
        let fill = "insert into ballast select repeat('x', 1000) from generate_series(1, 16000)";
        for statement in [fill, "checkpoint"] {
            query(&config(&lab.address(&primary)), statement, secs(60)).unwrap();
        }
        most = most.max(wal_bytes(&lab, &primary));
    }
    println!("at most {} MB of WAL", most / MB);
    assert!(most < 200 * MB, "{} MB of WAL are kept for a node that is away", most / MB);
    lab.start(&away);
    lab.wait_until_whole(secs(120));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
