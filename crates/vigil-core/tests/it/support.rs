//! Groups, facts and reports to start a test from.

use vigil_core::command::{Command, Refusal, RefusalCode};
use vigil_core::driver::group::{GroupDriver, GroupInput, GroupOutput};
use vigil_core::facts::Facts;
use vigil_core::group::{Group, Member, Plan, Settings};
use vigil_core::ids::{Epoch, GroupKey, NodeId, Now};
use vigil_core::limits::Limits;
use vigil_core::message::{Following, Goal, Hello, Order, Report, Sender, Server};
use vigil_core::node::observed::{Cluster, Data, UpView};
use vigil_core::node::record::NodeRecord;
use vigil_core::rule::{Pledge, SyncRule};
use vigil_core::state::NodeState;
use vigil_core::wal::{Lsn, Position, TimelineHistory, Tli};

/// When the stories begin: long after the monitor's start.
pub(crate) const T0: u64 = 1_000_000;
pub(crate) const SYSTEM_ID: u64 = 77;

pub(crate) fn t(mono_ms: u64) -> Now {
    Now { mono_ms, wall_ms: 1_700_000_000_000 + mono_ms.cast_signed() }
}

pub(crate) fn at(tli: u32, lsn: u64) -> Position {
    Position { tli: Tli(tli), lsn: Lsn(lsn) }
}

pub(crate) fn ids(nodes: &[i64]) -> std::collections::BTreeSet<NodeId> {
    nodes.iter().map(|n| NodeId(*n)).collect()
}

pub(crate) fn rule(epoch: u64, version: u64, primary: i64, members: &[i64], acks: u32) -> SyncRule {
    let (epoch, primary, members) = (Epoch(epoch), NodeId(primary), ids(members));
    SyncRule { epoch, version, primary, members, acks }
}

pub(crate) fn pledge(epoch: u64, position: Option<Position>) -> Pledge {
    Pledge { epoch: Epoch(epoch), position, usable: true, fetching: false }
}

pub(crate) fn member(n: i64) -> Member {
    Member {
        id: NodeId(n),
        name: format!("node{n}"),
        host: format!("host{n}"),
        port: 5432,
        candidate_priority: 100 - 10 * u32::try_from(n - 1).unwrap(),
        replication_quorum: true,
        maintenance: false,
        quarantine: None,
        noticed: 0,
        dropped: false,
    }
}

pub(crate) fn key() -> GroupKey {
    GroupKey { formation: "default".into(), group: 0 }
}

/// A keeper that has a clean, stopped standby and nothing to say.
pub(crate) fn idle_report(promise: u64) -> Report {
    Report {
        state: NodeState::Demoted,
        promise: Epoch(promise),
        order_seq: 0,
        server: Server::Stopped,
        pledge: None,
        own_rule: None,
        in_force: None,
        covered: None,
        rules_held: Vec::new(),
        position: None,
        replayed: None,
        history: None,
        highest_tli: Tli(1),
        following: None,
        senders: Vec::new(),
        rewind_source: false,
        usable: true,
        prepared: false,
        leaving: false,
        delayed: false,
        limits: None,
        problem: None,
        notices: Vec::new(),
        interval_ms: 1000,
        look_age_ms: 0,
        not_let_in: None,
        troubles: Vec::new(),
        starved_ms: 0,
        doing: None,
        system_id: Some(SYSTEM_ID),
    }
}

pub(crate) fn primary_report(rule: &SyncRule, streaming: &[i64]) -> Report {
    let sender = |n: &i64| Sender {
        name: format!("node{n}"),
        streaming: true,
        flush: Lsn(5000),
        replay: Lsn(5000),
        reply_age_ms: 10,
    };
    Report {
        state: NodeState::Primary,
        server: Server::Primary,
        own_rule: Some(rule.clone()),
        in_force: Some(rule.id()),
        covered: Some(rule.id()),
        position: Some(at(1, 5000)),
        history: Some(TimelineHistory::first()),
        senders: streaming.iter().map(sender).collect(),
        rewind_source: true,
        ..idle_report(rule.epoch.0)
    }
}

