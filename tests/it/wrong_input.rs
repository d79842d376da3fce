//! Every wrong turn of an operator: one line that says what is wrong, the documented exit code, and
//! nothing has changed.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Lab, Output, Process, fingerprint, own, run, secs};

/// All that a command could change: settings, states, and the files that are not WAL or data.
fn all_that_counts(lab: &Lab) -> (Value, Vec<Value>, BTreeMap<String, u64>) {
    let settings = lab.ok(&["show-settings", "--json"]).json();
    let state = lab.state().unwrap();
    let lasting = |node: &Value| {
        let mut node = node.clone();
        for moving in ["reportedlsn", "lag_bytes", "since"] {
            node[moving] = Value::Null;
        }
        node
    };
    let nodes = state.json["nodes"].as_array().unwrap().iter().map(lasting).collect();
    let mut files = BTreeMap::new();
    for node in lab.node_names() {
        let data = lab.data_dir(&node);
        for file in [
            "PG_VERSION",
            "postgresql.conf",
            "postgresql.auto.conf",
            "pgvigil.conf",
            "pg_hba.conf",
            "pg_ident.conf",
            "standby.signal",
            "pgvigil.node",
        ] {
            files.insert(format!("{node}/{file}"), fingerprint(&data.join(file)));
        }
        let state = format!("{}.pgvigil/node.json", data.display());
        files.insert(state.clone(), fingerprint(state.as_ref()));
    }
    (settings, nodes, files)
}

fn expect_one_error(output: &Output, code: i32) {
    output.expect_code(code).expect_one_error_line();
    assert!(output.stdout.is_empty(), "{output:#?}");
    for text in ["panicked", "backtrace", "RUST_BACKTRACE"] {
        assert!(!output.stderr.contains(text), "{output:#?}");
    }
}

/// The commands, each with what it needs, for a node that may not exist.
fn commands(node: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["explain", node],
        vec!["perform-switchover", "--to", node],
        vec!["perform-promotion", node],
        vec!["set-node", node, "--candidate-priority", "1"],
        vec!["set-node", node, "--replication-quorum", "true"],
        vec!["enable-maintenance", node],
        vec!["enable-maintenance", node, "--allow-failover"],
        vec!["disable-maintenance", node],
        vec!["drop-node", node],
        vec!["drop-node", node, "--force"],
    ]
}

fn commands_without_a_node() -> Vec<Vec<&'static str>> {
    vec![
        vec!["show-state"],
        vec!["show-events"],
        vec!["show-uri"],
        vec!["show-settings"],
        vec!["explain"],
        vec!["perform-failover"],
        vec!["perform-failover", "--allow-data-loss"],
        vec!["perform-switchover"],
        vec!["set-formation", "--number-sync-standbys", "0"],
    ]
}

