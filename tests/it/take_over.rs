//! Taking over what is there already: servers with data, configurations in other places,
//! tablespaces, settings that win over ours.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::harness::{Lab, Part, is_root, not_run, postgres_bin, run, secs};

/// A program of Postgres, as the user that Postgres runs as.
fn tool(lab: &Lab, home: &Path, program: &str, args: &[&str]) {
    let mut command = lab.workdir().command(postgres_bin().join(program), home);
    run(command.args(args), secs(60)).expect_code(0);
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Puts the configuration of a data directory elsewhere, as Debian does, and starts a server with
/// it, as Debian does.
fn start_as_debian(lab: &Lab, node: &str, settings: &str) {
    let data = lab.data_dir(node);
    let home = data.parent().unwrap().to_owned();
    let etc = lab.workdir().make_home(&format!("{node}/etc"));
    lab.workdir().make_home(&format!("{node}/etc/conf.d"));
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"] {
        let (from, to) = (data.join(file), etc.join(file));
        if from.exists() {
            fs::rename(from, to).unwrap();
        }
    }
    let place = |file: &str| text(&etc.join(file));
    let conf = format!(
        "data_directory = '{}'\nhba_file = '{}'\nident_file = '{}'\nexternal_pid_file = '{}'\n\
         port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\n\
         include_dir = 'conf.d'\n",
        text(&data),
        place("pg_hba.conf"),
        place("pg_ident.conf"),
        text(&home.join("external.pid")),
        lab.tcp(node).port(),
        text(&lab.workdir().sockets()),
    );
    fs::write(etc.join("postgresql.conf"), conf).unwrap();
    fs::write(etc.join("conf.d/site.conf"), settings).unwrap();
    let option = format!("-c config_file={}", place("postgresql.conf"));
    let log = text(&home.join("standalone.log"));
    let args = ["-w", "-l", &log, "-D", &text(&data), "-o", &option, "start"];
    tool(lab, &home, "pg_ctl", &args);
}

