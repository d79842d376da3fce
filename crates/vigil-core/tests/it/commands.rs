//! What operators may ask for, and how they are refused: code, words, and nothing changed.

use vigil_core::command::{Command, OperationResult, Progress, RefusalCode};
use vigil_core::driver::group::{GroupInput, GroupOutput};
use vigil_core::event::EventKind;
use vigil_core::group::Plan;
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::{Goal, Report, Server};

use crate::support::{
    Monitor, Scene, T0, at, pledge, pledged_report, primary_report, standby_report, t,
};

fn switchover(to: &str) -> Command {
    Command::Switchover { to: Some(to.into()) }
}

fn promotion(node: &str) -> Command {
    Command::Promotion { node: node.into() }
}

const FAILOVER: Command = Command::Failover { allow_data_loss: false };
const ANY: Command = Command::Switchover { to: None };

#[test]
fn codes_are_the_documented_exit_codes() {
    let codes = [RefusalCode::BadValue, RefusalCode::NotFound, RefusalCode::Refused];
    assert_eq!(codes.map(RefusalCode::exit_code), [2, 4, 5]);
}

#[test]
fn a_target_that_cannot_take_over_is_refused() {
    use RefusalCode::{NotFound, Refused};
    let mut monitor = Monitor::new(|_| {});
    monitor.refuses(switchover("node9"), NotFound, "no node node9");
    monitor.refuses(promotion("node9"), NotFound, "no node node9");
    monitor.refuses(switchover("node1"), Refused, "is the primary already");

    let mut monitor = Monitor::new(|s| s.edit(3, |m| m.candidate_priority = 0));
    monitor.refuses(switchover("node3"), Refused, "candidate priority 0");
    monitor.refuses(promotion("node3"), Refused, "candidate priority 0");

    let mut monitor = Monitor::new(|s| s.edit(3, |m| m.maintenance = true));
    monitor.refuses(switchover("node3"), Refused, "in maintenance");

    let mut monitor = Monitor::new(|s| {
        s.report_mut(3).following.as_mut().unwrap().streaming = false;
    });
    monitor.refuses(switchover("node3"), Refused, "does not stream");

    let mut monitor = Monitor::new(|s| {
        s.report_mut(3).position = Some(at(1, 5000));
        s.report_mut(1).position = Some(at(1, 64 * 1024 * 1024));
    });
    monitor.refuses(switchover("node3"), Refused, "bytes behind");

    // Nobody fits: said, not waited for.
    let mut monitor = Monitor::new(|s| {
        for n in [2, 3] {
            s.edit(n, |m| m.candidate_priority = 0);
        }
    });
    for command in [ANY, FAILOVER] {
        monitor.refuses(command, Refused, "no standby can take over");
    }

    let mut monitor = Monitor::new(|s| {
        // Nobody else is there, so nothing can begin by itself.
        s.group.rules[0].members = crate::support::ids(&[]);
        s.group.rules[0].acks = 0;
        let rule = s.rule();
        s.hear(1, primary_report(&rule, &[]), T0);
        s.report_mut(1).server = Server::Unknown;
    });
    monitor.refuses(ANY, Refused, "not healthy");
}

/// Containers are known by the name of the node and of the host; several nodes of one host are not.
#[test]
fn a_node_is_also_meant_by_its_host() {
    let set = |node: &str| Command::SetNode {
        node: node.to_owned(),
        candidate_priority: Some(7),
        replication_quorum: None,
    };
    let mut monitor = Monitor::new(|_| {});
    let (told, out) = monitor.command(set("host2"));
    assert!(told.unwrap().contains("node2"), "by its own name");
    assert_eq!(out.events.first().and_then(|e| e.node), Some(NodeId(2)));
    assert_eq!(monitor.driver.group().members[&NodeId(2)].candidate_priority, 7);
    let mut scene = Scene::serving(3);
    let meant = |scene: &Scene, word| scene.group.member_meant(word).map(|m| m.id.0);
    assert_eq!(meant(&scene, "host3"), Some(3));
    scene.edit(3, |m| m.host = "host2".to_owned());
    assert_eq!(meant(&scene, "host2"), None, "two nodes are there");
    scene.edit(1, |m| m.host = "node3".to_owned());
    assert_eq!(meant(&scene, "node3"), Some(3), "a name comes first");
}

