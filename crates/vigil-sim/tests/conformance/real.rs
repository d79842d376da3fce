//! Real servers as a subject.

mod client;
mod server;

use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use vigil_core::wal::{Lsn, Tli};
use vigil_postgres::control::{self, ControlState};
use vigil_postgres::{Stop, pgdata, process};

use crate::subject::{Answer, Commit, Node, Stopped, Subject, View};
use client::{Client, Writer};
use server::{LONG, Server};

/// What a client sent, and the position behind it.
struct Sent {
    client: Client,
    end: Lsn,
    number: u32,
}

/// A session that holds a lock on a standby which replay needs.
struct Reader {
    node: Node,
    _client: Client,
}

pub(crate) struct Real {
    // In this order: the clients go first, the servers while there is a runtime.
    sent: Vec<Sent>,
    readers: Vec<Reader>,
    busy: Option<Client>,
    writer: Option<Writer>,
    killed_at: Option<SystemTime>,
    servers: Vec<Server>,
    begun: Instant,
    runtime: Runtime,
}

impl Real {
    /// `None`, with a note, where there is no Postgres that we can run.
    pub(crate) fn new() -> Option<Self> {
        if let Err(why) = server::installation() {
            println!("NOT RUN: conformance of the model with real Postgres ({why})");
            return None;
        }
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
        Some(Real {
            sent: Vec::new(),
            readers: Vec::new(),
            busy: None,
            writer: None,
            killed_at: None,
            servers: Vec::new(),
            begun: Instant::now(),
            runtime,
        })
    }

    /// One value, over a connection of its own.
    fn ask_for(&self, node: Node, sql: &str) -> String {
        self.runtime.block_on(async {
            let client = Client::open(&self.servers[node]).await;
            client.value(sql).await
        })
    }

    fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + LONG;
        while !is_so(self) {
            assert!(Instant::now() < end, "not so within {LONG:?}: {what}");
            self.pass();
        }
    }

    fn waiters(&self, node: Node) -> u32 {
        self.runtime.block_on(self.servers[node].status()).sync_waiters
    }

    fn standby_names(&self, members: &[Node]) -> String {
        let names: Vec<&str> = members.iter().map(|m| self.servers[*m].name.as_str()).collect();
        match names.as_slice() {
            [] => format!("ANY 1 ({})", vigil_postgres::in_force::NOBODY),
            names => format!("ANY 1 ({})", names.join(", ")),
        }
    }

    fn start(&mut self, node: Node) {
        let _in_runtime = self.runtime.enter();
        self.runtime.block_on(self.servers[node].start());
    }
}

impl Subject for Real {
    fn form(&mut self, standbys: usize) {
        let _in_runtime = self.runtime.enter();
        self.runtime.block_on(async {
            let mut primary = Server::new("n1").await;
            primary.start().await;
            let client = Client::open(&primary).await;
            client.value("CREATE TABLE t (n int); CREATE TABLE locked (n int)").await;
            client.value("CREATE TABLE busy (at timestamptz)").await;
            self.servers.push(primary);
            for number in 2..standbys + 2 {
                let standby = Server::standby_of(&self.servers[0], &format!("n{number}")).await;
                self.servers.push(standby);
            }
        });
        for standby in 1..=standbys {
            self.until("a standby streams", |r| r.streams(standby));
        }
    }

