//! A monitor's Postgres in a temporary directory; and messages to feed in.

use std::ffi::OsString;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::{Hello, Report, Server};
use vigil_core::state::NodeState;
use vigil_core::wal::Tli;
use vigil_monitor::config::Config;
use vigil_monitor::data_dir::DataDir;
use vigil_monitor::embedded::Embedded;
use vigil_monitor::preflight;
use vigil_monitor::store::PgStore;
use vigil_postgres::install::{Installation, RunAs};
use vigil_postgres::user;

pub(crate) const LONG: Duration = Duration::from_secs(30);

/// A directory of its own that user `postgres` can reach; removed in the end.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vigil-monitor-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        if let Some(RunAs { uid, gid }) = run_as() {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        }
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // Whatever a failed test left running.
        for pid in
            vigil_postgres::process::processes_of(&self.0.join("m/pgdata")).unwrap_or_default()
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Postgres refuses root.
pub(crate) fn run_as() -> Option<RunAs> {
    rustix::process::geteuid().is_root().then(|| {
        let account = user::lookup("postgres").unwrap();
        RunAs { uid: account.uid, gid: account.gid }
    })
}

/// Whether there is a Postgres to test with; says so when there is none.
pub(crate) fn has_postgres() -> bool {
    match Installation::find(pg_bin().as_deref(), None) {
        Ok(_) => true,
        Err(e) => {
            eprintln!("skipped: {e}");
            false
        }
    }
}

pub(crate) fn pg_bin() -> Option<PathBuf> {
    std::env::var_os("PGVIGIL_TEST_PG_BIN").map(PathBuf::from)
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(crate) fn config(dir: &TempDir) -> Config {
    let path = dir.path().display().to_string();
    let args = [
        "vigil-monitor".to_owned(),
        "--insecure".to_owned(),
        format!("--data-dir={path}/m"),
        format!("--pg-socket-dir={path}"),
        format!("--pg-port={}", free_port()),
        format!("--listen=127.0.0.1:{}", free_port()),
        format!("--http-listen=127.0.0.1:{}", free_port()),
    ];
    let env = |name: &str| (name == "PGVIGIL_PG_BIN").then(pg_bin).flatten().map(OsString::from);
    let config = Config::read(args.map(OsString::from), env).unwrap();
    Config { run_as: run_as(), ..config }
}

/// The embedded Postgres alone.
pub(crate) struct Database {
    pub(crate) config: Config,
    pub(crate) dir: TempDir,
    stop: CancellationToken,
    running: Option<tokio::task::JoinHandle<()>>,
}

impl Database {
    pub(crate) async fn start() -> Self {
        let dir = TempDir::new();
        let config = config(&dir);
        let mut database = Database { config, dir, stop: CancellationToken::new(), running: None };
        database.begin().await;
        database
    }

    async fn begin(&mut self) {
        let install = preflight::check(&self.config).unwrap().install;
        DataDir::new(self.config.absolute_data_dir()).create(self.config.run_as).unwrap();
        let _lock = DataDir::new(self.config.absolute_data_dir()).lock().unwrap();
        let embedded = Embedded::start(&self.config, install).await.unwrap();
        self.stop = CancellationToken::new();
        self.running = Some(tokio::spawn(embedded.supervise(self.stop.clone())));
    }

    pub(crate) async fn store(&self) -> PgStore {
        let major = Installation::find(None, None).unwrap().major;
        PgStore::open(&self.config.socket_dir(), self.config.pg_port, major).await.unwrap()
    }

    /// SIGKILL to all of it, as a power loss; the supervisor starts it again.
    pub(crate) fn kill(&self) {
        for pid in vigil_postgres::process::processes_of(&self.dir.path().join("m/pgdata"))
            .unwrap_or_default()
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    pub(crate) async fn stop(&mut self) {
        self.stop.cancel();
        self.running.take().unwrap().await.unwrap();
    }

    /// As when the monitor alone is killed; then it starts again.
    pub(crate) async fn abandon_and_return(&mut self) {
        let running = self.running.take().unwrap();
        running.abort();
        assert!(running.await.unwrap_err().is_cancelled());
        self.begin().await;
    }

    pub(crate) fn postmaster(&self) -> String {
        let file = self.dir.path().join("m/pgdata/postmaster.pid");
        std::fs::read_to_string(file).unwrap().lines().next().unwrap().to_owned()
    }

    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.begin().await;
    }
}

/// Polls until it is so.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + LONG;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < end, "not so in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn hello(name: &str, node_id: Option<NodeId>) -> Hello {
    Hello {
        formation: "default".to_owned(),
        group: 0,
        name: name.to_owned(),
        host: "127.0.0.1".to_owned(),
        port: 5432,
        candidate_priority: 50,
        replication_quorum: true,
        node_id,
        system_id: None,
        promise: Epoch(0),
        rules_held: Vec::new(),
        settings: None,
        peers: Vec::new(),
        postgres_major: 15,
    }
}

/// What a keeper without data says.
pub(crate) fn report() -> Report {
    Report {
        state: NodeState::Init,
        promise: Epoch(0),
        order_seq: 0,
        server: Server::NoData,
        pledge: None,
        own_rule: None,
        in_force: None,
        covered: None,
        rules_held: Vec::new(),
        position: None,
        replayed: None,
        history: None,
        highest_tli: Tli(0),
        following: None,
        senders: Vec::new(),
        rewind_source: false,
        usable: false,
        prepared: false,
        leaving: false,
        delayed: false,
        limits: None,
        problem: None,
        notices: Vec::new(),
        interval_ms: 1000,
        look_age_ms: 0,
        not_let_in: None,
        troubles: Vec::new(),
        starved_ms: 0,
        doing: None,
        system_id: None,
    }
}
