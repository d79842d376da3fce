//! `pgctl` as scripts see it: exit code, stdout and stderr, against a monitor that is not one.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod fake;

use std::process::Stdio;
use std::time::{Duration, Instant};

use fake::{Ending, Fake, group, node};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use vigil_core::command::{Command, OperationResult, Progress, Refusal, RefusalCode};
use vigil_core::event::Phase;
use vigil_core::state::NodeState;
use vigil_core::view::GroupView;

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
    took: Duration,
}

impl Ran {
    fn json(&self) -> Value {
        assert_eq!((self.code, self.stderr.as_str()), (0, ""), "{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The one `error:` line and the hint, nothing else on either stream.
    fn error(&self, code: i32) -> (&str, Option<&str>) {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        let mut lines = self.stderr.lines();
        let error = lines.next().and_then(|line| line.strip_prefix("error: ")).unwrap();
        let hint = lines.next().map(|line| line.strip_prefix("hint: ").unwrap());
        assert_eq!(lines.next(), None, "{}", self.stderr);
        (error, hint)
    }

    /// The same with `--json`.
    fn json_error(&self, code: i32) -> Value {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1);
        let error = serde_json::from_str::<Value>(&self.stderr).unwrap()["error"].clone();
        assert!(error["message"].is_string() && error.get("hint").is_some(), "{error}");
        error
    }
}

async fn run(args: &[&str], environment: &[(&str, &str)]) -> Ran {
    let start = Instant::now();
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_pgctl"))
        .args(args)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        took: start.elapsed(),
    }
}

/// Runs `pgctl` against `fake`.
async fn pgctl(fake: Fake, args: &[&str]) -> Ran {
    let monitor = fake.serve().await.to_string();
    run(args, &[("PGVIGIL_MONITOR", &monitor)]).await
}