pub(crate) fn standby_report(rule: &SyncRule, wal_age_ms: u64) -> Report {
    let (primary, epoch) = (rule.primary, rule.epoch);
    Report {
        state: NodeState::Secondary,
        server: Server::Standby,
        position: Some(at(1, 5000)),
        history: Some(TimelineHistory::first()),
        following: Some(Following { primary, epoch, streaming: true, wal_age_ms }),
        ..idle_report(rule.epoch.0)
    }
}

/// A running standby that has dropped its receiver for `epoch`.
pub(crate) fn pledged_report(epoch: u64, position: Position) -> Report {
    Report {
        state: NodeState::ReportLsn,
        server: Server::Standby,
        pledge: Some(pledge(epoch, Some(position))),
        position: Some(position),
        history: Some(TimelineHistory { tli: position.tli, ancestors: Vec::new() }),
        highest_tli: position.tli,
        ..idle_report(epoch)
    }
}

/// A group and what its monitor has heard.
#[derive(Clone)]
pub(crate) struct Scene {
    pub(crate) group: Group,
    pub(crate) facts: Facts,
}

impl Scene {
    /// Node 1 serves, all others stream and are counted, W = 1; everything was just heard.
    pub(crate) fn serving(nodes: i64) -> Scene {
        let settings = Settings { number_sync_standbys: 0, ..Settings::default() };
        let mut group = Group::new(key(), settings, "secret".to_owned());
        let others: Vec<i64> = (2..=nodes).collect();
        group.members = (1..=nodes).map(|n| (NodeId(n), member(n))).collect();
        group.system_id = Some(SYSTEM_ID);
        group.epoch = Epoch(1);
        group.last_tli = Tli(1);
        let rule = group.record_rule(Epoch(1), NodeId(1), ids(&others), u32::from(nodes > 1));
        group.plan = Plan::Serving { primary: NodeId(1) };
        let mut scene = Scene { group, facts: Facts::new(t(1000)) };
        scene.facts.last_tick_ms = T0;
        scene.hear(1, primary_report(&rule, &others), T0);
        for n in others {
            scene.hear(n, standby_report(&rule, 10), T0);
            scene.facts.node_mut(NodeId(n)).streamed_ms = Some(T0);
        }
        scene
    }

    pub(crate) fn rule(&self) -> SyncRule {
        self.group.rule().unwrap().clone()
    }

    /// Node `n` reports over its stream (its number, as a rule).
    pub(crate) fn hear(&mut self, n: i64, report: Report, ms: u64) {
        let stream = n.unsigned_abs();
        self.facts.node_mut(NodeId(n)).stream = Some(stream);
        self.facts.node_mut(NodeId(n)).closed_ms = None;
        assert!(self.facts.take_report(stream, NodeId(n), report, t(ms)));
    }

    pub(crate) fn edit(&mut self, n: i64, change: impl FnOnce(&mut Member)) {
        change(self.group.members.get_mut(&NodeId(n)).unwrap());
    }

    pub(crate) fn report_mut(&mut self, n: i64) -> &mut Report {
        self.facts.node_mut(NodeId(n)).report.as_mut().unwrap()
    }

    /// The stream of node `n` has ended.
    pub(crate) fn close(&mut self, n: i64, ms: u64) {
        let node = self.facts.node_mut(NodeId(n));
        node.stream = None;
        node.closed_ms = Some(ms);
    }
}

pub(crate) fn hello(n: i64) -> Hello {
    Hello {
        formation: "default".into(),
        group: 0,
        name: format!("node{n}"),
        host: format!("host{n}"),
        port: 5432,
        candidate_priority: 50,
        replication_quorum: true,
        node_id: None,
        system_id: None,
        promise: Epoch(0),
        rules_held: Vec::new(),
        settings: None,
        peers: Vec::new(),
        postgres_major: 17,
    }
}

/// The hello of a keeper that was told of `rules` and has fsynced `promise`.
pub(crate) fn known_hello(n: i64, promise: u64, rules: &[SyncRule]) -> Hello {
    Hello {
        node_id: Some(NodeId(n)),
        system_id: Some(SYSTEM_ID),
        promise: Epoch(promise),
        rules_held: rules.to_vec(),
        ..hello(n)
    }
}

