//! The outside contract of `pgctl`.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::thread;

use serde_json::Value;

use crate::harness::{Lab, Output, Workdir, free_port, has_fields, millis, run, secs};

/// Runs parts that share a cluster; a part that fails does not hide the others.
fn all_parts(parts: &[(&str, &dyn Fn())]) {
    let failed: Vec<&str> = parts
        .iter()
        .filter(|(name, part)| {
            println!("part: {name}");
            catch_unwind(AssertUnwindSafe(part)).is_err()
        })
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "failed: {}", failed.join("; "));
}

fn list<'a>(json: &'a Value, name: &str) -> &'a Vec<Value> {
    json[name].as_array().unwrap_or_else(|| panic!("{name} is no list in {json}"))
}

/// An error as JSON, on whichever stream: {"error":{"code","message","hint"}}.
fn expect_json_error(output: &Output, code: i32) {
    output.expect_code(code);
    let text = [&output.stderr, &output.stdout]
        .into_iter()
        .find(|s| s.trim_start().starts_with('{'))
        .unwrap_or_else(|| panic!("no JSON in {output:#?}"));
    let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {output:#?}"));
    has_fields(&json["error"], &["code", "message", "hint"]).unwrap();
    let message = json["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty() && !message.starts_with("error:"), "{json}");
}

fn is_rfc3339(value: &Value) -> bool {
    // 2026-01-01T00:00:00.123Z, or with an offset.
    value.as_str().is_some_and(|text| {
        let bytes = text.as_bytes();
        bytes.len() >= 20
            && bytes[4] == b'-'
            && bytes[10] == b'T'
            && bytes[13] == b':'
            && (text.ends_with('Z') || text[19..].contains(['+', '-']))
    })
}

#[test]
fn the_read_only_commands_keep_their_contract() {
    let lab = Lab::builder().heartbeat(millis(500)).start();
    let json = |args: &[&str]| {
        let mut all = args.to_vec();
        all.push("--json");
        let output = lab.pgctl(&all);
        output.expect_code(0);
        output.json()
    };
    let show_state = || {
        let state = json(&["show-state"]);
        assert_eq!(state["formation"], "default");
        assert_eq!(state["group"], 0);
        list(&state, "waiting_on");
        list(&state, "alerts");
        let nodes = list(&state, "nodes");
        assert_eq!(nodes.len(), 3);
        for node in nodes {
            let fields = [
                "nodeid",
                "nodename",
                "nodehost",
                "nodeport",
                "formationid",
                "groupid",
                "reportedstate",
                "goalstate",
                "health",
                "reportedlsn",
                "reportedtli",
                "candidatepriority",
                "replicationquorum",
                "epoch",
                "lag_bytes",
                "sync",
                "since",
            ];
            has_fields(node, &fields).unwrap();
            for number in [
                "nodeid",
                "nodeport",
                "groupid",
                "health",
                "reportedtli",
                "candidatepriority",
                "epoch",
            ] {
                assert!(node[number].is_i64(), "{number} of {node}");
            }
            for text in
                ["nodename", "nodehost", "formationid", "reportedstate", "goalstate", "reportedlsn"]
            {
                assert!(node[text].is_string(), "{text} of {node}");
            }
            assert!(node["replicationquorum"].is_boolean(), "{node}");
            assert!(is_rfc3339(&node["since"]), "{node}");
            let name = node["nodename"].as_str().unwrap();
            assert_eq!(node["nodehost"], lab.tcp(name).ip().to_string());
            assert_eq!(node["nodeport"], lab.tcp(name).port());
            let lsn = node["reportedlsn"].as_str().unwrap();
            assert!(lsn.contains('/'), "{node}");
        }
        let priority = |n: usize| nodes[n]["candidatepriority"].as_i64().unwrap();
        let mut priorities = [priority(0), priority(1), priority(2)];
        priorities.sort_unstable();
        assert_eq!(priorities, [80, 90, 100]);
        // What users pipe into jq.
        let primaries: Vec<&Value> =
            nodes.iter().filter(|n| n["reportedstate"] == "primary").collect();
        assert_eq!(primaries.len(), 1);
        assert_eq!(primaries[0]["nodename"], "node1");
        assert!(nodes.iter().all(|n| n["health"] == 1), "{state}");
    };
    let show_state_table = || {
        let output = lab.pgctl(&["show-state"]);
        output.expect_code(0);
        for word in ["node1", "node2", "node3", "primary", "secondary"] {
            assert!(output.stdout.contains(word), "{output:#?}");
        }
        assert!(!output.stdout.contains('\u{1b}'), "colour though it is no terminal");
    };
    let show_events = || {
        let events = json(&["show-events"]);
        let kinds = [
            "failover",
            "switchover",
            "promotion",
            "rejoin",
            "degrade",
            "rule",
            "maintenance",
            "quarantine",
            "setting",
            "node",
        ];
        assert!(!list(&events, "events").is_empty());
        for event in list(&events, "events") {
            let fields = [
                "eventid",
                "eventtime",
                "formationid",
                "groupid",
                "nodeid",
                "nodename",
                "kind",
                "epoch",
                "cause",
                "evidence",
                "phases",
                "description",
            ];
            has_fields(event, &fields).unwrap();
            assert!(event["kind"].as_str().is_some_and(|k| kinds.contains(&k)), "{event}");
            assert!(is_rfc3339(&event["eventtime"]), "{event}");
            list(event, "evidence");
            list(event, "phases");
        }
        lab.pgctl(&["show-events"]).expect_code(0);
    };
    let show_uri = || {
        let uris = json(&["show-uri"]);
        let of_type = |kind: &str| {
            let mut all = list(&uris, "uris").iter();
            let found = all.find(|u| u["type"] == kind).unwrap_or_else(|| panic!("{kind}: {uris}"));
            assert_eq!(found["formationid"], "default");
            found["uri"].as_str().unwrap().to_owned()
        };
        for kind in ["read-write", "read-only"] {
            let uri = of_type(kind);
            assert!(uri.starts_with("postgres"), "{uri}");
            for name in lab.node_names() {
                let port = lab.tcp(&name).port().to_string();
                assert!(uri.contains(&port), "{name} is not in {uri}");
            }
        }
        assert!(of_type("read-write").contains("target_session_attrs=read-write"), "{uris}");
        let text = lab.pgctl(&["show-uri"]);
        assert!(text.expect_code(0).stdout.contains("read-write"), "{text:#?}");
    };
    let show_settings = || {
        let settings = json(&["show-settings"]);
        let formation = &list(&settings, "formations")[0];
        assert_eq!(formation["formationid"], "default");
        assert_eq!(formation["number_sync_standbys"], 0);
        assert_eq!(formation["heartbeat_interval_ms"], 500);
        assert_eq!(formation["heartbeat_misses"], 3);
        let nodes = list(&settings, "nodes");
        assert_eq!(nodes.len(), 3);
        for node in nodes {
            has_fields(node, &["nodename", "candidatepriority", "replicationquorum"]).unwrap();
        }
        lab.pgctl(&["show-settings"]).expect_code(0);
    };
    let explain = || {
        let all = json(&["explain"]);
        list(&all, "waiting_on");
        assert_eq!(list(&all, "nodes").len(), 3);
        for node in list(&all, "nodes") {
            assert!(node["nodename"].is_string(), "{all}");
            for finding in list(node, "findings") {
                has_fields(finding, &["code", "cause", "remedy"]).unwrap();
            }
        }
        let one = json(&["explain", "node2"]);
        assert_eq!(list(&one, "nodes").len(), 1, "{one}");
        assert_eq!(list(&one, "nodes")[0]["nodename"], "node2");
        lab.pgctl(&["explain"]).expect_code(0);
    };
    let unknown_things = || {
        for args in [
            vec!["explain", "nobody"],
            vec!["perform-switchover", "--to", "nobody"],
            vec!["perform-promotion", "nobody"],
            vec!["--formation", "nowhere", "show-state"],
            vec!["show-state", "--formation", "nowhere"],
            vec!["--group", "77", "show-state"],
        ] {
            lab.pgctl(&args).expect_code(4).expect_one_error_line();
            let mut with_json = args.clone();
            with_json.push("--json");
            expect_json_error(&lab.pgctl(&with_json), 4);
        }
        lab.wait_until_whole(secs(20));
    };
    let where_the_monitor_is_told = || {
        let host = lab.monitor_url().replace("http://", "");
        let command = |args: &[&str]| {
            let home = lab.workdir().sockets();
            let mut command = lab.workdir().command(lab.workdir().bin("pgctl"), &home);
            command.args(args);
            command
        };
        let ok = |command: &mut Command| run(command, secs(20)).expect_code(0).json();
        ok(&mut command(&["--monitor", &host, "show-state", "--json"]));
        ok(&mut command(&["show-state", "--json", "--monitor", &host]));
        ok(command(&["--json", "show-state"]).env("PGVIGIL_MONITOR", lab.monitor_url()));
        ok(command(&["--json", "show-state"]).env("PG_AUTOCTL_MONITOR", &host));
        // The option wins over the environment, our variable over the old one.
        ok(command(&["--json", "show-state"])
            .env("PGVIGIL_MONITOR", lab.monitor_url())
            .env("PG_AUTOCTL_MONITOR", "http://127.0.0.1:1"));
        ok(command(&["--json", "show-state", "--monitor", &host])
            .env("PGVIGIL_MONITOR", "http://127.0.0.1:1"));
    };
    all_parts(&[
        ("show-state --json", &show_state),
        ("show-state", &show_state_table),
        ("show-events", &show_events),
        ("show-uri", &show_uri),
        ("show-settings", &show_settings),
        ("explain", &explain),
        ("unknown node, formation, group", &unknown_things),
        ("ways to name the monitor", &where_the_monitor_is_told),
    ]);
}

fn pgctl(dir: &Workdir, args: &[&str]) -> Command {
    let mut command = dir.command(dir.bin("pgctl"), &dir.sockets());
    command.args(args);
    command
}

#[test]
fn bad_usage_is_exit_code_2() {
    let dir = Workdir::create();
    dir.add_programs();
    for args in [
        vec![],
        vec!["no-such-command"],
        vec!["show-state", "--no-such-option"],
        vec!["--timeout", "soon", "show-state"],
        vec!["--group", "one", "show-state"],
        vec!["--monitor", "ftp://127.0.0.1", "show-state"],
        vec!["perform-promotion"],
        vec!["perform-switchover", "--to"],
    ] {
        let output = run(&mut pgctl(&dir, &args), secs(20));
        println!("{args:?}");
        output.expect_code(2).expect_one_error_line();
        assert!(output.stdout.is_empty(), "{output:#?}");
    }
    let bad_variable = run(pgctl(&dir, &["show-state"]).env("PGVIGIL_TIMEOUT", "soon"), secs(20));
    bad_variable.expect_code(2).expect_one_error_line();
    let json = run(&mut pgctl(&dir, &["--json", "--timeout", "soon", "show-state"]), secs(20));
    expect_json_error(&json, 2);
}

#[test]
fn help_and_version_are_data() {
    let dir = Workdir::create();
    dir.add_programs();
    for program in ["pgctl", "vigil-monitor", "vigil-keeper"] {
        let run_it = |arg| run(dir.command(dir.bin(program), &dir.sockets()).arg(arg), secs(20));
        let help = run_it("--help");
        help.expect_code(0);
        assert!(help.stderr.is_empty(), "{help:#?}");
        assert!(help.stdout.to_lowercase().contains("example"), "no examples: {help:#?}");
        let version = run_it("--version");
        version.expect_code(0);
        assert!(version.stdout.contains(env!("CARGO_PKG_VERSION")), "{version:#?}");
    }
}

/// Accepts connections, reads, and never answers.
fn mute_server() -> u16 {
    let port = free_port();
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || swallow(stream));
        }
    });
    port
}

fn swallow(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
}

#[test]
fn an_unreachable_monitor_is_exit_code_3_within_the_timeout() {
    let dir = Workdir::create();
    dir.add_programs();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let mute = format!("http://127.0.0.1:{}", mute_server());
    for (monitor, command) in [
        (&nobody, "show-state"),
        (&nobody, "perform-failover"),
        (&mute, "show-state"),
        (&mute, "show-events"),
    ] {
        let mut args = vec!["--monitor", monitor.as_str(), "--timeout", "2s", command];
        let output = run(&mut pgctl(&dir, &args), secs(20));
        println!("{command} {monitor}: {:?}", output.took);
        output.expect_code(3).expect_one_error_line();
        assert!(output.took < secs(4), "{output:#?}");
        args.push("--json");
        expect_json_error(&run(&mut pgctl(&dir, &args), secs(20)), 3);
    }
}
