//! Formations and groups: which there are, how to reach them, making and dropping them.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use vigil_core::command::{Command, Refusal, RefusalCode};
use vigil_core::driver::group::{GroupDriver, GroupInput};
use vigil_core::group::{Group, Settings};
use vigil_core::ids::GroupKey;
use vigil_proto::Selector;

use crate::clock;
use crate::group_task::{Declined, End, GroupHandle, GroupTask, Mail, Surroundings, Versions};
use crate::metrics::Metrics;
use crate::node_ids::NodeIds;
use crate::status_writer;
use crate::store::{PgStore, StoreError};

/// The formation that is always there.
pub const DEFAULT: &str = "default";

/// All groups of this monitor.
pub struct Registry {
    pub store: PgStore,
    pub metrics: Arc<Metrics>,
    ids: Arc<NodeIds>,
    store_up: watch::Receiver<bool>,
    /// See [`Surroundings::versions`].
    versions: watch::Sender<Option<Arc<Versions>>>,
    /// Settings of formations that are created without.
    defaults: Settings,
    state: Mutex<State>,
    /// Held while formations or groups are made or dropped.
    changing: AsyncMutex<()>,
    /// Counts changes of what is published.
    changed: watch::Sender<u64>,
    numbers: AtomicU64,
    tasks: Mutex<JoinSet<()>>,
    stop: CancellationToken,
}

#[derive(Default)]
struct State {
    formations: BTreeMap<String, Settings>,
    groups: BTreeMap<GroupKey, Running>,
}

struct Running {
    handle: GroupHandle,
    stop: CancellationToken,
}

impl Registry {
    /// Starts the tasks of all groups that the store has. `doubtful`: it may not be the newest.
    pub async fn start(
        store: PgStore,
        metrics: Arc<Metrics>,
        store_up: watch::Receiver<bool>,
        defaults: Settings,
        doubtful: bool,
        stop: CancellationToken,
    ) -> Result<Arc<Self>, StoreError> {
        // A store that is doubted is not written to before keepers were heard.
        let groups = if doubtful { store.load_all().await? } else { store.begin().await? };
        let mut formations: BTreeMap<String, Settings> =
            store.formations().await?.into_iter().collect();
        let is_used = groups.iter().any(|g| g.key.formation == DEFAULT);
        if !is_used && formations.get(DEFAULT) != Some(&defaults) {
            store.put_formation(DEFAULT, defaults).await?;
            formations.insert(DEFAULT.to_owned(), defaults);
        }
        let registry = Arc::new(Registry {
            store,
            metrics,
            ids: Arc::default(),
            store_up,
            versions: watch::Sender::new(None),
            defaults,
            state: Mutex::new(State { formations, groups: BTreeMap::new() }),
            changing: AsyncMutex::default(),
            changed: watch::Sender::new(0),
            numbers: AtomicU64::new(1),
            tasks: Mutex::default(),
            stop,
        });
        for group in groups {
            let driver = if doubtful {
                GroupDriver::doubting(group.clone(), clock::now())
            } else {
                GroupDriver::begun(group.clone(), clock::now())
            };
            registry.run(group, driver);
        }
        registry.spawn(status_writer::run(registry.clone(), registry.stop.clone()));
        registry.spawn(look_at_versions(registry.clone()));
        Ok(registry)
    }

