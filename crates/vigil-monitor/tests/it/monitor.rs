//! A whole monitor, with keepers that only speak.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Streaming};
use vigil_core::command::{Command, RefusalCode};
use vigil_core::ids::NodeId;
use vigil_core::message::Hello;
use vigil_core::view::{EventView, GroupView};
use vigil_monitor::config::Config;
use vigil_proto::pb::admin_client::AdminClient;
use vigil_proto::pb::keepers_client::KeepersClient;
use vigil_proto::{
    CommandRequest, EventsRequest, KeeperMessage, MonitorMessage, Selector, SettingsView, pb,
    refusal_of,
};

use crate::harness::{LONG, TempDir, config, eventually, has_postgres, hello, report};

struct Monitor {
    config: Config,
    shutdown: CancellationToken,
    running: tokio::task::JoinHandle<Result<(), vigil_daemon::Failure>>,
}

impl Monitor {
    async fn start(config: Config) -> Self {
        let shutdown = CancellationToken::new();
        let running = tokio::spawn(vigil_monitor::run(config.clone(), shutdown.clone()));
        let monitor = Monitor { config, shutdown, running };
        eventually("it is healthy", async || {
            assert!(!monitor.running.is_finished(), "it has ended");
            matches!(monitor.get("/healthz").await, Some(text) if text.contains(" 200 "))
        })
        .await;
        monitor
    }

    async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(LONG, self.running).await.unwrap().unwrap().unwrap();
    }

    /// The whole HTTP answer.
    async fn get(&self, path: &str) -> Option<String> {
        let address = &self.config.http_listen;
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(3), read).await.ok()?.ok()?;
        Some(answer)
    }

    fn url(&self) -> String {
        format!("http://{}", self.config.listen)
    }

    async fn admin(&self) -> AdminClient<tonic::transport::Channel> {
        AdminClient::connect(self.url()).await.unwrap()
    }

    async fn state(&self, selector: &Selector) -> Vec<GroupView> {
        let views = self.admin().await.show_state(pb::Selector::from(selector.clone())).await;
        views.unwrap().into_inner().try_into().unwrap()
    }
}

struct Keeper {
    said: mpsc::Sender<pb::KeeperMessage>,
    heard: Streaming<pb::MonitorMessage>,
}

impl Keeper {
    async fn say(monitor: &Monitor, hello: Hello) -> Self {
        let mut client = KeepersClient::connect(monitor.url()).await.unwrap();
        let (said, messages) = mpsc::channel(16);
        let heard = client.attend(ReceiverStream::new(messages)).await.unwrap().into_inner();
        said.send(KeeperMessage::Hello(Box::new(hello)).into()).await.unwrap();
        Keeper { said, heard }
    }

    async fn next(&mut self) -> Result<Option<MonitorMessage>, tonic::Status> {
        let next = tokio::time::timeout(LONG, self.heard.message()).await.unwrap()?;
        Ok(next.map(|m| m.try_into().unwrap()))
    }

    async fn welcome(&mut self) -> NodeId {
        match self.next().await.unwrap() {
            Some(MonitorMessage::Welcome(welcome)) => welcome.node_id,
            other => panic!("{other:?}"),
        }
    }

    async fn report(&self, counter: u64) {
        let report = Box::new(report());
        self.said.send(KeeperMessage::Report { counter, report }.into()).await.unwrap();
    }
}

async fn execute(
    monitor: &Monitor,
    selector: Selector,
    command: Command,
) -> Result<(), RefusalCode> {
    let request = CommandRequest { selector, command };
    let done = monitor.admin().await.execute(pb::CommandRequest::from(request)).await;
    done.map(|_| ()).map_err(|status| refusal_of(&status).expect("a refusal").code)
}

fn formation(name: &str) -> Selector {
    Selector { formation: Some(name.to_owned()), group: None }
}

