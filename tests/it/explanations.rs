//! What is wrong is said: cause, place, and a remedy that works when typed.

use std::fs;

use crate::harness::{Lab, Session, secs};

/// Waits until `explain` says it of a node, with these words; returns the remedy.
fn told(lab: &Lab, node: &str, code: &str, words: &[&str]) -> String {
    let mut remedy = String::new();
    lab.wait_until(&format!("explain says {code} of {node} with {words:?}"), secs(30), || {
        let found = lab.findings(node).into_iter().find(|(found, cause, _)| {
            found == code && words.iter().all(|words| cause.contains(words))
        });
        found.map(|(.., it)| remedy = it).is_some()
    });
    let all = lab.ok(&["explain"]).stdout;
    assert!(!all.contains("nothing is wrong"), "{all}");
    remedy
}

fn gone(lab: &Lab, node: &str, code: &str) {
    let what = format!("explain no longer says {code} of {node}");
    lab.wait_until(&what, secs(30), || !lab.has_finding(node, code));
}

fn promotable(lab: &Lab) -> usize {
    let all = lab.ok(&["explain"]).stdout;
    let healthy = all.lines().find(|line| line.contains("nothing is wrong"));
    match healthy {
        Some(line) if line.contains("2 standbys can take over") => 2,
        Some(line) if line.contains("1 standby can take over") => 1,
        _ => 0,
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_remedy() {
    let lab = Lab::builder().start();
    assert_eq!(lab.primary(), "node1");
    lab.wait_until("nothing is wrong", secs(20), || promotable(&lab) == 2);
    unusable_lines(&lab);
    paused_replay(&lab);
    not_let_in(&lab);
    promoted_by_hand(&lab);
}

fn unusable_lines(lab: &Lab) {
    for (node, file, line) in [
        ("node1", "postgresql.conf", "max_connections 1OO of course"),
        ("node3", "pg_hba.conf", "host all all somewhere/33 trust"),
    ] {
        let path = lab.data_dir(node).join(file);
        let before = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{before}\n{line}\n")).unwrap();
        let number = before.lines().count() + 2;
        let place = format!("{} line {number}", path.display());
        let remedy = told(lab, node, "broken_configuration", &[&place]);
        assert!(remedy.contains(&place) && remedy.contains("pg_reload_conf()"), "{remedy}");
        fs::write(&path, before).unwrap();
        lab.sql(node, "select pg_reload_conf()").unwrap();
        gone(lab, node, "broken_configuration");
    }
}

fn paused_replay(lab: &Lab) {
    lab.sql("node2", "select pg_wal_replay_pause()").unwrap();
    let remedy = told(lab, "node2", "replay_paused", &[]);
    let (_, statement) = remedy.split_once("SELECT ").unwrap();
    lab.sql("node2", &format!("SELECT {statement}")).unwrap();
    gone(lab, "node2", "replay_paused");
}

/// The superuser of keepers may no longer log in, and one of them has lost its connections.
fn not_let_in(lab: &Lab) {
    let primary = Session::open(&lab.address("node1")).unwrap();
    let standby = Session::open(&lab.address("node2")).unwrap();
    primary.query("alter role postgres nologin", secs(10)).unwrap();
    lab.wait_until("the standby has it", secs(10), || {
        let asked = "select rolcanlogin from pg_roles where rolname = 'postgres'";
        standby.query(asked, secs(5)).is_ok_and(|rows| rows[0][0].as_deref() == Some("f"))
    });
    let end = "select pg_terminate_backend(pid) from pg_stat_activity \
               where application_name = 'pgvigil'";
    standby.query(end, secs(10)).unwrap();
    let remedy = told(lab, "node2", "not_let_in", &["not permitted to log in"]);
    let state = lab.state().unwrap();
    assert_eq!(state.node("node2").unwrap().health, -1, "{state}");
    assert_eq!(lab.primary(), "node1", "nobody is replaced for it");
    let (_, statement) = remedy.split_once("ALTER ROLE").unwrap();
    primary.query(&format!("ALTER ROLE{statement}"), secs(10)).unwrap();
    gone(lab, "node2", "not_let_in");
    lab.wait_until("nothing is wrong", secs(30), || promotable(lab) == 2);
}

fn promoted_by_hand(lab: &Lab) {
    let _ = lab.sql("node3", "select pg_promote(false)");
    let remedy = told(lab, "node3", "promoted_by_hand", &["promoted outside pgvigil"]);
    assert!(remedy.contains("pgctl perform-switchover"), "{remedy}");
    lab.change(&["perform-switchover"]);
    lab.wait_until_whole(secs(60));
    gone(lab, "node3", "promoted_by_hand");
}
