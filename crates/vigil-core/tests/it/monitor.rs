//! The monitor's loop: record, then order; restarts, failed commits, old stores; who may join.

use std::collections::BTreeMap;

use vigil_core::command::{Command, RefusalCode};
use vigil_core::decide::{awaited_in_recovery, decide};
use vigil_core::driver::group::{GroupDriver, GroupInput, GroupOutput};
use vigil_core::goals::goals;
use vigil_core::group::{Group, Plan, Settings};
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::{Goal, Hello, Report, Server, Welcome};
use vigil_core::state::NodeState;
use vigil_core::wal::{TimelineHistory, Tli};

use crate::support::{
    Monitor, SYSTEM_ID, Scene, T0, at, hello, idle_report, ids, key, known_hello, pledged_report,
    primary_report, standby_report, t,
};

fn say_hello(monitor: &mut Monitor, stream: u64, hello: Hello, fresh: i64) -> GroupOutput {
    monitor.take(GroupInput::Hello { stream, hello, fresh_id: NodeId(fresh) })
}

fn welcome(mut out: GroupOutput) -> Result<Welcome, (RefusalCode, String)> {
    let (_, answer) = out.welcomes.remove(0);
    answer.map_err(|refusal| (refusal.code, refusal.message))
}

fn highest(out: &GroupOutput) -> Option<u64> {
    out.orders.iter().map(|(_, _, order)| order.seq).max()
}

// ---- record, then order

/// Orders of a monitor that was restarted are newer than all of the one before, although it knows
/// nothing of them.
#[test]
fn versions_and_numbers_grow_across_restarts() {
    let mut store = Scene::serving(3).group;
    let rule = store.rule().unwrap().clone();
    let (mut version, mut seq) = (store.version, 0);
    for _ in 0..3 {
        let mut driver = GroupDriver::new(store.clone(), t(T0));
        let mut first = true;
        for n in 1..=3 {
            let (hello, fresh_id) = (known_hello(n, 1, &[]), NodeId(100));
            let stream = n.unsigned_abs();
            let out = driver.handle(GroupInput::Hello { stream, hello, fresh_id }, t(T0));
            driver.committed();
            if let Some(record) = &out.record {
                assert_eq!(record.version, version + 1, "the store refuses anything else");
                version = record.version;
                store = (**record).clone();
            }
            assert!(out.record.is_some() || !first, "nothing is ordered before a commit");
            first = false;
            for (_, _, order) in &out.orders {
                assert!(order.seq > seq, "{} after {seq}", order.seq);
                seq = order.seq;
            }
        }
        let report = Box::new(primary_report(&rule, &[2, 3]));
        driver.handle(GroupInput::Report { stream: 1, node: NodeId(1), report }, t(T0));
    }
    assert!(seq > 0);
}

/// A commit that failed has not happened: neither its record nor its orders. What was heard stays
/// heard, so it is decided again, and numbered above everything that was sent.
#[test]
fn rollback_leaves_everything_as_before() {
    let mut monitor = Monitor::new(|_| {});
    let out = monitor.take(GroupInput::Tick);
    assert_eq!((out.record, out.orders.len()), (None, 0), "nothing is left to do");
    let before = monitor.driver.group().clone();
    let since = monitor.driver.facts().plan_since;
    let mut stopped = primary_report(&monitor.rule(), &[2, 3]);
    stopped.server = Server::Stopped;
    for _ in 0..3 {
        let (node, report) = (NodeId(1), Box::new(stopped.clone()));
        let input = GroupInput::Report { stream: 1, node, report };
        let failed = monitor.driver.handle(input, t(monitor.ms));
        assert!(matches!(failed.record.as_ref().unwrap().plan, Plan::Electing { .. }));
        monitor.driver.rollback();
        assert_eq!(monitor.driver.group(), &before);
        assert_eq!(monitor.driver.facts().plan_since, since);
    }
    let out = monitor.take(GroupInput::Tick);
    assert_eq!(out.record.as_ref().unwrap().version, before.version + 1);
    assert_eq!(out.orders.len(), 3, "nobody's order was taken for sent");
    for (_, id, order) in &out.orders {
        assert_eq!(order.epoch, Epoch(2), "{id}");
        assert!(order.seq >= (before.version + 1) * 1_000_000, "above what was sent before");
    }
    monitor.driver.rollback();
    assert!(matches!(monitor.driver.group().plan, Plan::Electing { .. }), "too late to undo");
}

