//! The one loop: it hands everything that happens to the [`NodeDriver`] and does what that says,
//! in its order. It decides nothing itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use vigil_core::driver::node::{NodeDriver, NodeInput, NodeOutput};
use vigil_core::ids::RuleId;
use vigil_core::message::{Goal, NotLetIn, Order, Report, Trouble};
use vigil_core::node::observed::{Observed, ServerView, UpView};
use vigil_core::node::record::NodeRecord;
use vigil_core::node::step::{FailureKind, Step, StepDone, StepFailure};
use vigil_daemon::Failure;

use crate::chores;
use crate::clock::{Clock, ms};
use crate::execute::Executor;
use crate::failure;
use crate::link::FromMonitor;
use crate::local::Local;
use crate::metrics;
use crate::observer::{Look, NotSeen};
use crate::pace::Pace;
use crate::status::Status;
use crate::troubles::Exits;

const TICK: Duration = Duration::from_millis(50);
const CHORES_EVERY: Duration = Duration::from_secs(1);
/// A step that failed so often in a row needs a human.
const FAILURES_FOR_HUMANS: u32 = 10;
/// A step that failed so often in a row is nothing new.
const FAILURES_AS_USUAL: u32 = 4;
/// A stop that was asked for waits so long for a step that could be broken off.
const LEAVE_PATIENCE: Duration = Duration::from_secs(3);
/// The last report gets out within this time, or not at all.
const FAREWELL: Duration = Duration::from_secs(1);

/// The loop's ends of all channels.
pub struct Channels {
    pub record: watch::Sender<Arc<NodeRecord>>,
    pub reports: watch::Sender<Option<Box<Report>>>,
    pub from_monitor: mpsc::Receiver<FromMonitor>,
    pub wanted: watch::Sender<u64>,
    pub looks: mpsc::Receiver<Look>,
    pub status: watch::Sender<Arc<Status>>,
    /// Every message is one request to stop; the second one means at once.
    pub shutdown: mpsc::Receiver<()>,
}

pub struct Agent {
    driver: NodeDriver,
    clock: Clock,
    local: Arc<Local>,
    channels: Channels,
    running: Option<Running>,
    chores: Option<JoinHandle<()>>,
    chores_due: Instant,
    pace: Pace,
    /// Looks that began before this wish are of no use: a step has ended since.
    needed: u64,
    seen: Option<Observed>,
    looked_at: Option<Instant>,
    /// When a look was last refused, since the newest one that was not.
    not_let_in: Option<(Instant, NotLetIn)>,
    exits: Exits,
    troubles: Vec<Trouble>,
    untold_troubles: Option<Vec<Trouble>>,
    streamed_at: Option<Instant>,
    in_force: Option<RuleId>,
    connected: bool,
    failures: Option<(&'static str, u32)>,
    /// The last save failed.
    unsaved: bool,
    asked_to_stop: Option<Instant>,
    leaving: bool,
}

struct Running {
    id: u64,
    step: Step,
    began: Instant,
    task: JoinHandle<anyhow::Result<StepDone>>,
}

/// What the loop waits for.
enum Event {
    Stop,
    StepEnded(Result<anyhow::Result<StepDone>, tokio::task::JoinError>),
    Monitor(Option<FromMonitor>),
    Look(Option<Look>),
    Time,
}

impl Agent {
    pub fn new(record: NodeRecord, local: Arc<Local>, channels: Channels) -> Self {
        let clock = Clock::new();
        Agent {
            driver: NodeDriver::new(record, clock.now()),
            clock,
            local,
            channels,
            running: None,
            chores: None,
            chores_due: Instant::now(),
            pace: Pace::new(),
            needed: 0,
            seen: None,
            looked_at: None,
            not_let_in: None,
            exits: Exits::default(),
            troubles: Vec::new(),
            untold_troubles: None,
            streamed_at: None,
            in_force: None,
            connected: false,
            failures: None,
            unsaved: false,
            asked_to_stop: None,
            leaving: false,
        }
    }

