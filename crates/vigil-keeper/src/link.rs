//! The stream to the monitor: opened again whenever it is lost, for ever.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use vigil_core::command::{Refusal, RefusalCode};
use vigil_core::ids::NodeId;
use vigil_core::message::{Hello, Order, Report};
use vigil_core::node::record::NodeRecord;
use vigil_daemon::Failure;
use vigil_proto::pb::keepers_client::KeepersClient;
use vigil_proto::{KeeperMessage, MonitorMessage, pb};

const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_millis(500);
/// One SYN: after a cut the next attempt gets through sooner than the kernel's own second one.
const CONNECT_WITHIN: Duration = Duration::from_secs(1);
/// A monitor that is there welcomes within a commit of its store.
const WELCOME_WITHIN: Duration = Duration::from_secs(5);

/// What the agent hears.
#[derive(Debug)]
pub enum FromMonitor {
    Welcomed(NodeId),
    Order(Box<Order>),
    /// A report has arrived: the newest one, or one before it.
    Heard {
        newest: bool,
    },
    Lost,
    /// For ever: nothing that this keeper could say would be accepted.
    Refused(Failure),
}

/// The newest report; only that one matters, it is always whole.
pub type Reports = watch::Receiver<Option<Box<Report>>>;

/// What a hello says besides the record.
#[derive(Clone, Debug)]
pub struct Introduction {
    pub host: String,
    pub port: u16,
    pub candidate_priority: u32,
    pub replication_quorum: bool,
    pub postgres_major: u32,
}

pub struct Link {
    pub endpoint: Endpoint,
    pub introduction: Introduction,
    pub record: watch::Receiver<Arc<NodeRecord>>,
    pub reports: Reports,
    pub heard: mpsc::Sender<FromMonitor>,
}

/// Why a stream ended.
enum End {
    /// The agent is gone.
    Closed,
    Lost {
        reason: String,
        was_up: bool,
    },
    Refused(Failure),
}