    /// A number for a stream or a command, never used before in this process.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells of every change of what groups publish.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Waits until all tasks have ended; they do once the registry is stopped.
    pub async fn join(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks());
        while tasks.join_next().await.is_some() {}
    }

    /// Every formation with its settings: those of its first group, else those that one would get.
    pub fn formations(&self, selector: &Selector) -> Result<Vec<(String, Settings)>, Refusal> {
        let state = self.state();
        let is_meant = |name: &str| selector.formation.as_deref().is_none_or(|f| f == name);
        let mut found: Vec<(String, Settings)> = state
            .formations
            .iter()
            .filter(|(name, _)| is_meant(name))
            .map(|(name, settings)| (name.clone(), *settings))
            .collect();
        for (name, settings) in &mut found {
            let first = state.groups.values().find(|g| g.handle.key.formation == *name);
            if let Some(first) = first {
                *settings = first.handle.published.borrow().settings;
            }
        }
        match (&selector.formation, found.is_empty()) {
            (Some(name), true) => Err(no_formation(name)),
            _ => Ok(found),
        }
    }

    /// The groups that are meant, by formation and number.
    pub fn select(&self, selector: &Selector) -> Result<Vec<GroupHandle>, Refusal> {
        let state = self.state();
        if let Some(name) = &selector.formation
            && !state.formations.contains_key(name)
        {
            return Err(no_formation(name));
        }
        let is_meant = |key: &GroupKey| {
            selector.formation.as_ref().is_none_or(|f| *f == key.formation)
                && selector.group.is_none_or(|g| g == key.group)
        };
        let found: Vec<GroupHandle> = state
            .groups
            .iter()
            .filter(|(key, _)| is_meant(key))
            .map(|(_, running)| running.handle.clone())
            .collect();
        match selector.group {
            Some(group) if found.is_empty() => Err(no_group(selector, group)),
            _ => Ok(found),
        }
    }

    /// The one group that is meant.
    pub fn select_one(&self, selector: &Selector) -> Result<GroupHandle, Refusal> {
        let mut found = self.select(selector)?;
        // A group that nobody is in any more, or never was, is meant only by its number.
        let is_used = |group: &GroupHandle| group.published.borrow().members > 0;
        if found.iter().any(is_used) {
            found.retain(is_used);
        }
        match (found.pop(), found.len()) {
            (Some(only), 0) => Ok(only),
            (Some(_), more) => Err(Refusal::new(
                RefusalCode::BadValue,
                format!("{} groups are meant, this is for one", more + 1),
                match selector.formation {
                    Some(_) => "name it with --group",
                    None => "name it with --formation and --group",
                },
            )),
            (None, _) => Err(Refusal::new(
                RefusalCode::NotFound,
                format!(
                    "formation `{}` has no group yet",
                    selector.formation.as_deref().unwrap_or(DEFAULT)
                ),
                "a group comes into being when its first keeper starts",
            )),
        }
    }

    /// The group that a keeper wants to join; made if its formation exists.
    pub async fn for_keeper(self: &Arc<Self>, key: &GroupKey) -> Result<GroupHandle, Refusal> {
        if let Some(handle) = self.find(key) {
            return Ok(handle);
        }
        let _alone = self.changing.lock().await;
        if let Some(handle) = self.find(key) {
            return Ok(handle);
        }
        let settings = self.state().formations.get(&key.formation).copied();
        let settings = settings.ok_or_else(|| {
            Refusal::new(
                RefusalCode::NotFound,
                format!("there is no formation `{}`", key.formation),
                format!("pgctl create-formation {}", key.formation),
            )
        })?;
        let password = random_password().map_err(|e| {
            Refusal::new(RefusalCode::Refused, format!("no password can be made: {e}"), "")
        })?;
        Ok(self.run_new(Group::new(key.clone(), settings, password)))
    }

    pub async fn create_formation(
        &self,
        name: &str,
        number_sync_standbys: Option<u32>,
    ) -> Result<String, Declined> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        if name.is_empty() || name.len() > 63 || !name.chars().all(fits) {
            return Err(refuse(
                RefusalCode::BadValue,
                format!("`{name}` cannot be the name of a formation"),
                "1 to 63 letters, digits, `_`, `-` and `.` are allowed",
            ));
        }
        let mut settings = self.defaults;
        if let Some(number) = number_sync_standbys {
            settings.number_sync_standbys = number;
        }
        if number_sync_standbys.is_some_and(|n| n > 100) {
            return Err(refuse(RefusalCode::BadValue, "number-sync-standbys: 0 to 100", ""));
        }
        let _alone = self.changing.lock().await;
        if self.state().formations.contains_key(name) {
            let text = format!("formation `{name}` exists already");
            return Err(refuse(RefusalCode::Refused, text, "pgctl show-settings"));
        }
        self.store.put_formation(name, settings).await.map_err(unavailable)?;
        self.state().formations.insert(name.to_owned(), settings);
        tracing::info!(formation = name, "formation created");
        Ok(format!("formation {name} created"))
    }

    pub async fn drop_formation(&self, name: &str) -> Result<String, Declined> {
        let _alone = self.changing.lock().await;
        if !self.state().formations.contains_key(name) {
            return Err(Declined::Refused(no_formation(name)));
        }
        if name == DEFAULT {
            return Err(refuse(RefusalCode::Refused, "formation `default` always exists", ""));
        }
        let of_it = |key: &GroupKey| key.formation == name;
        let nodes: usize = {
            let state = self.state();
            let groups = state.groups.iter().filter(|(key, _)| of_it(key));
            groups.map(|(_, g)| g.handle.published.borrow().members).sum()
        };
        if nodes > 0 {
            let text = format!("formation `{name}` still has {nodes} nodes");
            return Err(refuse(RefusalCode::Refused, text, "pgctl drop-node each of them first"));
        }
        self.store.drop_formation(name).await.map_err(unavailable)?;
        let mut state = self.state();
        state.formations.remove(name);
        state.groups.retain(|key, running| {
            if of_it(key) {
                running.stop.cancel();
            }
            !of_it(key)
        });
        drop(state);
        self.changed.send_modify(|n| *n += 1);
        tracing::info!(formation = name, "formation dropped");
        Ok(format!("formation {name} dropped"))
    }

    /// Changes what the next groups of a formation start with.
    pub async fn set_formation(&self, name: &str, command: &Command) -> Result<String, Declined> {
        let _alone = self.changing.lock().await;
        let settings = self.state().formations.get(name).copied();
        let settings = settings.ok_or_else(|| Declined::Refused(no_formation(name)))?;
        let new = judged(name, settings, command).map_err(Declined::Refused)?;
        if new != settings {
            self.store.put_formation(name, new).await.map_err(unavailable)?;
            self.state().formations.insert(name.to_owned(), new);
        }
        Ok(format!("settings of formation {name} changed"))
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks();
        // Those that have ended need not be kept.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    fn find(&self, key: &GroupKey) -> Option<GroupHandle> {
        self.state().groups.get(key).map(|running| running.handle.clone())
    }

    /// Whether the store answered when it was last asked, at most two seconds ago.
    pub fn store_was_up(&self) -> bool {
        *self.store_up.borrow()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nobody panics while holding it; if somebody did, it would still be whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the task of a group, and those that carry on what it publishes.
    fn run_new(self: &Arc<Self>, record: Group) -> GroupHandle {
        let driver = GroupDriver::new(record.clone(), clock::now());
        self.run(record, driver)
    }

    fn run(self: &Arc<Self>, record: Group, driver: GroupDriver) -> GroupHandle {
        let key = record.key.clone();
        let around = Surroundings {
            store: self.store.clone(),
            ids: self.ids.clone(),
            metrics: self.metrics.clone(),
            store_up: self.store_up.clone(),
            versions: self.versions.subscribe(),
        };
        let (handle, task) = GroupTask::new(record, driver, around);
        let stop = self.stop.child_token();
        let running = Running { handle: handle.clone(), stop: stop.clone() };
        self.state().groups.insert(key.clone(), running);

        let (changed, mut published) = (self.changed.clone(), handle.published.clone());
        self.spawn(async move {
            while published.changed().await.is_ok() {
                changed.send_modify(|n| *n += 1);
            }
        });
        let registry = Arc::clone(self);
        self.spawn(async move {
            match Caught::of(task.run(stop.clone())).await {
                Ok(End::Stopped) => {}
                Ok(End::Empty) => registry.retire(key, stop).await,
                Err(_) => registry.start_again(key, stop).await,
            }
        });
        self.changed.send_modify(|n| *n += 1);
        handle
    }

    /// Forgets a group that nobody is in. Its events stay.
    async fn retire(self: Arc<Self>, key: GroupKey, stop: CancellationToken) {
        let _alone = self.changing.lock().await;
        if stop.is_cancelled() {
            return;
        }
        if let Err(error) = self.store.drop_group(&key).await {
            // It comes back at the next start, and goes again.
            tracing::warn!(group = %key, %error, "the empty group's record stays");
        }
        stop.cancel();
        self.state().groups.remove(&key);
        self.changed.send_modify(|n| *n += 1);
        tracing::info!(group = %key, "the last node has left: the group is gone");
    }

    /// A task that failed takes its group's memory with it, not its record: the keepers come again.
    async fn start_again(self: Arc<Self>, key: GroupKey, stop: CancellationToken) {
        tracing::error!(group = %key, "the group's task failed; it starts again from the store");
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let _alone = self.changing.lock().await;
            if stop.is_cancelled() {
                return;
            }
            match crate::store::Decisions::load(&self.store, &key).await {
                Ok(Some(record)) => {
                    stop.cancel();
                    self.run_new(record);
                    return;
                }
                Ok(None) => {
                    stop.cancel();
                    self.state().groups.remove(&key);
                    return;
                }
                Err(error) => tracing::warn!(group = %key, %error, "it cannot start yet"),
            }
        }
    }
}