    /// Until the node was stopped as asked, was dropped, or cannot go on.
    ///
    /// # Errors
    /// The monitor refuses this node.
    pub async fn run(mut self) -> Result<(), Failure> {
        self.want_look();
        loop {
            let event = self.next_event().await;
            let input = match event {
                Event::Stop if self.asked_to_stop.is_none() => {
                    tracing::info!("asked to stop");
                    self.asked_to_stop = Some(Instant::now());
                    self.leaving = true;
                    NodeInput::Leave
                }
                Event::Stop => return self.stop_at_once().await,
                Event::StepEnded(ended) => match self.step_ended(ended) {
                    Some(input) => input,
                    None => continue,
                },
                Event::Monitor(None) => {
                    return Err(Failure::unexpected("the link to the monitor has ended"));
                }
                Event::Monitor(Some(FromMonitor::Refused(failure))) => return Err(failure),
                Event::Monitor(Some(message)) => self.message(message),
                Event::Look(None) => {
                    return Err(Failure::unexpected("the observer has ended"));
                }
                Event::Look(Some(look)) => {
                    self.note_troubles(&look);
                    match self.look(look) {
                        Some(input) => input,
                        None => continue,
                    }
                }
                Event::Time => {
                    self.on_time();
                    NodeInput::Tick
                }
            };
            let mut exit = self.give(input).await;
            if let Some(troubles) = self.untold_troubles.take() {
                exit |= self.give(NodeInput::Troubles(troubles)).await;
            }
            for (kind, text) in self.local.take_notices() {
                exit |= self.give(NodeInput::Notice { kind, text }).await;
            }
            if exit {
                return self.farewell().await;
            }
            self.publish();
        }
    }

    async fn next_event(&mut self) -> Event {
        let ended = async {
            match &mut self.running {
                Some(running) => (&mut running.task).await,
                None => std::future::pending().await,
            }
        };
        let wake_at = Instant::now() + self.pace.wake_in().min(TICK);
        tokio::select! {
            biased;
            stop = self.channels.shutdown.recv() => match stop {
                Some(()) => Event::Stop,
                // Whoever could ask is gone: for a test, as good as asking.
                None if self.asked_to_stop.is_none() => Event::Stop,
                None => { tokio::time::sleep(TICK).await; Event::Time }
            },
            ended = ended => Event::StepEnded(ended),
            message = self.channels.from_monitor.recv() => Event::Monitor(message),
            look = self.channels.looks.recv() => Event::Look(look),
            () = tokio::time::sleep_until(wake_at.into()) => Event::Time,
        }
    }

    fn message(&mut self, message: FromMonitor) -> NodeInput {
        match message {
            FromMonitor::Welcomed(node_id) => {
                self.connected = true;
                NodeInput::Welcomed { node_id }
            }
            FromMonitor::Order(order) => {
                self.log_order(&order);
                NodeInput::Order(*order)
            }
            FromMonitor::Heard { .. } => NodeInput::Heard,
            FromMonitor::Lost | FromMonitor::Refused(_) => {
                self.connected = false;
                NodeInput::StreamLost
            }
        }
    }

    fn log_order(&mut self, order: &Order) {
        let record = self.driver.record();
        if !record.accepts(order) {
            tracing::warn!(
                epoch = order.epoch.0,
                seq = order.seq,
                promise = record.promise.0,
                taken = record.order_seq,
                "refused an order that is out of date"
            );
            return;
        }
        let word = goal_word(&order.goal);
        let is_new = self.driver.order().is_none_or(|old| {
            (old.epoch, old.goal_state, goal_word(&old.goal))
                != (order.epoch, order.goal_state, word)
        });
        let (epoch, seq) = (order.epoch.0, order.seq);
        if is_new {
            tracing::info!(epoch, seq, goal = %order.goal_state, order = word, "order");
        } else {
            tracing::debug!(epoch, seq, goal = %order.goal_state, order = word, "order, as before");
        }
        if self.driver.order().is_none_or(|old| old.goal != order.goal) {
            self.pace.news();
        }
    }

    /// Told to the driver with the next thing that happens.
    fn note_troubles(&mut self, look: &Look) {
        let mut troubles = look.troubles.clone();
        troubles.extend(self.exits.trouble(&self.local));
        if troubles == self.troubles {
            return;
        }
        for trouble in troubles.iter().filter(|t| !self.troubles.contains(t)) {
            let (kind, place) = (trouble.kind, trouble.place.as_deref().unwrap_or("-"));
            tracing::warn!(?kind, place, text = trouble.text, "something is wrong here");
        }
        self.troubles.clone_from(&troubles);
        self.untold_troubles = Some(troubles);
    }

    fn look(&mut self, look: Look) -> Option<NodeInput> {
        if look.began < self.needed {
            self.pace.looked();
            return None;
        }
        let seen = match look.seen {
            Ok(seen) => seen,
            // The next one is not hurried: a refusal costs the server a process.
            Err(NotSeen { why, data, standby }) => {
                self.not_let_in = Some((Instant::now(), why.clone()));
                if data.is_some() {
                    self.seen = None;
                }
                return Some(NodeInput::NotSeen { why, data, standby });
            }
        };
        self.pace.looked();
        self.not_let_in = None;
        self.exits.look(&seen.server);
        self.pace.compare(self.seen.as_ref(), &seen);
        self.looked_at = Some(Instant::now());
        match &seen.server {
            ServerView::Up(up) => {
                if up.in_recovery {
                    self.in_force = None;
                }
                if up.streaming {
                    self.streamed_at = self.looked_at;
                }
            }
            ServerView::Hung => {}
            ServerView::Down | ServerView::Orphans | ServerView::Starting => self.in_force = None,
        }
        self.seen = Some(seen.clone());
        Some(NodeInput::Observed(seen))
    }