const FASTER: Command = Command::SetSettings {
    number_sync_standbys: None,
    heartbeat_interval_ms: Some(250),
    heartbeat_misses: None,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keepers_and_operators_are_served() {
    if !has_postgres() {
        return;
    }
    let dir = TempDir::new();
    let monitor = Monitor::start(config(&dir)).await;
    let everything = Selector::default();
    assert!(monitor.state(&everything).await.is_empty());

    // A keeper joins; each report is answered; the second of the same name is refused.
    let mut keeper = Keeper::say(&monitor, hello("node1", None)).await;
    let id = keeper.welcome().await;
    assert_eq!(id, NodeId(1));
    keeper.report(7).await;
    let mut orders = 0;
    loop {
        match keeper.next().await.unwrap() {
            Some(MonitorMessage::Heard { counter }) => break assert_eq!(counter, 7),
            Some(MonitorMessage::Order(_)) => orders += 1,
            other => panic!("{other:?}"),
        }
    }
    while orders == 0 {
        let next = keeper.next().await.unwrap();
        orders += u32::from(matches!(next, Some(MonitorMessage::Order(_))));
    }
    let mut stranger =
        Keeper::say(&monitor, Hello { formation: "x".into(), ..hello("n", None) }).await;
    let refused = stranger.next().await.unwrap_err();
    assert_eq!(refusal_of(&refused).unwrap().code, RefusalCode::NotFound);

    // What people see.
    let views = monitor.state(&everything).await;
    assert_eq!(views[0].nodes[0].nodename, "node1");
    let events: Vec<EventView> = monitor
        .admin()
        .await
        .show_events(pb::EventsRequest::from(EventsRequest {
            selector: everything.clone(),
            limit: 5,
        }))
        .await
        .unwrap()
        .into_inner()
        .try_into()
        .unwrap();
    assert!(events.iter().all(|e| e.formationid == "default"), "{events:?}");
    let heard = r#"pgvigil_heartbeats_total{formation="default",group="0",nodename="node1"} 1"#;
    eventually("the report is counted", async || {
        monitor.get("/metrics").await.unwrap().contains(heard)
    })
    .await;
    let metrics = monitor.get("/metrics").await.unwrap();
    for series in [
        r#"pgvigil_keeper_stream_up{formation="default",group="0",nodename="node1"} 1"#,
        r#"pg_auto_failover_node_state_health_code{formation="default",group="0",nodename="node1",nodehost="127.0.0.1"}"#,
        r#"pg_auto_failover_node_state_reported_state_code{formation="default",group="0",nodename="node1"}"#,
        r#"pgvigil_epoch{formation="default",group="0"}"#,
        r#"pgvigil_failovers_total{cause="unreachable"} 0"#,
        "# TYPE pgvigil_store_commit_ms histogram",
    ] {
        assert!(metrics.contains(series), "{series}");
    }
    for line in metrics.lines().filter(|l| l.starts_with("# TYPE ")) {
        let name = line.split(' ').nth(2).unwrap();
        assert!(metrics.contains(&format!("# HELP {name} ")), "{line}");
    }

    // Commands find their group, or say what is missing.
    let nobody = Command::DisableMaintenance { node: "nobody".to_owned() };
    let not_found = Err(RefusalCode::NotFound);
    assert_eq!(execute(&monitor, formation("default"), nobody.clone()).await, not_found);
    assert_eq!(execute(&monitor, formation("none"), nobody.clone()).await, not_found);
    let absent = Selector { group: Some(9), ..formation("default") };
    assert_eq!(execute(&monitor, absent, nobody.clone()).await, not_found);
    execute(&monitor, formation("default"), FASTER).await.unwrap();
    let mut second = Keeper::say(&monitor, Hello { group: 1, ..hello("other", None) }).await;
    second.welcome().await;
    let ambiguous = execute(&monitor, formation("default"), nobody).await;
    assert_eq!(ambiguous, Err(RefusalCode::BadValue));
    let settings: SettingsView = monitor
        .admin()
        .await
        .show_settings(pb::Selector::default())
        .await
        .unwrap()
        .into_inner()
        .try_into()
        .unwrap();
    assert_eq!(settings.formations[0].heartbeat_interval_ms, 250);
    assert_eq!(settings.nodes.len(), 2);

    // Formations.
    let mut admin = monitor.admin().await;
    let create = |name: &str| pb::CreateFormationRequest {
        name: name.to_owned(),
        number_sync_standbys: Some(1),
    };
    admin.create_formation(create("second")).await.unwrap();
    let twice = admin.create_formation(create("second")).await.unwrap_err();
    assert_eq!(twice.code(), Code::FailedPrecondition);
    let bad = admin.create_formation(create("a b")).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    let drop = |name: &str| pb::DropFormationRequest { name: name.to_owned() };
    let full = admin.drop_formation(drop("default")).await.unwrap_err();
    assert_eq!(full.code(), Code::FailedPrecondition);
    admin.drop_formation(drop("second")).await.unwrap();
    assert_eq!(admin.drop_formation(drop("second")).await.unwrap_err().code(), Code::NotFound);

    // A watcher sees the keeper go.
    let mut watched = admin.watch_state(pb::Selector::default()).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    let scrape = async || monitor.get("/metrics").await.unwrap();
    std::mem::drop(keeper);
    eventually("the stream is down", async || {
        scrape().await.contains(
            r#"pgvigil_keeper_stream_up{formation="default",group="0",nodename="node1"} 0"#,
        )
    })
    .await;

    // A second monitor is told whose directory it is.
    let failed = vigil_monitor::run(monitor.config.clone(), CancellationToken::new()).await;
    let text = failed.unwrap_err().lines();
    assert!(text.contains("another vigil-monitor"), "{text}");

    // After a restart everything is as it was, and nodes are known by their ids.
    let config = monitor.config.clone();
    monitor.stop().await;
    let monitor = Monitor::start(config).await;
    let mut keeper = Keeper::say(&monitor, hello("node1", Some(id))).await;
    assert_eq!(keeper.welcome().await, id);
    assert_eq!(monitor.state(&Selector::default()).await.len(), 2);
    monitor.stop().await;
}