impl Link {
    /// Until the agent is gone, or the monitor refuses this node for good.
    pub async fn run(mut self) {
        let mut pause = RETRY_MIN;
        let mut complained = false;
        loop {
            let end = self.attend(&mut complained).await;
            let (reason, was_up) = match end {
                End::Closed => return,
                End::Refused(failure) => {
                    // The agent may be gone already.
                    let _ = self.heard.send(FromMonitor::Refused(failure)).await;
                    return;
                }
                End::Lost { reason, was_up } => (reason, was_up),
            };
            if was_up {
                pause = RETRY_MIN;
                if self.heard.send(FromMonitor::Lost).await.is_err() {
                    return;
                }
            }
            if complained {
                tracing::debug!(reason, "the monitor is still unreachable");
            } else {
                complained = true;
                let monitor = self.endpoint.uri().to_string();
                tracing::warn!(monitor, reason, "the monitor is unreachable, trying on");
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn attend(&mut self, complained: &mut bool) -> End {
        let mut was_up = false;
        match self.stream(complained, &mut was_up).await {
            Ok(()) => End::Closed,
            Err(status) => match vigil_proto::refusal_of(&status) {
                Some(refusal) => End::Refused(refused(refusal)),
                None => End::Lost { reason: reason(&status), was_up },
            },
        }
    }

    /// One stream from hello to its end.
    async fn stream(&mut self, complained: &mut bool, was_up: &mut bool) -> Result<(), Status> {
        let endpoint = self.endpoint.clone().connect_timeout(CONNECT_WITHIN);
        let channel = endpoint.connect().await.map_err(|e| Status::unavailable(deepest(&e)))?;
        // Few: a report that waits is out of date, and the newest one is kept here.
        let (say, saying) = mpsc::channel::<pb::KeeperMessage>(2);
        let hello = KeeperMessage::Hello(Box::new(self.hello()));
        if say.send(hello.into()).await.is_err() {
            return Err(Status::unavailable("the stream ended at once"));
        }
        let welcome = open(channel, saying);
        let Ok(opened) = timeout(WELCOME_WITHIN, welcome).await else {
            return Err(Status::unavailable("no welcome within 5 s"));
        };
        let (node_id, mut hearing) = opened?;
        *was_up = true;
        if std::mem::take(complained) {
            tracing::info!(node_id = node_id.0, "the monitor is back");
        } else {
            tracing::info!(node_id = node_id.0, "welcomed by the monitor");
        }
        self.reports.mark_unchanged();
        if self.heard.send(FromMonitor::Welcomed(node_id)).await.is_err() {
            return Ok(());
        }
        self.converse(&say, &mut hearing).await
    }

    async fn converse(
        &mut self,
        say: &mpsc::Sender<pb::KeeperMessage>,
        hearing: &mut Streaming<pb::MonitorMessage>,
    ) -> Result<(), Status> {
        let mut counter = 0;
        let mut heard_at = Instant::now();
        loop {
            let silence = self.silence();
            tokio::select! {
                message = hearing.message() => {
                    let Some(message) = message? else {
                        return Err(Status::unavailable("the monitor closed the stream"));
                    };
                    heard_at = Instant::now();
                    let message = MonitorMessage::try_from(message).map_err(Status::from)?;
                    let heard = match message {
                        MonitorMessage::Order(order) => FromMonitor::Order(order),
                        MonitorMessage::Heard { counter: of } => {
                            let unsent = self.reports.has_changed().unwrap_or(false);
                            FromMonitor::Heard { newest: of == counter && !unsent }
                        }
                        MonitorMessage::Welcome(_) => continue,
                    };
                    if self.heard.send(heard).await.is_err() {
                        return Ok(());
                    }
                }
                changed = self.reports.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let report = self.reports.borrow_and_update().clone();
                    let Some(report) = report else { continue };
                    counter += 1;
                    let message = KeeperMessage::Report { counter, report };
                    // Bounded by the silence below: a full channel means that nothing gets out.
                    let sent = timeout(silence, say.send(message.into())).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        return Err(Status::unavailable("reports do not get out"));
                    }
                }
                () = tokio::time::sleep_until(heard_at + silence) => {
                    return Err(Status::unavailable(format!("nothing heard for {silence:?}")));
                }
            }
        }
    }

    /// Every report is answered: without any message for so long the stream is dead.
    fn silence(&self) -> Duration {
        let settings = self.record.borrow().settings;
        Duration::from_millis((3 * settings.heartbeat_interval_ms).max(1_000))
    }

    fn hello(&self) -> Hello {
        let record = self.record.borrow();
        let own = &self.introduction;
        Hello {
            formation: record.formation.clone(),
            group: record.group,
            name: record.name.clone(),
            host: own.host.clone(),
            port: own.port,
            candidate_priority: own.candidate_priority,
            replication_quorum: own.replication_quorum,
            node_id: record.node_id,
            system_id: record.system_id,
            promise: record.promise,
            rules_held: record.rules_held.clone(),
            // Settings of a node that was never told any are only our defaults.
            settings: Some(record.settings).filter(|_| record.node_id.is_some()),
            peers: record.peers.clone(),
            postgres_major: own.postgres_major,
        }
    }
}

/// Opens the stream and waits for the welcome.
async fn open(
    channel: Channel,
    saying: mpsc::Receiver<pb::KeeperMessage>,
) -> Result<(NodeId, Streaming<pb::MonitorMessage>), Status> {
    let mut client = KeepersClient::new(channel);
    let mut hearing = client.attend(ReceiverStream::new(saying)).await?.into_inner();
    let Some(first) = hearing.message().await? else {
        return Err(Status::unavailable("the monitor closed the stream before a welcome"));
    };
    match MonitorMessage::try_from(first).map_err(Status::from)? {
        MonitorMessage::Welcome(welcome) => Ok((welcome.node_id, hearing)),
        other => Err(Status::internal(format!("not a welcome: {other:?}"))),
    }
}

fn refused(refusal: Refusal) -> Failure {
    let message = format!("the monitor refuses this node: {}", refusal.message);
    let failure = match refusal.code {
        RefusalCode::BadValue | RefusalCode::NotFound => Failure::usage(message),
        RefusalCode::Refused => Failure::prerequisite(message),
    };
    Failure { hint: refusal.hint, ..failure }
}

fn reason(status: &Status) -> String {
    match status.code() {
        Code::Unavailable => status.message().to_owned(),
        code => format!("{}: {}", code.description(), status.message()),
    }
}

/// The innermost cause is the one that says something: "connection refused".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
