//! One task owns one group: it feeds the driver, makes its decisions durable, and only then tells
//! anybody. No decisions of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use vigil_core::command::Progress;
use vigil_core::driver::group::{GroupDriver, GroupInput, GroupOutput};
use vigil_core::group::{Group, Plan, Settings};
use vigil_core::ids::{GroupKey, NodeId};
use vigil_core::message::Hello;
use vigil_core::view::{Alert, GroupView};
use vigil_proto::{MonitorMessage, refusal_status};

use crate::mail::{MAILBOX, Posted};
use crate::metrics::Metrics;
use crate::node_ids::NodeIds;
use crate::store::{Change, Decisions, StoreError};
use crate::{changes, clock};

pub use crate::mail::{Declined, Mail, Mailbox, OUTBOX, Outbox};

/// A store that failed is left alone for so long at first; doubled each time.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The view is brought up to date at least so often.
const WAKE_MAX_MS: u64 = 1000;

/// A group that nobody is in goes after this time: a mistyped `--group` leaves nothing behind.
const EMPTY: Duration = Duration::from_secs(2);

/// What was read and is not decided yet, with the times at which it came, in milliseconds.
type Inputs = Vec<(GroupInput, u64)>;

/// Versions of records, as the store has them.
pub type Versions = HashMap<GroupKey, u64>;

/// Why a group's task has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// It was asked to.
    Stopped,
    /// Nobody is in the group.
    Empty,
}

/// What others can see of a group without asking its task.
#[derive(Clone, PartialEq, Debug)]
pub struct Published {
    pub view: GroupView,
    pub settings: Settings,
    /// Registered nodes, dropped ones included until they are gone.
    pub members: usize,
    /// Whose streams are up.
    pub connected: BTreeSet<NodeId>,
    /// Reports since the monitor started.
    pub heartbeats: BTreeMap<NodeId, u64>,
}

/// How to reach a group's task.
#[derive(Clone, Debug)]
pub struct GroupHandle {
    pub key: GroupKey,
    pub mailbox: Mailbox,
    pub published: watch::Receiver<Published>,
}

struct Stream {
    outbox: Outbox,
    /// Known once it was welcomed.
    node: Option<NodeId>,
}

/// What a task works with.
pub struct Surroundings<D> {
    pub store: D,
    pub ids: Arc<NodeIds>,
    pub metrics: Arc<Metrics>,
    /// Whether the store answers, as somebody else sees it.
    pub store_up: watch::Receiver<bool>,
    /// The version of each group's record as the store has it, looked at from time to time even when
    /// there is nothing to record: another monitor may have been started over it while this one
    /// slept. `None` until the first look.
    pub versions: watch::Receiver<Option<Arc<Versions>>>,
}

pub struct GroupTask<D> {
    around: Surroundings<D>,
    mailbox: mpsc::Receiver<Posted>,
    driver: GroupDriver,
    /// As the store has it.
    record: Group,
    streams: BTreeMap<u64, Stream>,
    heartbeats: BTreeMap<NodeId, u64>,
    replies: HashMap<u64, oneshot::Sender<Result<String, Declined>>>,
    watchers: HashMap<u64, mpsc::UnboundedSender<Progress>>,
    /// Streams that ended while something else was being done.
    ended: VecDeque<(u64, NodeId)>,
    trouble: Option<Trouble>,
    /// The outcome of a commit is not known: look before the next one.
    unsure: bool,
    published: watch::Sender<Published>,
}

/// Half of `pause` to all of it, differently for each group: they do not all come back at once.
fn spread(pause: Duration, key: &GroupKey, now: Instant) -> Duration {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    (key, now).hash(&mut hasher);
    let part = u32::try_from(hasher.finish() % 1000).unwrap_or(0);
    pause / 2 + pause / 2000 * part
}

/// The store did not take a decision.
struct Trouble {
    why: String,
    since: Instant,
    pause: Duration,
    until: Instant,
}