/// A rolled back command is not taken: no watcher is left that would tell of it. Orders that need
/// no commit go on, with numbers that keepers still accept.
#[test]
fn a_command_whose_commit_failed_was_never_taken() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    // The primary becomes a source for rewinds, and again: the standbys' orders change, the
    // record does not.
    let orders_change = |monitor: &mut Monitor, open| {
        let report = Report { rewind_source: open, ..primary_report(&rule, &[2, 3]) };
        let out = monitor.report(1, report);
        assert_eq!((out.record.as_ref(), out.orders.len()), (None, 2));
        highest(&out).unwrap()
    };
    let mut last = 0;
    for open in [false, true, false, true] {
        last = orders_change(&mut monitor, open);
    }
    let command = Command::Switchover { to: Some("node3".into()) };
    let failed = monitor.driver.handle(GroupInput::Command { id: 1, command }, t(monitor.ms));
    assert!(failed.record.is_some());
    monitor.driver.rollback();
    for _ in 0..3 {
        let out = monitor.take(GroupInput::Tick);
        assert!(out.progress.is_empty() && out.replies.is_empty());
        assert_eq!(monitor.driver.group().plan, Plan::Serving { primary: NodeId(1) });
    }
    let next = orders_change(&mut monitor, false);
    assert!(next > last, "{next} after {last}: keepers refuse it");
}

/// What an older connection of a node still carries, or its late end, changes nothing.
#[test]
fn words_of_an_older_stream_do_not_count() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    say_hello(&mut monitor, 11, known_hello(1, 1, &[]), 100);
    let mut stopped = primary_report(&rule, &[2, 3]);
    stopped.server = Server::Stopped;
    monitor.report(1, stopped);
    monitor.take(GroupInput::Closed { stream: 1, node: NodeId(1) });
    assert_eq!(monitor.driver.group().plan, Plan::Serving { primary: NodeId(1) });
    let facts = monitor.driver.facts().node(NodeId(1)).unwrap();
    assert_eq!((facts.stream, facts.closed_ms, facts.report.as_ref()), (Some(11), None, None));
}

// ---- who may join

#[test]
fn a_foreign_cluster_is_refused() {
    let mut monitor = Monitor::new(|_| {});
    let before = monitor.driver.group().clone();
    let foreign = Hello { system_id: Some(SYSTEM_ID + 1), ..hello(4) };
    let (code, words) = welcome(say_hello(&mut monitor, 4, foreign.clone(), 100)).unwrap_err();
    assert_eq!(code, RefusalCode::Refused);
    assert!(words.contains("another cluster") && words.contains("78") && words.contains("77"));
    let known = Hello { node_id: Some(NodeId(2)), name: "node2".into(), ..foreign };
    welcome(say_hello(&mut monitor, 5, known, 101)).unwrap_err();
    assert_eq!(monitor.driver.group(), &before);
    welcome(say_hello(&mut monitor, 6, hello(4), 102)).unwrap();
}

#[test]
fn a_name_belongs_to_the_keeper_that_lives() {
    let mut monitor = Monitor::new(|_| {});
    let (code, words) = welcome(say_hello(&mut monitor, 9, hello(2), 100)).unwrap_err();
    assert_eq!(code, RefusalCode::BadValue);
    assert!(words.contains("node2 is in use"));
    assert_eq!(
        welcome(say_hello(&mut monitor, 9, known_hello(2, 1, &[]), 101)).unwrap().node_id,
        NodeId(2)
    );
}

