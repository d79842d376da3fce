//! Keepers on real Postgres servers, under a monitor that keeps its record in memory: it runs the
//! same driver as the real one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, mpsc};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};
use vigil_core::command::Command as Ask;
use vigil_core::driver::group::{GroupDriver, GroupInput, GroupOutput};
use vigil_core::group::{Group, Settings};
use vigil_core::ids::{GroupKey, NodeId, Now};
use vigil_core::view::GroupView;
use vigil_keeper::clock::Clock;
use vigil_postgres::{Session, Target};
use vigil_proto::{KeeperMessage, MonitorMessage, pb, refusal_status};

type Outbox = mpsc::Sender<Result<pb::MonitorMessage, Status>>;

/// The monitor.
struct Memory {
    clock: Clock,
    inner: Mutex<Inner>,
    next_stream: AtomicU64,
    next_id: AtomicI64,
}

struct Inner {
    driver: GroupDriver,
    outboxes: HashMap<u64, Outbox>,
    streams: HashMap<u64, NodeId>,
}

impl Memory {
    fn new() -> Arc<Self> {
        let clock = Clock::new();
        let key = GroupKey { formation: "default".into(), group: 0 };
        let group = Group::new(key, Settings::default(), "se'cret".into());
        let driver = GroupDriver::new(group, clock.now());
        let inner = Inner { driver, outboxes: HashMap::new(), streams: HashMap::new() };
        let inner = Mutex::new(inner);
        let (next_stream, next_id) = (AtomicU64::new(1), AtomicI64::new(1));
        Arc::new(Memory { clock, inner, next_stream, next_id })
    }

    fn now(&self) -> Now {
        self.clock.now()
    }

    async fn input(&self, input: GroupInput) -> GroupOutput {
        let mut inner = self.inner.lock().await;
        let out = inner.driver.handle(input, self.now());
        inner.driver.committed();
        for event in &out.events {
            eprintln!("event: {:?} {}", event.kind, event.description);
        }
        for (stream, welcome) in &out.welcomes {
            let Some(outbox) = inner.outboxes.get(stream).cloned() else { continue };
            let message = match welcome {
                Ok(welcome) => {
                    inner.streams.insert(*stream, welcome.node_id);
                    Ok(MonitorMessage::Welcome(welcome.clone()).into())
                }
                Err(refusal) => Err(refusal_status(refusal.clone())),
            };
            let _ = outbox.try_send(message);
        }
        for (stream, _, order) in &out.orders {
            if let Some(outbox) = inner.outboxes.get(stream) {
                let _ = outbox.try_send(Ok(MonitorMessage::Order(Box::new(order.clone())).into()));
            }
        }
        out
    }

    async fn command(&self, command: Ask) {
        let out = self.input(GroupInput::Command { id: 1, command }).await;
        for (_, reply) in out.replies {
            eprintln!("reply: {reply:?}");
            reply.unwrap();
        }
    }

    async fn view(&self) -> GroupView {
        let inner = self.inner.lock().await;
        inner.driver.view(self.now(), &|ms: i64| ms.to_string())
    }

    async fn tick(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.input(GroupInput::Tick).await;
        }
    }
}

struct Server(Arc<Memory>);

#[tonic::async_trait]
impl pb::keepers_server::Keepers for Server {
    type AttendStream = ReceiverStream<Result<pb::MonitorMessage, Status>>;

