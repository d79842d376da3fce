//! Outside writers, and the account of what was acknowledged to them.
//!
//! **Acknowledged** is a commit that succeeded without a warning. A warning, an error, or a broken
//! connection leaves it unknown: it may be there or not. An acknowledged row must be on every node
//! at the end, whatever happened meanwhile.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tokio_postgres::error::Severity;
use tokio_postgres::{Client, Statement};

use super::network::{CLIENT, Network};
use super::pg::{self, Address};
use super::{Lab, millis, secs};

/// Between two commits of one writer: about a hundred a second leave the machine some air.
const PAUSE: Duration = millis(7);
const RETRY: Duration = millis(20);
const CONNECT: Duration = millis(400);
/// A commit unanswered for so long makes the writer look for another node.
const PATIENCE: Duration = millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    /// When the commit was sent.
    pub(crate) begun: Instant,
    /// When the answer came.
    pub(crate) at: Instant,
    pub(crate) node: usize,
    pub(crate) writer: usize,
    pub(crate) seq: i64,
}

#[derive(Default)]
struct Account {
    acks: Vec<Ack>,
    unknown: Vec<(usize, i64, Instant, String)>,
    unanswered: HashSet<(usize, i64)>,
}

struct Target {
    name: String,
    address: Address,
}

struct Shared {
    targets: Vec<Target>,
    account: Mutex<Account>,
    stop: AtomicBool,
}

pub(crate) struct Writers {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    count: usize,
}

/// The longest time without an event between two moments.
pub(crate) fn longest_gap(
    events: impl IntoIterator<Item = Instant>,
    from: Instant,
    to: Instant,
) -> Duration {
    let mut events: Vec<Instant> =
        events.into_iter().filter(|at| *at >= from && *at <= to).collect();
    events.push(to);
    events.sort_unstable();
    let mut last = from;
    let mut longest = Duration::ZERO;
    for at in events {
        longest = longest.max(at - last);
        last = at;
    }
    longest
}

/// Two nodes that acknowledge at the same time: one, the other, and the first again within 200 ms,
/// each commit sent after the one before was acknowledged. A handover does not look so, however late
/// an answer is delivered, and two of them there and back take longer.
pub(crate) fn two_at_once(acks: &[Ack]) -> Option<(Ack, Ack)> {
    const WINDOW: Duration = millis(200);
    let mut acks = acks.to_vec();
    acks.sort_unstable_by_key(|ack| ack.at);
    for (i, last) in acks.iter().enumerate() {
        let close = || {
            let before = acks[..i].iter().rev();
            before.take_while(|ack| last.at - ack.at <= WINDOW)
        };
        for between in close().filter(|k| k.node != last.node && k.at <= last.begun) {
            if close().any(|k| k.node == last.node && k.at <= between.begun) {
                return Some((*between, *last));
            }
        }
    }
    None
}

struct Connection {
    client: Client,
    insert: Statement,
    warned: Arc<AtomicBool>,
}

impl Connection {
    /// Connects to a node that accepts writes.
    async fn open(address: &Address) -> Result<Self, String> {
        let warned = Arc::new(AtomicBool::new(false));
        let flag = warned.clone();
        let mut config = pg::config(address);
        config.application_name("vigil-writer");
        let client = pg::connect(&config, move |notice| {
            // Anything that is not plainly harmless counts.
            let harmless = matches!(
                notice.parsed_severity(),
                Some(Severity::Notice | Severity::Info | Severity::Debug | Severity::Log)
            );
            if !harmless {
                flag.store(true, Ordering::SeqCst);
            }
        })
        .await?;
        let rows = pg::rows(&client, "select pg_is_in_recovery()").await?;
        if rows[0][0].as_deref() != Some("f") {
            return Err("in recovery".to_owned());
        }
        let insert = client
            .prepare("insert into acks (writer, seq) values ($1, $2)")
            .await
            .map_err(|e| e.to_string())?;
        Ok(Self { client, insert, warned })
    }

