//! Whoever is starved judges nobody by it: a monitor that waits for its store or reads late, a
//! keeper that got no CPU, a primary that stood still for a moment.

use vigil_core::detect::{Verdict, judge};
use vigil_core::driver::group::{GroupInput, GroupOutput};
use vigil_core::event::Cause;
use vigil_core::facts::{Facts, Reach};
use vigil_core::group::Plan;
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::{Goal, Report};

use crate::support::{
    Monitor, Scene, T0, at, known_hello, pledged_report, primary_report, standby_report, t,
};

fn hello(n: i64) -> GroupInput {
    let hello = known_hello(n, 1, &[]);
    GroupInput::Hello { stream: 10 + n.unsigned_abs(), hello, fresh_id: NodeId(100) }
}

fn told(n: i64, report: Report) -> GroupInput {
    GroupInput::Report { stream: n.unsigned_abs(), node: NodeId(n), report: Box::new(report) }
}

/// A member that has only introduced itself was not asked yet: it convicts nobody. But one whose
/// connection breaks again and again holds a conviction up for one more deadline at most.
#[test]
fn who_was_not_asked_yet_convicts_nobody() {
    let mut scene = Scene::serving(3);
    scene.facts = Facts::new(t(T0));
    let (rule, late) = (scene.rule(), T0 + 3001);
    let verdict = |scene: &Scene, ms| judge(&scene.group, &scene.facts, &rule, t(ms));
    let greet = |scene: &mut Scene, n: i64, ms| {
        let node = scene.facts.node_mut(NodeId(n));
        (node.stream, node.heard_ms, node.greeted_ms) = (Some(9), Some(ms), Some(ms));
    };
    greet(&mut scene, 2, late);
    let Verdict::Suspect { why } = verdict(&scene, late) else { panic!("convicted unheard") };
    assert!(why.contains("node2 has just come"), "{why}");
    // It was asked; but who comes at the same moment may be the primary.
    scene.hear(2, standby_report(&rule, 60_000), late + 10);
    assert!(matches!(verdict(&scene, late + 300), Verdict::Suspect { .. }));
    assert!(matches!(verdict(&scene, late + 301), Verdict::Lost { .. }));
    // A keeper that says nothing but its name, again and again, is asked for one deadline.
    let node = scene.facts.node_mut(NodeId(3));
    (node.stream, node.heard_ms, node.greeted_ms) = (Some(9), Some(late + 3400), Some(late + 400));
    assert!(matches!(verdict(&scene, late + 3400), Verdict::Suspect { .. }));
    assert!(matches!(verdict(&scene, late + 3401), Verdict::Lost { .. }));
}

/// The primary's word is in the mail, behind those of the standbys: all of it is read, then silence
/// is judged, by the time at which it came.
#[test]
fn all_mail_is_read_before_silence_is_judged() {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    let driver = &mut monitor.driver;
    let start = monitor.ms;
    for ms in (start..start + 3000).step_by(250) {
        driver.handle(GroupInput::Tick, t(ms));
    }
    let mail = [
        (told(2, standby_report(&rule, 3100)), start + 2900),
        (told(3, standby_report(&rule, 3100)), start + 2950),
        (told(1, primary_report(&rule, &[2, 3])), start + 2990),
    ];
    let out = driver.handle_all(mail, t(start + 3200));
    assert!(out.record.is_none(), "{:?}", driver.group().episode);
    assert_eq!(driver.facts().node(NodeId(1)).unwrap().heard_ms, Some(start + 2990));
    // From then on its deadline runs, not from when it was read.
    let quiet = |n| told(n, standby_report(&rule, 3000));
    for ms in (start + 3300..start + 5900).step_by(250) {
        driver.handle(GroupInput::Tick, t(ms));
    }
    driver.handle_all([(quiet(2), start + 5990), (quiet(3), start + 5990)], t(start + 5990));
    assert!(matches!(driver.group().plan, Plan::Serving { .. }));
    driver.handle(GroupInput::Tick, t(start + 5991));
    assert!(matches!(driver.group().plan, Plan::Electing { .. }));
}