/// One change of the primary at a time, whichever began first.
#[test]
fn a_second_command_is_refused_while_one_runs() {
    let mut monitor = Monitor::new(|_| {});
    let (reply, _) = monitor.command(switchover("node3"));
    assert!(reply.unwrap().contains("node1 hands over to node3"));
    let second = [ANY, switchover("node2"), switchover("node3"), promotion("node2"), FAILOVER];
    for command in second.clone() {
        monitor.refuses(command, RefusalCode::Refused, "under way");
    }
    // Its rule is not confirmed yet: still the same change.
    let mut monitor = Monitor::new(|s| {
        let group = &mut s.group;
        vigil_core::decide::begin_handover(
            group,
            NodeId(1),
            NodeId(2),
            vigil_core::event::Cause::Operator,
            None,
            t(T0),
        );
        group.plan = Plan::Serving { primary: NodeId(1) };
        s.report_mut(1).covered = None;
    });
    for command in second {
        monitor.refuses(command, RefusalCode::Refused, "not finished");
    }
}

/// An election that waits: a failover without consent to loss changes nothing.
#[test]
fn data_loss_needs_the_word() {
    let mut monitor = Monitor::new(|s| s.report_mut(1).server = Server::Stopped);
    assert!(matches!(monitor.driver.group().plan, Plan::Electing { .. }));
    monitor.refuses(FAILOVER, RefusalCode::Refused, "under way");
    monitor.refuses(ANY, RefusalCode::Refused, "under way");
    let (reply, out) = monitor.command(Command::Failover { allow_data_loss: true });
    reply.unwrap();
    let Plan::Electing { accept_loss, .. } = out.record.unwrap().plan else { panic!() };
    assert!(accept_loss, "recorded before anything is done");
}

#[test]
fn promoting_the_primary_is_done_already() {
    let mut monitor = Monitor::new(|_| {});
    let before = monitor.driver.group().clone();
    let (reply, out) = monitor.command(promotion("node1"));
    assert!(reply.unwrap().contains("is the primary already"));
    assert_eq!(monitor.driver.group(), &before);
    let [(1, Progress::Done(done))] = out.progress.as_slice() else { panic!("{out:?}") };
    let OperationResult { operation, epoch, from, to, host, port, outage_ms, .. } = done;
    assert_eq!((operation.as_str(), *epoch, *outage_ms), ("promotion", 1, 0));
    assert_eq!((from.as_deref(), to.as_str()), (Some("node1"), "node1"));
    assert_eq!((host.as_str(), *port), ("host1", 5432));
}

/// A switchover step by step: what is recorded, what is ordered, and when nothing can be undone
/// any more.
#[test]
fn a_switchover_from_the_command_to_its_result() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    let order = |out: &GroupOutput, n: i64| {
        let order = out.orders.iter().rev().find(|(_, id, _)| *id == NodeId(n));
        order.map(|(_, _, order)| (order.epoch, order.goal.clone()))
    };
    let (reply, out) = monitor.command(switchover("node3"));
    reply.unwrap();
    assert!(matches!(order(&out, 1), Some((Epoch(1), Goal::Lead { prepare: true, .. }))));

    // Prepared: the old primary pledges first, by stopping; the others still receive.
    let prepared = Report { prepared: true, ..primary_report(&rule, &[2, 3]) };
    let out = monitor.report(1, prepared);
    assert!(matches!(order(&out, 1), Some((Epoch(2), Goal::Pledge { .. }))));
    assert!(matches!(order(&out, 3), None | Some((Epoch(1), Goal::Follow { .. }))));

    let mut stopped = pledged_report(2, at(1, 6001));
    stopped.server = Server::Stopped;
    let out = monitor.report(1, stopped);
    for n in [2, 3] {
        let Some((Epoch(2), Goal::Pledge { await_wal, .. })) = order(&out, n) else {
            panic!("{out:?}")
        };
        assert_eq!(await_wal, Some(at(1, 6001)), "the shutdown checkpoint as well");
    }
    monitor.report(2, pledged_report(2, at(1, 6100)));
    let out = monitor.report(3, pledged_report(2, at(1, 6100)));
    let Plan::Promoting { winner, tli, .. } = out.record.as_ref().unwrap().plan else { panic!() };
    assert_eq!((winner, tli.0), (NodeId(3), 2));
    let new = monitor.rule();
    assert_eq!((new.epoch, new.primary, new.acks), (Epoch(2), NodeId(3), 1));
    assert_eq!(monitor.driver.group().rules.len(), 2, "the old one until the new one is covered");
    assert!(matches!(order(&out, 3), Some((Epoch(2), Goal::Lead { .. }))));
    assert!(matches!(order(&out, 2), Some((Epoch(2), Goal::Follow { history: Some(_), .. }))));

    let mut serves = primary_report(&new, &[2]);
    serves.covered = None;
    monitor.report(3, serves);
    assert_eq!(monitor.driver.group().plan, Plan::Serving { primary: NodeId(3) });
    let out = monitor.report(3, primary_report(&new, &[2]));
    assert_eq!(monitor.driver.group().rules, [new]);
    let event = out.events.iter().find(|e| e.kind == EventKind::Switchover).unwrap();
    let phases: Vec<&str> = event.phases.iter().map(|p| p.name.as_str()).collect();
    assert_eq!(phases, ["prepare", "stop", "pledge", "promote", "sync"]);
    let Some((_, Progress::Done(done))) = out.progress.last() else { panic!("{out:?}") };
    assert_eq!((done.from.as_deref(), done.to.as_str()), (Some("node1"), "node3"));
}