/// (words, exit code)
fn wrong_commands() -> Vec<(Vec<&'static str>, i32)> {
    let mut cases = Vec::new();
    for words in commands("nobody") {
        cases.push((words, 4));
    }
    for words in commands("node2").into_iter().chain(commands_without_a_node()) {
        for place in [["--formation", "nowhere"], ["--group", "77"]] {
            cases.push((place.into_iter().chain(words.clone()).collect(), 4));
        }
        let mut nowhere = vec!["--monitor", "127.0.0.1:1", "--timeout", "2s"];
        nowhere.extend(words);
        cases.push((nowhere, 3));
    }
    let fixed: &[(&[&str], i32)] = &[
        (&["drop-formation", "nowhere"], 4),
        (&["drop-formation", "default"], 5),
        (&["create-formation", "default"], 5),
        (&["create-formation", "a formation"], 2),
        (&["create-formation", ""], 2),
        (&["create-formation", "many", "--number-sync-standbys", "101"], 2),
        (&["set-node", "node2"], 2),
        (&["set-node", "node2", "--candidate-priority", "101"], 2),
        (&["set-node", "node2", "--candidate-priority", "-1"], 2),
        (&["set-node", "node2", "--candidate-priority", "high"], 2),
        (&["set-node", "node2", "--replication-quorum", "perhaps"], 2),
        (&["set-formation"], 2),
        (&["set-formation", "--number-sync-standbys", "9"], 5),
        (&["set-formation", "--number-sync-standbys", "-1"], 2),
        (&["set-formation", "--number-sync-standbys", "many"], 2),
        (&["set-formation", "--heartbeat-interval", "1ms"], 2),
        (&["set-formation", "--heartbeat-interval", "2m"], 2),
        (&["set-formation", "--heartbeat-interval", "soon"], 2),
        (&["set-formation", "--heartbeat-misses", "1"], 2),
        (&["set-formation", "--heartbeat-misses", "101"], 2),
        (&["set-formation", "--number-sync-standbys", "9", "--heartbeat-misses", "4"], 5),
        (&["perform-switchover", "--to", "node1"], 5),
        (&["perform-switchover", "--to", "node3"], 5),
        (&["perform-promotion", "node3"], 5),
        (&["enable-maintenance", "node1"], 5),
        (&["enable-maintenance", "node3"], 5),
        (&["disable-maintenance", "node1"], 5),
        (&["drop-node", "node1"], 5),
        (&["drop-node", "node1", "--force"], 5),
        (&["no-such-command"], 2),
        (&["show-state", "node1"], 2),
        (&["show-state", "--no-such-option"], 2),
        (&["--timeout", "soon", "show-state"], 2),
        (&["--group", "one", "show-state"], 2),
        (&["--group", "-1", "show-state"], 2),
        (&["--monitor", "ftp://127.0.0.1", "show-state"], 2),
        (&["--monitor", "", "show-state"], 2),
        (&["perform-switchover", "--to"], 2),
        (&["perform-promotion"], 2),
        (&["drop-node"], 2),
        (&[], 2),
    ];
    cases.extend(fixed.iter().map(|(words, code)| (words.to_vec(), *code)));
    cases
}

/// Of our monitor, unless the words name another one.
fn pgctl(lab: &Lab, words: &[&str]) -> Output {
    if words.first() != Some(&"--monitor") {
        return lab.pgctl(words);
    }
    let dir = lab.workdir();
    run(dir.command(dir.bin("pgctl"), &dir.sockets()).args(words), secs(20))
}

fn everything_wrong_is_refused(lab: &Lab) {
    let before = all_that_counts(lab);
    let cases = wrong_commands();
    for (words, code) in &cases {
        println!("{code}: pgctl {}", words.join(" "));
        expect_one_error(&pgctl(lab, words), *code);
        let json = pgctl(lab, &words.iter().copied().chain(["--json"]).collect::<Vec<_>>());
        json.expect_code(*code);
        let error: Value =
            serde_json::from_str(&json.stderr).unwrap_or_else(|_| panic!("{json:#?}"));
        assert!(error["error"]["message"].is_string(), "{json:#?}");
    }
    for (name, value) in [
        ("PGVIGIL_TIMEOUT", "soon"),
        ("PGVIGIL_GROUP", "one"),
        ("PGVIGIL_JSON", "perhaps"),
        ("PGVIGIL_LOG_LEVEL", "loud"),
        ("PGVIGIL_LOG_FORMAT", "xml"),
    ] {
        println!("2: {name}={value}");
        let output = run(lab.pgctl_command(&["show-state"]).env(name, value), secs(20));
        output.expect_code(2);
        assert!(output.stderr.contains(name), "the variable is not named: {output:#?}");
    }
    // What lasts counts: a heartbeat may be late.
    let mut after = all_that_counts(lab);
    let begun = Instant::now();
    while after != before && begun.elapsed() < secs(10) {
        after = all_that_counts(lab);
    }
    assert_eq!(after, before, "something has changed");
    println!("{} wrong commands, each twice", cases.len());
}

