//! Helpers of this crate's tests: a temporary directory, and real servers in it.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::conf::{self, ManagedConf};
use crate::hba::HbaPlan;
use crate::pgdata::{self, InitdbOptions};
use crate::process::{self, Postmaster, Stop};
use crate::standby::{self, OldData, Upstream};
use crate::{Installation, RunAs, Session, Target, user};

/// Enough for any single step, also on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A directory of its own, removed with all that is in it, also when the test fails.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vigil-postgres-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The installation to test with, run as `postgres` when we are root; `None` (and a note) where
/// there is none. `PGVIGIL_TEST_PG_BIN` names another one.
pub(crate) fn installation() -> Option<Installation> {
    let bin = std::env::var_os("PGVIGIL_TEST_PG_BIN").map(PathBuf::from);
    match Installation::find(bin.as_deref(), None) {
        Ok(found) => {
            let account =
                rustix::process::geteuid().is_root().then(|| user::lookup("postgres").unwrap());
            Some(found.running_as(account.map(|a| RunAs { uid: a.uid, gid: a.gid })))
        }
        Err(e) => {
            eprintln!("skipped: {e}");
            None
        }
    }
}

/// A server in a temporary directory. Killed when dropped.
pub(crate) struct Server {
    pub(crate) install: Installation,
    pub(crate) pgdata: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) name: String,
    pub(crate) conf: ManagedConf,
    pub(crate) target: Target,
    postmaster: Option<Postmaster>,
    // Last: removed after the processes are gone.
    dir: TempDir,
}

impl Server {
    pub(crate) fn at(install: &Installation, name: &str) -> Self {
        let dir = TempDir::new();
        if let Some(RunAs { uid, gid }) = install.run_as {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut conf = ManagedConf::new(install.major, port, dir.path().to_str().unwrap());
        conf.listen = "127.0.0.1".to_owned();
        for (name, value) in [("shared_buffers", "16MB"), ("max_standby_streaming_delay", "-1")] {
            conf.extra.push((name.to_owned(), value.to_owned()));
        }
        Server {
            install: install.clone(),
            pgdata: dir.path().join("data"),
            log: dir.path().join("log"),
            name: name.to_owned(),
            target: Target::postgres(dir.path(), port, install.major),
            conf,
            postmaster: None,
            dir,
        }
    }

    /// A new cluster, not started.
    pub(crate) async fn new(install: &Installation, name: &str) -> Self {
        let server = Self::at(install, name);
        let options = InitdbOptions { wal_segment_mb: Some(1), ..InitdbOptions::default() };
        pgdata::initdb(install, &server.pgdata, &options, LONG).await.unwrap();
        server
    }

    /// A running standby of `primary`, caught up.
    pub(crate) async fn standby_of(primary: &Server, name: &str) -> Self {
        let mut server = Self::at(&primary.install, name);
        let upstream = primary.as_upstream(name);
        standby::basebackup(&primary.install, &upstream, &server.pgdata, OldData::Remove, LONG)
            .await
            .unwrap();
        server.conf.primary_conninfo = upstream.primary_conninfo();
        server.start().await;
        server.wait_streaming().await;
        server
    }

    pub(crate) fn as_upstream(&self, application_name: &str) -> Upstream {
        Upstream {
            host: "127.0.0.1".to_owned(),
            port: self.target.port,
            user: "postgres".to_owned(),
            password: None,
            application_name: application_name.to_owned(),
            slot: None,
            major: self.target.major,
        }
    }

    pub(crate) fn write_conf(&self) {
        let hba = HbaPlan {
            auth: "trust".to_owned(),
            cidrs: Vec::new(),
            peer_hosts: Vec::new(),
            os_user: user::current_user(),
            replication_user: "postgres".to_owned(),
        };
        hba.write(&self.pgdata).unwrap();
        self.conf.write(&self.pgdata).unwrap();
        conf::ensure_included(&self.pgdata).unwrap();
    }

    pub(crate) async fn start(&mut self) {
        self.write_conf();
        let postmaster = process::spawn(&self.install, &self.pgdata, &self.log).unwrap();
        self.postmaster = Some(postmaster.clone());
        process::wait_ready(&self.pgdata, &postmaster, &self.log, LONG).await.unwrap();
    }

    pub(crate) async fn stop(&self, stop: Stop) {
        self.postmaster().signal(stop).unwrap();
        tokio::time::timeout(LONG, self.postmaster().exited()).await.unwrap();
    }

    pub(crate) fn postmaster(&self) -> &Postmaster {
        self.postmaster.as_ref().unwrap()
    }

    pub(crate) async fn session(&self) -> Session {
        Session::connect(&self.target, LONG).await.unwrap()
    }

    /// As a client does it: our own sessions make nothing in anybody's schema.
    pub(crate) async fn execute(&self, sql: &'static str) {
        let mut session = self.session().await;
        session
            .execute("SET search_path = public; SET synchronous_commit = on", LONG)
            .await
            .unwrap();
        session.execute(sql, LONG).await.unwrap();
    }

    pub(crate) async fn wait_streaming(&self) {
        let mut session = self.session().await;
        eventually("streaming", async || {
            let status = session.status(LONG).await.unwrap();
            status.receiver.is_some_and(|r| r.status == "streaming")
        })
        .await;
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, process::log_tail(&self.log));
        }
        for _ in 0..1000 {
            let alive = process::processes_of(&self.pgdata).unwrap_or_default();
            if alive.is_empty() {
                break;
            }
            for pid in alive {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        debug_assert!(self.dir.path().exists());
    }
}

/// Polls until it is so, for at most [`LONG`].
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + LONG;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < end, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