/// Before the epoch is begun everything can be undone, and is: the old primary stays writable.
#[test]
fn a_switchover_whose_target_goes_is_undone() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    monitor.command(switchover("node3")).0.unwrap();
    let mut gone = standby_report(&rule, 10);
    gone.following.as_mut().unwrap().streaming = false;
    let began = monitor.ms;
    monitor.report(3, gone.clone());
    let handover = Plan::Handover { from: NodeId(1), to: NodeId(3) };
    assert_eq!(monitor.driver.group().plan, handover, "a blink of the stream is waited out");
    let mut told = Vec::new();
    while monitor.driver.group().plan == handover {
        assert!(monitor.ms < began + 5_000, "it is given up in time");
        monitor.ms += 490;
        let mut primary = primary_report(&rule, &[2]);
        primary.prepared = true;
        told.extend(monitor.report(1, primary).progress);
        told.extend(monitor.report(3, gone.clone()).progress);
    }
    assert_eq!(monitor.driver.group().plan, Plan::Serving { primary: NodeId(1) });
    assert_eq!(monitor.driver.group().epoch, Epoch(1));
    let Some((_, Progress::RolledBack(back))) = told.last() else { panic!("{told:?}") };
    assert_eq!(back.to, "node1");
}

#[test]
fn settings_that_cannot_be_met_are_refused() {
    use RefusalCode::{BadValue, Refused};
    let mut monitor = Monitor::new(|_| {});
    let set = |sync, interval, misses| Command::SetSettings {
        number_sync_standbys: sync,
        heartbeat_interval_ms: interval,
        heartbeat_misses: misses,
    };
    monitor.refuses(set(Some(3), None, None), Refused, "needs 3 counted standbys, there are 2");
    monitor.refuses(set(None, Some(99), None), BadValue, "heartbeat interval");
    monitor.refuses(set(None, Some(60_001), None), BadValue, "heartbeat interval");
    monitor.refuses(set(None, None, Some(1)), BadValue, "misses");
    let node = |priority, quorum| Command::SetNode {
        node: "node2".into(),
        candidate_priority: priority,
        replication_quorum: quorum,
    };
    monitor.refuses(node(Some(101), None), BadValue, "out of range");
    monitor.command(set(Some(2), None, None)).0.unwrap();
    monitor.refuses(node(None, Some(false)), Refused, "too few counted nodes");
    assert_eq!(monitor.rule().acks, 2, "a setting that can be met is met");
}

#[test]
fn the_primary_is_neither_dropped_nor_stopped_by_mistake() {
    let mut monitor = Monitor::new(|_| {});
    let drop =
        |node: &str, force| Command::DropNode { node: node.into(), force, allow_failover: false };
    monitor.refuses(drop("node1", true), RefusalCode::Refused, "is the primary");
    let maintenance = Command::EnableMaintenance { node: "node1".into(), allow_failover: false };
    monitor.refuses(maintenance, RefusalCode::Refused, "is the primary");
    let off = Command::DisableMaintenance { node: "node2".into() };
    monitor.refuses(off, RefusalCode::Refused, "not in maintenance");
    monitor.refuses(drop("node9", true), RefusalCode::NotFound, "no node");
    monitor.take(GroupInput::Closed { stream: 2, node: NodeId(2) });
    monitor.refuses(drop("node2", false), RefusalCode::Refused, "cannot be told");
}

/// A dropped node that is still counted is needed by an election: its pledge is asked for before
/// it may go.
#[test]
fn a_dropped_node_that_is_counted_still_pledges() {
    let mut monitor = Monitor::new(|s| s.report_mut(1).in_force = None);
    let drop = Command::DropNode { node: "node2".into(), force: false, allow_failover: false };
    monitor.command(drop).0.unwrap();
    assert!(monitor.rule().members.contains(&NodeId(2)), "no other rule is possible yet");
    let mut report = primary_report(&monitor.rule(), &[2, 3]);
    report.server = Server::Stopped;
    report.pledge = Some(pledge(1, None));
    let out = monitor.report(1, report);
    let plan = &monitor.driver.group().plan;
    assert!(matches!(plan, Plan::Electing { .. }), "{plan:?} {:?}", monitor.driver.group().rules);
    let order = out.orders.iter().find(|(_, id, _)| *id == NodeId(2)).map(|(_, _, o)| o);
    let order = order.expect("a new order for node 2");
    assert!(matches!(order.goal, Goal::Pledge { .. }), "{:?}", order.goal);
}
