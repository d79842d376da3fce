//! Lines for which a server refuses its whole configuration.

use std::fs;

use crate::Stop;
use crate::broken_conf::{broken_lines_at_rest, comment_out};
use crate::process::{self, ProcessError};
use crate::testing::{LONG, Server, eventually, installation};

#[tokio::test]
async fn a_server_obeys_reloads_and_starts_again_once_they_are_comments() {
    let Some(install) = installation() else { return };
    let mut server = Server::new(&install, "n1").await;
    server.start().await;
    let mut session = server.session().await;
    assert_eq!(session.broken_lines(LONG).await.unwrap(), []);

    let path = server.pgdata.join("postgresql.conf");
    let extra = server.pgdata.join("extra.conf");
    let good = fs::read_to_string(&path).unwrap();
    // Those without effect alone, among them one that waits for a restart.
    let harmless = "work_mem = 'much'\nmax_connections = 77\n";
    let broken = "max_connections 1OO of course\ninclude 'missing.conf'\ninclude 'extra.conf'\n";
    fs::write(&extra, "# one\nno_such_setting = 1\nshared_buffers =\n").unwrap();
    fs::write(&path, format!("{harmless}{broken}{good}")).unwrap();
    server.conf.synchronous_standby_names = "ANY 1 (a)".to_owned();
    server.conf.write(&server.pgdata).unwrap();
    server.postmaster().reload().unwrap();
    eventually("the reload is refused", async || server.log_text().contains("contains errors"))
        .await;

    let mut found = Vec::new();
    loop {
        let lines = session.broken_lines(LONG).await.unwrap();
        if lines.is_empty() {
            break;
        }
        for line in lines {
            assert!(comment_out(&line).unwrap(), "{line}");
            let file = line.file.file_name().unwrap().to_owned().into_string().unwrap();
            found.push((file, line.line));
        }
    }
    found.sort();
    let expected =
        [("extra.conf", 2), ("extra.conf", 3), ("postgresql.conf", 3), ("postgresql.conf", 4)];
    assert_eq!(found, expected.map(|(file, line)| (file.to_owned(), line)));
    server.postmaster().reload().unwrap();
    eventually("the names", async || {
        session.show("synchronous_standby_names", LONG).await.unwrap() == "ANY 1 (a)"
    })
    .await;

    server.stop(Stop::Fast).await;
    fs::write(&extra, "# one\nno_such_setting = 1\nshared_buffers =\n").unwrap();
    let text = fs::read_to_string(&path).unwrap().replace("work_mem", "# work_mem");
    fs::write(&path, text).unwrap();
    let postmaster = process::spawn(&install, &server.pgdata, &server.log).unwrap();
    let error = process::wait_ready(&server.pgdata, &postmaster, &server.log, LONG).await;
    assert!(matches!(error, Err(ProcessError::Died { .. })), "{error:?}");
    for line in [3, 2] {
        let lines = broken_lines_at_rest(&install, &server.pgdata, LONG).await.unwrap();
        assert_eq!(lines.iter().map(|l| l.line).collect::<Vec<_>>(), [line], "{lines:?}");
        assert!(comment_out(&lines[0]).unwrap());
    }
    assert_eq!(broken_lines_at_rest(&install, &server.pgdata, LONG).await.unwrap(), []);
    server.start().await;
    server.stop(Stop::Fast).await;
}