/// The store is looked at so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// One look for all groups.
async fn look_at_versions(registry: Arc<Registry>) {
    loop {
        tokio::select! {
            () = registry.stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        // A store that is away is told of elsewhere.
        if let Ok(versions) = registry.store.versions().await {
            registry.versions.send_replace(Some(Arc::new(versions)));
        }
    }
}

/// It did.
struct Panicked;

/// A future whose panic is an error.
struct Caught<F>(std::pin::Pin<Box<F>>);

impl<F: Future> Caught<F> {
    fn of(future: F) -> Self {
        Caught(Box::pin(future))
    }
}

impl<F: Future> Future for Caught<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        let poll = AssertUnwindSafe(|| self.0.as_mut().poll(context));
        match std::panic::catch_unwind(poll) {
            Ok(poll) => poll.map(Ok),
            // The hook has told what and where.
            Err(_) => std::task::Poll::Ready(Err(Panicked)),
        }
    }
}

/// Asks whether a group would take a command.
pub async fn check(handle: &GroupHandle, command: Command) -> Result<(), Declined> {
    let gone = || Declined::Unavailable("the group's task is starting again".to_owned());
    let (reply, answer) = tokio::sync::oneshot::channel();
    handle.mailbox.send(Mail::Check { command, reply }).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?.map_err(Declined::Refused)
}