/// DESIGN §4.5: who lost its state comes back as somebody else. What was counted on its old
/// promise is not counted on it.
#[test]
fn a_node_without_its_state_is_a_new_node() {
    let mut monitor = Monitor::new(|_| {});
    monitor.take(GroupInput::Closed { stream: 2, node: NodeId(2) });
    let id = welcome(say_hello(&mut monitor, 9, hello(2), 100)).unwrap().node_id;
    assert_eq!(id, NodeId(100));
    let group = monitor.driver.group();
    assert!(!group.members.contains_key(&NodeId(2)), "one name, one node");
    assert!(group.rules[0].members.contains(&NodeId(2)), "its word is still needed");
    assert!(!group.rules[0].members.contains(&NodeId(100)));
    assert_eq!(monitor.driver.facts().report(NodeId(100)), None);
}

/// A node that the store does not know, but that was a node of this group: its id stands for its
/// promise.
#[test]
fn an_id_survives_a_store_that_forgot_it() {
    let mut monitor = Monitor::new(|_| {});
    let id = welcome(say_hello(&mut monitor, 9, known_hello(7, 1, &[]), 100)).unwrap().node_id;
    assert_eq!(id, NodeId(7));
}

/// The founder may lose everything before it has founded the group.
#[test]
fn a_group_forms_although_its_first_founder_is_gone() {
    let mut monitor = Monitor {
        driver: GroupDriver::new(Group::new(key(), Settings::default(), String::new()), t(T0)),
        ms: T0,
        next_command: 1,
    };
    let empty = || Report { server: Server::NoData, usable: false, ..idle_report(0) };
    say_hello(&mut monitor, 1, hello(1), 1);
    monitor.report(1, empty());
    assert_eq!(monitor.driver.group().plan, Plan::Forming { founder: Some(NodeId(1)) });
    monitor.take(GroupInput::Closed { stream: 1, node: NodeId(1) });
    say_hello(&mut monitor, 2, hello(1), 2);
    let out = monitor.report(2, empty());
    let order = out.orders.iter().find(|(_, id, _)| *id == NodeId(2)).map(|(_, _, o)| o.clone());
    let founds = order.is_some_and(|o| matches!(o.goal, Goal::Found { .. }));
    assert!(founds, "plan {:?}", monitor.driver.group().plan);
}

// ---- a store that is not the newest (DESIGN §4.19)

/// The last order of each node.
fn collect(orders: &mut BTreeMap<NodeId, (Epoch, Goal)>, out: &GroupOutput) {
    for (_, id, order) in &out.orders {
        orders.insert(*id, (order.epoch, order.goal.clone()));
    }
}

fn old_store() -> Monitor {
    let driver = GroupDriver::new(Scene::serving(3).group, t(T0));
    Monitor { driver, ms: T0, next_command: 1 }
}

/// Node 2 has promised 9, of which the store knows nothing. Until everybody was heard nothing is
/// ordered; then the orders are such that everybody obeys.
#[test]
fn a_higher_promise_is_recovered_from() {
    let mut monitor = old_store();
    let rule = monitor.rule();
    let mut orders = BTreeMap::new();
    say_hello(&mut monitor, 1, known_hello(1, 1, std::slice::from_ref(&rule)), 100);
    let out = say_hello(&mut monitor, 2, known_hello(2, 9, std::slice::from_ref(&rule)), 101);
    assert_eq!(monitor.driver.group().plan, Plan::Recovering);
    assert!(monitor.driver.group().epoch >= Epoch(9));
    assert!(out.orders.is_empty());
    for (n, report) in [(1, primary_report(&rule, &[3])), (2, pledged_report(9, at(1, 5000)))] {
        let out = monitor.report(n, report);
        assert_eq!(monitor.driver.group().plan, Plan::Recovering);
        assert!(out.orders.is_empty(), "{out:?}");
        let (group, facts) = (monitor.driver.group(), monitor.driver.facts());
        assert!(awaited_in_recovery(group, facts, t(monitor.ms)).contains(&NodeId(3)));
    }
    say_hello(&mut monitor, 3, known_hello(3, 1, std::slice::from_ref(&rule)), 102);
    collect(&mut orders, &monitor.report(3, standby_report(&rule, 10)));
    assert_ne!(monitor.driver.group().plan, Plan::Recovering, "everybody was heard");
    // A moment for grace periods.
    for _ in 0..60 {
        collect(&mut orders, &monitor.take(GroupInput::Tick));
    }
    let (epoch, goal) = orders.get(&NodeId(2)).expect("an order for node 2");
    assert!(*epoch >= Epoch(9), "node 2 refuses {goal:?} of epoch {epoch} for ever");
}

