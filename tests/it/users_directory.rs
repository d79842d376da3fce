//! A node's data directory is its user's: what is in it, and what a user or a tool has left there.

use std::fs;
use std::path::Path;

use crate::harness::{Lab, Part, all_of_it, fingerprint, is_root, millis, postgres_bin, run, secs};

/// Puts `lines` before everything else in a node's `postgresql.conf`.
fn put_first(lab: &Lab, node: &str, lines: &str) {
    let conf = lab.data_dir(node).join("postgresql.conf");
    let old = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{lines}\n{old}")).unwrap();
}

/// A standby that has a recovery target receives and acknowledges on, and would end at the target
/// when it is promoted.
#[test]
fn a_recovery_target_that_was_left_behind_costs_no_commit() {
    let mut lab = Lab::builder().heartbeat(millis(250)).limit(secs(240)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    lab.sql("node1", "create table ballast (t text)").unwrap();
    lab.sql("node1", "select pg_create_restore_point('here')").unwrap();
    let ahead = lab.value("node1", "select pg_current_wal_lsn() + 200000").unwrap();
    for (node, target) in [
        ("node2", format!("recovery_target_lsn = '{ahead}'")),
        ("node3", "recovery_target_name = 'here'".to_owned()),
    ] {
        put_first(&lab, node, &target);
        lab.stop(node, Part::All);
        lab.start(node);
        lab.wait_until_whole(secs(60));
    }
    lab.sql("node1", "insert into ballast select repeat('x', 100) from generate_series(1, 5000)")
        .unwrap();
    writers.wait_until_steady();
    lab.kill("node1", Part::All);
    lab.wait_for("another one takes over", secs(20), |s| {
        s.primary().is_some_and(|primary| primary != "node1")
    });
    writers.wait_for_writes(secs(20));
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// A program of Postgres, as the user that Postgres runs as.
fn tool(lab: &Lab, node: &str, program: &str, args: &[&str]) {
    let home = lab.data_dir(node).parent().unwrap().to_owned();
    let mut command = lab.workdir().command(postgres_bin().join(program), &home);
    run(command.args(args), secs(60)).expect_code(0);
}

/// An empty file in a data directory, of the user that Postgres runs as.
fn touch(lab: &Lab, node: &str, name: &str) {
    let data = lab.data_dir(node);
    run(lab.workdir().command("touch", &data).arg(data.join(name)), secs(5)).expect_code(0);
}

/// Starts the keeper of `node`, which must refuse its directory and change nothing.
fn refused(lab: &Lab, node: &str, watched: &[&Path], words: &str) {
    let prints = || watched.iter().map(|dir| fingerprint(dir)).collect::<Vec<_>>();
    let before = prints();
    let mut command = lab.workdir().command(lab.workdir().bin("vigil-keeper"), &lab.data_dir(node));
    let output = run(command.args(lab.args(node)), secs(20));
    output.expect_code(8);
    let errors: Vec<&str> = output.stderr.lines().filter(|l| l.starts_with("error:")).collect();
    assert!(errors.len() == 1 && errors[0].contains(words), "{words}: {output:#?}");
    assert_eq!(prints(), before, "something was changed: {words}");
}

/// A backup that was restored, its recovery not done yet: the newest rows are in its archive only.
#[test]
fn a_restored_backup_is_not_taken_over_before_its_recovery_has_ended() {
    let mut lab = Lab::builder().nodes(2).limit(secs(240)).prepare();
    let (old, data) = (lab.data_dir("node2"), lab.data_dir("node1"));
    let archive = lab.workdir().make_home("archive");
    let text = |path: &Path| path.display().to_string();
    let port = lab.tcp("node2").port();
    let conf = format!(
        "port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n\
         archive_mode = on\narchive_command = 'cp %p {}/%f'\n",
        text(&lab.workdir().sockets()),
        text(&archive)
    );
    let initdb = ["--no-sync", "--auth=trust", "-U", "postgres", "-D", &text(&old)];
    tool(&lab, "node2", "initdb", &initdb);
    put_first(&lab, "node2", &conf);
    let log = text(&old.with_file_name("standalone.log"));
    let start = ["-w", "-l", &log, "-D", &text(&old), "start"];
    tool(&lab, "node2", "pg_ctl", &start);
    lab.sql("node2", "create table t as select n from generate_series(1, 1000) n").unwrap();
    let backup = ["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres", "-c", "fast"];
    tool(&lab, "node1", "pg_basebackup", &[&backup[..], &["-D", &text(&data)]].concat());
    lab.sql("node2", "insert into t select generate_series(1001, 5001)").unwrap();
    lab.sql("node2", "select pg_switch_wal()").unwrap();
    tool(&lab, "node2", "pg_ctl", &["-w", "-m", "fast", "-D", &text(&old), "stop"]);

    lab.start("monitor");
    let own_port = lab.tcp("node1").port();
    put_first(&lab, "node1", &format!("restore_command = 'cp {}/%f %p'", text(&archive)));
    put_first(&lab, "node1", &format!("archive_mode = off\nport = {own_port} #"));
    let conf = data.join("postgresql.conf");
    let plain = fs::read_to_string(&conf)
        .unwrap()
        .replace("archive_mode = on", "")
        .replace(&format!("\nport = {port}"), "\n");
    fs::write(&conf, &plain).unwrap();
    let watched = [data.as_path(), archive.as_path()];
    refused(&lab, "node1", &watched, "backup_label");
    touch(&lab, "node1", "recovery.signal");
    refused(&lab, "node1", &watched, "recovery.signal");
    fs::remove_file(data.join("recovery.signal")).unwrap();
    touch(&lab, "node1", "standby.signal");
    for target in [
        "recovery_target = 'immediate'",
        "recovery_target_lsn = '0/5000000'",
        "recovery_target_name = 'here'",
        "recovery_target_time = '2026-01-01 12:00'",
        "recovery_target_xid = '1000'",
    ] {
        fs::write(&conf, format!("{plain}\n{target}\n")).unwrap();
        refused(&lab, "node1", &watched, target.split(' ').next().unwrap());
    }
    fs::write(&conf, &plain).unwrap();
    fs::remove_file(data.join("standby.signal")).unwrap();
    touch(&lab, "node1", "recovery.signal");

    // As the hint says.
    let log = text(&data.with_file_name("standalone.log"));
    tool(&lab, "node1", "pg_ctl", &["-w", "-l", &log, "-D", &text(&data), "start"]);
    lab.wait_until("the recovery ends", secs(30), || lab.is_in_recovery("node1") == Some(false));
    tool(&lab, "node1", "pg_ctl", &["-w", "-m", "fast", "-D", &text(&data), "stop"]);
    lab.start("node1");
    lab.wait_until_so_many_are_whole(1, secs(60));
    assert_eq!(lab.value("node1", "select count(*) from t").as_deref(), Some("5001"));
}

/// Several nodes on one machine, whose tablespaces would all be at the same place: what becomes of
/// one node never touches what belongs to another.
#[test]
fn a_rewind_leaves_the_tablespaces_of_other_nodes_alone() {
    // Where keepers may not write beside the place, a copy goes into it.
    let variants = if all_of_it() { vec!["spaces/one", "space"] } else { vec!["spaces/one"] };
    for place in variants {
        let mut lab = Lab::builder().nodes(2).heartbeat(millis(250)).limit(secs(240)).prepare();
        lab.workdir().make_home("spaces");
        let place = lab.workdir().make_home(place);
        lab.start("monitor");
        lab.start("node1");
        lab.wait_until_so_many_are_whole(1, secs(60));
        let create = format!("create tablespace one location '{}'", place.display());
        lab.sql("node1", &create).unwrap();
        let table = "create table acks (writer int, seq bigint, primary key (writer, seq) using \
                     index tablespace one) tablespace one";
        lab.sql("node1", table).unwrap();
        lab.start("node2");
        lab.wait_until_so_many_are_whole(2, secs(60));
        let writers = lab.writers(2);
        writers.wait_until_steady();
        for _ in 0..2 {
            let old = lab.primary();
            lab.kill(&old, Part::All);
            lab.wait_for("the other one takes over", secs(20), |s| {
                s.primary().is_some_and(|primary| primary != old)
            });
            writers.wait_for_writes(secs(20));
            lab.start(&old);
            lab.wait_until_whole(secs(60));
            writers.wait_until_steady();
        }
        // What was read so far may have come from memory.
        for node in ["node1", "node2"] {
            lab.kill(node, Part::All);
        }
        for node in ["node1", "node2"] {
            lab.start(node);
        }
        lab.wait_until_whole(secs(60));
        writers.wait_until_steady();
        writers.verify_everywhere(&lab);
    }
}

/// What a user has put into a node's directory is the node's: its own settings, access rules, keys,
/// WAL on another volume, a directory that is a mount point.
#[test]
fn a_rewind_and_a_copy_keep_what_is_the_nodes_own() {
    let mut lab = Lab::builder().nodes(2).heartbeat(millis(250)).limit(secs(240)).prepare();
    let (data1, data2) = (lab.data_dir("node1"), lab.data_dir("node2"));
    if is_root() {
        // Over itself: on one file system only the kernel knows that it is a mount point.
        assert_eq!(lab.mount("node2", &data2), data2);
    }
    lab.start("monitor");
    lab.start("node1");
    lab.wait_until_so_many_are_whole(1, secs(60));
    lab.start("node2");
    lab.wait_until_so_many_are_whole(2, secs(60));
    lab.sql("node1", "create table acks (writer int, seq bigint, primary key (writer, seq))")
        .unwrap();
    let writers = lab.writers(2);
    writers.wait_until_steady();

    // node1's user makes it their own, and it is the primary that crashes.
    let volume = data1.with_file_name("volume");
    lab.stop("node1", Part::All);
    lab.wait_for("node2 takes over", secs(20), |s| s.primary() == Some("node2"));
    fs::rename(data1.join("pg_wal"), &volume).unwrap();
    std::os::unix::fs::symlink(&volume, data1.join("pg_wal")).unwrap();
    let conf = data1.with_file_name("own.conf");
    fs::rename(data1.join("postgresql.conf"), &conf).unwrap();
    std::os::unix::fs::symlink(&conf, data1.join("postgresql.conf")).unwrap();
    let old = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("work_mem = '33MB'\n{old}")).unwrap();
    let hba = data1.join("pg_hba.conf");
    let old = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, format!("{old}host all own 192.0.2.1/32 reject\n")).unwrap();
    touch(&lab, "node1", "server.key");
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    lab.change(&["perform-switchover", "--to", "node1"]);
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    lab.kill("node1", Part::All);
    lab.wait_for("node2 takes over", secs(20), |s| s.primary() == Some("node2"));
    writers.wait_for_writes(secs(20));
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    assert_eq!(lab.value("node1", "show work_mem").as_deref(), Some("33MB"));
    assert_ne!(lab.value("node2", "show work_mem").as_deref(), Some("33MB"));
    assert!(fs::read_to_string(&hba).unwrap().contains("host all own 192.0.2.1/32"));
    assert_eq!(fs::read_link(data1.join("pg_wal")).unwrap(), volume);
    assert_eq!(fs::read_link(data1.join("postgresql.conf")).unwrap(), conf);
    assert!(data1.join("server.key").exists());
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
