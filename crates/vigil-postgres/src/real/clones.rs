//! A clone takes the place of an old data directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::hba::HbaPlan;
use crate::pgdata::{self, DataDir};
use crate::process::Stop;
use crate::standby::{self, OldData, Upstream};
use crate::testing::{LONG, Server, installation};
use crate::user;

/// With a password, over TCP, as the role that nodes use; beside the old directory, and inside of
/// one that cannot be renamed (a link stands for a mount point here).
#[tokio::test]
async fn a_clone_replaces_the_old_directory_and_keeps_it() {
    let Some(install) = installation() else { return };
    let mut primary = Server::new(&install, "n1").await;
    primary.start().await;
    primary.session().await.ensure_role("repl", r"p:a\s's", LONG).await.unwrap();
    let hba = HbaPlan {
        auth: "scram-sha-256".to_owned(),
        cidrs: Vec::new(),
        peer_hosts: vec!["127.0.0.1".to_owned()],
        os_user: user::current_user(),
        replication_user: "repl".to_owned(),
    };
    hba.write(&primary.pgdata).unwrap();
    primary.postmaster().reload().unwrap();
    pgdata::write_marker(&primary.pgdata, "note", "of the primary").unwrap();
    let upstream = Upstream {
        user: "repl".to_owned(),
        password: Some(r"p:a\s's".to_owned()),
        ..primary.as_upstream("n2")
    };

    for inside in [false, true] {
        let mut standby = Server::new(&install, "n2").await;
        if inside {
            let real = standby.log.with_file_name("elsewhere");
            fs::rename(&standby.pgdata, &real).unwrap();
            std::os::unix::fs::symlink(&real, &standby.pgdata).unwrap();
        }
        let old_id = crate::control::read(&standby.pgdata).unwrap().system_id;
        let clone = standby::basebackup(&install, &upstream, &standby.pgdata, OldData::Keep, LONG);
        let old = clone.await.unwrap().old.unwrap();
        assert_eq!(crate::control::read(&old).unwrap().system_id, old_id);
        assert_eq!(standby.pgdata.is_symlink(), inside);
        let found = pgdata::inspect(&standby.pgdata).unwrap();
        assert!(matches!(found, DataDir::Cluster { standby_signal: true, .. }), "{found:?}");
        assert_eq!(pgdata::read_marker(&standby.pgdata, "note").unwrap(), None, "not ours");

        let passfile = standby.log.with_file_name("passfile");
        upstream.write_passfile(&passfile).unwrap();
        standby.conf.primary_conninfo = upstream.primary_conninfo_with(&passfile);
        standby.start().await;
        standby.wait_streaming().await;
        let shown = standby.session().await.status(LONG).await.unwrap().primary_conninfo;
        assert!(
            shown.starts_with(&upstream.public_conninfo()) && !shown.contains("p:a"),
            "{shown}"
        );
    }

    let wrong = Upstream { password: Some("wrong".to_owned()), ..upstream };
    let nowhere = primary.log.with_file_name("nowhere");
    let error = standby::basebackup(&install, &wrong, &nowhere, OldData::Keep, LONG).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("password authentication failed"), "{error}");
    assert_eq!(pgdata::inspect(&nowhere).unwrap(), DataDir::Missing);
    assert!(!nowhere.with_extension("clone").join("PG_VERSION").exists());
}

/// Again and again: the WAL stays on its volume, the mode is the old one, the node's own files stay
/// its own, and what the source's links name comes along where the node has nothing.
#[tokio::test]
async fn a_clone_keeps_what_is_the_nodes_own() {
    let Some(install) = installation() else { return };
    let mut primary = Server::new(&install, "n1").await;
    let etc = primary.log.with_file_name("etc");
    fs::create_dir(&etc).unwrap();
    chown_as(&primary.pgdata, &etc);
    fs::write(primary.pgdata.join("server.key"), "n1's").unwrap();
    primary.start().await;
    for name in ["postgresql.conf", "pg_hba.conf"] {
        let (file, link) = (etc.join(name), primary.pgdata.join(name));
        fs::rename(&link, &file).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
    }
    fs::write(etc.join("postgresql.conf"), "work_mem = '7MB'\n").unwrap();

    let mut standby = Server::standby_of(&primary, "n2").await;
    let (data, volume) = (standby.pgdata.clone(), standby.log.with_file_name("volume"));
    let conf = fs::read_to_string(data.join("postgresql.conf")).unwrap();
    assert!(conf.starts_with("work_mem = '7MB'"), "what the source's link names: {conf}");
    standby.stop(Stop::Fast).await;
    fs::rename(data.join("pg_wal"), &volume).unwrap();
    std::os::unix::fs::symlink("../volume", data.join("pg_wal")).unwrap();
    fs::write(volume.join("old"), "").unwrap();
    fs::write(data.join("server.key"), "n2's").unwrap();
    fs::create_dir(data.join("conf.d")).unwrap();
    fs::write(data.join("conf.d/own.conf"), "recovery_min_apply_delay = '1ms'\n").unwrap();
    let conf = "work_mem = '9MB'\ninclude_dir = 'conf.d'\n";
    let own = standby.log.with_file_name("own.conf");
    fs::write(&own, conf).unwrap();
    fs::remove_file(data.join("postgresql.conf")).unwrap();
    std::os::unix::fs::symlink("../own.conf", data.join("postgresql.conf")).unwrap();
    for path in ["server.key", "conf.d", "conf.d/own.conf", "../own.conf"] {
        chown_as(&data, &data.join(path));
    }
    fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).unwrap();

    let upstream = primary.as_upstream("n2");
    for _ in 0..2 {
        let clone =
            standby::basebackup(&install, &upstream, &data, OldData::Remove, LONG).await.unwrap();
        assert_eq!(clone.left_out, [""; 0]);
        assert_eq!(fs::metadata(&data).unwrap().mode() & 0o777, 0o750);
        assert_eq!(fs::metadata(data.join("PG_VERSION")).unwrap().mode() & 0o777, 0o640);
        assert_eq!(fs::read_link(data.join("pg_wal")).unwrap(), Path::new("../volume"));
        let names = fs::read_dir(&volume).unwrap().flatten().map(|e| e.file_name());
        let names: Vec<String> = names.map(|n| n.to_string_lossy().into_owned()).collect();
        assert!(names.iter().all(|n| n != "old" && !n.starts_with(".pgvigil")), "{names:?}");
        assert_eq!(fs::read_to_string(data.join("server.key")).unwrap(), "n2's");
        assert!(data.join("postgresql.conf").is_symlink());
        standby.start().await;
        standby.wait_streaming().await;
        let mut session = standby.session().await;
        assert_eq!(session.show("work_mem", LONG).await.unwrap(), "9MB");
        assert!(session.status(LONG).await.unwrap().delayed);
        standby.stop(Stop::Fast).await;
    }
    let beside = fs::read_dir(data.parent().unwrap()).unwrap().flatten();
    let beside = beside.map(|e| e.file_name().to_string_lossy().into_owned());
    assert_eq!(beside.filter(|n| n.contains("clone")).count(), 0);
}

fn chown_as(like: &Path, path: &Path) {
    let meta = fs::metadata(like).unwrap();
    std::os::unix::fs::chown(path, Some(meta.uid()), Some(meta.gid())).unwrap();
}