/// Keepers hold a newer rule than the store: its members are waited for, known or not, and S is
/// what they hold.
#[test]
fn a_newer_rule_is_adopted_with_its_members() {
    let mut monitor = old_store();
    let newer = crate::support::rule(5, 40, 2, &[3, 4], 1);
    say_hello(&mut monitor, 2, known_hello(2, 5, std::slice::from_ref(&newer)), 100);
    assert_eq!(monitor.driver.group().plan, Plan::Recovering);
    assert_eq!(monitor.driver.group().rule(), Some(&newer));
    assert!(monitor.driver.group().last_rule_version >= 40, "its number is not given again");
    monitor.report(2, primary_report(&newer, &[3, 4]));
    say_hello(&mut monitor, 1, known_hello(1, 5, &[]), 101);
    monitor.report(1, standby_report(&newer, 10));
    assert_eq!(monitor.driver.group().plan, Plan::Recovering, "no member of the rule was heard");
    // With one of its members loyal nobody else can have been elected: node 3 need not be heard.
    say_hello(&mut monitor, 4, known_hello(4, 5, &[]), 102);
    let out = monitor.report(4, standby_report(&newer, 10));
    assert_eq!(monitor.driver.group().plan, Plan::Serving { primary: NodeId(2) });
    assert!(out.orders.iter().all(|(_, _, order)| order.epoch == Epoch(5)), "{out:?}");
}

/// None of those who were heard serves: an election, above every promise.
#[test]
fn recovery_without_a_primary_elects_above_every_promise() {
    let mut monitor = old_store();
    let rule = monitor.rule();
    for (n, promise) in [(1i64, 1), (2, 9), (3, 12)] {
        say_hello(&mut monitor, n.unsigned_abs(), known_hello(n, promise, &[]), 100);
    }
    let mut stopped = primary_report(&rule, &[]);
    stopped.server = Server::Stopped;
    monitor.report(1, stopped);
    monitor.report(2, pledged_report(9, at(1, 5000)));
    monitor.report(3, pledged_report(12, at(1, 5000)));
    let Plan::Electing { epoch, .. } = monitor.driver.group().plan else { panic!() };
    assert_eq!(epoch, Epoch(13));
}

/// "… or an operator says otherwise": a node that is lost for good must not hold recovery up for
/// ever.
#[test]
fn an_operator_can_end_a_recovery() {
    let mut monitor = old_store();
    let rule = monitor.rule();
    say_hello(&mut monitor, 2, known_hello(2, 9, &[rule]), 100);
    monitor.report(2, pledged_report(9, at(1, 5000)));
    monitor.ms += 60_000;
    monitor.report(2, pledged_report(9, at(1, 5000)));
    assert_eq!(monitor.driver.group().plan, Plan::Recovering);
    monitor.refuses(Command::Failover { allow_data_loss: false }, RefusalCode::Refused, "");
    let (reply, _) = monitor.command(Command::Failover { allow_data_loss: true });
    reply.unwrap();
    assert_ne!(monitor.driver.group().plan, Plan::Recovering);
}

