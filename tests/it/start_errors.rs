//! Bad input at start: one line that says what is wrong, the documented exit code, nothing changed.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{
    Lab, Output, Workdir, fingerprint, free_port, is_root, millis, not_run, postgres_bin, run,
    secs, wait_until,
};

/// A daemon that must refuse to start. Log lines may stand beside the one error line.
fn expect_refusal(output: &Output, codes: &[i32], words: &[&str]) {
    assert!(
        output.code.is_some_and(|code| codes.contains(&code)),
        "one of the exit codes {codes:?} expected: {output:#?}"
    );
    let errors: Vec<&str> = output.stderr.lines().filter(|l| l.starts_with("error:")).collect();
    assert_eq!(errors.len(), 1, "exactly one error line expected: {output:#?}");
    for word in words {
        assert!(errors[0].contains(word), "{word:?} is not named: {output:#?}");
    }
    for text in [&output.stderr, &output.stdout] {
        assert!(!text.contains("panicked") && !text.contains("backtrace"), "{output:#?}");
    }
    assert!(output.took < secs(15), "{output:#?}");
}

/// Options of a daemon, with some replaced.
fn with(args: &[String], changes: &[(&str, &str)]) -> Vec<String> {
    let mut args = args.to_vec();
    for (name, value) in changes {
        if let Some(at) = args.iter().position(|a| a == name) {
            (*value).clone_into(&mut args[at + 1]);
        } else {
            args.extend([(*name).to_owned(), (*value).to_owned()]);
        }
    }
    args
}

struct Case<'a> {
    what: &'a str,
    codes: Vec<i32>,
    changes: Vec<(&'a str, String)>,
    env: Vec<(&'a str, &'a str)>,
    words: Vec<String>,
}