/// A standby whose receiver is stopped while the primary goes on.
fn a_switchover_to_a_lagging_node_is_refused(lab: &Lab) {
    let receiver = |p: &&Process| {
        let title = fs::read_to_string(format!("/proc/{}/cmdline", p.pid)).unwrap_or_default();
        title.contains("walreceiver")
    };
    let processes = lab.postgres_processes("node2");
    let receiver = processes.iter().find(receiver).expect("node2 has a receiver");
    lab.sql("node1", "create table ballast (text text)").unwrap();
    receiver.signal(Signal::STOP);
    let fill = "set synchronous_commit = local; \
                insert into ballast select repeat('x', 1000) from generate_series(1, 30000)";
    lab.sql("node1", fill).unwrap();
    // Of 31 MB; a switchover needs less than 16.
    lab.wait_for("the lag is told", secs(10), |s| {
        let mut nodes = s.json["nodes"].as_array().unwrap().iter();
        nodes.any(|n| n["nodename"] == "node2" && n["lag_bytes"].as_u64() > Some(20 << 20))
    });
    let refused = lab.pgctl(&["perform-switchover", "--to", "node2"]);
    receiver.signal(Signal::CONT);
    expect_one_error(&refused, 5);
    println!("{}", refused.stderr);
}

fn small_terminals_and_closed_pipes(lab: &Lab) {
    for words in [vec!["show-state"], vec!["show-settings"], vec!["show-uri"], vec!["explain"]] {
        let output = run(lab.pgctl_command(&words).env("COLUMNS", "60"), secs(20));
        output.expect_code(0);
        if words[0] == "show-state" || words[0] == "show-settings" {
            let widest = output.stdout.lines().map(|l| l.chars().count()).max().unwrap();
            assert!(widest <= 60, "{widest} columns in {output:#?}");
        }
    }
    for words in [
        vec!["show-state"],
        vec!["show-events"],
        vec!["show-state", "--json"],
        vec!["--help"],
        vec!["--version"],
    ] {
        let mut command: Command = lab.pgctl_command(&words);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let stderr = own(&mut command).says_unheard(secs(20));
        assert!(!stderr.contains("panicked") && !stderr.contains("bug"), "{words:?}: {stderr}");
        assert!(stderr.lines().count() <= 2, "{words:?}: {stderr}");
    }
}

/// What explain says can be typed, and helps.
fn remedies_can_be_typed(lab: &Lab) {
    for (node, code) in [("node3", "maintenance"), ("node2", "priority_0")] {
        let findings = lab.findings(node);
        let found = findings.iter().find(|(found, ..)| found == code);
        let (_, _, remedy) = found.unwrap_or_else(|| panic!("no {code} in {findings:?}"));
        let words: Vec<&str> = remedy.strip_prefix("pgctl ").unwrap().split(' ').collect();
        lab.ok(&words);
        lab.wait_until(&format!("{code} of {node} is gone"), secs(20), || {
            lab.findings(node).iter().all(|(found, ..)| found != code)
        });
    }
}

#[test]
fn wrong_turns_are_told_in_one_line_and_change_nothing() {
    let lab = Lab::builder().limit(secs(240)).start();
    lab.ok(&["enable-maintenance", "node3"]);
    lab.wait_for("node3 is in maintenance", secs(20), |s| {
        s.node("node3").is_some_and(|n| n.reported == "maintenance")
    });
    // What was ordered last has arrived everywhere.
    lab.wait_for("the rule is confirmed", secs(20), |s| {
        s.is("node1", "primary") && s.waits_for_nothing()
    });
    thread::sleep(secs(1));
    everything_wrong_is_refused(&lab);
    a_switchover_to_a_lagging_node_is_refused(&lab);
    small_terminals_and_closed_pipes(&lab);
    lab.ok(&["set-node", "node2", "--candidate-priority", "0"]);
    for words in [&["perform-switchover", "--to", "node2"][..], &["perform-promotion", "node2"]] {
        expect_one_error(&lab.pgctl(words), 5);
    }
    expect_one_error(&lab.pgctl(&["perform-failover"]), 5);
    remedies_can_be_typed(&lab);
    let writers = lab.writers(2);
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
