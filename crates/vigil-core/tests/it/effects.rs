//! A command is over when its effect is there, not when it was recorded.

use vigil_core::command::{Command, Progress, RefusalCode};
use vigil_core::driver::group::{GroupInput, GroupOutput};
use vigil_core::group::Plan;
use vigil_core::ids::NodeId;
use vigil_core::message::{Report, Server};

use crate::support::{
    Monitor, at, idle_report, ids, pledged_report, primary_report, standby_report,
};

fn enable(node: &str, allow_failover: bool) -> Command {
    Command::EnableMaintenance { node: node.into(), allow_failover }
}

fn drop_node(node: &str, allow_failover: bool) -> Command {
    Command::DropNode { node: node.into(), force: false, allow_failover }
}

fn sync(k: u32) -> Command {
    Command::SetSettings {
        number_sync_standbys: Some(k),
        heartbeat_interval_ms: None,
        heartbeat_misses: None,
    }
}

/// The last word of a command, if it has come.
fn ended(out: &GroupOutput) -> Option<Progress> {
    out.progress.iter().map(|(_, p)| p.clone()).find(Progress::is_last)
}

fn effective(out: &GroupOutput) -> String {
    match ended(out) {
        Some(Progress::Effective { message }) => message,
        other => panic!("{other:?}"),
    }
}

fn waits_for(out: &GroupOutput, words: &str) {
    assert_eq!(ended(out), None, "too early: {out:?}");
    let told = out.progress.iter().any(|(_, p)| match p {
        Progress::Waiting { what, .. } => what.contains(words),
        _ => false,
    });
    assert!(told, "not `{words}`: {:?}", out.progress);
}

/// The primary obeys the newest rule, and those of it stream.
fn obey(monitor: &mut Monitor) -> GroupOutput {
    let rule = monitor.rule();
    let members: Vec<i64> = rule.members.iter().map(|id| id.0).collect();
    monitor.report(rule.primary.0, primary_report(&rule, &members))
}

#[test]
fn maintenance_is_over_when_postgres_is_stopped() {
    let mut monitor = Monitor::new(|_| {});
    let (told, out) = monitor.command(enable("node3", false));
    assert_eq!(told.unwrap(), "node3 enters maintenance");
    waits_for(&out, "the sync rule to do without it");
    assert_eq!(monitor.rule().members, ids(&[2]));
    waits_for(&obey(&mut monitor), "its Postgres to stop");
    let rule = monitor.rule();
    assert_eq!(ended(&monitor.report(3, standby_report(&rule, 10))), None);
    let out = monitor.report(3, idle_report(1));
    assert_eq!(effective(&out), "node3 is in maintenance, its Postgres is stopped");

    // And back: when it streams.
    let (told, out) = monitor.command(Command::DisableMaintenance { node: "node3".into() });
    told.unwrap();
    assert_eq!(ended(&out), None);
    let out = monitor.report(3, standby_report(&rule, 10));
    assert_eq!(effective(&out), "node3 streams from the primary");
}

#[test]
fn a_node_whose_keeper_is_away_is_not_called_stopped() {
    let mut monitor = Monitor::new(|_| {});
    monitor.command(enable("node3", false)).0.unwrap();
    let mut told = Vec::new();
    for _ in 0..20 {
        monitor.ms += 490;
        told.extend(obey(&mut monitor).progress);
    }
    assert!(!told.iter().any(|(_, p)| p.is_last()), "{told:?}");
    let Some((_, Progress::Waiting { what, .. })) = told.last() else { panic!("{told:?}") };
    assert!(what.contains("does not answer"), "{what}");
}

#[test]
fn a_node_that_is_taken_out_again_ends_it_otherwise() {
    let mut monitor = Monitor::new(|s| s.edit(3, |m| m.maintenance = true));
    monitor.report(3, idle_report(1));
    monitor.command(Command::DisableMaintenance { node: "node3".into() }).0.unwrap();
    let (told, out) = monitor.command(enable("node3", false));
    told.unwrap();
    let otherwise = out.progress.iter().find(|(id, p)| *id == 1 && p.is_last());
    let Some((_, Progress::Otherwise { message })) = otherwise else { panic!("{out:?}") };
    assert!(message.contains("taken out of service again"), "{message}");
}