fn case<'a>(what: &'a str, code: i32, changes: &[(&'a str, &str)], words: &[&str]) -> Case<'a> {
    Case {
        what,
        codes: vec![code],
        changes: changes.iter().map(|(k, v)| (*k, (*v).to_owned())).collect(),
        env: Vec::new(),
        words: words.iter().map(|w| (*w).to_owned()).collect(),
    }
}

/// Starts the program once per case; what its data directory option names must not change.
fn refuse_all(dir: &Workdir, program: &str, args: &[String], data: &str, cases: &[Case<'_>]) {
    let mut failed = Vec::new();
    for case in cases {
        println!("{program}: {}", case.what);
        let changes: Vec<(&str, &str)> =
            case.changes.iter().map(|(k, v)| (*k, v.as_str())).collect();
        let args = with(args, &changes);
        let at = args.iter().position(|a| a == data).unwrap();
        let path = PathBuf::from(&args[at + 1]);
        // What the keeper knows lies beside it.
        let beside = PathBuf::from(format!("{}.pgvigil", path.display()));
        let before = (fingerprint(&path), fingerprint(&beside));
        let mut command = dir.command(dir.bin(program), &dir.sockets());
        command.args(&args).envs(case.env.iter().copied());
        let output = run(&mut command, secs(25));
        let checked = std::panic::catch_unwind(|| {
            let words: Vec<&str> = case.words.iter().map(String::as_str).collect();
            expect_refusal(&output, &case.codes, &words);
            let after = (fingerprint(&path), fingerprint(&beside));
            assert_eq!(after, before, "{} or beside it something was changed", path.display());
        });
        if checked.is_err() {
            failed.push(case.what);
        }
    }
    assert!(failed.is_empty(), "{program}: {}", failed.join("; "));
}

/// A directory with something in it that is not ours.
fn foreign_dir(dir: &Workdir, name: &str) -> String {
    let path = dir.make_home(name);
    fs::write(path.join("letter.txt"), "dear diary").unwrap();
    path.display().to_string()
}

/// A path whose parent the service user cannot write to.
fn unwritable_dir(dir: &Workdir, name: &str) -> String {
    let parent = dir.path.join(name);
    fs::create_dir(&parent).unwrap();
    fs::set_permissions(&parent, PermissionsExt::from_mode(0o555)).unwrap();
    parent.join("data").display().to_string()
}

/// A cluster that nobody of us made.
fn foreign_cluster(dir: &Workdir, name: &str) -> PathBuf {
    let home = dir.make_home(name);
    let data = home.join("pg");
    let mut initdb = dir.command(postgres_bin().join("initdb"), &home);
    initdb.args(["--no-sync", "--auth=trust", "-U", "postgres", "-D"]).arg(&data);
    run(&mut initdb, secs(60)).expect_code(0);
    data
}

#[test]
fn the_monitor_refuses_bad_input_at_start() {
    let lab = Lab::builder().nodes(0).prepare();
    let dir = lab.workdir();
    let busy_port = free_port();
    let _busy = TcpListener::bind(("127.0.0.1", busy_port)).unwrap();
    let busy_address = format!("127.0.0.1:{busy_port}");
    let busy_port = busy_port.to_string();
    let mut cases = vec![
        case("busy gRPC port", 8, &[("--listen", &busy_address)], &[&busy_port]),
        case("busy HTTP port", 8, &[("--http-listen", &busy_address)], &[&busy_port]),
        case("busy Postgres port", 8, &[("--pg-port", &busy_port)], &[&busy_port]),
        case("missing binaries", 8, &[("--pg-bin", "/nonexistent")], &["/nonexistent"]),
        case(
            "unwritable directory",
            8,
            &[("--data-dir", &unwritable_dir(dir, "closed"))],
            &["closed"],
        ),
        case("foreign directory", 8, &[("--data-dir", &foreign_dir(dir, "foreign"))], &["foreign"]),
        case("no duration", 2, &[("--heartbeat-interval", "soon")], &["soon"]),
        case("no number", 2, &[("--number-sync-standbys", "many")], &["many"]),
        case("no address", 2, &[("--listen", "nowhere")], &["nowhere"]),
        case("unknown option", 2, &[("--no-such-option", "1")], &["no-such-option"]),
    ];
    let mut variable = case("unparsable variable", 2, &[], &["soon"]);
    variable.env.push(("PGVIGIL_LOG_FORMAT", "soon"));
    cases.push(variable);
    let mut old_variable = case("unparsable variable of pg_auto_failover", 2, &[], &["soon"]);
    old_variable.env.push(("PG_AUTOCTL_HEARTBEAT", "soon"));
    cases.push(old_variable);
    let args = lab.args("monitor");
    // An option wins over the environment: leave the place to it.
    let at = args.iter().position(|a| a == "--heartbeat-interval").unwrap();
    let mut without = args.clone();
    without.drain(at..at + 2);
    refuse_all(dir, "vigil-monitor", &without, "--data-dir", &cases);

    // Without TLS only where somebody asked for it.
    let mut secure = without.clone();
    secure.retain(|a| a != "--insecure");
    let output = run(dir.command(dir.bin("vigil-monitor"), &dir.sockets()).args(&secure), secs(25));
    expect_refusal(&output, &[2], &["TLS"]);
}

#[test]
fn the_keeper_refuses_bad_input_at_start() {
    let lab = Lab::builder().nodes(1).heartbeat(millis(250)).start();
    let dir = lab.workdir();
    let busy_port = free_port();
    let _busy = TcpListener::bind(("127.0.0.1", busy_port)).unwrap();
    let busy_address = format!("127.0.0.1:{busy_port}");
    let busy_port = busy_port.to_string();
    let foreign = foreign_cluster(dir, "other");
    let foreign = foreign.display().to_string();
    let old = foreign_cluster(dir, "old");
    fs::write(old.join("PG_VERSION"), "9.6\n").unwrap();
    let old = old.display().to_string();
    let fresh = dir.make_home("fresh").join("pg").display().to_string();
    let (pg_port, http) = (free_port().to_string(), format!("127.0.0.1:{}", free_port()));
    // A second node of the group, with one thing wrong each time.
    let args = with(
        &lab.args("node1"),
        &[
            ("--name", "node9"),
            ("--pgdata", &fresh),
            ("--pg-port", &pg_port),
            ("--http-listen", &http),
        ],
    );
    let mut cases = vec![
        case("busy HTTP port", 8, &[("--http-listen", &busy_address)], &[&busy_port]),
        case("busy Postgres port", 8, &[("--pg-port", &busy_port)], &[&busy_port]),
        case("missing binaries", 8, &[("--pg-bin", "/nonexistent")], &["/nonexistent"]),
        case(
            "unwritable directory",
            8,
            &[("--pgdata", &unwritable_dir(dir, "closed"))],
            &["closed"],
        ),
        case("foreign directory", 8, &[("--pgdata", &foreign_dir(dir, "foreign"))], &["foreign"]),
        case("wrong system identifier", 8, &[("--pgdata", &foreign)], &["system identifier"]),
        case("wrong PostgreSQL version", 8, &[("--pgdata", &old)], &["9.6"]),
        case("no number", 2, &[("--candidate-priority", "high")], &["high"]),
        case("priority out of range", 2, &[("--candidate-priority", "101")], &["101"]),
        case("no boolean", 2, &[("--replication-quorum", "perhaps")], &["perhaps"]),
        case("no URL", 2, &[("--monitor", "ftp://nowhere")], &["ftp"]),
        case("no network", 2, &[("--pg-hba-cidr", "everywhere")], &["everywhere"]),
        case("unknown option", 2, &[("--no-such-option", "1")], &["no-such-option"]),
    ];
    // Refused by the monitor, or found out on this machine: both are documented.
    let wrong = cases.iter_mut().find(|c| c.what == "wrong system identifier").unwrap();
    wrong.codes.push(2);
    let mut variable = case("unparsable variable", 2, &[], &["soon"]);
    variable.env.push(("PGVIGIL_LOG_FORMAT", "soon"));
    cases.push(variable);
    refuse_all(dir, "vigil-keeper", &args, "--pgdata", &cases);

    // Nobody of them stays in the group, and node1 never noticed.
    let state = lab.wait_until_so_many_are_whole(1, secs(20));
    assert_eq!(state.nodes.len(), 1, "{state}");
}

#[test]
fn root_without_a_postgres_user_is_told_so() {
    let name = "root_without_a_postgres_user_is_told_so";
    if !is_root() {
        return not_run(name, "needs root");
    }
    let lab = Lab::builder().nodes(1).prepare();
    let dir = lab.workdir();
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let others: Vec<&str> = users.lines().filter(|l| !l.starts_with("postgres:")).collect();
    let passwd = dir.path.join("passwd");
    fs::write(&passwd, others.join("\n") + "\n").unwrap();
    for (program, host) in [("vigil-monitor", "monitor"), ("vigil-keeper", "node1")] {
        // A mount that only this process sees.
        let mut command = Command::new("unshare");
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin")
            .args(["--mount", "sh", "-c"])
            .arg("mount --bind \"$1\" /etc/passwd && shift && exec \"$@\"")
            .arg("sh")
            .arg(&passwd)
            .arg(dir.bin(program))
            .args(lab.args(host));
        expect_refusal(&run(&mut command, secs(25)), &[8], &["postgres"]);
    }
}

/// Lines of a log that complain about the monitor.
fn complaints(log: &str) -> usize {
    log.lines()
        .filter(|l| {
            (l.contains("WARN") || l.contains("ERROR")) && l.to_lowercase().contains("monitor")
        })
        .count()
}

#[test]
fn a_keeper_without_a_monitor_says_so_once_and_goes_on_trying() {
    let mut lab = Lab::builder().nodes(1).heartbeat(millis(250)).prepare();
    lab.start("node1");
    wait_until("the keeper says that there is no monitor", secs(20), || {
        complaints(&lab.log("node1")) > 0
    });
    lab.holds("the keeper says it once and stays", secs(6), || {
        complaints(&lab.log("node1")) == 1 && lab.is_running("node1")
    });
    assert!(lab.postgres_processes("node1").is_empty(), "Postgres without an order");
    lab.start("monitor");
    lab.wait_until_so_many_are_whole(1, secs(40));
}