    async fn commit(&self, writer: usize, seq: i64) -> Result<(), String> {
        self.warned.store(false, Ordering::SeqCst);
        let id = i32::try_from(writer).unwrap();
        self.client.execute(&self.insert, &[&id, &seq]).await.map_err(|e| {
            match e.as_db_error() {
                Some(db) => format!("{} {}", db.code().code(), db.message()),
                None => e.to_string(),
            }
        })?;
        if self.warned.load(Ordering::SeqCst) {
            return Err("acknowledged with a warning".to_owned());
        }
        Ok(())
    }
}

/// One writer. It waits for at most one commit per node, however long that takes, and meanwhile
/// goes on with the others.
async fn write(shared: Arc<Shared>, writer: usize) {
    let nodes = shared.targets.len();
    let waiting: Vec<Arc<AtomicBool>> = (0..nodes).map(|_| Arc::default()).collect();
    let mut connection: Option<Connection> = None;
    let mut node = writer % nodes;
    let mut seq = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(open) = connection.take() else {
            if !waiting[node].load(Ordering::SeqCst) {
                let opened = timeout(CONNECT, Connection::open(&shared.targets[node].address));
                if let Ok(Ok(open)) = opened.await {
                    connection = Some(open);
                    continue;
                }
            }
            node = (node + 1) % nodes;
            sleep(RETRY).await;
            continue;
        };
        seq += 1;
        let (tell, told) = oneshot::channel();
        waiting[node].store(true, Ordering::SeqCst);
        let (account, wait, at_node) = (shared.clone(), waiting[node].clone(), node);
        tokio::spawn(async move {
            let begun = Instant::now();
            {
                let mut account = account.account.lock().unwrap();
                account.unanswered.insert((writer, seq));
            }
            let answer = open.commit(writer, seq).await;
            let at = Instant::now();
            {
                let mut account = account.account.lock().unwrap();
                account.unanswered.remove(&(writer, seq));
                match &answer {
                    Ok(()) => account.acks.push(Ack { begun, at, node: at_node, writer, seq }),
                    Err(why) => account.unknown.push((writer, seq, at, why.clone())),
                }
            }
            wait.store(false, Ordering::SeqCst);
            let _ = tell.send(answer.is_ok().then_some(open));
        });
        if let Ok(Ok(Some(open))) = timeout(PATIENCE, told).await {
            connection = Some(open);
            sleep(PAUSE).await;
        } else {
            node = (node + 1) % nodes;
            sleep(RETRY).await;
        }
    }
}