/// A timeline that somebody has a history of, but that the primary is not on, is not the primary's
/// to be promoted to.
#[test]
fn who_serves_is_told_its_own_timeline() {
    let mut scene = Scene::serving(3);
    scene.group.plan = Plan::Recovering;
    scene.report_mut(3).highest_tli = Tli(7);
    decide(&mut scene.group, &scene.facts, t(T0));
    assert_eq!(scene.group.plan, Plan::Serving { primary: NodeId(1) });
    let goal = goals(&scene.group, &scene.facts, t(T0))[&NodeId(1)].goal.clone();
    let Goal::Lead { tli, .. } = goal else { panic!("{goal:?}") };
    assert_eq!(tli, Tli(1), "it would be promoted again in its epoch if it were restarted");
    assert!(scene.group.assign_tli() > Tli(7), "the next promotion is above it all the same");
}

// ---- a winner that fails

/// Node 2 was elected in epoch 2, timeline 2; node 1 is gone; nodes 2 and 3 are there.
fn promoting(renewal: bool) -> Scene {
    let mut scene = Scene::serving(3);
    let rule = scene.group.record_rule(Epoch(2), NodeId(2), ids(&[3]), 1);
    scene.group.epoch = Epoch(2);
    let tli = scene.group.assign_tli();
    scene.group.plan =
        Plan::Promoting { epoch: Epoch(2), winner: NodeId(2), rule: rule.id(), tli, renewal };
    scene.facts.node_mut(NodeId(1)).heard_ms = Some(0);
    scene.facts.plan_since = t(T0 - 60_000);
    scene.hear(3, pledged_report(2, at(1, 5000)), T0);
    scene.hear(2, pledged_report(2, at(1, 5000)), T0);
    scene
}

fn still_promoting(scene: &mut Scene) -> bool {
    decide(&mut scene.group, &scene.facts, t(T0));
    matches!(scene.group.plan, Plan::Promoting { .. })
}

#[test]
fn a_winner_on_its_way_is_waited_for() {
    assert!(still_promoting(&mut promoting(false)), "not promoted yet");
    let mut scene = promoting(false);
    let rule = scene.rule();
    scene.report_mut(2).own_rule = Some(rule.clone());
    assert!(still_promoting(&mut scene), "promoting");
    scene.facts.plan_since = t(T0 - 1000);
    scene.report_mut(2).own_rule = None;
    scene.report_mut(2).server = Server::Stopped;
    assert!(still_promoting(&mut scene), "not started yet");
    scene.report_mut(2).own_rule = Some(rule);
    assert!(!still_promoting(&mut scene), "it led and has stopped");
}

/// It was promoted, everything of it was killed before it could say so, and it came back as every
/// node boots: as a standby. Its keeper waits for a new election, so one has to come.
#[test]
fn a_winner_that_led_and_is_a_standby_again_is_replaced() {
    let mut scene = promoting(false);
    let rule = scene.rule();
    let report = scene.report_mut(2);
    report.own_rule = Some(rule);
    report.position = Some(at(2, 5100));
    report.history = Some(TimelineHistory { tli: Tli(2), ancestors: vec![at(1, 5000)] });
    report.highest_tli = Tli(2);
    report.state = NodeState::StopReplication;
    // Half-way through a promotion the new timeline is on disk and recovery has not ended.
    assert!(still_promoting(&mut scene), "its keeper says that it is on its way");
    scene.report_mut(2).state = NodeState::Demoted;
    assert!(!still_promoting(&mut scene), "its keeper says that it is spent");
}

/// A renewal is for a primary that goes on. One that has stopped since is promoted by nobody: not
/// by the renewal, which assigned no timeline.
#[test]
fn a_renewed_primary_that_stopped_is_replaced() {
    for server in [Server::Stopped, Server::Standby] {
        let mut scene = promoting(true);
        scene.report_mut(2).server = server;
        assert!(!still_promoting(&mut scene), "{server:?}");
    }
}

// ---- what the simulator found in the monitor

/// A store that was put back counts its orders from where it was: keepers would refuse them for
/// ever. They tell what they have taken in, and the next ones are numbered above.
#[test]
fn orders_of_a_store_that_was_put_back_are_numbered_above_all() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    let told = 77_000_005;
    let report = Report { order_seq: told, ..standby_report(&rule, 10) };
    let out = monitor.report(2, report);
    assert!(highest(&out).is_some_and(|seq| seq > told), "{out:?}");
    // Enough was heard to know that node 1 is still in power.
    assert_eq!(monitor.driver.group().plan, Plan::Serving { primary: NodeId(1) });
}