#[test]
fn a_primary_and_its_standby_are_taken_over_as_they_are() {
    let mut lab = Lab::builder().nodes(2).limit(secs(240)).prepare();
    let (data1, data2) = (lab.data_dir("node1"), lab.data_dir("node2"));
    let home1 = data1.parent().unwrap().to_owned();
    let home2 = data2.parent().unwrap().to_owned();
    let initdb = ["--no-sync", "--auth=trust", "-U", "postgres", "-D", &text(&data1)];
    tool(&lab, &home1, "initdb", &initdb);
    start_as_debian(&lab, "node1", "work_mem = '5MB'\nmax_connections = 150\n");
    lab.sql("node1", "create table acks (writer int, seq bigint, primary key (writer, seq))")
        .unwrap();
    lab.sql("node1", "create table old as select n from generate_series(1, 1000) n").unwrap();
    lab.sql("node1", "alter system set restart_after_crash = on").unwrap();
    let port = lab.tcp("node1").port().to_string();
    let backup = ["-R", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-D", &text(&data2)];
    tool(&lab, &home2, "pg_basebackup", &backup);
    let etc2 = lab.workdir().make_home("node2/etc");
    for file in ["pg_hba.conf", "pg_ident.conf"] {
        fs::copy(home1.join("etc").join(file), etc2.join(file)).unwrap();
        fs::set_permissions(etc2.join(file), PermissionsExt::from_mode(0o644)).unwrap();
    }
    start_as_debian(&lab, "node2", "work_mem = '6MB'\nmax_connections = 150\n");
    fs::write(data2.join("not_cloned"), "").unwrap();

    // A standby alone is no beginning of a group.
    lab.start("monitor");
    lab.start("node2");
    lab.wait_until("node2 says that it is a standby", secs(20), || {
        lab.pgctl(&["explain", "node2"]).stdout.contains("standby_alone")
    });
    lab.holds("node2 stays one", secs(2), || lab.is_in_recovery("node2") != Some(false));
    lab.start("node1");
    lab.wait_until_so_many_are_whole(2, secs(60));
    let writers = lab.writers(2);
    writers.wait_until_steady();
    for (node, data, memory) in [("node1", &data1, "5MB"), ("node2", &data2, "6MB")] {
        let value = |sql: &str| lab.value(node, sql).unwrap_or_default();
        assert_eq!(value("select count(*) from old"), "1000");
        assert_eq!(value("show work_mem"), memory, "{node}'s own settings go on");
        assert_eq!(value("show max_connections"), "150");
        assert_eq!(value("show restart_after_crash"), "off", "what we manage is reset");
        assert_eq!(value("show config_file"), text(&data.join("postgresql.conf")));
    }
    assert!(data2.join("not_cloned").exists(), "node2 was cloned for nothing");
    let standby = lab.value("node2", "show primary_conninfo").unwrap();
    assert!(standby.contains("application_name=node2"), "{standby}");
    lab.wait_for_event("setting", "reset restart_after_crash", secs(5));
    lab.wait_for_event("setting", "primary_conninfo", secs(5));
    lab.wait_for_event("setting", "was copied into", secs(5));

    // Later too: what would win over ours is found, reset and told.
    let resets_of_node2 = || {
        let events = lab.events(&["setting"]);
        let of_node2 = events.iter().filter(|e| e["nodename"] == "node2");
        of_node2.filter(|e| e["description"].to_string().contains("primary_conninfo")).count()
    };
    let told = resets_of_node2();
    lab.sql("node2", "alter system set primary_conninfo = 'host=192.0.2.1'").unwrap();
    lab.sql("node1", "alter system set wal_sender_timeout = '10min'").unwrap();
    for node in ["node1", "node2"] {
        lab.sql(node, "select pg_reload_conf()").unwrap();
    }
    lab.wait_for_event("setting", "reset wal_sender_timeout", secs(10));
    lab.wait_until("node2's is reset", secs(10), || resets_of_node2() > told);
    lab.wait_until("node2 streams", secs(20), || {
        lab.value("node2", "select status from pg_stat_wal_receiver").as_deref()
            == Some("streaming")
    });
    assert_eq!(lab.value("node1", "show wal_sender_timeout").as_deref(), Some("2s"));

    writers.wait_until_steady();
    // node2 was away for a moment, and node1 may have gone on alone: until their rule is confirmed
    // again node2 would rightly not be promoted.
    lab.wait_until_whole(secs(30));
    lab.kill("node1", Part::All);
    lab.wait_for("node2 takes over", secs(20), |s| s.primary() == Some("node2"));
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// Where a node's tablespace is, as its keeper's user sees the link.
fn tablespace_link(data: &Path) -> PathBuf {
    let mut links = fs::read_dir(data.join("pg_tblspc")).unwrap().flatten();
    fs::read_link(links.next().unwrap().path()).unwrap()
}

#[test]
fn tablespaces_survive_clones_and_rewinds() {
    let name = "tablespaces_survive_clones_and_rewinds";
    if !is_root() {
        return not_run(name, "needs root, to give each node its own directory at the same path");
    }
    let mut lab = Lab::builder().nodes(2).limit(secs(240)).prepare();
    let place = lab.workdir().make_home("space");
    let own: Vec<PathBuf> = ["node1", "node2"].map(|node| lab.mount(node, &place)).to_vec();
    for node in ["monitor", "node1"] {
        lab.start(node);
    }
    lab.wait_until_so_many_are_whole(1, secs(60));
    lab.start("node2");
    lab.wait_until_so_many_are_whole(2, secs(60));
    lab.sql("node1", &format!("create tablespace space location '{}'", text(&place))).unwrap();
    let table = "create table acks (writer int, seq bigint, primary key (writer, seq) using index \
                 tablespace space) tablespace space";
    lab.sql("node1", table).unwrap();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    for own in &own {
        assert!(fs::read_dir(own).unwrap().count() > 0, "{} is not used", own.display());
    }

    // A clone where the old tablespace still is.
    lab.kill("node2", Part::All);
    fs::remove_dir_all(lab.data_dir("node2")).unwrap();
    lab.start_when_missed("node2");
    lab.wait_until_so_many_are_whole(2, secs(60));
    let link = tablespace_link(&lab.data_dir("node2"));
    assert!(link.starts_with(&place) && link != place, "{}", link.display());
    writers.wait_until_steady();

    // A rewind, with node2's copy as the source.
    lab.kill("node1", Part::All);
    lab.wait_for("node2 takes over", secs(20), |s| s.primary() == Some("node2"));
    writers.wait_for_writes(secs(20));
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    // And a clone from that copy, whose place is another one.
    lab.kill("node1", Part::All);
    fs::remove_dir_all(lab.data_dir("node1")).unwrap();
    lab.start_when_missed("node1");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
