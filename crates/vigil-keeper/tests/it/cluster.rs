//! Keepers' processes on real Postgres servers, under a [`Memory`] monitor.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Signal, kill_process};
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use vigil_core::view::GroupView;
use vigil_postgres::pgdata::{InitdbOptions, initdb};
use vigil_postgres::process::{Pid, processes_of, spawn, wait_ready};
use vigil_postgres::{Installation, RunAs, Session, Target};
use vigil_proto::pb::keepers_server::KeepersServer;

use crate::memory::{Memory, Server};

/// One keeper and its Postgres.
pub(crate) struct Node {
    pub(crate) name: String,
    dir: PathBuf,
    port: u16,
    http: u16,
    monitor: u16,
    priority: u32,
    process: Option<Child>,
}

impl Node {
    pub(crate) fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.log()).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_vigil-keeper"))
            .arg("--pgdata")
            .arg(self.pgdata())
            .args(["--name", &self.name, "--host", "127.0.0.1", "--insecure"])
            .args(["--monitor", &format!("127.0.0.1:{}", self.monitor)])
            .args(["--pg-port", &self.port.to_string(), "--pg-listen", "127.0.0.1"])
            .args(["--http-listen", &format!("127.0.0.1:{}", self.http)])
            .args(["--candidate-priority", &self.priority.to_string()])
            .args(["--pg-hba-auth", "trust", "--pg-hba-cidr", "127.0.0.1/32"])
            .args(["--log-level", "debug", "--pg-socket-dir"])
            .arg(&self.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    /// A server that no keeper has anything to do with yet.
    pub(crate) async fn start_standalone(&self) {
        let account = vigil_postgres::user::lookup("postgres").unwrap();
        let run_as = rustix::process::geteuid()
            .is_root()
            .then_some(RunAs { uid: account.uid, gid: account.gid });
        let install = Installation::find(None, None).unwrap().running_as(run_as);
        let (pgdata, within) = (self.pgdata(), Duration::from_secs(30));
        let options = InitdbOptions { extra: vec!["--auth=trust".into()], ..Default::default() };
        initdb(&install, &pgdata, &options, within).await.unwrap();
        let conf = pgdata.join("postgresql.auto.conf");
        let settings = format!(
            "port = {}\nunix_socket_directories = '{}'\nwork_mem = '5MB'\n",
            self.port,
            self.dir.display()
        );
        std::fs::write(conf, settings).unwrap();
        let log = self.dir.join("standalone.log");
        let postmaster = spawn(&install, &pgdata, &log).unwrap();
        wait_ready(&pgdata, &postmaster, &log, within).await.unwrap();
    }

    pub(crate) fn pgdata(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.dir.join(format!("{}.pgvigil", self.name))
    }

    fn log(&self) -> PathBuf {
        self.dir.join(format!("{}.log", self.name))
    }

    pub(crate) fn log_text(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.process.is_some()
    }

    pub(crate) fn terminate(&self) {
        let pid = Pid::from_child(self.process.as_ref().unwrap());
        kill_process(pid, Signal::TERM).unwrap();
    }

    pub(crate) fn kill_keeper(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) async fn exit_code(&mut self) -> i32 {
        for _ in 0..3_000 {
            if let Some(status) = self.process.as_mut().unwrap().try_wait().unwrap() {
                self.process = None;
                return status.code().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} does not end", self.name);
    }

    pub(crate) async fn session(&self) -> Session {
        // What every version takes.
        let target = Target::postgres(&self.dir, self.port, 13);
        Session::connect(&target, Duration::from_secs(2)).await.unwrap()
    }

    /// A commit that waits for no standby.
    pub(crate) async fn writes(&self) {
        self.session().await.emit_probe(Duration::from_secs(2)).await.unwrap();
    }

    pub(crate) fn postmaster(&self) -> Pid {
        vigil_postgres::process::adopt(&self.pgdata()).unwrap().unwrap().pid
    }

    pub(crate) fn processes(&self) -> Vec<Pid> {
        processes_of(&self.pgdata()).unwrap()
    }

    pub(crate) fn signal_postgres(&self, signal: Signal) {
        for pid in self.processes() {
            // It may have ended by now.
            let _ = kill_process(pid, signal);
        }
    }

    /// The status code of a role check.
    pub(crate) async fn http(&self, path: &str) -> u16 {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http)).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split(' ').nth(1).unwrap().parse().unwrap()
    }
}

/// A monitor and its nodes. Everything ends when it is dropped.
pub(crate) struct Cluster {
    dir: PathBuf,
    pub(crate) memory: Arc<Memory>,
    monitor: JoinSet<()>,
    monitor_port: u16,
    pub(crate) nodes: Vec<Node>,
    _turn: File,
}

impl Cluster {
    /// Nodes `node1` …, in the order of their priority; the first one founds the group.
    pub(crate) async fn new(nodes: usize) -> Self {
        let mut cluster = Self::empty().await;
        for number in 1..=nodes {
            let name = cluster.add_node(number);
            cluster.nodes[number - 1].start();
            cluster.wait_joined(&name).await;
        }
        cluster
    }

