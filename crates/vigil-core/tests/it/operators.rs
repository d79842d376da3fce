//! What running a group asks of the decisions: maintenance, leaving, coming back.

use vigil_core::command::{Command, RefusalCode};
use vigil_core::driver::group::{GroupInput, GroupOutput};
use vigil_core::driver::node::{NodeDriver, NodeInput, NodeOutput};
use vigil_core::event::EventKind;
use vigil_core::group::Plan;
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::limits::Limits;
use vigil_core::message::{Goal, Report, Server};
use vigil_core::node::observed::{Observed, ServerView, UpView};
use vigil_core::node::step::Step;
use vigil_core::node::{Circumstances, Next, next_step};
use vigil_core::state::NodeState;

use crate::support::{
    Monitor, at, cluster, hello, order, pledged_report, primary_report, record, standby_report,
};

fn drop_node(node: &str, force: bool) -> Command {
    Command::DropNode { node: node.into(), force, allow_failover: false }
}

fn enable(node: &str, allow_failover: bool) -> Command {
    Command::EnableMaintenance { node: node.into(), allow_failover }
}

/// Node 1 alone, as primary.
fn group_of_one() -> Monitor {
    let mut monitor = Monitor::new(|s| {
        s.group.rules[0].members.clear();
        s.group.rules[0].acks = 0;
    });
    for (stream, name) in [(2, "node2"), (3, "node3")] {
        monitor.take(GroupInput::Closed { stream, node: NodeId(stream.cast_signed()) });
        monitor.command(drop_node(name, true)).0.unwrap();
    }
    monitor
}

fn goal(out: &GroupOutput, n: i64) -> Option<Goal> {
    let order = out.orders.iter().rev().find(|(_, id, _)| *id == NodeId(n));
    order.map(|(_, _, order)| order.goal.clone())
}

/// The primary of a group hands over first: it pledges by stopping, as in every switchover, and is
/// in maintenance only when the other one serves.
#[test]
fn a_primary_enters_maintenance_after_it_has_handed_over() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    let (reply, _) = monitor.command(enable("node1", true));
    assert_eq!(reply.unwrap(), "node1 hands over to node2, then enters maintenance");
    let in_maintenance =
        |m: &Monitor| m.driver.group().members.get(&NodeId(1)).unwrap().maintenance;
    assert!(!in_maintenance(&monitor), "it still serves");
    let out = monitor.report(1, Report { prepared: true, ..primary_report(&rule, &[2, 3]) });
    assert!(matches!(goal(&out, 1), Some(Goal::Pledge { .. })), "{out:?}");
    let mut stopped = pledged_report(2, at(1, 6001));
    stopped.server = Server::Stopped;
    monitor.report(1, stopped);
    monitor.report(2, pledged_report(2, at(1, 6100)));
    monitor.report(3, pledged_report(2, at(1, 6100)));
    let new = monitor.rule();
    assert_eq!(new.primary, NodeId(2));
    let out = monitor.report(2, primary_report(&new, &[3]));
    assert!(in_maintenance(&monitor));
    let kinds: Vec<EventKind> = out.events.iter().map(|e| e.kind).collect();
    assert!(kinds.contains(&EventKind::Maintenance), "{kinds:?}");
}

/// What is undone has no effect left over.
#[test]
fn maintenance_of_a_primary_that_cannot_hand_over_is_called_off() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    monitor.command(enable("node1", true)).0.unwrap();
    let mut events = Vec::new();
    for _ in 0..20 {
        monitor.ms += 490;
        events.extend(monitor.report(1, primary_report(&rule, &[])).events);
        for n in [2, 3] {
            let mut gone = standby_report(&rule, 10);
            gone.following.as_mut().unwrap().streaming = false;
            events.extend(monitor.report(n, gone).events);
        }
    }
    let group = monitor.driver.group();
    assert_eq!(group.plan, Plan::Serving { primary: NodeId(1) });
    assert!(!group.members.get(&NodeId(1)).unwrap().maintenance);
    let said = events.iter().any(|e| e.description.contains("does not enter maintenance"));
    assert!(said, "{events:?}");
}