/// The old store knows of an election in epoch 2, not of its winner: the winner's timeline is
/// assigned nevertheless.
#[test]
fn timelines_of_winners_that_nobody_knows_are_skipped() {
    let mut scene = Scene::serving(3);
    scene.group.epoch = Epoch(2);
    let driver = GroupDriver::new(scene.group, t(T0));
    let mut monitor = Monitor { driver, ms: T0, next_command: 1 };
    let newer = crate::support::rule(2, 9, 2, &[3], 1);
    say_hello(&mut monitor, 2, known_hello(2, 2, std::slice::from_ref(&newer)), 100);
    assert!(monitor.driver.group().last_tli >= Tli(2));
    // What was covered meanwhile is not in flight any more.
    assert_eq!(monitor.driver.group().rules, [newer]);
}

/// In an old record node 2 is in maintenance. It may be the primary by now.
#[test]
fn a_doubted_record_orders_nothing() {
    let mut scene = Scene::serving(3);
    scene.edit(2, |m| m.maintenance = true);
    scene.edit(3, |m| m.dropped = true);
    let driver = GroupDriver::doubting(scene.group, t(T0));
    let mut monitor = Monitor { driver, ms: T0, next_command: 1 };
    for n in [2, 3] {
        let out = say_hello(&mut monitor, n, known_hello(n.cast_signed(), 1, &[]), 100);
        assert!(out.orders.is_empty(), "{out:?}");
    }
}

/// Everything was off for a night, and node 3 does not come back. Nobody tells of anything newer:
/// after a minute the record is taken for what it says.
#[test]
fn a_record_that_is_merely_old_is_believed_after_a_while() {
    let mut scene = Scene::serving(3);
    let rule = scene.rule();
    scene.group.rules[0].members = crate::support::ids(&[2]);
    let driver = GroupDriver::doubting(scene.group, t(T0));
    let mut monitor = Monitor { driver, ms: T0, next_command: 1 };
    for n in [1, 2] {
        say_hello(&mut monitor, n, known_hello(n.cast_signed(), 1, &[]), 100);
    }
    let plan_after = |monitor: &mut Monitor, ms: u64| {
        let until = monitor.ms + ms;
        while monitor.ms < until {
            monitor.ms += 400;
            let mut stopped = primary_report(&rule, &[]);
            stopped.server = Server::Stopped;
            monitor.report(1, stopped);
            monitor.report(2, pledged_report(1, at(1, 5000)));
        }
        monitor.driver.group().plan.clone()
    };
    assert_eq!(plan_after(&mut monitor, 50_000), Plan::Recovering);
    assert_ne!(plan_after(&mut monitor, 15_000), Plan::Recovering);
}

/// Two connections of one keeper, and the network holds the first one's hello back until the second
/// is in use.
#[test]
fn an_older_connection_does_not_replace_a_newer_one() {
    let mut monitor = Monitor::new(|_| {});
    welcome(say_hello(&mut monitor, 9, known_hello(2, 1, &[]), 100)).unwrap();
    let late = welcome(say_hello(&mut monitor, 8, known_hello(2, 1, &[]), 100));
    assert_eq!(late.unwrap_err().0, RefusalCode::Refused);
    assert_eq!(monitor.driver.facts().node(NodeId(2)).unwrap().stream, Some(9));
}

/// A node was promised away by an election that was lost with the store. It obeys nothing below its
/// promise, so the primary has to be renewed above it.
#[test]
fn a_later_promise_is_won_back() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    monitor.report(3, Report { promise: Epoch(5), ..standby_report(&rule, 10) });
    let Plan::Electing { epoch, .. } = monitor.driver.group().plan else { panic!() };
    assert_eq!(epoch, Epoch(6));
}
