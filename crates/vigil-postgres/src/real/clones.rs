//! A clone takes the place of an old data directory.

use std::fs;

use crate::hba::HbaPlan;
use crate::pgdata::{self, DataDir};
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