/// Hands over, and only then rests or leaves; what is undone is told as such.
#[test]
fn a_primary_hands_over_first() {
    for command in [enable("node1", true), drop_node("node1", true)] {
        let mut monitor = Monitor::new(|_| {});
        let rule = monitor.rule();
        let (told, out) = monitor.command(command.clone());
        assert!(told.unwrap().contains("node1 hands over to node2, then"), "{command:?}");
        assert_eq!(ended(&out), None);
        monitor.report(1, Report { prepared: true, ..primary_report(&rule, &[2, 3]) });
        let stopped = Report { server: Server::Stopped, ..pledged_report(2, at(1, 6001)) };
        monitor.report(1, stopped.clone());
        for n in [2, 3] {
            monitor.report(n, pledged_report(2, at(1, 6100)));
        }
        assert_eq!(monitor.rule().primary, NodeId(2));
        let rule = monitor.rule();
        let mut out = obey(&mut monitor);
        monitor.report(3, standby_report(&rule, 10));
        for _ in 0..2 {
            if ended(&out).is_none() {
                out = monitor.report(1, stopped.clone());
            }
            if ended(&out).is_none() {
                out = obey(&mut monitor);
            }
        }
        if matches!(command, Command::DropNode { .. }) {
            assert!(monitor.driver.group().members[&NodeId(1)].dropped);
            assert_eq!(ended(&out), None, "its keeper is there");
            out = monitor.take(GroupInput::Closed { stream: 1, node: NodeId(1) });
            assert_eq!(effective(&out), "node1 has left the group");
        } else {
            assert_eq!(effective(&out), "node1 is in maintenance, its Postgres is stopped");
        }
    }
}

#[test]
fn what_is_undone_has_no_effect() {
    for (command, words) in [
        (enable("node1", true), "node1 is not in maintenance"),
        (drop_node("node1", true), "node1 is not dropped"),
    ] {
        let mut monitor = Monitor::new(|_| {});
        let rule = monitor.rule();
        monitor.command(command).0.unwrap();
        let mut end = None;
        for _ in 0..20 {
            monitor.ms += 490;
            end = end.or(ended(&monitor.report(1, primary_report(&rule, &[]))));
            for n in [2, 3] {
                let mut gone = standby_report(&rule, 10);
                gone.following.as_mut().unwrap().streaming = false;
                end = end.or(ended(&monitor.report(n, gone)));
            }
        }
        assert_eq!(monitor.driver.group().plan, Plan::Serving { primary: NodeId(1) });
        let Some(Progress::Otherwise { message }) = end else { panic!("{end:?}") };
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn settings_are_there_when_the_primary_obeys_them() {
    let mut monitor = Monitor::new(|_| {});
    let (told, out) = monitor.command(sync(2));
    let told = told.unwrap();
    assert!(told.contains("warning") && told.contains("the loss of one blocks all"), "{told}");
    waits_for(&out, "the sync rule to be in force");
    let message = effective(&obey(&mut monitor));
    assert!(message.starts_with("a commit needs 2 of [node2, node3]; warning: "), "{message}");

    let (_, out) = monitor.command(Command::SetNode {
        node: "node3".into(),
        candidate_priority: Some(3),
        replication_quorum: None,
    });
    assert!(effective(&out).contains("candidate priority 3"), "nothing to wait for");

    let (_, out) = monitor.command(Command::SetSettings {
        number_sync_standbys: None,
        heartbeat_interval_ms: Some(250),
        heartbeat_misses: None,
    });
    waits_for(&out, "the new heartbeat");
    let rule = monitor.rule();
    for n in 1..=3 {
        let report = match n {
            1 => primary_report(&rule, &[2, 3]),
            _ => standby_report(&rule, 10),
        };
        let out = monitor.report(n, Report { interval_ms: 250, ..report });
        assert_eq!(ended(&out).is_some(), n == 3, "{n}");
    }
}

/// A node that leaves exactly as many as must acknowledge is let go, and that is said.
#[test]
fn a_command_that_leaves_no_spare_says_so() {
    let mut monitor = Monitor::new(|_| {});
    let (told, _) = monitor.command(sync(1));
    assert!(!told.unwrap().contains("warning"), "one is spare");
    obey(&mut monitor);
    for command in [drop_node("node3", false), enable("node3", false)] {
        let mut monitor = Monitor::new(|_| {});
        monitor.command(sync(1)).0.unwrap();
        obey(&mut monitor);
        let told = monitor.command(command).0.unwrap();
        assert!(told.contains("1 counted standby left"), "{told}");
    }
}

#[test]
fn a_primary_is_not_dropped_by_mistake() {
    let mut monitor = Monitor::new(|_| {});
    monitor.refuses(drop_node("node1", false), RefusalCode::Refused, "is the primary");
}