fn with_groups(groups: Vec<GroupView>) -> Fake {
    Fake { groups, ..Fake::default() }
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn sorted(words: &str) -> Vec<&str> {
    let mut words: Vec<_> = words.split_whitespace().collect();
    words.sort_unstable();
    words
}

fn result() -> OperationResult {
    OperationResult {
        operation: "switchover".to_owned(),
        formationid: "default".to_owned(),
        groupid: 0,
        epoch: 8,
        from: Some("node1".to_owned()),
        to: "node2".to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 5433,
        outage_ms: 132,
        phases: vec![phase()],
    }
}

fn phase() -> Phase {
    Phase { name: "pledged".to_owned(), ms: 12 }
}

#[tokio::test]
async fn show_state_has_the_promised_keys() {
    let state = pgctl(with_groups(vec![group()]), &["show-state", "--json"]).await.json();
    assert_eq!(keys(&state), sorted("formation group nodes waiting_on alerts"));
    assert_eq!((&state["formation"], &state["group"]), (&json!("default"), &json!(0)));
    let first = &state["nodes"][0];
    let promised = "nodeid nodename nodehost nodeport formationid groupid reportedstate goalstate
        health reportedlsn reportedtli candidatepriority replicationquorum epoch lag_bytes sync since";
    assert_eq!(keys(first), sorted(promised));
    let shown = json!({
        "nodeid": 1, "nodename": "node1", "nodehost": "127.0.0.1", "nodeport": 5432,
        "formationid": "default", "groupid": 0, "reportedstate": "primary",
        "goalstate": "primary", "health": 1, "reportedlsn": "0/5000028", "reportedtli": 3,
        "candidatepriority": 50, "replicationquorum": true, "epoch": 8, "lag_bytes": null,
        "sync": "quorum", "since": "2026-11-21T11:55:00Z",
    });
    assert_eq!(*first, shown);
    assert_eq!(state["waiting_on"][0]["who"], "node3");
    assert_eq!(state["alerts"][0]["code"], "node_lost");

    let second = GroupView { group: 1, nodes: vec![node(3, NodeState::Single)], ..group() };
    let state = pgctl(with_groups(vec![group(), second]), &["show-state", "--json"]).await.json();
    assert_eq!((&state["group"], state["nodes"].as_array().unwrap().len()), (&Value::Null, 3));
}

#[tokio::test]
async fn the_other_shows_have_the_promised_keys() {
    let fake = with_groups(vec![group()]);
    let events = pgctl(fake.clone(), &["--json", "show-events"]).await.json();
    let promised = "eventid eventtime formationid groupid nodeid nodename kind epoch cause evidence
        phases description";
    assert_eq!(keys(&events), ["events"]);
    assert_eq!(keys(&events["events"][0]), sorted(promised));
    assert_eq!(events["events"][0]["phases"], json!([{ "name": "detect", "ms": 3 }]));
    assert_eq!(
        (&events["events"][0]["eventid"], &events["events"][1]["eventid"]),
        (&json!(1), &json!(2))
    );

    let uris = pgctl(fake.clone(), &["show-uri", "--json"]).await.json();
    let hosts = "postgres://127.0.0.1:5432,127.0.0.1:5433/postgres?target_session_attrs=";
    assert_eq!(uris["uris"][0]["type"], "read-write");
    assert_eq!(uris["uris"][0]["uri"], format!("{hosts}read-write"));
    assert_eq!(uris["uris"][1]["uri"], format!("{hosts}prefer-standby"));
    assert_eq!(uris["uris"][1]["formationid"], "default");

    let settings = pgctl(fake.clone(), &["show-settings", "--json"]).await.json();
    assert_eq!(keys(&settings), sorted("formations nodes"));
    let promised = "formationid number_sync_standbys heartbeat_interval_ms heartbeat_misses";
    assert_eq!(keys(&settings["formations"][0]), sorted(promised));
    assert_eq!(settings["nodes"][0]["candidatepriority"], 100);

    let explain = pgctl(fake.clone(), &["explain", "--json", "node2"]).await.json();
    assert_eq!(explain["nodes"], json!([{ "nodename": "node2", "findings": [] }]));
    assert_eq!(keys(&explain["waiting_on"][0]), sorted("what who since"));
    // All nodes are on 127.0.0.1, so that it means none of them.
    pgctl(fake.clone(), &["explain", "127.0.0.1"]).await.error(4);
    let missing = pgctl(fake, &["explain", "nöde"]).await;
    assert_eq!(missing.error(4).0, "there is no node `nöde`");
}

#[tokio::test]
async fn perform_tells_each_step_and_then_who_is_the_primary() {
    let fake = Fake {
        progress: vec![
            Progress::Phase(phase()),
            Progress::Waiting { what: "its pledge".to_owned(), who: "node3".to_owned() },
            Progress::Waiting { what: "its pledge".to_owned(), who: "node3".to_owned() },
            Progress::Done(result()),
        ],
        ..Fake::default()
    };
    let ran = pgctl(fake.clone(), &["perform-switchover", "--to", "node2"]).await;
    assert_eq!(ran.code, 0);
    assert_eq!(ran.stderr, "     12 ms  pledged\n       ...  waiting: node3: its pledge\n");
    let expected = "node2 is the primary now after node1, at 127.0.0.1:5433 (epoch 8); \
                    writes were interrupted for 132 ms\n";
    assert_eq!(ran.stdout, expected);
    let asked = Command::Switchover { to: Some("node2".to_owned()) };
    assert_eq!(*fake.commands.lock().unwrap(), [asked]);

    let shown = pgctl(fake, &["perform-failover", "--allow-data-loss", "--json"]).await.json();
    let promised = "operation formationid groupid epoch from to host port outage_ms phases";
    assert_eq!(keys(&shown), sorted(promised));
    assert_eq!((&shown["host"], &shown["port"]), (&json!("127.0.0.1"), &json!(5433)));
    assert_eq!(shown["phases"], json!([{ "name": "pledged", "ms": 12 }]));
}

#[tokio::test]
async fn perform_that_does_not_end_well() {
    let back = OperationResult { to: "node1".to_owned(), ..result() };
    let progress = vec![Progress::RolledBack(back)];
    let ran = pgctl(
        Fake { progress: progress.clone(), ..Fake::default() },
        &["perform-promotion", "node2"],
    )
    .await;
    assert_eq!(ran.error(7).0, "the promotion was rolled back: node1 is still the primary");
    let ran =
        pgctl(Fake { progress, ..Fake::default() }, &["perform-promotion", "node2", "--json"])
            .await;
    let error = ran.json_error(7);
    assert_eq!((&error["code"], &error["result"]["to"]), (&json!("rolled_back"), &json!("node1")));
    let progress = vec![Progress::RolledBack(result())];
    let ran = pgctl(Fake { progress, ..Fake::default() }, &["perform-promotion", "node3"]).await;
    let words = "the promotion ended otherwise than asked: node2 is the primary now";
    assert_eq!(ran.error(7).0, words);

    let progress = vec![Progress::Failed { message: "no\nluck".to_owned() }];
    let ran = pgctl(Fake { progress, ..Fake::default() }, &["perform-failover"]).await;
    assert_eq!(ran.error(1).0, "the failover failed: no luck");

    let ran = pgctl(Fake::default(), &["perform-failover"]).await;
    assert!(ran.error(3).0.contains("stopped answering before the end"));
}

#[tokio::test]
async fn perform_that_takes_too_long_names_whom_it_waits_for() {
    let waiting = Progress::Waiting { what: "its pledge".to_owned(), who: "node2".to_owned() };
    let fake =
        Fake { progress: vec![waiting], ending: Ending::Hangs, ..with_groups(vec![group()]) };
    let ran = pgctl(fake.clone(), &["perform-failover", "--timeout", "2s", "--json"]).await;
    let error = ran.json_error(6);
    assert_eq!(error["code"], "still_going_on");
    let message = "the failover is still going on after 2s, waiting for node2: its pledge";
    assert_eq!(error["message"], message);
    assert!(ran.took < Duration::from_secs(10), "{:?}", ran.took);

    let silent = Fake { progress: Vec::new(), ..fake.clone() };
    let ran = pgctl(silent, &["perform-failover", "--timeout", "2s"]).await;
    assert!(ran.error(6).0.ends_with("waiting for node3: its pledge"), "from show-state");

    let accepted = pgctl(fake, &["perform-failover", "--no-wait", "--json"]).await.json();
    assert_eq!((&accepted["accepted"], &accepted["operation"]), (&json!(true), &json!("failover")));
}

#[tokio::test]
async fn refusals_have_their_exit_codes() {
    for (code, exit, name) in [
        (RefusalCode::BadValue, 2, "bad_value"),
        (RefusalCode::NotFound, 4, "not_found"),
        (RefusalCode::Refused, 5, "refused"),
    ] {
        let refusal = Some(Refusal::new(code, "a failover is under way", "wait for it"));
        let fake = Fake { refusal, ..Fake::default() };
        for args in [
            &["perform-failover"][..],
            &["show-state"],
            &["set-node", "node1", "--candidate-priority", "0"],
            &["create-formation", "x"],
        ] {
            let ran = pgctl(fake.clone(), args).await;
            assert_eq!(ran.error(exit), ("a failover is under way", Some("wait for it")));
        }
        let error = pgctl(fake, &["--json", "perform-failover"]).await.json_error(exit);
        assert_eq!((&error["code"], &error["hint"]), (&json!(name), &json!("wait for it")));
    }
}

#[tokio::test]
async fn commands_ask_for_what_their_options_say() {
    let node = || "node3".to_owned();
    for (args, command) in [
        (
            &["set-node", "node3", "--replication-quorum", "false"][..],
            Command::SetNode {
                node: node(),
                candidate_priority: None,
                replication_quorum: Some(false),
            },
        ),
        (
            &["set-formation", "--heartbeat-interval", "250ms", "--heartbeat-misses=4"],
            Command::SetSettings {
                number_sync_standbys: None,
                heartbeat_interval_ms: Some(250),
                heartbeat_misses: Some(4),
            },
        ),
        (
            &["enable-maintenance", "--allow-failover", "node3"],
            Command::EnableMaintenance { node: node(), allow_failover: true },
        ),
        (&["disable-maintenance", "node3"], Command::DisableMaintenance { node: node() }),
        (
            &["drop-node", "node3", "--force"],
            Command::DropNode { node: node(), force: true, allow_failover: false },
        ),
        (
            &["drop-node", "node3", "--allow-failover"],
            Command::DropNode { node: node(), force: false, allow_failover: true },
        ),
    ] {
        let there = Progress::Effective { message: "it is there".to_owned() };
        let fake = Fake { progress: vec![there], ..Fake::default() };
        let ran = pgctl(fake.clone(), args).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "it is there\n"), "{}", ran.stderr);
        let ran = pgctl(fake.clone(), &[args, &["--no-wait"]].concat()).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (0, "done as told\n"), "{}", ran.stderr);
        assert_eq!(*fake.commands.lock().unwrap(), [command.clone(), command]);
    }
    let ran = pgctl(Fake::default(), &["create-formation", "x", "--json"]).await.json();
    assert_eq!(ran, json!({ "message": "x with None" }));
    let ran = pgctl(Fake::default(), &["drop-formation", "x"]).await;
    assert_eq!(ran.error(1).0, "the monitor does not know this command");
}

