//! What the program says and with which code it ends when it cannot start.

use std::net::TcpListener;
use std::process::{Command, Output};

use crate::harness::{TempDir, free_port, has_postgres};

fn monitor(args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vigil-monitor"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("PGVIGIL_") || name.starts_with("PG_AUTOCTL_") {
            command.env_remove(&*name);
        }
    }
    command.args(args).envs(env.iter().copied()).output().unwrap()
}

/// The exit code and what it says; there is exactly one `error:` line, then at most one hint.
fn failure(output: &Output) -> (i32, String) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    let lines: Vec<&str> = stderr.lines().collect();
    assert!(lines[0].starts_with("error: "), "{stderr}");
    assert!(lines[1..].iter().all(|l| l.starts_with("hint: ")) && lines.len() <= 2, "{stderr}");
    assert!(output.stdout.is_empty());
    (output.status.code().unwrap(), stderr)
}

#[test]
fn bad_usage_is_2_and_names_what_is_bad() {
    for (args, env, expected) in [
        (&[][..], &[][..], "--data-dir"),
        (&["--data-dir", "/nonexistent/x"], &[], "TLS"),
        (&["--data-dir", "/x", "--insecure", "--listen", "x"], &[], "--listen"),
        (&["--data-dir", "/x", "--insecure"], &[("PGVIGIL_PG_PORT", "x")], "PGVIGIL_PG_PORT"),
        (
            &["--data-dir", "/x", "--insecure"],
            &[("PG_AUTOCTL_HEARTBEAT", "x")],
            "PG_AUTOCTL_HEARTBEAT",
        ),
    ] {
        let (code, text) = failure(&monitor(args, env));
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(expected), "{text}");
    }
    let version = monitor(&["--version"], &[]);
    assert!(version.status.success() && version.stderr.is_empty());
}

#[test]
fn what_this_machine_lacks_is_8_and_nothing_is_changed() {
    if !has_postgres() {
        return;
    }
    let dir = TempDir::new();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let busy = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy_port = busy.local_addr().unwrap().port().to_string();
    let busy_address = busy.local_addr().unwrap().to_string();
    std::fs::create_dir(path("foreign")).unwrap();
    std::fs::write(path("foreign/PG_VERSION"), "15\n").unwrap();
    std::fs::create_dir_all(path("old/pgdata")).unwrap();
    std::fs::write(path("old/vigil-monitor.lock"), "").unwrap();
    std::fs::write(path("old/pgdata/PG_VERSION"), "9.6\n").unwrap();
    std::fs::write(path("file"), "").unwrap();
    let port = free_port().to_string();
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("new", &["--listen", &busy_address], &["--listen", &busy_address]),
        ("new", &["--http-listen", &busy_address], &["--http-listen", &busy_address]),
        ("new", &["--pg-port", &busy_port], &["--pg-port", &busy_port]),
        ("foreign", &[], &["foreign", "PG_VERSION"]),
        ("old", &[], &["pgdata"]),
        ("file", &[], &["not a directory"]),
        ("file/below", &[], &["file"]),
        ("new", &["--pg-bin", "/nonexistent"], &["/nonexistent/postgres"]),
        ("new", &["--pg-socket-dir", "/nonexistent"], &["--pg-socket-dir"]),
    ];
    for (data, args, expected) in cases {
        let data = path(data);
        let free = ["--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"];
        let common =
            ["--data-dir", &data, "--insecure", "--pg-port", &port, "--pg-socket-dir", "/tmp"];
        let args = [&common[..], &free, args].concat();
        let (code, text) = failure(&monitor(&args, &[]));
        assert_eq!(code, 8, "{args:?}: {text}");
        assert!(expected.iter().all(|e| text.contains(e)), "{args:?}: {text}");
        assert!(!dir.path().join("new").exists(), "{args:?}: nothing is changed");
    }
    assert_eq!(std::fs::read_dir(path("foreign")).unwrap().count(), 1);
}