/// A node in maintenance that a rule in flight names still pledges, but is not started for it.
#[test]
fn an_election_may_need_a_node_in_maintenance_but_never_starts_it() {
    let mut monitor = Monitor::new(|s| {
        s.report_mut(1).in_force = None;
        s.edit(3, |m| m.maintenance = true);
    });
    assert!(monitor.rule().members.contains(&NodeId(3)), "no other rule is possible yet");
    let mut down = primary_report(&monitor.rule(), &[]);
    down.server = Server::Stopped;
    let out = monitor.report(1, down);
    let Some(Goal::Pledge { restart, .. }) = goal(&out, 3) else { panic!("{out:?}") };
    assert!(!restart);
}

#[test]
fn commits_are_not_blocked_by_a_command_that_could_have_been_refused() {
    let set = |k| Command::SetSettings {
        number_sync_standbys: Some(k),
        heartbeat_interval_ms: None,
        heartbeat_misses: None,
    };
    let mut monitor = Monitor::new(|_| {});
    monitor.command(set(2)).0.unwrap();
    for command in [enable("node3", false), enable("node1", true), drop_node("node3", false)] {
        monitor.refuses(command, RefusalCode::Refused, "too few counted nodes");
    }
    monitor.command(set(1)).0.unwrap();
    monitor.command(enable("node3", false)).0.unwrap();
    monitor.refuses(enable("node2", false), RefusalCode::Refused, "too few counted nodes");
    monitor.refuses(drop_node("node2", false), RefusalCode::Refused, "too few counted nodes");
    // What counts for nothing may go.
    monitor.command(drop_node("node3", false)).0.unwrap();
    // An operator who insists is obeyed.
    monitor.command(drop_node("node2", true)).0.unwrap();
}

/// The last one may leave, also as the primary; the next to come founds the group anew, above all
/// that was.
#[test]
fn a_group_ends_with_its_last_node_and_begins_again() {
    let mut monitor = group_of_one();
    let (reply, out) = monitor.command(drop_node("node1", false));
    reply.unwrap();
    assert_eq!(goal(&out, 1), Some(Goal::Drop));
    let mut stopped = primary_report(&monitor.rule(), &[]);
    stopped.server = Server::Stopped;
    monitor.report(1, stopped);
    monitor.take(GroupInput::Closed { stream: 1, node: NodeId(1) });
    let group = monitor.driver.group();
    assert!(group.members.is_empty() && group.rules.is_empty(), "{group:?}");
    assert_eq!((&group.plan, group.system_id), (&Plan::Forming { founder: None }, None));

    let new = hello(1);
    monitor.take(GroupInput::Hello { stream: 9, hello: new, fresh_id: NodeId(100) });
    let mut report = crate::support::idle_report(0);
    report.server = Server::NoData;
    report.system_id = None;
    monitor.take(GroupInput::Report { stream: 9, node: NodeId(100), report: Box::new(report) });
    assert_eq!(monitor.rule().epoch, Epoch(2));
}

/// A group of one whose data is gone has not become an empty group: a new one is not founded in its
/// place, and whoever takes the loss is obeyed.
#[test]
fn the_only_node_without_its_data_founds_nothing() {
    let mut monitor = group_of_one();
    monitor.take(GroupInput::Closed { stream: 1, node: NodeId(1) });
    monitor.take(GroupInput::Hello { stream: 9, hello: hello(1), fresh_id: NodeId(100) });
    for _ in 0..20 {
        monitor.ms += 490;
        let mut report = crate::support::idle_report(0);
        (report.server, report.usable, report.system_id) = (Server::NoData, false, None);
        let report = Box::new(report);
        let out = monitor.take(GroupInput::Report { stream: 9, node: NodeId(100), report });
        assert!(!matches!(goal(&out, 100), Some(Goal::Found { .. })), "{out:?}");
    }
    monitor.command(Command::Failover { allow_data_loss: true }).0.unwrap();
}

