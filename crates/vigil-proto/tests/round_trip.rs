//! Every message comes back as it went out, with every field at a value that is not its default.

use std::collections::BTreeSet;
use std::fmt::Debug;

use vigil_core::command::{Command, OperationResult, Progress, Refusal, RefusalCode};
use vigil_core::event::{EventKind, Phase};
use vigil_core::group::Settings;
use vigil_core::ids::{Epoch, NodeId, RuleId};
use vigil_core::limits::Limits;
use vigil_core::message::{
    Barrier, Following, Goal, Hello, NotLetIn, Notice, Order, Peer, Problem, Report, Sender,
    Server, Trouble, TroubleKind, Welcome,
};
use vigil_core::rule::{Pledge, SyncRule};
use vigil_core::state::NodeState;
use vigil_core::view::{Alert, EventView, Finding, GroupView, NodeFindings, NodeView, Waiting};
use vigil_core::wal::{Lsn, Position, TimelineHistory, Tli};
use vigil_proto::{
    BadMessage, CommandRequest, EventsRequest, KeeperMessage, MonitorMessage, Selector, pb,
    refusal_of, refusal_status, uris,
};

fn round_trip<C, P>(value: C)
where
    C: Clone + PartialEq + Debug + TryFrom<P, Error = BadMessage>,
    P: From<C>,
{
    assert_eq!(C::try_from(P::from(value.clone())), Ok(value));
}

fn rule(version: u64) -> SyncRule {
    SyncRule {
        epoch: Epoch(8),
        version,
        primary: NodeId(2),
        members: BTreeSet::from([NodeId(1), NodeId(3)]),
        acks: 1,
    }
}

fn position() -> Position {
    Position { tli: Tli(3), lsn: Lsn(0x16_B374_D848) }
}

fn history() -> TimelineHistory {
    let ancestors = vec![
        Position { tli: Tli(1), lsn: Lsn(0x500_0000) },
        Position { tli: Tli(2), lsn: Lsn(0x700_0000) },
    ];
    TimelineHistory { tli: Tli(3), ancestors }
}

fn settings() -> Settings {
    Settings {
        number_sync_standbys: 1,
        heartbeat_interval_ms: 250,
        heartbeat_misses: 4,
        member_gone_ms: 9_000,
        max_failovers: 5,
        failover_window_ms: 60_000,
    }
}

fn peer() -> Peer {
    Peer {
        id: NodeId(3),
        name: "node3".to_owned(),
        host: "::1".to_owned(),
        port: 5434,
        candidate_priority: 80,
        replication_quorum: true,
        maintenance: true,
    }
}

fn hello() -> Hello {
    Hello {
        formation: "default".to_owned(),
        group: 1,
        name: "node1".to_owned(),
        host: "10.0.0.1".to_owned(),
        port: 65_432,
        candidate_priority: 90,
        replication_quorum: true,
        node_id: Some(NodeId(7)),
        system_id: Some(u64::MAX),
        promise: Epoch(8),
        rules_held: vec![rule(1), rule(2)],
        settings: Some(settings()),
        peers: vec![peer()],
        postgres_major: 17,
    }
}

fn limits() -> Limits {
    Limits {
        max_connections: 200,
        max_worker_processes: 9,
        max_wal_senders: 17,
        max_prepared_transactions: 1,
        max_locks_per_transaction: 65,
    }
}

fn report() -> Report {
    Report {
        state: NodeState::ReportLsn,
        promise: Epoch(8),
        order_seq: 99,
        server: Server::Standby,
        pledge: Some(Pledge {
            epoch: Epoch(8),
            position: Some(position()),
            usable: true,
            fetching: true,
        }),
        own_rule: Some(rule(3)),
        in_force: Some(rule(4).id()),
        covered: Some(RuleId { epoch: Epoch(7), version: 3 }),
        rules_held: vec![rule(4)],
        position: Some(position()),
        replayed: Some(Lsn(8)),
        history: Some(history()),
        highest_tli: Tli(4),
        following: Some(Following {
            primary: NodeId(2),
            epoch: Epoch(8),
            streaming: true,
            wal_age_ms: 12,
        }),
        senders: vec![Sender {
            name: "node3".to_owned(),
            streaming: true,
            flush: Lsn(10),
            replay: Lsn(9),
            reply_age_ms: 3,
        }],
        rewind_source: true,
        usable: true,
        prepared: true,
        leaving: true,
        delayed: true,
        limits: Some(limits()),
        problem: Some(Problem {
            code: "rewind_failed".to_owned(),
            text: "it failed".to_owned(),
            failures: 3,
        }),
        notices: vec![Notice { seq: 4, kind: EventKind::Rejoin, text: "WAL kept".to_owned() }],
        interval_ms: 5000,
        look_age_ms: 12,
        not_let_in: Some(NotLetIn {
            barrier: Barrier::TooManyClients,
            text: "sorry, too many clients already".to_owned(),
        }),
        troubles: vec![Trouble {
            kind: TroubleKind::BrokenConfiguration,
            place: Some("/data/postgresql.conf line 3".to_owned()),
            text: "syntax error".to_owned(),
        }],
        starved_ms: 13,
        doing: Some("rewind".to_owned()),
        system_id: Some(1),
    }
}