/// Gives a command to a group and waits for its answer.
pub async fn ask(
    handle: &GroupHandle,
    id: u64,
    command: Command,
    progress: tokio::sync::mpsc::UnboundedSender<vigil_core::command::Progress>,
) -> Result<String, Declined> {
    let gone = || Declined::Unavailable("the group's task is starting again".to_owned());
    let (reply, answer) = tokio::sync::oneshot::channel();
    let mail = Mail::Command { id, command, reply, progress };
    handle.mailbox.send(mail).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

/// Settings after `command`, checked as a group would check it. Only the number of synchronous
/// standbys is not: there are no nodes to count, and more may come.
fn judged(name: &str, settings: Settings, command: &Command) -> Result<Settings, Refusal> {
    let mut command = command.clone();
    let mut number = None;
    if let Command::SetSettings { number_sync_standbys, .. } = &mut command {
        number = number_sync_standbys.take();
    }
    let key = GroupKey { formation: name.to_owned(), group: 0 };
    let mut judge = GroupDriver::new(Group::new(key, settings, String::new()), clock::now());
    let output = judge.handle(GroupInput::Command { id: 0, command }, clock::now());
    for (_, reply) in output.replies {
        reply?;
    }
    let mut settings = output.record.map_or(settings, |record| record.settings);
    settings.number_sync_standbys = number.unwrap_or(settings.number_sync_standbys);
    Ok(settings)
}

fn no_formation(name: &str) -> Refusal {
    let text = format!("there is no formation `{name}`");
    Refusal::new(RefusalCode::NotFound, text, "pgctl show-settings lists them")
}

fn no_group(selector: &Selector, group: u32) -> Refusal {
    let text = match &selector.formation {
        Some(name) => format!("formation `{name}` has no group {group}"),
        None => format!("there is no group {group}"),
    };
    Refusal::new(RefusalCode::NotFound, text, "pgctl show-state lists them")
}

fn refuse(code: RefusalCode, message: impl Into<String>, hint: &str) -> Declined {
    Declined::Refused(Refusal::new(code, message, hint))
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unavailable(error: StoreError) -> Declined {
    Declined::Unavailable(error.to_string())
}

/// 256 random bits, in hex: nothing in it needs quoting anywhere.
fn random_password() -> std::io::Result<String> {
    use std::fmt::Write;
    use std::io::Read;
    let mut bytes = [0_u8; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let mut text = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}