/// A keeper that is started again while its node is in maintenance leaves Postgres alone, with or
/// without a monitor.
#[test]
fn a_keeper_remembers_that_its_node_is_in_maintenance() {
    let mut record = record(2);
    let down = Observed { data: cluster((1, 5000), false), server: ServerView::Down };
    let memory = Circumstances::default();
    let step =
        |record: &vigil_core::node::record::NodeRecord| next_step(record, None, &down, &memory);
    assert!(matches!(step(&record), Next::Do(_)), "a node boots by itself");
    let mut told = order(1, 5, Goal::Stop);
    told.goal_state = NodeState::Maintenance;
    assert!(record.take_in(&told), "to be fsynced");
    assert_eq!(step(&record), Next::Rest);
    record.take_in(&order(1, 6, Goal::Wait));
    assert!(matches!(step(&record), Next::Do(_)));
}

/// A primary that dies again and again is not cured by another one: after so many failovers within
/// the window an operator has to say so, and is obeyed at once.
#[test]
fn failovers_by_themselves_are_limited_and_those_of_an_operator_are_not() {
    let mut monitor = Monitor::new(|s| {
        s.group.settings.max_failovers = 1;
        s.group.settings.failover_window_ms = 60_000;
    });
    let rule = monitor.rule();
    let dies = |monitor: &mut Monitor| {
        let mut down = primary_report(&rule, &[]);
        down.server = Server::Hung;
        monitor.report(1, down);
        matches!(monitor.driver.group().plan, Plan::Electing { .. })
    };
    assert!(dies(&mut monitor), "the first one");
    // Another one takes over.
    let goes_on = |monitor: &mut Monitor, epoch: u64| {
        monitor.report(2, pledged_report(epoch, at(1, 6100)));
        monitor.report(3, pledged_report(epoch, at(1, 6100)));
        let new = monitor.rule();
        let out = monitor.report(new.primary.0, primary_report(&new, &[1, 2, 3]));
        assert!(matches!(monitor.driver.group().plan, Plan::Serving { .. }), "{out:?}");
        new
    };
    let new = goes_on(&mut monitor, 2);
    let mut down = primary_report(&new, &[]);
    down.server = Server::Stopped;
    monitor.report(new.primary.0, down.clone());
    let serving = Plan::Serving { primary: new.primary };
    assert_eq!(monitor.driver.group().plan, serving, "the second one waits");
    let view = monitor.driver.view(crate::support::t(monitor.ms), &|_| String::new());
    assert!(view.alerts.iter().any(|a| a.code == "failovers_limited"), "{:?}", view.alerts);
    assert!(view.waiting_on.iter().any(|w| w.what.contains("perform-failover")));
    monitor.command(Command::Failover { allow_data_loss: false }).0.unwrap();
    assert!(matches!(monitor.driver.group().plan, Plan::Electing { .. }));
}

#[test]
fn a_standby_that_replays_late_is_never_chosen() {
    use vigil_core::election::{Call, Election, elect};
    let mut scene = crate::support::Scene::serving(3);
    scene.report_mut(1).server = Server::Stopped;
    for n in [2, 3] {
        let mut report = pledged_report(2, at(1, 6000));
        report.delayed = n == 2;
        scene.hear(n, report, crate::support::T0 + 10);
    }
    let call = Call {
        epoch: Epoch(2),
        from: Some(NodeId(1)),
        wanted: Some(NodeId(2)),
        renewable: false,
        accept_loss: false,
    };
    let now = crate::support::t(crate::support::T0 + 500);
    let elected = elect(&scene.group, &scene.facts, call, now);
    let Election::Elected { winner, .. } = elected else { panic!("{elected:?}") };
    assert_eq!(winner, NodeId(3), "node 2 is wanted and has the better priority");
}