    fn step_ended(
        &mut self,
        ended: Result<anyhow::Result<StepDone>, tokio::task::JoinError>,
    ) -> Option<NodeInput> {
        let running = self.running.take()?;
        let took = running.began.elapsed();
        let name = running.step.name();
        let result = match ended {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(failure::of(&error)),
            Err(join) if join.is_cancelled() => {
                Err(StepFailure::new(FailureKind::BrokenOff, "broken off"))
            }
            Err(join) => Err(StepFailure::new(FailureKind::Panicked, format!("panicked: {join}"))),
        };
        metrics::step_ended(name, took, result.is_ok());
        let ms = ms(took);
        match &result {
            Ok(done) => {
                self.failures = None;
                if name.starts_with("start") {
                    self.exits.starts();
                }
                if let StepDone::InForce { rule, .. } = done {
                    self.in_force = Some(*rule);
                }
                tracing::info!(step = name, ms, "step done");
            }
            Err(failure) if failure.kind == FailureKind::BrokenOff => {
                tracing::info!(step = name, ms, "step broken off");
            }
            Err(failure) => self.log_failure(name, ms, &failure.text),
        }
        self.news_unless_failing();
        self.needed = *self.channels.wanted.borrow() + 1;
        Some(NodeInput::StepEnded { id: running.id, result })
    }

    fn log_failure(&mut self, step: &'static str, ms: u64, error: &str) {
        let count = match self.failures {
            Some((failing, count)) if failing == step => count + 1,
            _ => 1,
        };
        self.failures = Some((step, count));
        if count == FAILURES_FOR_HUMANS {
            tracing::error!(step, ms, count, error, "a step keeps failing");
        } else {
            tracing::warn!(step, ms, count, error, "step failed");
        }
    }

    fn on_time(&mut self) {
        if self.pace.is_look_due() {
            self.want_look();
        }
        if let (Some(since), Some(running)) = (self.asked_to_stop, &self.running)
            && since.elapsed() > LEAVE_PATIENCE
            && running.step.can_be_cancelled()
        {
            running.task.abort();
        }
        self.start_chores();
    }

    fn want_look(&mut self) {
        self.pace.asked();
        self.channels.wanted.send_modify(|wanted| *wanted += 1);
    }

    fn start_chores(&mut self) {
        let up = matches!(self.seen.as_ref().map(|s| &s.server), Some(ServerView::Up(_)));
        let record = self.driver.record();
        let idle =
            self.running.is_none() && self.chores.as_ref().is_none_or(JoinHandle::is_finished);
        if !up || !idle || record.node_id.is_none() || record.replacing.is_some() {
            return;
        }
        let foreign = |up: &UpView| up.foreign_conf;
        if matches!(self.seen.as_ref().map(|s| &s.server), Some(ServerView::Up(up)) if foreign(up))
        {
            // Nothing of ours has an effect there before it is started by us.
            return;
        }
        if Instant::now() < self.chores_due || self.driver.order().is_none() {
            return;
        }
        self.chores_due = Instant::now() + CHORES_EVERY;
        let round = chores::round(Arc::clone(&self.local), Arc::new(record.clone()));
        self.chores = Some(tokio::spawn(round));
    }

    /// Hands one input to the driver and does what it says. Whether nothing is left to do.
    async fn give(&mut self, input: NodeInput) -> bool {
        let outputs = self.driver.handle(input, self.clock.now());
        match self.carry_out(outputs).await {
            Ok(exit) => exit,
            Err(reason) => {
                let input = NodeInput::NotSaved { reason };
                let outputs = self.driver.handle(input, self.clock.now());
                // They save nothing.
                self.carry_out(outputs).await.unwrap_or(false)
            }
        }
    }

    /// Up to the first save that fails: then why. Nothing behind it may run ahead of the disk.
    async fn carry_out(&mut self, outputs: Vec<NodeOutput>) -> Result<bool, String> {
        let mut exit = false;
        for output in outputs {
            match output {
                NodeOutput::Save(record) => self.save(record).await?,
                NodeOutput::Run { id, step } => self.start(id, step),
                NodeOutput::Cancel { id } => {
                    if let Some(running) = self.running.as_ref().filter(|r| r.id == id) {
                        running.task.abort();
                    }
                }
                NodeOutput::Send(report) => _ = self.channels.reports.send_replace(Some(report)),
                NodeOutput::Look => self.want_look(),
                NodeOutput::Exit => exit = true,
            }
        }
        Ok(exit)
    }