    async fn attend(
        &self,
        request: Request<Streaming<pb::KeeperMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let memory = Arc::clone(&self.0);
        let (outbox, answers) = mpsc::channel(256);
        tokio::spawn(async move {
            let stream = memory.next_stream.fetch_add(1, Ordering::Relaxed);
            memory.inner.lock().await.outboxes.insert(stream, outbox.clone());
            let mut inbound = request.into_inner();
            while let Some(Ok(message)) = inbound.next().await {
                let input = match KeeperMessage::try_from(message).unwrap() {
                    KeeperMessage::Hello(hello) => {
                        let fresh_id = NodeId(memory.next_id.fetch_add(1, Ordering::Relaxed));
                        GroupInput::Hello { stream, hello, fresh_id }
                    }
                    KeeperMessage::Report { counter, report } => {
                        let _ = outbox.try_send(Ok(MonitorMessage::Heard { counter }.into()));
                        let node = memory.inner.lock().await.streams.get(&stream).copied();
                        let Some(node) = node else { continue };
                        GroupInput::Report { stream, node, report }
                    }
                };
                memory.input(input).await;
            }
            let mut inner = memory.inner.lock().await;
            inner.outboxes.remove(&stream);
            let node = inner.streams.remove(&stream);
            drop(inner);
            if let Some(node) = node {
                memory.input(GroupInput::Closed { stream, node }).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// One keeper's process and where it works.
struct Node {
    name: String,
    dir: PathBuf,
    port: u16,
    http: u16,
    monitor: u16,
    priority: u32,
    process: Option<Child>,
}

impl Node {
    fn start(&mut self) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.dir.join(format!("{}.log", self.name)))
            .unwrap();
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
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(child);
    }

    fn pgdata(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        run("kill", &[signal, &pid]);
    }

    fn kill_keeper(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    fn wait_exit(&mut self) -> i32 {
        self.process.take().unwrap().wait().unwrap().code().unwrap()
    }

    async fn session(&self) -> Result<Session, vigil_postgres::sql::SqlError> {
        let target = Target::postgres(&self.dir, self.port);
        Session::connect(&target, Duration::from_secs(2)).await
    }

    fn kill_postgres(&self) {
        let pid = std::fs::read_to_string(self.pgdata().join("postmaster.pid")).unwrap();
        run("kill", &["-KILL", pid.lines().next().unwrap()]);
    }

    fn kill_all_of_postgres(&self) {
        for pid in vigil_postgres::process::processes_of(&self.pgdata()) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    /// The status code of a role check.
    fn http(&self, path: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", self.http);
        let out = Command::new("curl")
            .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &url])
            .output()
            .unwrap();
        String::from_utf8(out.stdout).unwrap()
    }
}

struct Cluster {
    dir: PathBuf,
    memory: Arc<Memory>,
    nodes: Vec<Node>,
}

impl Cluster {
    async fn new(nodes: usize) -> Self {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("vigil-keeper-it-{}-{count}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        if rustix::process::geteuid().is_root() {
            let account = vigil_postgres::user::lookup("postgres").unwrap();
            std::os::unix::fs::chown(&dir, Some(account.uid), Some(account.gid)).unwrap();
        }
        let memory = Memory::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let monitor = listener.local_addr().unwrap().port();
        let service = pb::keepers_server::KeepersServer::new(Server(Arc::clone(&memory)));
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        tokio::spawn(Arc::clone(&memory).tick());
        let mut cluster = Cluster { dir: dir.clone(), memory, nodes: Vec::new() };
        for number in 1..=nodes {
            let mut node = Node {
                name: format!("node{number}"),
                dir: dir.clone(),
                port: free_port(),
                http: free_port(),
                monitor,
                priority: 110 - 10 * u32::try_from(number).unwrap(),
                process: None,
            };
            node.start();
            cluster.nodes.push(node);
            cluster
                .wait(&format!("node{number} to be there"), 60, |view| {
                    let node = view.nodes.iter().find(|n| n.nodename == format!("node{number}"));
                    let state = node.map(|n| n.reportedstate.as_str());
                    matches!(state, Some("single" | "primary" | "wait_primary" | "secondary"))
                })
                .await;
        }
        cluster
    }

    async fn wait(&self, what: &str, seconds: u64, ready: impl Fn(&GroupView) -> bool) -> u64 {
        let start = Instant::now();
        loop {
            let view = self.memory.view().await;
            if ready(&view) {
                let ms = u64::try_from(start.elapsed().as_millis()).unwrap();
                eprintln!("after {ms} ms: {what}");
                return ms;
            }
            if start.elapsed() > Duration::from_secs(seconds) {
                for node in &self.nodes {
                    eprintln!("--- {}", node.name);
                    let log = self.dir.join(format!("{}.log", node.name));
                    run("tail", &["-n", "60", log.to_str().unwrap()]);
                }
                panic!("{what} did not happen in {seconds} s: {view:#?}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn index_of(&self, id: NodeId, view: &GroupView) -> usize {
        let name = &view.nodes.iter().find(|n| n.nodeid == id).unwrap().nodename;
        self.nodes.iter().position(|n| n.name == *name).unwrap()
    }

    async fn primary(&self) -> usize {
        let view = self.memory.view().await;
        self.index_of(view.writable.unwrap(), &view)
    }

    async fn settled(&self, seconds: u64) {
        let standbys = self.nodes.iter().filter(|n| n.process.is_some()).count() - 1;
        self.wait("all to be settled", seconds, |view| {
            let count =
                |state| view.nodes.iter().filter(|n| n.reportedstate.as_str() == state).count();
            count("primary") == 1 && count("secondary") == standbys && view.plan == "serving"
        })
        .await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                let _ = process.kill();
                let _ = process.wait();
            }
            node.kill_all_of_postgres();
        }
        if std::env::var_os("KEEP").is_none() {
            let _ = std::fs::remove_dir_all(&self.dir);
        } else {
            eprintln!("kept: {}", self.dir.display());
        }
    }
}

fn run(program: &str, args: &[&str]) {
    let status = Command::new(program).args(args).status().unwrap();
    assert!(status.success(), "{program} {args:?}");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether a cluster can be run here: programs, and a user that is not root.
fn possible() -> bool {
    let installed = vigil_postgres::Installation::find(None, None).is_ok();
    let user =
        !rustix::process::geteuid().is_root() || vigil_postgres::user::lookup("postgres").is_ok();
    if !(installed && user) {
        eprintln!("NOT RUN: no PostgreSQL here, or no user postgres");
    }
    installed && user
}

async fn writes(node: &Node) -> Result<(), Box<dyn std::error::Error>> {
    let mut session = node.session().await?;
    session.emit_probe(Duration::from_secs(2)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_survive_what_happens() {
    if !possible() {
        return;
    }
    let mut cluster = Cluster::new(3).await;
    cluster.settled(20).await;
    assert_eq!(cluster.primary().await, 0);
    writes(&cluster.nodes[0]).await.unwrap();
    assert_eq!(cluster.nodes[0].http("/primary"), "200");
    assert_eq!(cluster.nodes[1].http("/primary"), "503");
    assert_eq!(cluster.nodes[1].http("/replica"), "200");
    assert_eq!(cluster.nodes[0].http("/replica"), "503");
    assert_eq!(cluster.nodes[0].http("/metrics"), "200");

    eprintln!("=== Postgres of the primary is killed");
    cluster.nodes[0].kill_postgres();
    cluster
        .wait("another primary", 20, |view| {
            view.writable.is_some_and(|id| {
                view.nodes.iter().any(|n| n.nodeid == id && n.nodename != "node1")
            })
        })
        .await;
    cluster.settled(30).await;
    writes(&cluster.nodes[cluster.primary().await]).await.unwrap();

    eprintln!("=== switchover");
    cluster.memory.command(Ask::Switchover { to: Some("node1".into()) }).await;
    cluster
        .wait("node1 to be the primary again", 20, |view| {
            view.writable.is_some_and(|id| {
                view.nodes.iter().any(|n| n.nodeid == id && n.nodename == "node1")
            })
        })
        .await;
    cluster.settled(30).await;

    eprintln!("=== keeper and Postgres of the primary are killed");
    cluster.nodes[0].kill_keeper();
    cluster.nodes[0].kill_all_of_postgres();
    cluster
        .wait("another primary", 20, |view| {
            view.writable.is_some_and(|id| {
                view.nodes.iter().any(|n| n.nodeid == id && n.nodename != "node1")
            })
        })
        .await;
    cluster.nodes[0].start();
    cluster.settled(60).await;

    eprintln!("=== a keeper is killed and started again: Postgres goes on");
    let primary = cluster.primary().await;
    let postmaster = vigil_postgres::process::adopt(&cluster.nodes[primary].pgdata());
    let pid = postmaster.unwrap().unwrap().pid;
    cluster.nodes[primary].kill_keeper();
    cluster.nodes[primary].start();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    cluster.settled(30).await;
    assert_eq!(cluster.primary().await, primary);
    let postmaster = vigil_postgres::process::adopt(&cluster.nodes[primary].pgdata());
    assert_eq!(postmaster.unwrap().unwrap().pid, pid, "the same server");

    eprintln!("=== a standby stops politely");
    let standby = (primary + 1) % 3;
    let stopped = Instant::now();
    cluster.nodes[standby].signal("-TERM");
    assert_eq!(cluster.nodes[standby].wait_exit(), 0);
    eprintln!("stopped in {:?}", stopped.elapsed());
    assert_eq!(vigil_postgres::process::processes_of(&cluster.nodes[standby].pgdata()), []);
    writes(&cluster.nodes[primary]).await.unwrap();
    cluster.nodes[standby].start();
    cluster.settled(30).await;

    assert!(Path::new(&cluster.dir).exists());
}