pub(crate) fn order(epoch: u64, seq: u64, goal: Goal) -> Order {
    Order {
        epoch: Epoch(epoch),
        seq,
        goal_state: NodeState::Secondary,
        goal,
        rules: Vec::new(),
        peers: Vec::new(),
        settings: Settings::default(),
        replication_password: "secret".to_owned().into(),
        room: None,
    }
}

/// The state file of a node that has joined.
pub(crate) fn record(n: i64) -> NodeRecord {
    let mut record = NodeRecord::new("default".into(), 0, format!("node{n}"));
    record.node_id = Some(NodeId(n));
    record.system_id = Some(SYSTEM_ID);
    record
}

/// A monitor with three nodes: 1 serves, 2 and 3 stream and are counted.
pub(crate) struct Monitor {
    pub(crate) driver: GroupDriver,
    pub(crate) ms: u64,
    pub(crate) next_command: u64,
}

impl Monitor {
    pub(crate) fn new(change: impl FnOnce(&mut Scene)) -> Self {
        let mut scene = Scene::serving(3);
        change(&mut scene);
        let driver = GroupDriver::new(scene.group.clone(), t(T0));
        let mut monitor = Monitor { driver, ms: T0, next_command: 1 };
        for n in 1..=3 {
            let hello = known_hello(n, 1, &[]);
            monitor.take(GroupInput::Hello {
                stream: n.unsigned_abs(),
                hello,
                fresh_id: NodeId(100),
            });
            if let Some(report) = scene.facts.report(NodeId(n)).cloned() {
                monitor.report(n, report);
            }
        }
        monitor
    }

    pub(crate) fn take(&mut self, input: GroupInput) -> GroupOutput {
        self.ms += 10;
        let out = self.driver.handle(input, t(self.ms));
        self.driver.committed();
        out
    }

    pub(crate) fn report(&mut self, n: i64, report: Report) -> GroupOutput {
        let (stream, node) = (n.unsigned_abs(), NodeId(n));
        self.take(GroupInput::Report { stream, node, report: Box::new(report) })
    }

    pub(crate) fn rule(&self) -> SyncRule {
        self.driver.group().rule().unwrap().clone()
    }

    pub(crate) fn command(&mut self, command: Command) -> (Result<String, Refusal>, GroupOutput) {
        let id = self.next_command;
        self.next_command += 1;
        let mut out = self.take(GroupInput::Command { id, command });
        assert_eq!(out.replies.len(), 1);
        let (answered, reply) = out.replies.remove(0);
        assert_eq!(answered, id);
        (reply, out)
    }

    /// Refused with `code`, in words that contain `words`, and nothing has changed.
    pub(crate) fn refuses(&mut self, command: Command, code: RefusalCode, words: &str) {
        let before = self.driver.group().clone();
        let told = format!("{command:?}");
        let (reply, out) = self.command(command);
        let refusal = reply.expect_err(&told);
        assert_eq!(refusal.code, code, "{told}: {refusal}");
        assert!(refusal.message.contains(words), "{told}: {refusal}");
        assert_eq!(self.driver.group(), &before, "{told}");
        let nothing = out.record.is_none() && out.events.is_empty() && out.progress.is_empty();
        assert!(nothing && out.orders.is_empty(), "{told}: {out:?}");
    }
}

/// A server that answers: a standby without an upstream whose WAL ends at `end`.
pub(crate) fn up(end: (u32, u64)) -> UpView {
    UpView {
        in_recovery: true,
        tli: Tli(end.0),
        received: None,
        replayed: Lsn(end.1),
        streamed: false,
        replay_idle: false,
        receiver_alive: false,
        streaming: false,
        wal_age_ms: None,
        detached: true,
        upstream: None,
        history: TimelineHistory { tli: Tli(end.0), ancestors: Vec::new() },
        checkpoint_tli: Tli(end.0),
        upstream_answers: false,
        delayed: false,
        limits: Limits::DEFAULT,
        cramped: false,
        foreign_conf: false,
        senders: Vec::new(),
    }
}

pub(crate) fn cluster(end: (u32, u64), shut_down: bool) -> Data {
    Data::Cluster(Cluster {
        system_id: SYSTEM_ID,
        shut_down,
        checkpoint: at(end.0, end.1),
        highest_tli: Tli(end.0),
    })
}