    /// A monitor without nodes.
    pub(crate) async fn empty() -> Self {
        let turn = std::env::temp_dir().join("pgvigil-it.lock");
        let turn = File::open(&turn).unwrap_or_else(|_| File::create(&turn).unwrap());
        flock(&turn, FlockOperation::LockExclusive).unwrap();
        let dir = std::env::temp_dir().join(format!("vigil-keeper-it-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        if rustix::process::geteuid().is_root() {
            // The keeper drops root by itself.
            let account = vigil_postgres::user::lookup("postgres").unwrap();
            std::os::unix::fs::chown(&dir, Some(account.uid), Some(account.gid)).unwrap();
        }
        let mut cluster = Cluster {
            dir,
            memory: Memory::new(),
            monitor: JoinSet::new(),
            monitor_port: free_port(),
            nodes: Vec::new(),
            _turn: turn,
        };
        cluster.start_monitor().await;
        cluster
    }

    /// Not started yet. Returns its name.
    pub(crate) fn add_node(&mut self, number: usize) -> String {
        let name = format!("node{number}");
        self.nodes.push(Node {
            name: name.clone(),
            dir: self.dir.clone(),
            port: free_port(),
            http: free_port(),
            monitor: self.monitor_port,
            priority: 110 - 10 * u32::try_from(number).unwrap(),
            process: None,
        });
        name
    }

    pub(crate) async fn wait_joined(&self, name: &str) {
        self.wait(&format!("{name} to be there"), 60, |view| {
            let node = view.nodes.iter().find(|n| n.nodename == name);
            let state = node.map(|n| n.reportedstate.as_str());
            matches!(state, Some("single" | "primary" | "wait_primary" | "secondary"))
        })
        .await;
    }

    /// Its record survives a stop, like the real one's.
    pub(crate) async fn start_monitor(&mut self) {
        let address = ("127.0.0.1", self.monitor_port);
        let listener = tokio::net::TcpListener::bind(address).await.unwrap();
        let memory = Arc::clone(&self.memory);
        self.monitor.spawn(async move {
            let service = KeepersServer::new(Server(memory));
            let incoming = TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().add_service(service);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        self.monitor.spawn(Arc::clone(&self.memory).tick());
    }

    pub(crate) async fn stop_monitor(&mut self) {
        self.monitor.shutdown().await;
        self.memory.close_all();
    }

    /// Waits until the group looks like that; tells how long it took, in milliseconds.
    pub(crate) async fn wait(
        &self,
        what: &str,
        seconds: u64,
        ready: impl Fn(&GroupView) -> bool,
    ) -> u128 {
        let start = Instant::now();
        loop {
            let view = self.memory.view().await;
            if ready(&view) {
                let ms = start.elapsed().as_millis();
                eprintln!("after {ms} ms: {what}");
                return ms;
            }
            let in_time = start.elapsed() <= Duration::from_secs(seconds);
            assert!(in_time, "{what} did not happen in {seconds} s: {view:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn tell_logs(&self) {
        for node in &self.nodes {
            // A node that was never started has none.
            let text = std::fs::read_to_string(node.log()).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            eprintln!("--- {}", node.name);
            for line in &lines[lines.len().saturating_sub(40)..] {
                eprintln!("{line}");
            }
        }
    }

    pub(crate) async fn primary(&self) -> usize {
        let view = self.memory.view().await;
        let id = view.writable.unwrap();
        let name = &view.nodes.iter().find(|n| n.nodeid == id).unwrap().nodename;
        self.nodes.iter().position(|n| n.name == *name).unwrap()
    }

    /// Until `name` is not, or is, the one that accepts writes.
    pub(crate) async fn wait_primary(&self, name: &str, is: bool) -> u128 {
        let what = format!("{} to be the primary", if is { name } else { "another one" });
        self.wait(&what, 30, |view| {
            let writable = view.nodes.iter().find(|n| Some(n.nodeid) == view.writable);
            writable.is_some_and(|n| (n.nodename == name) == is)
        })
        .await
    }

    /// Until there is one primary, and all other nodes stream from it and are counted.
    pub(crate) async fn wait_settled(&self) {
        let standbys = self.nodes.iter().filter(|n| n.is_running()).count() - 1;
        self.wait("all to be settled", 60, |view| {
            let count = |state: &str| {
                let heard = view.nodes.iter().filter(|n| n.health == 1);
                heard.filter(|n| n.reportedstate.as_str() == state).count()
            };
            count("primary") == 1 && count("secondary") == standbys && view.plan == "serving"
        })
        .await;
        let start = Instant::now();
        while !self.memory.has_settled().await {
            assert!(start.elapsed() < Duration::from_secs(30), "not all standbys are counted");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_logs();
        }
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
            node.signal_postgres(Signal::KILL);
        }
        if std::env::var_os("KEEP").is_some() {
            eprintln!("kept: {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether a cluster can be run here: programs, and a user that is not root.
pub(crate) fn possible() -> bool {
    let installed = vigil_postgres::Installation::find(None, None).is_ok();
    let user =
        !rustix::process::geteuid().is_root() || vigil_postgres::user::lookup("postgres").is_ok();
    if !(installed && user) {
        eprintln!("NOT RUN: no PostgreSQL here, or no user postgres");
    }
    installed && user
}