fn order(goal: Goal) -> Order {
    Order {
        epoch: Epoch(8),
        seq: 1 << 40,
        goal_state: NodeState::PreparePromotion,
        goal,
        rules: vec![rule(4)],
        peers: vec![peer()],
        settings: settings(),
        replication_password: "secret".to_owned().into(),
        room: Some(limits()),
    }
}

fn goals() -> Vec<Goal> {
    vec![
        Goal::Wait,
        Goal::Found { rule: rule(1) },
        Goal::Lead { rule: rule(1), tli: Tli(4), renewal: true, prepare: true },
        Goal::Follow { primary: NodeId(2), history: Some(history()), open: true },
        Goal::Follow { primary: NodeId(2), history: None, open: false },
        Goal::Pledge { await_wal: Some(position()), restart: true },
        Goal::Pledge { await_wal: None, restart: false },
        Goal::FastForward { source: NodeId(3), until: position() },
        Goal::Stop,
        Goal::Drop,
    ]
}

fn group_view() -> GroupView {
    GroupView {
        formation: "default".to_owned(),
        group: 1,
        plan: "serving".to_owned(),
        epoch: Epoch(8),
        nodes: vec![NodeView {
            nodeid: NodeId(2),
            nodename: "node2".to_owned(),
            nodehost: "10.0.0.2".to_owned(),
            nodeport: 5433,
            formationid: "default".to_owned(),
            groupid: 1,
            reportedstate: NodeState::Secondary,
            goalstate: NodeState::Catchingup,
            health: -1,
            reportedlsn: Some(Lsn(77)),
            reportedtli: Some(Tli(3)),
            candidatepriority: 90,
            replicationquorum: true,
            epoch: Epoch(8),
            lag_bytes: Some(0),
            sync: "quorum".to_owned(),
            since: "2026-11-21T10:00:00Z".to_owned(),
        }],
        waiting_on: vec![Waiting {
            what: "pledge".to_owned(),
            who: "node3".to_owned(),
            since: "2026-11-21T10:00:00Z".to_owned(),
        }],
        alerts: vec![Alert { code: "c".to_owned(), text: "t".to_owned() }],
        findings: vec![NodeFindings {
            nodename: "node2".to_owned(),
            findings: vec![Finding {
                code: "c".to_owned(),
                cause: "x".to_owned(),
                remedy: "y".to_owned(),
            }],
        }],
        writable: Some(NodeId(2)),
        sync_expected: 2,
        sync_observed: 1,
        promotable_standbys: 1,
    }
}

fn result() -> OperationResult {
    OperationResult {
        operation: "failover".to_owned(),
        formationid: "default".to_owned(),
        groupid: 1,
        epoch: 8,
        from: Some("node1".to_owned()),
        to: "node2".to_owned(),
        host: "10.0.0.2".to_owned(),
        port: 5433,
        outage_ms: 132,
        phases: vec![Phase { name: "detect".to_owned(), ms: 3 }],
    }
}

#[test]
fn what_keepers_say() {
    round_trip::<_, pb::Hello>(hello());
    round_trip::<_, pb::Report>(report());
    round_trip::<_, pb::KeeperMessage>(KeeperMessage::Hello(Box::new(hello())));
    round_trip::<_, pb::KeeperMessage>(KeeperMessage::Report {
        counter: 5,
        report: Box::new(report()),
    });
    let bare = Report {
        pledge: None,
        own_rule: None,
        in_force: None,
        covered: None,
        position: None,
        history: None,
        following: None,
        problem: None,
        doing: None,
        system_id: None,
        ..report()
    };
    round_trip::<_, pb::Report>(bare);
}

#[test]
fn what_the_monitor_says() {
    round_trip::<_, pb::Welcome>(Welcome { node_id: NodeId(7), settings: settings() });
    round_trip::<_, pb::MonitorMessage>(MonitorMessage::Heard { counter: 5 });
    for goal in goals() {
        round_trip::<_, pb::MonitorMessage>(MonitorMessage::Order(Box::new(order(goal))));
    }
}

#[test]
fn every_state_has_its_number() {
    for state in NodeState::ALL {
        round_trip::<_, pb::Report>(Report { state, ..report() });
    }
}