impl<D: Decisions> GroupTask<D> {
    /// `record` as the store has it; version 0 = not yet. `driver` was made from it.
    pub fn new(record: Group, driver: GroupDriver, around: Surroundings<D>) -> (GroupHandle, Self) {
        let (sender, mailbox) = Mailbox::new();
        let key = record.key.clone();
        let view = driver.view(clock::now(), &clock::text);
        let settings = record.settings;
        let (published, receiver) = watch::channel(Published {
            view,
            settings,
            members: record.members.len(),
            connected: BTreeSet::new(),
            heartbeats: BTreeMap::new(),
        });
        let task = GroupTask {
            around,
            mailbox,
            driver,
            record,
            streams: BTreeMap::new(),
            heartbeats: BTreeMap::new(),
            replies: HashMap::new(),
            watchers: HashMap::new(),
            ended: VecDeque::new(),
            trouble: None,
            unsure: false,
            published,
        };
        (GroupHandle { key, mailbox: sender, published: receiver }, task)
    }

    /// Until `stop`, or until nobody is in the group any more.
    pub async fn run(mut self, stop: CancellationToken) -> End {
        let mut ticked = false;
        let mut used = Instant::now();
        loop {
            if !self.record.members.is_empty() || !self.streams.is_empty() {
                used = Instant::now();
            } else if used.elapsed() > EMPTY {
                return End::Empty;
            }
            let wake = self.wake_in(ticked);
            ticked = false;
            tokio::select! {
                biased;
                () = stop.cancelled() => return End::Stopped,
                () = tokio::time::sleep(wake) => {
                    ticked = true;
                    self.recover().await;
                    self.read(None, Some(GroupInput::Tick)).await;
                }
                mail = self.mailbox.recv() => match mail {
                    Some(mail) => self.read(Some(mail), None).await,
                    None => return End::Stopped,
                },
                Ok(()) = self.around.store_up.changed() => {}
                Ok(()) = self.around.versions.changed() => self.compare().await,
            }
            while let Some((stream, node)) = self.ended.pop_front() {
                self.handle(GroupInput::Closed { stream, node }).await;
            }
            self.publish();
        }
    }

    fn wake_in(&self, ticked: bool) -> Duration {
        let wanted = self.driver.wake_in_ms(clock::now()).min(WAKE_MAX_MS);
        // A driver that wants another tick at once must not keep the task busy.
        let wanted = Duration::from_millis(wanted.max(u64::from(ticked)));
        match &self.trouble {
            Some(trouble) => wanted.max(trouble.until.saturating_duration_since(Instant::now())),
            None => wanted,
        }
    }

    /// Reads `first` and all mail that waits behind it, and decides once: by then everybody was
    /// heard who has said something.
    async fn read(&mut self, first: Option<Posted>, last: Option<GroupInput>) {
        let mut waiting: Vec<Posted> = first.into_iter().collect();
        while waiting.len() < MAILBOX
            && let Ok(more) = self.mailbox.try_recv()
        {
            waiting.push(more);
        }
        let mut inputs = Inputs::new();
        let mut requests = Vec::new();
        for Posted { mail, came_ms } in waiting {
            self.take(mail, came_ms, &mut inputs, &mut requests).await;
        }
        inputs.extend(last.map(|input| (input, clock::now().mono_ms)));
        self.handle_all(inputs).await;
        // What somebody asks for is answered by what was heard up to now.
        for request in requests {
            self.answer(request).await;
        }
    }

