//! A winner that does not come up is given up when somebody else can lead, by the monitor or by an
//! operator; and a command that ends with another primary than asked for says so.

use vigil_core::command::{Command, Progress, RefusalCode};
use vigil_core::decide::decide;
use vigil_core::driver::group::{GroupInput, GroupOutput};
use vigil_core::election::Election;
use vigil_core::event::Cause;
use vigil_core::goals::{current_election, goals};
use vigil_core::group::Plan;
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::{Goal, Problem, Report, Server};
use vigil_core::wal::Lsn;

use crate::support::{
    Monitor, Scene, T0, at, ids, pledge, pledged_report, primary_report, rule, t,
};

/// Node 1 was lost, node 2 has won epoch 2 and is a standby still.
fn promoting() -> Scene {
    let mut scene = Scene::serving(3);
    let rule = scene.group.record_rule(Epoch(2), NodeId(2), ids(&[3]), 1);
    scene.group.epoch = Epoch(2);
    let tli = scene.group.assign_tli();
    scene.group.plan = Plan::Promoting {
        epoch: Epoch(2),
        winner: NodeId(2),
        rule: rule.id(),
        tli,
        renewal: false,
    };
    scene.facts.node_mut(NodeId(1)).heard_ms = Some(0);
    scene.facts.plan_since = t(T0);
    for n in [2, 3] {
        scene.hear(n, pledged_report(2, at(1, 5000)), T0);
    }
    scene.report_mut(2).own_rule = Some(rule);
    scene
}

/// Both are heard again after so long, and decided.
fn after(scene: &mut Scene, ms: u64) -> bool {
    for n in [2, 3] {
        let report = scene.facts.report(NodeId(n)).unwrap().clone();
        scene.hear(n, report, T0 + ms);
    }
    scene.facts.last_tick_ms = T0 + ms;
    decide(&mut scene.group, &scene.facts, t(T0 + ms));
    matches!(scene.group.plan, Plan::Electing { .. })
}

fn fails(scene: &mut Scene) {
    let text = "cannot use serializable mode in a hot standby".to_owned();
    let problem = Problem { code: "promote_failed".to_owned(), text, failures: 3 };
    scene.report_mut(2).problem = Some(problem);
}

#[test]
fn a_winner_that_stands_still_is_given_up_and_not_chosen_again() {
    let mut scene = promoting();
    for ms in [1_000, 5_000, 9_000] {
        assert!(!after(&mut scene, ms), "a promotion may take a while: {ms}");
    }
    assert!(after(&mut scene, 10_500));
    let episode = scene.group.episode.clone().unwrap();
    assert_eq!((episode.cause, episode.failed.clone()), (Cause::WinnerFailed, ids(&[2])));
    assert!(episode.evidence.iter().any(|e| e.contains("node2 does not come up")), "{episode:?}");
    // It has the better priority; all the same the other one is elected once both have pledged.
    let epoch = scene.group.epoch;
    let goal = goals(&scene.group, &scene.facts, t(T0 + 10_500))[&NodeId(2)].goal.clone();
    assert!(matches!(goal, Goal::Pledge { .. }), "it is stopped first: {goal:?}");
    for n in [2, 3] {
        scene.hear(n, pledged_report(epoch.0, at(1, 5000)), T0 + 10_600);
    }
    let election = current_election(&scene.group, &scene.facts, t(T0 + 10_600)).unwrap();
    let Election::Elected { winner, .. } = election else { panic!("{election:?}") };
    assert_eq!(winner, NodeId(3));
}

#[test]
fn a_winner_whose_steps_fail_is_given_up_sooner() {
    let mut scene = promoting();
    fails(&mut scene);
    assert!(!after(&mut scene, 2_500));
    assert!(after(&mut scene, 3_100));
    let evidence = scene.group.episode.unwrap().evidence.join(" ");
    assert!(evidence.contains("serializable"), "{evidence}");
}

#[test]
fn a_winner_that_replays_gets_its_time() {
    let mut scene = promoting();
    for second in 1..60 {
        scene.report_mut(2).replayed = Some(Lsn(100 * second));
        let mut report = scene.facts.report(NodeId(2)).unwrap().clone();
        report.replayed = Some(Lsn(100 * second + 1));
        scene.hear(2, report, T0 + 1000 * second);
        assert!(!after(&mut scene, 1000 * second), "{second}");
    }
    assert!(after(&mut scene, 70_500), "it has come to a stop");
}