    fn pass(&mut self) {
        std::thread::sleep(Duration::from_millis(10));
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn obey(&mut self, node: Node, members: Option<&[Node]>) {
        let names = members.map(|m| self.standby_names(m)).unwrap_or_default();
        let checkpointer = self.servers[node].held_checkpointer.take();
        if let Some(pid) = checkpointer {
            kill_process(pid, Signal::CONT).expect("it goes on");
        }
        let server = &mut self.servers[node];
        server.conf.synchronous_standby_names = names;
        self.runtime.block_on(server.put_names_in_force(checkpointer.is_some()));
    }

    fn ask(&mut self, node: Node, members: &[Node]) {
        let sql = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
        let pid: i32 = self.ask_for(node, sql).parse().expect("a pid");
        let pid = Pid::from_raw(pid).expect("a pid");
        kill_process(pid, Signal::STOP).expect("it stands still");
        let names = self.standby_names(members);
        let server = &mut self.servers[node];
        server.held_checkpointer = Some(pid);
        server.conf.synchronous_standby_names.clone_from(&names);
        server.reload();
        self.until("a new session shows the names", |r| {
            r.ask_for(node, "SHOW synchronous_standby_names") == names
        });
    }

    fn commit(&mut self, node: Node) -> Commit {
        let number = u32::try_from(self.sent.len()).expect("few");
        let before = self.waiters(node);
        let client = self.runtime.block_on(async {
            let mut client = Client::open(&self.servers[node]).await;
            client.send(format!("INSERT INTO t VALUES ({number})"));
            client
        });
        self.sent.push(Sent { client, end: Lsn::ZERO, number });
        let commit = Commit(self.sent.len() - 1);
        self.until("a commit is answered or waits", |r| {
            r.answer(commit) != Answer::Waits || r.waiters(node) > before
        });
        let lsn = self.ask_for(node, "SELECT pg_current_wal_insert_lsn()");
        self.sent[commit.0].end = lsn.parse().expect("an LSN");
        commit
    }

    fn answer(&mut self, commit: Commit) -> Answer {
        self.sent[commit.0].client.answer()
    }

    fn end_of(&self, commit: Commit) -> Lsn {
        self.sent[commit.0].end
    }

    fn cancel(&mut self, commit: Commit) {
        self.runtime.block_on(self.sent[commit.0].client.cancel());
    }

    fn is_visible(&mut self, node: Node, commit: Commit) -> bool {
        let number = self.sent[commit.0].number;
        self.ask_for(node, &format!("SELECT count(*) FROM t WHERE n = {number}")) == "1"
    }

    fn keep_writing(&mut self, node: Node) {
        // It never waits for anything that would show it that the postmaster is gone: a commit that
        // waits for a standby does not end the session then, it only is not answered.
        let endless = "DO $$ BEGIN LOOP \
             INSERT INTO busy VALUES (clock_timestamp()); COMMIT; END LOOP; END $$";
        let (busy, writer) = self.runtime.block_on(async {
            let mut busy = Client::open(&self.servers[node]).await;
            busy.send(endless.to_owned());
            (busy, Writer::start(&self.servers[node], "t", 1_000_000).await)
        });
        (self.busy, self.writer) = (Some(busy), Some(writer));
        self.until("the sessions write", |r| {
            r.writer.as_ref().is_some_and(|w| w.acknowledged().len() > 10)
                && r.ask_for(node, "SELECT count(*) > 10 FROM busy") == "t"
        });
    }

    fn wrote_after_the_kill(&mut self, node: Node) -> bool {
        let at = self.killed_at.expect("its postmaster was killed");
        let since = at.duration_since(SystemTime::UNIX_EPOCH).expect("a date").as_secs_f64();
        let sql = format!("SELECT count(*) > 0 FROM busy WHERE at > to_timestamp({since})");
        self.ask_for(node, &sql) == "t"
    }

    fn has_all_acknowledged(&mut self, node: Node) -> bool {
        let told = self.writer.as_ref().map(Writer::acknowledged).unwrap_or_default();
        let there = self.ask_for(node, "SELECT count(*) FROM t WHERE n >= 1000000");
        // They are numbered, and the next is sent when the one before is answered.
        !told.is_empty() && there.parse::<usize>().is_ok_and(|there| there >= told.len())
    }

    fn view(&mut self, node: Node) -> View {
        let receives = self.receiver(node).is_some();
        let status = self.runtime.block_on(self.servers[node].status());
        let waits = status.startup_wait.as_deref();
        View {
            in_recovery: status.in_recovery,
            timeline: status.timeline.0,
            received: status.receive_lsn.or(status.flush_lsn),
            replayed: status.replay_lsn.or(status.flush_lsn).unwrap_or(Lsn::ZERO),
            replay_idle: waits == Some("RecoveryRetrieveRetryInterval") && !receives,
        }
    }

    fn receiver(&mut self, node: Node) -> Option<u64> {
        let pid =
            process::receiver_pid(self.servers[node].postmaster().pid).expect("a process table")?;
        u64::try_from(pid.as_raw_pid()).ok()
    }

    fn streams(&mut self, node: Node) -> bool {
        let receiver = self.runtime.block_on(self.servers[node].status()).receiver;
        receiver.is_some_and(|r| r.status == "streaming")
    }

    fn left(&mut self, node: Node, timeline: u32) -> Option<Lsn> {
        let own = self.view(node).timeline;
        let history = pgdata::history(&self.servers[node].pgdata, Tli(own)).expect("a history");
        history.switch_point(Tli(timeline))
    }

    fn stick(&mut self, node: Node) {
        let client = self.runtime.block_on(async {
            let client = Client::open(&self.servers[node]).await;
            client.value("BEGIN; SELECT count(*) FROM locked").await;
            client
        });
        self.readers.push(Reader { node, _client: client });
        self.ask_for(0, "ALTER TABLE locked ADD COLUMN more int");
        self.until("replay waits for the reader", |r| {
            let wait = r.runtime.block_on(r.servers[node].status()).startup_wait;
            wait.as_deref() == Some("relation")
        });
    }

    fn unstick(&mut self, node: Node) {
        self.readers.retain(|r| r.node != node);
    }

    fn follow(&mut self, node: Node, upstream: Option<Node>) {
        let conninfo = upstream
            .map(|u| self.servers[u].as_upstream(&self.servers[node].name).primary_conninfo());
        let server = &mut self.servers[node];
        server.conf.primary_conninfo = conninfo.unwrap_or_default();
        server.reload();
    }

    fn end_receiver(&mut self, node: Node) {
        let postmaster = self.servers[node].postmaster().pid;
        let pid = process::receiver_pid(postmaster)
            .expect("a process table")
            .expect("there is a receiver");
        process::terminate(pid).expect("it can be signalled");
        let gone = self.runtime.block_on(process::wait_gone(pid, LONG));
        gone.expect("it ends");
    }

    fn promote(&mut self, node: Node) {
        let server = &self.servers[node];
        process::promote(&server.pgdata, server.postmaster()).expect("it can be asked");
        self.until("it takes writes", |r| !r.view(node).in_recovery);
    }

    fn freeze(&mut self, node: Node) {
        self.servers[node].signal_all(Signal::STOP);
    }

    fn thaw(&mut self, node: Node) {
        self.servers[node].signal_all(Signal::CONT);
    }

    fn kill(&mut self, node: Node) {
        self.runtime.block_on(self.servers[node].kill());
        self.readers.retain(|r| r.node != node);
    }

    fn kill_postmaster(&mut self, node: Node) {
        let postmaster = self.servers[node].postmaster();
        kill_process(postmaster.pid, Signal::KILL).expect("it can be killed");
        let exited = async { tokio::time::timeout(LONG, postmaster.exited()).await };
        self.runtime.block_on(exited).expect("it ends");
        self.killed_at = Some(SystemTime::now());
        std::thread::sleep(Duration::from_millis(200));
    }

    fn stop_fast(&mut self, node: Node) -> Stopped {
        self.runtime.block_on(self.servers[node].stop(Stop::Fast));
        let control = control::read(&self.servers[node].pgdata).expect("a control file");
        Stopped { clean: control.state == ControlState::ShutDown, checkpoint: control.checkpoint }
    }

    fn lives(&mut self, node: Node) -> bool {
        !process::processes_of(&self.servers[node].pgdata).expect("a process table").is_empty()
    }

    fn start_is_refused(&mut self, node: Node) -> bool {
        let _in_runtime = self.runtime.enter();
        self.servers[node].start_is_refused()
    }

    fn start_primary(&mut self, node: Node) {
        self.start(node);
    }

    fn start_standby(&mut self, node: Node, held: bool) {
        self.servers[node].hold_replay(held);
        self.servers[node].conf.primary_conninfo.clear();
        pgdata::set_standby_signal(&self.servers[node].pgdata).expect("standby.signal");
        self.start(node);
    }

    fn rewind(&mut self, node: Node, source: Node) {
        let (low, high) = self.servers.split_at_mut(node.max(source));
        let (target, source) =
            if node < source { (&mut low[node], &high[0]) } else { (&mut high[0], &low[source]) };
        self.runtime.block_on(target.rewind(source));
        self.start(node);
    }

    fn release(&mut self, node: Node) {
        self.servers[node].hold_replay(false);
        self.servers[node].reload();
    }
}