/// They wait as the ones do that change the primary: exit 6 when the time is up, 7 when it comes
/// otherwise.
#[tokio::test]
async fn an_effect_that_does_not_come() {
    let what = "its Postgres to stop".to_owned();
    let waiting = Progress::Waiting { what, who: "node3".to_owned() };
    let fake = Fake { progress: vec![waiting.clone()], ending: Ending::Hangs, ..Fake::default() };
    let ran = pgctl(fake, &["enable-maintenance", "node3", "--timeout", "300ms"]).await;
    assert_eq!(ran.code, 6, "{}", ran.stderr);
    assert!(ran.stderr.contains("waiting: node3: its Postgres to stop"), "{}", ran.stderr);
    assert!(ran.stderr.contains("the maintenance is still going on after 300ms"), "{}", ran.stderr);
    let message = "node1 is not dropped: see pgctl show-events".to_owned();
    let progress = vec![waiting, Progress::Otherwise { message }];
    let fake = Fake { progress, ..Fake::default() };
    let ran = pgctl(fake, &["drop-node", "node1", "--json"]).await;
    assert_eq!(ran.json_error(7)["code"], "rolled_back");
}

#[tokio::test]
async fn a_monitor_that_is_not_there() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let ran = run(&["show-state", "--monitor", &closed], &[]).await;
    let (error, hint) = ran.error(3);
    assert_eq!(
        error,
        format!("the monitor at http://{closed} does not answer: connection refused")
    );
    assert!(hint.unwrap().contains("--monitor"));
    let ran = run(&["--json", "--monitor", &closed, "perform-failover"], &[]).await;
    assert_eq!(ran.json_error(3)["code"], "unreachable");
    let ran = run(&["show-state", "--monitor", "nowhere.invalid"], &[]).await;
    assert!(ran.error(3).0.starts_with("the monitor at http://nowhere.invalid:6000 does not"));
}