/// A standby that fails for a reason that passes by itself is tried again for ever; one that fails
/// for another reason is left alone, and the command that lifts it is told.
#[test]
fn quarantine_has_its_reason_and_its_way_out() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    let failing = |failures| Report {
        problem: Some(vigil_core::message::Problem {
            code: "clone_failed".into(),
            text: "no space left".into(),
            failures,
        }),
        ..standby_report(&rule, 10)
    };
    monitor.report(3, failing(9));
    assert_eq!(monitor.driver.group().members.get(&NodeId(3)).unwrap().quarantine, None);
    let out = monitor.report(3, failing(10));
    let event = out.events.iter().find(|e| e.kind == EventKind::Quarantine).unwrap();
    assert!(event.description.contains("pgctl disable-maintenance node3"), "{event:?}");
    assert!(event.description.contains("no space left"), "{event:?}");
    monitor.report(1, primary_report(&rule, &[2, 3]));
    assert_eq!(monitor.rule().members, crate::support::ids(&[2]), "it is not waited for");
    monitor.refuses(enable("node3", false), RefusalCode::Refused, "in quarantine");
    let lift = Command::DisableMaintenance { node: "node3".into() };
    assert!(monitor.command(lift).0.unwrap().contains("leaves quarantine"));
    // The primary is never stopped by it.
    let mut primary = primary_report(&monitor.rule(), &[2, 3]);
    primary.problem = failing(50).problem;
    monitor.report(1, primary);
    assert_eq!(monitor.driver.group().members.get(&NodeId(1)).unwrap().quarantine, None);
}

/// What a keeper tells of itself becomes one event, however often it is told.
#[test]
fn a_notice_is_noted_once() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    let notice = |seq: u64| vigil_core::message::Notice {
        seq,
        kind: EventKind::Rejoin,
        text: format!("WAL {seq} is kept"),
    };
    let mut report = standby_report(&rule, 10);
    report.notices = vec![notice(1), notice(2)];
    assert_eq!(monitor.report(2, report.clone()).events.len(), 2);
    assert_eq!(monitor.report(2, report.clone()).events, []);
    report.notices.push(notice(3));
    let events = monitor.report(2, report).events;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].description, "WAL 3 is kept");
}

/// A store that was lost: keepers bring back who is in the group, what was set, and who has which
/// number, before anything is decided.
#[test]
fn a_lost_store_is_rebuilt_from_what_keepers_were_told() {
    use crate::support::{key, known_hello, member, rule, t};
    use vigil_core::driver::group::GroupDriver;
    use vigil_core::group::{Group, Settings};
    let group = Group::new(key(), Settings::default(), "new".to_owned());
    let mut driver = GroupDriver::new(group, t(1000));
    let mut hello = known_hello(2, 5, &[rule(5, 9, 1, &[2, 3], 1)]);
    hello.settings = Some(Settings { number_sync_standbys: 1, ..Settings::default() });
    hello.peers = (1..=3).map(|n| member(n).as_peer()).collect();
    hello.peers[1].candidate_priority = 7;
    hello.peers[2].maintenance = true;
    driver.handle(GroupInput::Hello { stream: 1, hello, fresh_id: NodeId(1) }, t(1010));
    let group = driver.group();
    assert_eq!(group.plan, Plan::Recovering);
    assert_eq!(group.settings.number_sync_standbys, 1);
    let members: Vec<_> =
        group.members.values().map(|m| (m.id.0, m.candidate_priority, m.maintenance)).collect();
    assert_eq!(members, [(1, 100, false), (2, 7, false), (3, 80, true)]);
    // A node that nobody knew does not get a number that somebody has.
    let out = driver.handle(
        GroupInput::Hello { stream: 2, hello: crate::support::hello(9), fresh_id: NodeId(1) },
        t(1020),
    );
    assert_eq!(out.welcomes[0].1.as_ref().unwrap().node_id, NodeId(4));
}

/// A whole group that is asked to stop does so at once: there is nobody to hand over to, and an
/// election would wait for nodes that are about to go.
#[test]
fn nobody_waits_for_an_election_that_nobody_stays_to_win() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    let leaving = |report: Report| Report { leaving: true, ..report };
    monitor.report(3, leaving(standby_report(&rule, 10)));
    monitor.report(1, leaving(primary_report(&rule, &[2, 3])));
    let out = monitor.report(2, leaving(standby_report(&rule, 10)));
    assert_eq!(goal(&out, 1), Some(Goal::Stop));
    let stopped = Report { server: Server::Stopped, ..primary_report(&rule, &[]) };
    let out = monitor.report(1, leaving(stopped));
    assert!(matches!(monitor.driver.group().plan, Plan::Electing { .. }));
    assert_eq!((goal(&out, 2), goal(&out, 3)), (Some(Goal::Stop), Some(Goal::Stop)));
    // Node 3 was started again: now it can be won.
    let out = monitor.report(3, standby_report(&rule, 10));
    assert!(matches!(goal(&out, 2), Some(Goal::Pledge { .. })), "{out:?}");
}

