//! A monitor that keeps its record in memory: it runs the same driver as the real one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use vigil_core::command::Command;
use vigil_core::driver::group::{GroupDriver, GroupInput, GroupOutput};
use vigil_core::group::{Group, Settings};
use vigil_core::ids::{GroupKey, NodeId, Now};
use vigil_core::view::GroupView;
use vigil_keeper::clock::Clock;
use vigil_proto::{KeeperMessage, MonitorMessage, pb, refusal_status};

type Outbox = mpsc::Sender<Result<pb::MonitorMessage, Status>>;

/// The monitor.
pub(crate) struct Memory {
    clock: Clock,
    inner: Mutex<Inner>,
    next_stream: AtomicU64,
    next_id: AtomicI64,
    /// Changes when all streams are lost; who is busy just then sees it afterwards.
    stopped: watch::Sender<()>,
}

struct Inner {
    driver: GroupDriver,
    outboxes: HashMap<u64, Outbox>,
    streams: HashMap<u64, NodeId>,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        let clock = Clock::new();
        let key = GroupKey { formation: "default".into(), group: 0 };
        let group = Group::new(key, Settings::default(), "se'cret".to_owned());
        let driver = GroupDriver::new(group, clock.now());
        let inner = Inner { driver, outboxes: HashMap::new(), streams: HashMap::new() };
        let inner = Mutex::new(inner);
        let (next_stream, next_id) = (AtomicU64::new(1), AtomicI64::new(1));
        Arc::new(Memory { clock, inner, next_stream, next_id, stopped: watch::Sender::new(()) })
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

    pub(crate) async fn command(&self, command: Command) {
        let out = self.input(GroupInput::Command { id: 1, command }).await;
        for (_, reply) in out.replies {
            eprintln!("reply: {reply:?}");
            reply.unwrap();
        }
    }

    pub(crate) async fn view(&self) -> GroupView {
        let inner = self.inner.lock().await;
        inner.driver.view(self.now(), &|ms: i64| ms.to_string())
    }

    /// Whether every member is counted, and no older sync rule is in flight any more.
    pub(crate) async fn has_settled(&self) -> bool {
        let inner = self.inner.lock().await;
        let group = inner.driver.group();
        let counted = group.rule().map_or(0, |rule| rule.members.len());
        group.is_covered() && counted + 1 == group.members.len()
    }

    /// All streams are lost.
    pub(crate) fn close_all(&self) {
        self.stopped.send_replace(());
    }

    pub(crate) async fn tick(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            self.input(GroupInput::Tick).await;
        }
    }
}

pub(crate) struct Server(pub(crate) Arc<Memory>);

#[tonic::async_trait]
impl pb::keepers_server::Keepers for Server {
    type AttendStream = ReceiverStream<Result<pb::MonitorMessage, Status>>;

    async fn attend(
        &self,
        request: Request<Streaming<pb::KeeperMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let memory = Arc::clone(&self.0);
        let (outbox, answers) = mpsc::channel(256);
        let mut stopped = memory.stopped.subscribe();
        tokio::spawn(async move {
            let stream = memory.next_stream.fetch_add(1, Ordering::Relaxed);
            memory.inner.lock().await.outboxes.insert(stream, outbox.clone());
            let mut inbound = request.into_inner();
            loop {
                let next = tokio::select! {
                    next = inbound.next() => next,
                    _ = stopped.changed() => break,
                };
                let Some(Ok(message)) = next else { break };
                let input = match KeeperMessage::try_from(message).unwrap() {
                    KeeperMessage::Hello(hello) => {
                        let fresh_id = NodeId(memory.next_id.fetch_add(1, Ordering::Relaxed));
                        GroupInput::Hello { stream, hello: *hello, fresh_id }
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