#[tokio::test]
async fn a_monitor_that_is_frozen_is_noticed_in_time() {
    let frozen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = frozen.local_addr().unwrap().to_string();
    let ran = run(&["show-state", "--monitor", &url, "--timeout", "400ms"], &[]).await;
    assert!(ran.error(3).0.ends_with("no answer within 400ms"));
    assert!(ran.took < Duration::from_secs(5), "{:?}", ran.took);
    let ran = run(&["show-state", "--monitor", &url], &[]).await;
    ran.error(3);
    assert!(ran.took < Duration::from_secs(9), "the keepalive has noticed: {:?}", ran.took);
}

#[tokio::test]
async fn something_else_that_listens_there() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
            _ = tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await;
        }
    });
    let ran = run(&["show-state", "--monitor", &url], &[]).await;
    assert!(ran.error(3).0.starts_with(&format!("the monitor at http://{url} does not answer: ")));
}

#[tokio::test]
async fn wrong_usage_is_one_line() {
    for (args, environment, message, hint) in [
        (&[][..], &[][..], "no command is given", "`pgctl --help` lists the commands"),
        (
            &["explan"],
            &[],
            "unrecognized subcommand 'explan'",
            "a similar subcommand exists: 'explain'",
        ),
        (
            &["perform-promotion"],
            &[],
            "the following required arguments were not provided: <NODE>",
            "see `pgctl perform-promotion --help`",
        ),
        (
            &["show-state", "--group", "x"],
            &[("PGVIGIL_GROUP", "1")],
            "invalid value 'x' for '--group <N>': invalid digit found in string",
            "see `pgctl show-state --help`",
        ),
        (
            &["show-state"],
            &[("PGVIGIL_GROUP", "x")],
            "invalid value 'x' in the environment variable PGVIGIL_GROUP: \
             invalid digit found in string",
            "see `pgctl show-state --help`",
        ),
        (
            &["show-state"],
            &[("PGVIGIL_TIMEOUT", "5")],
            "invalid value '5' in the environment variable PGVIGIL_TIMEOUT: \
             expected for example `250ms`, `5s` or `1m`",
            "see `pgctl show-state --help`",
        ),
        (
            &["set-node", "node1", "--candidate-priority", "101"],
            &[],
            "invalid value '101' for '--candidate-priority <0..100>': 101 is not in 0..=100",
            "see `pgctl set-node --help`",
        ),
    ] {
        let ran = run(args, environment).await;
        assert_eq!(ran.error(2), (message, Some(hint)), "{args:?}");
    }
    let ran = run(&["show-state"], &[("PG_AUTOCTL_MONITOR", "ftp://u:secret@x")]).await;
    let (error, _) = ran.error(2);
    assert!(error.contains("PG_AUTOCTL_MONITOR") && !error.contains("secret"), "{error}");
    let error = run(&["show-state", "--json", "--bad"], &[]).await.json_error(2);
    assert_eq!(error["code"], "usage");
    let error = run(&["--bad"], &[("PGVIGIL_JSON", "1")]).await.json_error(2);
    assert_eq!(error["message"], "unexpected argument '--bad' found");
    run(&["set-node", "node1"], &[("PGVIGIL_CANDIDATE_PRIORITY", "9")]).await.error(2);
}

