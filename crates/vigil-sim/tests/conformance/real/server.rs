//! One real server in a directory of its own; killed and removed when dropped.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use vigil_postgres::conf::{self, ManagedConf};
use vigil_postgres::hba::HbaPlan;
use vigil_postgres::in_force::{self, NamesChange};
use vigil_postgres::pgdata::{self, InitdbOptions};
use vigil_postgres::process::{self, Postmaster};
use vigil_postgres::standby::{self, OldData, Upstream};
use vigil_postgres::{Installation, RunAs, Session, SqlStatus, Stop, Target, user};

/// Enough for any single step, also on a busy machine.
pub(super) const LONG: Duration = Duration::from_secs(30);
/// Holds up replay on a server that has just been started.
const DELAY: &str = "recovery_min_apply_delay";

/// The programs to test with, run as `postgres` when we are root; or why there are none.
/// `PGVIGIL_TEST_PG_BIN` names others than those that are found.
pub(super) fn installation() -> Result<Installation, String> {
    let bin = std::env::var_os("PGVIGIL_TEST_PG_BIN").map(PathBuf::from);
    let found = Installation::find(bin.as_deref(), None).map_err(|e| e.to_string())?;
    if !rustix::process::geteuid().is_root() {
        return Ok(found);
    }
    let account = user::lookup("postgres").map_err(|e| e.to_string())?;
    Ok(found.running_as(Some(RunAs { uid: account.uid, gid: account.gid })))
}

pub(super) struct Server {
    install: Installation,
    pub(super) name: String,
    pub(super) pgdata: PathBuf,
    pub(super) conf: ManagedConf,
    pub(super) target: Target,
    /// It was sent SIGSTOP.
    pub(super) held_checkpointer: Option<Pid>,
    log: PathBuf,
    postmaster: Option<Postmaster>,
    dir: PathBuf,
}

impl Server {
    fn at(name: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let dir = format!("vigil-conformance-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(dir);
        let install = installation().expect("it was there before");
        std::fs::create_dir(&dir).expect("a new directory");
        let owner = install.run_as.map(|r| (r.uid, r.gid));
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
        let mut conf = ManagedConf::new(install.major, port.port(), &dir.to_string_lossy());
        "127.0.0.1".clone_into(&mut conf.listen);
        for (name, value) in [("shared_buffers", "16MB"), ("max_standby_streaming_delay", "-1")] {
            conf.extra.push((name.to_owned(), value.to_owned()));
        }
        let server = Server {
            name: name.to_owned(),
            pgdata: dir.join("data"),
            log: dir.join("log"),
            target: Target::postgres(&dir, port.port(), install.major),
            install,
            conf,
            held_checkpointer: None,
            postmaster: None,
            dir,
        };
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::chown(&server.dir, Some(uid), Some(gid)).expect("we are root");
        }
        server
    }

    /// A new cluster, not started.
    pub(super) async fn new(name: &str) -> Self {
        let server = Self::at(name);
        let options = InitdbOptions { wal_segment_mb: Some(1), ..InitdbOptions::default() };
        let made = pgdata::initdb(&server.install, &server.pgdata, &options, LONG).await;
        made.expect("initdb");
        server
    }

    /// A running standby of `primary`.
    pub(super) async fn standby_of(primary: &Server, name: &str) -> Self {
        let mut server = Self::at(name);
        let upstream = primary.as_upstream(name);
        let old = OldData::Remove;
        let copied = standby::basebackup(&server.install, &upstream, &server.pgdata, old, LONG);
        copied.await.expect("pg_basebackup");
        server.conf.primary_conninfo = upstream.primary_conninfo();
        server.start().await;
        server
    }