    /// Puts a piece of mail to the others that were read.
    async fn take(
        &mut self,
        mail: Mail,
        came_ms: u64,
        inputs: &mut Inputs,
        requests: &mut Vec<Mail>,
    ) {
        match mail {
            Mail::Hello { stream, hello, outbox } => {
                let fresh_id = self.fresh_id(&hello).await;
                self.streams.insert(stream, Stream { outbox, node: None });
                let hello = *hello;
                inputs.push((GroupInput::Hello { stream, hello, fresh_id }, came_ms));
            }
            Mail::Report { stream, report } => {
                // Not welcomed, or given up since.
                let Some(node) = self.streams.get(&stream).and_then(|s| s.node) else { return };
                *self.heartbeats.entry(node).or_default() += 1;
                inputs.push((GroupInput::Report { stream, node, report }, came_ms));
            }
            Mail::Closed { stream } => {
                // It has come and gone: nobody was greeted.
                inputs.retain(|(input, _)| {
                    !matches!(input, GroupInput::Hello { stream: s, .. } if *s == stream)
                });
                let Some(Stream { node: Some(node), .. }) = self.streams.remove(&stream) else {
                    return;
                };
                tracing::info!(
                    group = %self.record.key, node = self.record.name_of(node), "stream ended"
                );
                inputs.push((GroupInput::Closed { stream, node }, came_ms));
            }
            request @ (Mail::Check { .. } | Mail::Command { .. }) => requests.push(request),
        }
    }

    async fn answer(&mut self, request: Mail) {
        match request {
            Mail::Check { command, reply } => {
                // Whoever asked may have gone.
                let _ = reply.send(self.driver.check(&command, clock::now()));
            }
            Mail::Command { id, command, reply, progress } => {
                self.replies.insert(id, reply);
                self.watchers.insert(id, progress);
                self.handle(GroupInput::Command { id, command }).await;
            }
            Mail::Hello { .. } | Mail::Report { .. } | Mail::Closed { .. } => {}
        }
    }

    /// An id for a node that has none here yet.
    async fn fresh_id(&mut self, hello: &Hello) -> NodeId {
        let member = hello.node_id.and_then(|id| self.record.members.get(&id));
        if member.is_some_and(|member| member.name == hello.name) {
            return NodeIds::NONE;
        }
        match self.around.ids.take(&self.around.store).await {
            Ok(id) => id,
            Err(error) => {
                tracing::warn!(group = %self.record.key, %error, "no id for a new node");
                NodeIds::NONE
            }
        }
    }

    async fn handle(&mut self, input: GroupInput) {
        self.handle_all(vec![(input, clock::now().mono_ms)]).await;
    }

    /// Decide, record, act.
    async fn handle_all(&mut self, inputs: Inputs) {
        if inputs.is_empty() {
            return;
        }
        let fresh = |(input, _): &(GroupInput, u64)| match input {
            GroupInput::Hello { fresh_id, .. } => Some(*fresh_id),
            _ => None,
        };
        let fresh_ids: Vec<NodeId> = inputs.iter().filter_map(fresh).collect();
        self.drive(inputs).await;
        for id in &fresh_ids {
            if !self.record.members.contains_key(id) {
                self.around.ids.give_back(*id);
            }
        }
        if let Some(highest) = self.record.members.keys().max().filter(|_| !fresh_ids.is_empty()) {
            self.around.ids.is_taken(*highest);
        }
    }

    async fn drive(&mut self, inputs: Inputs) {
        let output = self.driver.handle_all(inputs, clock::now());
        if output.record.is_some() || !output.events.is_empty() {
            let started = clock::now();
            let recorded = self.record(&output).await;
            let now = clock::now();
            self.driver.waited(now.mono_ms.saturating_sub(started.mono_ms), now);
            if let Err(why) = recorded {
                self.driver.rollback();
                self.give_up(output, &why);
                return;
            }
            self.driver.committed();
            let plan = output.record.as_ref().map(|record| &record.plan);
            let new = plan.filter(|plan| **plan != self.record.plan).map(Plan::name);
            self.note(&output);
            if let Some(plan) = new {
                vigil_failpoint::hit("plan", plan, "").await;
            }
        }
        self.deliver(output);
    }