type Change = fn(&mut Scene);

/// Nobody is stopped in vain.
#[test]
fn a_winner_is_kept_while_nobody_else_can_lead() {
    let cases: [(&str, Change); 6] = [
        ("never by itself", |s| s.edit(3, |m| m.candidate_priority = 0)),
        ("in maintenance", |s| s.edit(3, |m| m.maintenance = true)),
        ("not pledged", |s| s.facts.node_mut(NodeId(3)).pledge = Some(pledge(1, None))),
        ("end of WAL not known", |s| {
            s.facts.node_mut(NodeId(3)).pledge = Some(pledge(2, None));
            s.report_mut(3).pledge = Some(pledge(2, None));
        }),
        ("replays late", |s| s.report_mut(3).delayed = true),
        ("half replaced", |s| s.report_mut(3).usable = false),
    ];
    for (why, change) in cases {
        let mut scene = promoting();
        fails(&mut scene);
        if why == "not pledged" {
            scene.report_mut(3).pledge = None;
        }
        change(&mut scene);
        assert!(!after(&mut scene, 200_000), "{why}");
    }
    let mut scene = promoting();
    fails(&mut scene);
    scene.report_mut(2).server = Server::Primary;
    assert!(!after(&mut scene, 200_000), "it leads: its rule is another matter");
}

/// What is wrong everywhere is no reason to go round in circles quickly.
#[test]
fn once_everybody_has_failed_each_gets_longer() {
    let mut scene = promoting();
    fails(&mut scene);
    after(&mut scene, 3_100);
    let mut group = scene.group.clone();
    group.episode.as_mut().unwrap().failed = ids(&[2, 3]);
    scene.group = group;
    let rule = scene.group.record_rule(Epoch(3), NodeId(2), ids(&[3]), 1);
    let tli = scene.group.assign_tli();
    scene.group.plan = Plan::Promoting {
        epoch: Epoch(3),
        winner: NodeId(2),
        rule: rule.id(),
        tli,
        renewal: false,
    };
    scene.facts.plan_since = t(T0 + 4_000);
    for n in [2, 3] {
        scene.hear(n, pledged_report(3, at(1, 5000)), T0 + 4_000);
    }
    fails(&mut scene);
    assert!(!after(&mut scene, 60_000));
    assert!(after(&mut scene, 64_500));
}

/// The winner has more WAL than the other one, as usual on a busy server: killed and started again,
/// it feeds the better choice instead of being elected once more.
#[test]
fn a_winner_that_was_given_up_gives_what_it_alone_holds() {
    let mut scene = promoting();
    fails(&mut scene);
    scene.hear(3, pledged_report(2, at(1, 4000)), T0);
    assert!(after(&mut scene, 3_100));
    let epoch = scene.group.epoch;
    let begun = T0 + 3_100;
    scene.facts.plan_since = t(begun);
    for ms in [400, 8_000] {
        scene.hear(2, pledged_report(epoch.0, at(1, 5000)), begun + ms);
        scene.hear(3, pledged_report(epoch.0, at(1, 4000)), begun + ms);
        let election = current_election(&scene.group, &scene.facts, t(begun + ms)).unwrap();
        let fetch = Election::Fetch { who: NodeId(3), source: NodeId(2), until: at(1, 5000) };
        assert_eq!(election, fetch, "{ms}");
    }
    scene.hear(2, pledged_report(epoch.0, at(1, 5000)), begun + 40_000);
    scene.hear(3, pledged_report(epoch.0, at(1, 4000)), begun + 40_000);
    let election = current_election(&scene.group, &scene.facts, t(begun + 40_000)).unwrap();
    assert!(matches!(election, Election::Elected { winner: NodeId(2), .. }), "{election:?}");
}