    pub(super) fn as_upstream(&self, application_name: &str) -> Upstream {
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

    pub(super) async fn start(&mut self) {
        let hba = HbaPlan {
            auth: "trust".to_owned(),
            cidrs: Vec::new(),
            peer_hosts: Vec::new(),
            os_user: user::current_user(),
            replication_user: "postgres".to_owned(),
        };
        hba.write(&self.pgdata).expect("pg_hba.conf");
        self.conf.write(&self.pgdata).expect("settings");
        conf::ensure_included(&self.pgdata).expect("postgresql.conf");
        let started = process::spawn(&self.install, &self.pgdata, &self.log).expect("a start");
        self.postmaster = Some(started.clone());
        let ready = process::wait_ready(&self.pgdata, &started, &self.log, LONG).await;
        ready.expect("Postgres is ready");
    }

    /// Whether a start fails because something still runs.
    pub(super) fn start_is_refused(&self) -> bool {
        let started = process::spawn(&self.install, &self.pgdata, &self.log);
        matches!(started, Err(process::ProcessError::AlreadyRuns { .. }))
    }

    pub(super) fn postmaster(&self) -> &Postmaster {
        self.postmaster.as_ref().expect("it was started")
    }

    /// Writes the settings and makes the server read them.
    pub(super) fn reload(&self) {
        self.conf.write(&self.pgdata).expect("settings");
        self.postmaster().reload().expect("a reload");
    }

    pub(super) async fn put_names_in_force(&self, always_prove: bool) {
        let change = NamesChange {
            pgdata: &self.pgdata,
            postmaster: self.postmaster(),
            target: &self.target,
            conf: &self.conf,
            removed: &[],
            always_prove,
        };
        let mut kept = Session::connect(&self.target, LONG).await.expect("a session");
        let put = in_force::put_names_in_force(&change, &mut kept, LONG);
        put.await.expect("names in force");
    }

    /// Replay waits before the next commit that it finds after a start.
    pub(super) fn hold_replay(&mut self, held: bool) {
        self.conf.extra.retain(|(name, _)| name != DELAY);
        if held {
            self.conf.extra.push((DELAY.to_owned(), "1h".to_owned()));
        }
    }

    pub(super) async fn status(&self) -> SqlStatus {
        let mut session = Session::connect(&self.target, LONG).await.expect("a session");
        session.status(LONG).await.expect("its status")
    }

    pub(super) async fn stop(&self, stop: Stop) {
        self.postmaster().signal(stop).expect("a signal");
        let exited = tokio::time::timeout(LONG, self.postmaster().exited()).await;
        exited.expect("it ends");
    }

    pub(super) async fn kill(&self) {
        process::kill_all(&self.pgdata, LONG).await.expect("all ends");
        // One that is about to be a zombie counts as alive for the next start's lock files.
        let exited = tokio::time::timeout(LONG, self.postmaster().exited()).await;
        exited.expect("it ends");
    }

    /// To every process, the postmaster's first.
    pub(super) fn signal_all(&self, signal: Signal) {
        let postmaster = self.postmaster().pid;
        let rest = process::processes_of(&self.pgdata)
            .expect("a process table")
            .into_iter()
            .filter(|p| *p != postmaster);
        for pid in std::iter::once(postmaster).chain(rest) {
            // It may have ended by itself.
            let _ = kill_process(pid, signal);
        }
    }

    /// Makes a killed server one with the WAL of `source`, not started.
    pub(super) async fn rewind(&mut self, source: &Server) {
        let clean = standby::recover_to_clean(&self.install, &self.pgdata, LONG).await;
        clean.expect("it is made clean");
        let mut session = Session::connect(&source.target, LONG).await.expect("a session");
        session.checkpoint(LONG).await.expect("a checkpoint");
        let upstream = source.as_upstream(&self.name);
        let rewound = standby::rewind(&self.install, &upstream, &self.pgdata, LONG).await;
        assert!(!rewound.expect("pg_rewind").nothing_to_do, "there was something to rewind");
        pgdata::set_standby_signal(&self.pgdata).expect("standby.signal");
        self.conf.primary_conninfo = upstream.primary_conninfo();
    }

    fn end(pgdata: &Path) {
        for _ in 0..1000 {
            let alive = process::processes_of(pgdata).unwrap_or_default();
            if alive.is_empty() {
                return;
            }
            for pid in alive {
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, process::log_tail(&self.log));
        }
        Self::end(&self.pgdata);
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
