//! What a group's task does when its store does not do its part.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use vigil_core::command::Command;
use vigil_core::driver::group::GroupDriver;
use vigil_core::group::{Group, Settings};
use vigil_core::ids::{GroupKey, NodeId};
use vigil_monitor::clock;
use vigil_monitor::group_task::{Declined, GroupHandle, GroupTask, Mail, Outbox, Surroundings};
use vigil_monitor::metrics::Metrics;
use vigil_monitor::node_ids::NodeIds;
use vigil_proto::MonitorMessage;

use crate::harness::{LONG, eventually, hello, report};
use crate::memory::{Fault, MemStore};

struct Rig {
    store: MemStore,
    group: GroupHandle,
    numbers: u64,
    _stop: tokio_util::sync::DropGuard,
    _store_up: watch::Sender<bool>,
}

type Answers = mpsc::Receiver<Result<MonitorMessage, Status>>;

impl Rig {
    fn new() -> Self {
        let store = MemStore::default();
        let key = GroupKey { formation: "default".to_owned(), group: 0 };
        let (store_up, is_up) = watch::channel(true);
        let around = Surroundings {
            store: store.clone(),
            ids: Arc::new(NodeIds::default()),
            metrics: Arc::new(Metrics::new().unwrap()),
            store_up: is_up,
            versions: watch::Sender::new(None).subscribe(),
        };
        let group = Group::new(key, Settings::default(), "secret".to_owned());
        let driver = GroupDriver::new(group.clone(), clock::now());
        let (group, task) = GroupTask::new(group, driver, around);
        let stop = CancellationToken::new();
        tokio::spawn(task.run(stop.clone()));
        Rig { store, group, numbers: 0, _stop: stop.drop_guard(), _store_up: store_up }
    }

    async fn hello(&mut self, name: &str, node: Option<NodeId>) -> (u64, Answers) {
        self.numbers += 1;
        let (sender, answers) = mpsc::channel(16);
        let outbox = Outbox::new(sender, CancellationToken::new());
        let hello = Box::new(hello(name, node));
        let mail = Mail::Hello { stream: self.numbers, hello, outbox };
        self.group.mailbox.send(mail).await.unwrap();
        (self.numbers, answers)
    }

    async fn command(&mut self, command: Command) -> Result<String, Declined> {
        self.numbers += 1;
        let (reply, answer) = oneshot::channel();
        let (progress, _) = mpsc::unbounded_channel();
        let mail = Mail::Command { id: self.numbers, command, reply, progress };
        self.group.mailbox.send(mail).await.unwrap();
        tokio::time::timeout(LONG, answer).await.unwrap().unwrap()
    }

    fn has_alert(&self) -> bool {
        let published = self.group.published.borrow();
        published.view.alerts.iter().any(|a| a.code == "store_unavailable")
    }
}

async fn next(answers: &mut Answers) -> Result<MonitorMessage, Status> {
    tokio::time::timeout(LONG, answers.recv()).await.unwrap().expect("the stream goes on")
}

async fn welcome(answers: &mut Answers) -> NodeId {
    match next(answers).await.unwrap() {
        MonitorMessage::Welcome(welcome) => welcome.node_id,
        other => panic!("{other:?}"),
    }
}

async fn ended(mut answers: Answers) {
    let drained = async { while answers.recv().await.is_some() {} };
    tokio::time::timeout(LONG, drained).await.unwrap();
}

const SET: Command = Command::SetSettings {
    number_sync_standbys: None,
    heartbeat_interval_ms: Some(500),
    heartbeat_misses: None,
};

#[tokio::test]
async fn a_node_is_welcomed_once_it_is_recorded() {
    let mut rig = Rig::new();
    let (_, mut answers) = rig.hello("n1", None).await;
    let id = welcome(&mut answers).await;
    assert_eq!(rig.store.record().unwrap().members[&id].name, "n1");
    eventually("published", async || rig.group.published.borrow().connected.contains(&id)).await;
    let published = rig.group.published.borrow();
    assert_eq!(published.view.nodes[0].nodename, "n1");
}

#[tokio::test]
async fn reports_do_not_touch_the_store() {
    let mut rig = Rig::new();
    let (stream, mut answers) = rig.hello("n1", None).await;
    let id = welcome(&mut answers).await;
    let post = async |rig: &Rig, n: u64| {
        let before = rig.group.published.borrow().heartbeats.get(&id).copied().unwrap_or(0);
        for _ in 0..n {
            let mail = Mail::Report { stream, report: Box::new(report()) };
            rig.group.mailbox.send(mail).await.unwrap();
        }
        eventually("heard", async || {
            rig.group.published.borrow().heartbeats.get(&id) == Some(&(before + n))
        })
        .await;
    };
    // The first ones may lead to decisions.
    post(&rig, 3).await;
    let commits = rig.store.commits();
    post(&rig, 200).await;
    assert_eq!(rig.store.commits(), commits);
}

#[tokio::test]
async fn what_is_not_recorded_did_not_happen() {
    let mut rig = Rig::new();
    rig.store.set(Fault::Down);
    let (_, mut answers) = rig.hello("n1", None).await;
    assert_eq!(next(&mut answers).await.unwrap_err().code(), Code::Unavailable);
    assert!(matches!(rig.command(SET).await, Err(Declined::Unavailable(_))));
    assert!(rig.store.record().is_none());
    eventually("an alert", async || rig.has_alert()).await;
    assert!(rig.group.published.borrow().view.nodes.is_empty(), "nobody joined");
    assert_eq!(rig.group.published.borrow().settings, Settings::default());

    rig.store.set(Fault::None);
    eventually("no alert", async || !rig.has_alert()).await;
    let (_, mut answers) = rig.hello("n1", None).await;
    assert_eq!(welcome(&mut answers).await, NodeId(1), "ids are not used up");
    rig.command(SET).await.unwrap();
    assert_eq!(rig.store.record().unwrap().settings.heartbeat_interval_ms, 500);
}

#[tokio::test]
async fn a_known_node_comes_back_while_the_store_is_away() {
    let mut rig = Rig::new();
    let (_, mut answers) = rig.hello("n1", None).await;
    let id = welcome(&mut answers).await;
    eventually("nothing left to record", async || {
        let before = rig.store.commits();
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        rig.store.commits() == before
    })
    .await;
    rig.store.set(Fault::Down);
    let (_, mut again) = rig.hello("n1", Some(id)).await;
    assert_eq!(welcome(&mut again).await, id);
    ended(answers).await;
}

#[tokio::test]
async fn when_the_answer_is_lost_the_store_is_asked_what_it_has() {
    let mut rig = Rig::new();
    let (_, mut answers) = rig.hello("n1", None).await;
    let id = welcome(&mut answers).await;
    rig.store.set(Fault::AnswerLost);
    assert!(matches!(rig.command(SET).await, Err(Declined::Unavailable(_))));
    rig.store.set(Fault::None);
    // The change is in the store: it counts, and keepers come again.
    eventually("the stored record", async || {
        rig.group.published.borrow().settings.heartbeat_interval_ms == 500
    })
    .await;
    ended(answers).await;
    let (_, mut again) = rig.hello("n1", Some(id)).await;
    assert_eq!(welcome(&mut again).await, id);
}