impl Writers {
    /// Starts the writers, on the client's host where there is a network.
    pub(crate) fn start(
        targets: Vec<(String, Address)>,
        count: usize,
        network: Option<Network>,
    ) -> Self {
        let shared = Arc::new(Shared {
            targets: targets.into_iter().map(|(name, address)| Target { name, address }).collect(),
            account: Mutex::default(),
            stop: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        let thread = std::thread::spawn(move || {
            if let Some(network) = network {
                network.move_this_thread_to(CLIENT);
            }
            let runtime = pg::runtime();
            runtime.block_on(async {
                let tasks: Vec<_> =
                    (0..count).map(|writer| tokio::spawn(write(theirs.clone(), writer))).collect();
                for task in tasks {
                    task.await.unwrap();
                }
            });
            // Commits that are still waited for stay unknown.
            runtime.shutdown_background();
        });
        Self { shared, thread: Some(thread), count }
    }

    fn account<T>(&self, with: impl FnOnce(&Account) -> T) -> T {
        with(&self.shared.account.lock().unwrap())
    }

    pub(crate) fn acks(&self) -> Vec<Ack> {
        self.account(|a| a.acks.clone())
    }

    pub(crate) fn node(&self, name: &str) -> usize {
        let mut targets = self.shared.targets.iter();
        targets.position(|t| t.name == name).unwrap()
    }

    /// Acknowledged in the given time, by whichever node.
    pub(crate) fn acked_since(&self, since: Instant) -> usize {
        self.account(|a| a.acks.iter().rev().take_while(|k| k.at >= since).count())
    }

    /// When a node acknowledged first a commit that was sent after this moment.
    pub(crate) fn first_ack_of(&self, node: &str, since: Instant) -> Option<Instant> {
        let node = self.node(node);
        self.account(|a| {
            let mut acks = a.acks.iter();
            acks.find(|k| k.node == node && k.begun >= since).map(|k| k.at)
        })
    }

    /// Acknowledged by this node although sent after this moment.
    pub(crate) fn acks_of(&self, node: &str, since: Instant) -> usize {
        let node = self.node(node);
        self.account(|a| {
            let acks = a.acks.iter();
            acks.filter(|k| k.node == node && k.begun >= since).count()
        })
    }

    /// Statements that failed, or that nobody knows the fate of.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.account(|a| a.unknown.iter().map(|(.., why)| why.clone()).collect())
    }

    pub(crate) fn gap(&self, since: Instant) -> Duration {
        let now = Instant::now();
        self.account(|a| longest_gap(a.acks.iter().map(|k| k.at), since, now))
    }

    /// Waits until every writer has at least 20 commits a second acknowledged: it is connected and
    /// gets its answers. They pause between two, and share the machine with three servers.
    pub(crate) fn wait_until_steady(&self) {
        let window = secs(2);
        let wanted = 2 * 20;
        let begun = Instant::now();
        loop {
            let since = Instant::now().checked_sub(window).unwrap();
            let (mut each, mut fresh) = (vec![0; self.count], vec![0; self.count]);
            self.account(|a| {
                for ack in a.acks.iter().rev().take_while(|k| k.at >= since) {
                    each[ack.writer] += 1;
                    // By a primary that lives now.
                    fresh[ack.writer] += usize::from(ack.begun >= begun);
                }
            });
            if each.iter().all(|n| *n >= wanted) && fresh.iter().all(|n| *n >= 10) {
                return;
            }
            assert!(
                begun.elapsed() < secs(30),
                "not every writer has 20 commits a second acknowledged: {each:?} in {window:?}; last failures {:?}",
                self.failures().iter().rev().take(4).collect::<Vec<_>>()
            );
            std::thread::sleep(millis(100));
        }
    }

    /// Waits until commits are acknowledged again: several, sent after this call.
    pub(crate) fn wait_for_writes(&self, within: Duration) {
        let begun = Instant::now();
        while self.account(|a| {
            let acks = a.acks.iter().rev().take_while(|k| k.at >= begun);
            acks.filter(|k| k.begun >= begun).count() < 10
        }) {
            assert!(
                begun.elapsed() < within,
                "no commit is acknowledged within {within:?}; last failures {:?}",
                self.failures().iter().rev().take(4).collect::<Vec<_>>()
            );
            std::thread::sleep(millis(5));
        }
    }

    fn halt(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// Stops, and holds the cluster to what it told the writers: no two nodes acknowledged at a
    /// time, and every acknowledged row is on every node. Needs a whole cluster.
    pub(crate) fn verify_everywhere(mut self, lab: &Lab) {
        self.halt();
        let acks = self.acks();
        assert!(!acks.is_empty(), "nothing was ever acknowledged");
        println!(
            "{} acknowledged, {} unknown",
            acks.len(),
            self.failures().len() + self.account(|a| a.unanswered.len())
        );
        if let Some((one, other)) = two_at_once(&acks) {
            panic!(
                "two nodes acknowledged at once: {} and, {:?} later, {}: {one:?} {other:?}",
                self.shared.targets[one.node].name,
                other.at - one.at,
                self.shared.targets[other.node].name,
            );
        }
        lab.wait_for_replay();
        for name in lab.node_names() {
            let rows = lab.sql(&name, "select writer, seq from acks").unwrap();
            let there: HashSet<(usize, i64)> = rows
                .iter()
                .map(|row| {
                    let column = |i: usize| row[i].as_deref().unwrap();
                    (column(0).parse().unwrap(), column(1).parse().unwrap())
                })
                .collect();
            let missing: Vec<&Ack> =
                acks.iter().filter(|k| !there.contains(&(k.writer, k.seq))).collect();
            if missing.is_empty() {
                continue;
            }
            let first = acks[0].at;
            let mut list = String::new();
            for ack in missing.iter().take(20) {
                let by = &self.shared.targets[ack.node].name;
                let (at, sent) = (ack.at - first, ack.at - ack.begun);
                let _ = writeln!(
                    list,
                    "writer {} seq {}: by {by} at {at:.3?}, {sent:.3?} after it was sent",
                    ack.writer, ack.seq
                );
            }
            panic!("{} acknowledged rows are missing on {name}:\n{list}", missing.len());
        }
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