/// A monitor whose node 2 has won and does not come up.
fn waiting() -> Monitor {
    let mut monitor = Monitor::new(|_| {});
    monitor.take(GroupInput::Closed { stream: 1, node: NodeId(1) });
    let mut stopped = pledged_report(1, at(1, 5000));
    stopped.server = Server::Stopped;
    stopped.pledge = None;
    let hello = crate::support::known_hello(1, 1, &[]);
    monitor.take(GroupInput::Hello { stream: 11, hello, fresh_id: NodeId(100) });
    monitor.take(GroupInput::Report { stream: 11, node: NodeId(1), report: Box::new(stopped) });
    for n in [2, 3] {
        monitor.report(n, pledged_report(2, at(1, 5000)));
    }
    assert!(matches!(monitor.driver.group().plan, Plan::Promoting { winner: NodeId(2), .. }));
    monitor
}

fn promotion(node: &str) -> Command {
    Command::Promotion { node: node.into() }
}

const FAILOVER: Command = Command::Failover { allow_data_loss: false };

fn pass(monitor: &mut Monitor, ms: u64) {
    let until = monitor.ms + ms;
    while monitor.ms < until {
        monitor.ms += 400;
        let own_rule = Some(monitor.rule());
        monitor.report(2, Report { own_rule, ..pledged_report(2, at(1, 5000)) });
        monitor.report(3, pledged_report(2, at(1, 5000)));
    }
}

#[test]
fn an_operator_may_choose_another_one_without_accepting_a_loss() {
    for command in [FAILOVER, promotion("node3")] {
        let mut monitor = waiting();
        monitor.refuses(command.clone(), RefusalCode::Refused, "under way");
        pass(&mut monitor, 2_100);
        let (told, _) = monitor.command(command.clone());
        assert!(told.unwrap().contains("node2 does not come up"));
        assert!(
            matches!(monitor.driver.group().plan, Plan::Electing { accept_loss: false, .. }),
            "{command:?}"
        );
        let epoch = monitor.driver.group().epoch.0;
        let out = ends_with(&mut monitor, 3, epoch);
        let Some((_, Progress::Done(done))) = out.progress.last() else { panic!("{out:?}") };
        assert_eq!(done.to, "node3");
    }
    let mut monitor = waiting();
    pass(&mut monitor, 2_100);
    monitor.refuses(promotion("node1"), RefusalCode::Refused, "cannot take over");
    monitor.refuses(promotion("node9"), RefusalCode::NotFound, "no node");
}

/// Nodes 2 and 3 pledge `epoch`, and `n` is elected and leads.
fn ends_with(monitor: &mut Monitor, n: i64, epoch: u64) -> GroupOutput {
    for n in [2, 3] {
        monitor.report(n, pledged_report(epoch, at(1, 5000)));
    }
    let rule = monitor.rule();
    assert_eq!(rule.primary, NodeId(n), "{:?}", monitor.driver.group().plan);
    monitor.report(n, primary_report(&rule, &[5 - n]))
}

#[test]
fn a_command_that_ends_with_somebody_else_is_not_done() {
    let mut monitor = waiting();
    let (told, _) = monitor.command(promotion("node2"));
    assert!(told.unwrap().contains("being promoted already"));
    pass(&mut monitor, 10_500);
    let epoch = monitor.driver.group().epoch.0;
    let out = ends_with(&mut monitor, 3, epoch);
    let Some((_, Progress::RolledBack(other))) = out.progress.last() else { panic!("{out:?}") };
    assert_eq!((other.operation.as_str(), other.to.as_str()), ("promotion", "node3"));
}

/// Whom an operator names while an election waits is preferred, whatever the priorities.
#[test]
fn an_election_that_waits_takes_a_wish() {
    let mut monitor = Monitor::new(|s| s.group.rules.push(rule(1, 9, 1, &[2, 3], 1)));
    let mut stopped = primary_report(&monitor.rule(), &[]);
    stopped.server = Server::Stopped;
    monitor.report(1, stopped);
    assert!(matches!(monitor.driver.group().plan, Plan::Electing { .. }));
    monitor.command(promotion("node3")).0.unwrap();
    let out = ends_with(&mut monitor, 3, 2);
    let Some((_, Progress::Done(done))) = out.progress.last() else { panic!("{out:?}") };
    assert_eq!(done.to, "node3");
}