/// Three keepers that come back to a monitor that has just started are one decision, whoever comes
/// first and however late their mail is read.
#[test]
fn a_late_start_replaces_nobody() {
    let mut monitor = Monitor::new(|_| {});
    let group = monitor.driver.group().clone();
    monitor.driver = vigil_core::driver::group::GroupDriver::new(group, t(T0));
    let driver = &mut monitor.driver;
    driver.handle(GroupInput::Tick, t(T0));
    driver.committed();
    // One after the other, each decided by itself.
    for (n, ms) in [(2, 3010), (3, 3020), (1, 3100)] {
        let out = driver.handle(hello(n), t(T0 + ms));
        driver.committed();
        assert_eq!(out.welcomes.len(), 1);
        assert!(matches!(driver.group().plan, Plan::Serving { .. }), "after node{n}");
    }
}

/// Time that the monitor waits for its store is not the nodes' silence, nor does it make old words
/// into answers.
#[test]
fn waiting_for_the_store_is_nobodys_silence() {
    let mut scene = Scene::serving(3);
    let (settings, rule) = (scene.group.settings, scene.rule());
    for round in 1..=10 {
        let ms = T0 + round * 2000;
        scene.facts.note_time(&settings, t(ms - 1900));
        scene.facts.note_wait(1900, &settings, t(ms));
        assert_eq!(scene.facts.reach(NodeId(1), &settings, t(ms)), Reach::Reachable, "{ms}");
        assert!(!scene.facts.is_drowsy(&settings, t(ms)), "what came meanwhile is in the mail");
    }
    let mut unheard = Scene::serving(3);
    unheard.facts = Facts::new(t(T0));
    unheard.facts.note_wait(9000, &settings, t(T0 + 9000));
    assert_eq!(judge(&unheard.group, &unheard.facts, &rule, t(T0 + 12_000)), Verdict::Unknown);

    let mut monitor = Monitor::new(|scene| {
        let mut idle = standby_report(&scene.rule(), 10);
        idle.following.as_mut().unwrap().streaming = false;
        for n in [2, 3] {
            scene.hear(n, idle.clone(), T0);
        }
    });
    let ms = monitor.ms + 2000;
    monitor.driver.waited(2000, t(ms));
    let closed = GroupInput::Closed { stream: 1, node: NodeId(1) };
    monitor.driver.handle_all([(closed, ms - 1500)], t(ms));
    assert!(matches!(monitor.driver.group().plan, Plan::Serving { .. }), "nobody was asked");
}

/// The primary stands still for the deadline: an election is called.
fn called() -> (Monitor, GroupOutput) {
    let mut monitor = Monitor::new(|_| {});
    let rule = monitor.rule();
    let until = monitor.ms + 3300;
    for n in [2, 3].into_iter().cycle() {
        let out = monitor.report(n, standby_report(&rule, 9000));
        if matches!(monitor.driver.group().plan, Plan::Electing { .. }) {
            return (monitor, out);
        }
        assert!(monitor.ms < until);
        monitor.ms += 50;
    }
    unreachable!("a cycle has no end")
}

/// An order that only waits in the mail of a primary that stands still would stop it when it is
/// back, whatever was decided meanwhile.
#[test]
fn a_silent_primary_is_asked_to_pledge_once_it_is_heard() {
    let (mut monitor, out) = called();
    let asked: Vec<NodeId> = out.orders.iter().map(|o| o.1).collect();
    assert_eq!(asked, [NodeId(2), NodeId(3)]);
    assert_eq!(monitor.driver.group().episode.as_ref().unwrap().cause, Cause::Unreachable);
    // It is heard, and says that it serves no more.
    let mut stopped = primary_report(&monitor.rule(), &[]);
    stopped.server = vigil_core::message::Server::Stopped;
    let out = monitor.report(1, stopped);
    let order = out.orders.iter().find(|o| o.1 == NodeId(1)).expect("it is asked now");
    assert!(matches!(order.2.goal, Goal::Pledge { .. }), "{order:?}");
}

/// Heard again before anybody was taken from it, it goes on.
#[test]
fn a_primary_that_is_heard_before_the_first_pledge_goes_on() {
    let (mut monitor, _) = called();
    let rule = monitor.rule();
    monitor.report(1, primary_report(&rule, &[2, 3]));
    let group = monitor.driver.group();
    assert!(
        matches!(group.plan, Plan::Promoting { winner: NodeId(1), renewal: true, .. }),
        "{:?}",
        group.plan
    );
    // After the first pledge the election goes on.
    let (mut monitor, _) = called();
    monitor.report(2, pledged_report(2, at(1, 5000)));
    monitor.report(1, primary_report(&monitor.rule(), &[2, 3]));
    let group = monitor.driver.group();
    assert!(matches!(group.plan, Plan::Electing { epoch: Epoch(2), .. }), "{:?}", group.plan);
}