#[test]
fn what_operators_ask_and_see() {
    for command in [
        Command::Failover { allow_data_loss: true },
        Command::Switchover { to: Some("node3".to_owned()) },
        Command::Switchover { to: None },
        Command::Promotion { node: "node3".to_owned() },
        Command::SetNode {
            node: "node3".to_owned(),
            candidate_priority: Some(0),
            replication_quorum: Some(false),
        },
        Command::SetSettings {
            number_sync_standbys: Some(0),
            heartbeat_interval_ms: Some(100),
            heartbeat_misses: None,
        },
        Command::EnableMaintenance { node: "node3".to_owned(), allow_failover: true },
        Command::DisableMaintenance { node: "node3".to_owned() },
        Command::DropNode { node: "node3".to_owned(), force: true, allow_failover: true },
    ] {
        let selector = Selector { formation: Some("default".to_owned()), group: Some(0) };
        round_trip::<_, pb::CommandRequest>(CommandRequest { selector, command });
    }
    round_trip::<_, pb::EventsRequest>(EventsRequest { selector: Selector::default(), limit: 20 });
    for progress in [
        Progress::Phase(Phase { name: "pledge".to_owned(), ms: 12 }),
        Progress::Waiting { what: "pledge".to_owned(), who: "node3".to_owned() },
        Progress::Done(result()),
        Progress::RolledBack(OperationResult { from: None, ..result() }),
        Progress::Failed { message: "no".to_owned() },
    ] {
        round_trip::<_, pb::Progress>(progress);
    }
    round_trip::<_, pb::GroupViews>(vec![group_view()]);
    round_trip::<_, pb::EventViews>(vec![EventView {
        eventid: 12,
        eventtime: "2026-11-21T10:00:00Z".to_owned(),
        formationid: "default".to_owned(),
        groupid: 1,
        nodeid: Some(NodeId(2)),
        nodename: Some("node2".to_owned()),
        kind: EventKind::Quarantine,
        epoch: Epoch(8),
        cause: Some("unreachable".to_owned()),
        evidence: vec!["a".to_owned(), "b".to_owned()],
        phases: vec![Phase { name: "detect".to_owned(), ms: 3 }],
        description: "d".to_owned(),
    }]);
}

#[test]
fn a_newer_peer_is_told_where_it_is_not_understood() {
    let mut message = pb::MonitorMessage::from(MonitorMessage::Order(Box::new(order(Goal::Stop))));
    let Some(pb::monitor_message::Said::Order(order)) = &mut message.said else { unreachable!() };
    order.goal = Some(pb::Goal { kind: None });
    let error = MonitorMessage::try_from(message.clone()).unwrap_err();
    assert_eq!(error.to_string(), "message not understood: `order.goal` has an unknown value");

    let Some(pb::monitor_message::Said::Order(order)) = &mut message.said else { unreachable!() };
    let found = pb::goal::Found { rule: None };
    order.goal = Some(pb::Goal { kind: Some(pb::goal::Kind::Found(found)) });
    let error = MonitorMessage::try_from(message).unwrap_err();
    assert_eq!(error.to_string(), "message not understood: `order.goal.found.rule` is missing");

    let mut newer = pb::Report::from(report());
    newer.server = 1000;
    assert_eq!(Report::try_from(newer.clone()).map(|r| r.server), Ok(Server::Unknown));
    newer.state = 1000;
    let error = Report::try_from(newer).unwrap_err();
    assert_eq!(error.field, "state");
    let port = pb::Peer { port: 65_536, ..pb::Peer::default() };
    assert_eq!(Peer::try_from(port).unwrap_err().field, "port");
}

#[test]
fn the_password_is_not_in_what_is_logged() {
    let message = pb::MonitorMessage::from(MonitorMessage::Order(Box::new(order(Goal::Stop))));
    let shown = format!("{message:?}");
    assert!(shown.contains("PreparePromotion") && !shown.contains("secret"), "{shown}");
}

#[test]
fn a_refusal_survives_as_a_status() {
    for code in [RefusalCode::BadValue, RefusalCode::NotFound, RefusalCode::Refused] {
        let refusal = Refusal::new(code, "no node `nöde`", "one of: node1");
        assert_eq!(refusal_of(&refusal_status(refusal.clone())), Some(refusal));
    }
    assert_eq!(refusal_of(&tonic::Status::not_found("something else")), None);
}

#[test]
fn uris_name_every_node_that_stays() {
    let mut group = group_view();
    let mut second = group.nodes[0].clone();
    second.nodehost = "fe80::1".to_owned();
    let mut third = second.clone();
    third.goalstate = NodeState::Dropped;
    group.nodes.extend([second, third]);
    let shown: Vec<String> = uris(&[group]).into_iter().map(|uri| uri.uri).collect();
    let hosts = "postgres://10.0.0.2:5433,[fe80::1]:5433/postgres";
    assert_eq!(
        shown,
        [
            format!("{hosts}?target_session_attrs=read-write"),
            format!("{hosts}?target_session_attrs=prefer-standby"),
        ]
    );
}