    /// Durable when it returns.
    async fn save(&mut self, record: Box<NodeRecord>) -> Result<(), String> {
        let (local, to_save) = (Arc::clone(&self.local), record.clone());
        let saved = tokio::task::spawn_blocking(move || local.state.save_record(&to_save)).await;
        let error = match saved {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(join) => Some(join.to_string()),
        };
        if let Some(error) = error {
            if !std::mem::replace(&mut self.unsaved, true) {
                tracing::error!(error, "cannot save the state: promising nothing until it works");
            }
            return Err(error);
        }
        if std::mem::take(&mut self.unsaved) {
            tracing::info!("the state can be saved again");
        }
        let peers_changed = self.channels.record.borrow().peers != record.peers;
        if peers_changed {
            self.chores_due = Instant::now();
        }
        self.channels.record.send_replace(Arc::from(record));
        Ok(())
    }

    fn start(&mut self, id: u64, step: Step) {
        if let Some(chores) = self.chores.take() {
            chores.abort();
        }
        if matches!(step, Step::Stop { .. }) && !self.connected && !self.leaving {
            tracing::warn!(
                "stopping Postgres: neither the monitor nor enough standbys can be heard, \
                 so another primary may be elected"
            );
        }
        tracing::debug!(step = step.name(), ?step, "step begins");
        let executor = Executor {
            local: Arc::clone(&self.local),
            record: Arc::new(self.driver.record().clone()),
            order: self.driver.order().cloned(),
        };
        if matches!(step, Step::Stop { .. } | Step::Kill | Step::Clone { .. } | Step::Rewind { .. })
        {
            self.exits.is_ended();
        }
        let to_run = step.clone();
        let task = tokio::spawn(async move {
            vigil_failpoint::hit("step", to_run.name(), "").await;
            let done = executor.run(&to_run).await;
            vigil_failpoint::hit("step", to_run.name(), "_done").await;
            done
        });
        self.running = Some(Running { id, step, began: Instant::now(), task });
        self.news_unless_failing();
    }

    /// One more attempt at what keeps failing is no reason to look more often.
    fn news_unless_failing(&mut self) {
        if self.failures.is_none_or(|(_, count)| count < FAILURES_AS_USUAL) {
            self.pace.news();
        }
    }

    fn publish(&mut self) {
        self.pace.plan(
            self.driver.look_in_ms(),
            self.running.as_ref().map(|running| running.began.elapsed()),
        );
        self.channels.status.send_replace(Arc::new(Status {
            record: self.driver.record().clone(),
            order: self.driver.order().cloned(),
            seen: self.seen.clone(),
            in_force: self.in_force,
            step: self.running.as_ref().map(|running| running.step.name()),
            monitor_connected: self.connected,
            leaving: self.leaving,
            looked_at: self.looked_at,
            not_let_in: self.not_let_in.clone(),
            streamed_at: self.streamed_at,
            slots: self.local.slots(),
            turned_at: Instant::now(),
        }));
    }

    /// Stopped as asked, or dropped.
    async fn farewell(&mut self) -> Result<(), Failure> {
        if self.connected {
            // That it has stopped decides what the monitor does next; without it a node that was
            // dropped stays in the record.
            let _ = tokio::time::timeout(FAREWELL, self.last_report_is_heard()).await;
        }
        let dropped = self.driver.order().is_some_and(|order| order.goal == Goal::Drop);
        if dropped {
            self.local.state.forget().map_err(Failure::unexpected)?;
            tracing::info!("dropped from the group; the data stays where it is");
        }
        tracing::info!("stopped");
        Ok(())
    }

    async fn last_report_is_heard(&mut self) {
        while let Some(message) = self.channels.from_monitor.recv().await {
            if !matches!(message, FromMonitor::Order(_) | FromMonitor::Heard { newest: false }) {
                return;
            }
        }
    }

    /// Asked a second time: no handover, no waiting.
    async fn stop_at_once(mut self) -> Result<(), Failure> {
        tracing::warn!("asked to stop again: stopping Postgres at once");
        if let Some(running) = self.running.take() {
            running.task.abort();
            // How it ended does not matter any more.
            let _ = running.task.await;
        }
        let executor = Executor {
            local: Arc::clone(&self.local),
            record: Arc::new(self.driver.record().clone()),
            order: None,
        };
        let stopped = executor.run(&Step::Stop { budget_ms: 2_000 }).await;
        stopped.map(|_| ()).map_err(|error| Failure::unexpected(failure::told(&error)))
    }
}

fn goal_word(goal: &Goal) -> &'static str {
    match goal {
        Goal::Wait => "wait",
        Goal::Found { .. } => "found",
        Goal::Lead { .. } => "lead",
        Goal::Follow { .. } => "follow",
        Goal::Pledge { .. } => "pledge",
        Goal::FastForward { .. } => "fast_forward",
        Goal::Stop => "stop",
        Goal::Drop => "drop",
    }
}