#[tokio::test]
async fn options_stand_anywhere_and_win_over_the_environment() {
    let fake = with_groups(vec![group()]);
    let monitor = fake.serve().await.to_string();
    let environment = [
        ("PGVIGIL_MONITOR", monitor.as_str()),
        ("PG_AUTOCTL_MONITOR", "postgres://nowhere.invalid/x"),
        ("PGVIGIL_GROUP", "7"),
        ("PGVIGIL_FORMATION", ""),
        ("PGVIGIL_JSON", "yes"),
        ("PGVIGIL_LOG_LEVEL", "warn,vigil_keeper=debug"),
    ];
    let shown = async |args: &[&str]| run(args, &environment).await.json();
    assert_eq!(shown(&["show-state"]).await["group"], 7);
    assert_eq!(shown(&["show-state"]).await["formation"], "default");
    assert_eq!(shown(&["--group", "3", "show-state"]).await["group"], 3);
    assert_eq!(shown(&["show-state", "--group", "3"]).await["group"], 3);
    assert_eq!(shown(&["--formation", "f", "show-state"]).await["formation"], "f");
    let text = run(&["show-state", "--monitor", &monitor], &[("PGVIGIL_JSON", "false")]).await;
    assert!(text.code == 0 && text.stdout.contains("Reported State"), "{}", text.stdout);
}

#[tokio::test]
async fn help_and_version_go_to_stdout() {
    for args in [&["--help"][..], &["help"], &["show-events", "--help"], &["-h"]] {
        let ran = run(args, &[("PGVIGIL_FORMATION", "secret")]).await;
        assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
        assert!(ran.stdout.contains("Example") && ran.stdout.contains("PGVIGIL_TIMEOUT"));
        assert!(!ran.stdout.contains("secret"));
    }
    for args in [&["--version"][..], &["show-state", "--version"]] {
        let ran = run(args, &[]).await;
        assert_eq!(ran.code, 0);
        assert!(ran.stdout.starts_with("pgctl") && ran.stdout.contains(env!("CARGO_PKG_VERSION")));
    }
}

#[tokio::test]
async fn a_reader_that_has_gone_is_no_failure() {
    let monitor = with_groups(vec![group()]).serve().await.to_string();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pgctl"));
    command.args(["show-state", "--monitor", &monitor]).env_clear().stdout(writer);
    let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().await.unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}