    /// Makes a decision durable, or tells why it was not.
    async fn record(&mut self, output: &GroupOutput) -> Result<(), String> {
        if let Some(trouble) = &self.trouble
            && Instant::now() < trouble.until
        {
            return Err(trouble.why.clone());
        }
        let record = output.record.as_deref();
        if record.is_some_and(|r| r.members.contains_key(&NodeIds::NONE)) {
            return Err("the monitor's Postgres gave no id for a new node".to_owned());
        }
        let mut began_anew = true;
        let result = match self.settle().await {
            Ok(()) => {
                began_anew = false;
                let key = self.record.key.clone();
                let from_version = self.record.version;
                let change = Change { key: &key, from_version, record, events: &output.events };
                let started = Instant::now();
                let result = self.around.store.commit(change).await;
                self.around.metrics.commit(started.elapsed(), result.is_ok());
                result
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => {
                self.trouble_is_over();
                Ok(())
            }
            // Begun anew just now: there is no trouble any more.
            Err(StoreError::Stale) if !self.unsure && began_anew => {
                Err("the monitor's Postgres was away; ask again".to_owned())
            }
            Err(error) => {
                self.unsure |= !matches!(error, StoreError::Broken(_));
                Err(self.fail(&error))
            }
        }
    }

    /// Before a commit: when the outcome of an earlier one is not known, the store is asked.
    async fn settle(&mut self) -> Result<(), StoreError> {
        if !self.unsure {
            return Ok(());
        }
        let stored = self.around.store.load(&self.record.key).await?;
        self.unsure = false;
        let stored = match stored {
            None if self.record.version != 0 => {
                self.unsure = true;
                return Err(StoreError::Broken("the group's record is gone".to_owned()));
            }
            None => self.record.clone(),
            Some(stored) => stored,
        };
        if stored.version == self.record.version {
            return Ok(());
        }
        self.restart_from(stored);
        // What was to be committed was made before.
        Err(StoreError::Stale)
    }

    /// After a commit that failed: there may be nothing to commit for a long time, so the store is
    /// asked by itself.
    async fn recover(&mut self) {
        if self.trouble.as_ref().is_none_or(|t| Instant::now() < t.until) {
            return;
        }
        self.unsure = true;
        let asked = match self.settle().await {
            Ok(()) => Ok(()),
            // Begun anew just now.
            Err(StoreError::Stale) if !self.unsure => return,
            Err(error) => Err(error),
        };
        match asked {
            Ok(()) => self.trouble_is_over(),
            Err(error) => _ = self.fail(&error),
        }
    }

    /// Whether the store has what was written last.
    async fn compare(&mut self) {
        let stored = match &*self.around.versions.borrow_and_update() {
            Some(versions) => versions.get(&self.record.key).copied().unwrap_or(0),
            None => return,
        };
        if self.trouble.is_some() || stored == self.record.version {
            return;
        }
        // The look may be older than the last commit; asked by itself it is not.
        self.unsure = true;
        if let Err(error) = self.settle().await
            && self.unsure
        {
            self.fail(&error);
        }
    }

    fn trouble_is_over(&mut self) {
        if let Some(trouble) = self.trouble.take() {
            tracing::info!(
                group = %self.record.key, was = trouble.why, "decisions are recorded again"
            );
        }
    }

    /// Begins anew, as after a restart of the monitor: keepers come again.
    fn restart_from(&mut self, stored: Group) {
        tracing::warn!(
            group = %stored.key,
            expected = self.record.version,
            stored = stored.version,
            "the store was away or has another record than expected; listening anew"
        );
        self.trouble = None;
        self.streams.clear();
        self.watchers.clear();
        self.ended.clear();
        self.driver = GroupDriver::new(stored.clone(), clock::now());
        self.record = stored;
    }

    fn fail(&mut self, error: &StoreError) -> String {
        let why = error.to_string();
        let now = Instant::now();
        if self.trouble.is_none() {
            tracing::warn!(
                group = %self.record.key, %error, "a decision could not be recorded; trying on"
            );
        }
        let (since, pause) =
            self.trouble.as_ref().map_or((now, PAUSE), |t| (t.since, (t.pause * 2).min(PAUSE_MAX)));
        let until = now + spread(pause, &self.record.key, now);
        self.trouble = Some(Trouble { why: why.clone(), since, pause, until });
        why
    }

    /// Nothing of `output` took place.
    fn give_up(&mut self, output: GroupOutput, why: &str) {
        // To the driver these streams never were.
        for (stream, _) in output.welcomes {
            if let Some(stream) = self.streams.remove(&stream) {
                let text = format!("nothing can be recorded at the moment: {why}");
                stream.outbox.send(Err(Status::unavailable(text)));
            }
        }
        for (id, _) in output.replies {
            self.watchers.remove(&id);
            if let Some(reply) = self.replies.remove(&id) {
                let _ = reply.send(Err(Declined::Unavailable(why.to_owned())));
            }
        }
    }

    /// After a commit: the log, the counters, the record.
    fn note(&mut self, output: &GroupOutput) {
        let key = &self.record.key;
        for event in &output.events {
            self.around.metrics.event(key, event, clock::now().wall_ms);
            tracing::info!(
                formation = key.formation,
                group = key.group,
                epoch = event.epoch.0,
                kind = event.kind.as_str(),
                node = event.nodename,
                cause = event.cause,
                "{}",
                event.description
            );
        }
        if let Some(record) = &output.record {
            changes::log(&self.record, record);
            self.record = (**record).clone();
        }
    }

    fn deliver(&mut self, output: GroupOutput) {
        for (stream, welcome) in output.welcomes {
            match welcome {
                Ok(welcome) => {
                    let node = welcome.node_id;
                    // A node speaks over its newest stream only.
                    self.streams.retain(|id, s| *id == stream || s.node != Some(node));
                    if let Some(known) = self.streams.get_mut(&stream) {
                        known.node = Some(node);
                    }
                    tracing::info!(
                        group = %self.record.key, node = self.record.name_of(node), "stream is up"
                    );
                    self.send(stream, MonitorMessage::Welcome(welcome));
                }
                Err(refusal) => {
                    tracing::warn!(group = %self.record.key, %refusal, "a keeper was refused");
                    if let Some(stream) = self.streams.remove(&stream) {
                        stream.outbox.send(Err(refusal_status(refusal)));
                    }
                }
            }
        }
        for (stream, _, order) in output.orders {
            self.send(stream, MonitorMessage::Order(Box::new(order)));
        }
        for (id, reply) in output.replies {
            if reply.is_err() {
                self.watchers.remove(&id);
            }
            if let Some(sender) = self.replies.remove(&id) {
                // Whoever asked may be gone: the command was taken all the same.
                let _ = sender.send(reply.map_err(Declined::Refused));
            }
        }
        for (id, progress) in output.progress {
            let last = progress.is_last();
            if let Some(watcher) = self.watchers.get(&id) {
                let _ = watcher.send(progress);
            }
            if last {
                self.watchers.remove(&id);
            }
        }
        self.watchers.retain(|_, watcher| !watcher.is_closed());
    }

    fn send(&mut self, id: u64, message: MonitorMessage) {
        let Some(stream) = self.streams.get(&id) else { return };
        if stream.outbox.send(Ok(message)) {
            return;
        }
        if let Some(Stream { node: Some(node), .. }) = self.streams.remove(&id) {
            self.ended.push_back((id, node));
        }
    }

    fn publish(&self) {
        let mut view = self.driver.view(clock::now(), &clock::text);
        let why = match &self.trouble {
            Some(trouble) => Some(trouble.why.as_str()),
            None if !*self.around.store_up.borrow() => Some("the monitor's Postgres is down"),
            None => None,
        };
        if let Some(why) = why {
            view.alerts.push(Alert {
                code: "store_unavailable".to_owned(),
                text: format!("no decision can be recorded, the present primary goes on: {why}"),
            });
        }
        let connected = self.streams.values().filter_map(|s| s.node).collect();
        let mut heartbeats = self.heartbeats.clone();
        heartbeats.retain(|node, _| self.record.members.contains_key(node));
        let new = Published {
            view,
            settings: self.record.settings,
            members: self.record.members.len(),
            connected,
            heartbeats,
        };
        self.published.send_if_modified(|old| {
            if *old == new {
                return false;
            }
            changes::log_health(&old.view, &new.view);
            *old = new;
            true
        });
    }
}