fn with_connections(max_connections: u32) -> Limits {
    Limits { max_connections, ..Limits::DEFAULT }
}

/// A node with larger limits may become the primary: the others get as much before, one after the
/// other. The primary cannot be restarted for it, and only keeps it in mind.
#[test]
fn room_is_made_before_it_is_needed_by_one_standby_at_a_time() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    let primary =
        |n| Report { limits: Some(with_connections(n)), ..primary_report(&rule, &[2, 3]) };
    let standby = |n| Report { limits: Some(with_connections(n)), ..standby_report(&rule, 10) };
    let told = |out: &GroupOutput, n: i64| {
        let order = out.orders.iter().rev().find(|(_, id, _)| *id == NodeId(n));
        order.map(|(_, _, order)| order.room)
    };
    let enough = Some(with_connections(200));
    monitor.report(2, standby(100));
    monitor.report(3, standby(100));
    let out = monitor.report(1, primary(200));
    assert_eq!((told(&out, 2), told(&out, 3)), (Some(enough), None));
    let stopped = Report { server: Server::Stopped, following: None, ..standby(100) };
    let out = monitor.report(2, Report { limits: None, ..stopped });
    assert_eq!((told(&out, 2), told(&out, 3)), (Some(None), None), "one is away");
    let out = monitor.report(2, standby(200));
    assert_eq!((told(&out, 2), told(&out, 3)), (None, Some(enough)));
    let out = monitor.report(3, standby(200));
    assert_eq!(told(&out, 3), Some(None), "it has it");

    let out = monitor.report(3, standby(300));
    let more = Some(with_connections(300));
    assert_eq!((told(&out, 1), told(&out, 2)), (Some(more), Some(more)));
}

/// It restarts for it when it is told, and starts with it from then on, whatever it is told later.
#[test]
fn a_standby_makes_room_when_it_is_told() {
    let rule = Monitor::new(|_| {}).rule();
    let goal = Goal::Follow { primary: rule.primary, history: None, open: false };
    let mut told = order(rule.epoch.0, 5, goal);
    let mut server = crate::support::up((1, 5000));
    server.upstream = Some((rule.primary, rule.epoch));
    server.detached = false;
    server.streaming = true;
    server.wal_age_ms = Some(10);
    let seen = Observed { data: cluster((1, 5000), false), server: ServerView::Up(server) };
    let now = crate::support::t(crate::support::T0);
    let mut driver = NodeDriver::new(record(2), now);
    let steps = |out: Vec<NodeOutput>| -> Vec<Step> {
        let step = |o| if let NodeOutput::Run { step, .. } = o { Some(step) } else { None };
        out.into_iter().filter_map(step).collect()
    };
    driver.handle(NodeInput::Observed(seen.clone()), now);
    assert_eq!(steps(driver.handle(NodeInput::Order(told.clone()), now)), []);
    (told.seq, told.room) = (6, Some(with_connections(200)));
    let out = driver.handle(NodeInput::Order(told.clone()), now);
    assert!(matches!(out[0], NodeOutput::Save(_)), "{out:?}");
    let steps = steps(out);
    assert!(matches!(steps[..], [Step::Stop { .. }]), "{steps:?}");
    (told.seq, told.room) = (7, None);
    driver.handle(NodeInput::Order(told.clone()), now);
    assert_eq!(driver.record().room, Some(with_connections(200)));
    let notice = driver.record().notices.last().unwrap();
    assert!(notice.text.contains("max_connections 200 from now on"), "{notice:?}");

    // What it has got by itself meanwhile is no event.
    let mut driver = NodeDriver::new(record(2), now);
    let Observed { data, server: ServerView::Up(server) } = seen else { unreachable!() };
    let server = UpView { limits: with_connections(300), ..server };
    driver.handle(NodeInput::Observed(Observed { data, server: ServerView::Up(server) }), now);
    (told.seq, told.room) = (8, Some(with_connections(300)));
    driver.handle(NodeInput::Order(told), now);
    assert_eq!(driver.record().room, Some(with_connections(300)));
    assert_eq!(driver.record().notices.len(), 0);
}
