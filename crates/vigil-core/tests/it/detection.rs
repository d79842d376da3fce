//! Is the primary lost? Each verdict with its evidence, and what is no evidence.

use vigil_core::command::Command;
use vigil_core::decide::decide;
use vigil_core::detect::{Verdict, can_be_won, judge};
use vigil_core::driver::group::GroupInput;
use vigil_core::event::Cause;
use vigil_core::group::Plan;
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::{Report, Server};

use crate::support::{Monitor, Scene, T0, ids, primary_report, rule, standby_report, t};

fn verdict(scene: &Scene, ms: u64) -> Verdict {
    judge(&scene.group, &scene.facts, &scene.rule(), t(ms))
}

fn lost(scene: &Scene, ms: u64) -> (Cause, Vec<String>) {
    match verdict(scene, ms) {
        Verdict::Lost { cause, evidence } => (cause, evidence),
        other => panic!("{other:?}"),
    }
}

fn suspect(scene: &Scene, ms: u64) -> String {
    match verdict(scene, ms) {
        Verdict::Suspect { why } => why,
        other => panic!("{other:?}"),
    }
}

/// What the keeper of the primary says about its own Postgres needs nobody else's word.
#[test]
fn first_hand_evidence_acts_at_once() {
    let with = |server| {
        let mut scene = Scene::serving(3);
        scene.report_mut(1).server = server;
        scene
    };
    assert_eq!(verdict(&with(Server::Primary), T0), Verdict::Fine);
    for (server, expected, words) in [
        (Server::Stopped, Cause::PostgresDown, "no process of Postgres lives"),
        (Server::NoData, Cause::PostgresDown, "no process of Postgres lives"),
        (Server::Hung, Cause::PostgresHung, "the write probe does not end"),
        (Server::Standby, Cause::NotPrimary, "started as a standby"),
        (Server::Starting, Cause::NotPrimary, "started as a standby"),
    ] {
        let (cause, evidence) = lost(&with(server), T0);
        assert_eq!((cause, evidence.len()), (expected, 1), "{server:?}");
        assert!(evidence[0].starts_with("node1's keeper: ") && evidence[0].contains(words));
    }
    suspect(&with(Server::Unknown), T0);
    let mut old = Scene::serving(3);
    old.report_mut(1).own_rule.as_mut().unwrap().epoch = Epoch(0);
    assert!(suspect(&old, T0).contains("older epoch"));
}

/// Silence convicts only if it lasts for the deadline and nobody who is heard gets WAL.
#[test]
fn silence_needs_the_deadline_and_no_witness() {
    let mut scene = Scene::serving(3);
    let rule = scene.rule();
    let late = T0 + 3001;
    assert_eq!(verdict(&scene, T0 + 3000), Verdict::Fine, "3 × 1 s are not over");

    // Both members get nothing either.
    scene.hear(2, standby_report(&rule, 3000), late);
    let mut detached = standby_report(&rule, 0);
    detached.following = None;
    scene.hear(3, detached, late);
    let (cause, evidence) = lost(&scene, late);
    assert_eq!(cause, Cause::Unreachable);
    assert_eq!(
        evidence,
        [
            "monitor: nothing heard from node1 for 3000 ms",
            "node2: no WAL from node1 for 3000 ms",
            "node3: does not receive from node1",
        ]
    );

    // One member vouches: a cut between monitor and primary alone is no failover.
    scene.hear(2, standby_report(&rule, 400), late);
    assert!(suspect(&scene, late).contains("node2 still gets its WAL"));
    // Its word grows old with the report that brought it.
    assert!(suspect(&scene, late + 1400).contains("node2"));
    lost(&scene, late + 1401);
    // WAL from somebody else, or by an open connection on which nothing comes, is no witness.
    scene.hear(2, standby_report(&rule, 60_000), late);
    lost(&scene, late);
    let mut elsewhere = standby_report(&rule, 10);
    elsewhere.following.as_mut().unwrap().primary = NodeId(3);
    scene.hear(2, elsewhere, late);
    lost(&scene, late);
}

/// Who is not heard is neither a witness for nor against.
#[test]
fn a_silent_member_does_not_vouch() {
    let mut scene = Scene::serving(3);
    let (rule, late) = (scene.rule(), T0 + 4000);
    scene.hear(3, standby_report(&rule, 4000), late);
    let (_, evidence) = lost(&scene, late);
    assert_eq!(evidence.len(), 2, "{evidence:?}");
}

/// A stream that ends is a hint. It is evidence only if all who can be asked lost the primary as
/// well, and were asked after it.
#[test]
fn a_closed_stream_is_a_hint() {
    let mut scene = Scene::serving(3);
    let rule = scene.rule();
    let gone = |ms| {
        let mut report = standby_report(&rule, ms);
        report.following.as_mut().unwrap().streaming = false;
        report
    };
    scene.close(1, T0 + 100);
    assert!(suspect(&scene, T0 + 110).contains("others may still receive"), "nobody was asked");
    scene.hear(2, gone(20), T0 + 120);
    suspect(&scene, T0 + 130);
    scene.hear(3, standby_report(&rule, 20), T0 + 130);
    assert!(suspect(&scene, T0 + 140).contains("others may still receive"), "node 3 receives");
    scene.hear(3, gone(20), T0 + 150);
    let (cause, evidence) = lost(&scene, T0 + 160);
    assert_eq!((cause, evidence.len()), (Cause::ConnectionsClosed, 3));

    // Its keeper comes back before that: what it said before no longer counts, its silence
    // neither.
    let node = scene.facts.node_mut(NodeId(1));
    (node.stream, node.closed_ms, node.report) = (Some(9), None, None);
    assert_eq!(verdict(&scene, T0 + 170), Verdict::Unknown);

    let mut alone = Scene::serving(1);
    alone.close(1, T0 + 100);
    suspect(&alone, T0 + 110);
}

/// A node that is not counted and lags, or has no upstream at all, knows nothing of the primary.
#[test]
fn closed_streams_without_a_member_are_a_hint_still() {
    let mut scene = Scene::serving(2);
    scene.group.rules[0].members = ids(&[]);
    scene.group.rules[0].acks = 0;
    scene.close(1, T0 + 100);
    let rule = scene.rule();
    let mut gone = standby_report(&rule, 20);
    gone.following = None;
    scene.hear(2, gone, T0 + 120);
    suspect(&scene, T0 + 130);
}

/// Unknown is a third value: a monitor that has just started has heard nothing, which is nothing.
#[test]
fn a_monitor_that_has_just_started_knows_nothing() {
    let mut scene = Scene::serving(3);
    scene.facts = vigil_core::facts::Facts::new(t(T0));
    assert_eq!(verdict(&scene, T0 + 3000), Verdict::Unknown);
    let (cause, _) = lost(&scene, T0 + 3001);
    assert_eq!(cause, Cause::Unreachable, "its deadline counts from its own start");
}

/// Silence that the monitor has slept through is no evidence.
#[test]
fn a_monitor_that_was_asleep_gives_a_fresh_deadline() {
    let mut scene = Scene::serving(3);
    let awake = T0 + 600_000;
    scene.facts.note_time(&scene.group.settings, t(awake));
    // What comes in now may have been sent while it slept.
    let rule = scene.rule();
    let mut old = primary_report(&rule, &[2, 3]);
    old.server = Server::Hung;
    scene.hear(1, old, awake);
    assert_eq!(verdict(&scene, awake), Verdict::Unknown);
    scene.hear(1, primary_report(&rule, &[2, 3]), awake + 10);
    for ms in [500, 1001] {
        scene.facts.note_time(&scene.group.settings, t(awake + ms));
    }
    assert_eq!(verdict(&scene, awake + 1001), Verdict::Fine);
    for ms in (awake..=awake + 3500).step_by(100) {
        scene.facts.note_time(&scene.group.settings, t(ms));
        scene.hear(2, standby_report(&rule, 9000), ms);
        scene.hear(3, standby_report(&rule, 9000), ms);
    }
    lost(&scene, awake + 3500);

    // The same for a monitor that slept before it had heard anybody.
    let mut scene = Scene::serving(3);
    scene.facts = vigil_core::facts::Facts::new(t(T0));
    scene.facts.note_time(&scene.group.settings, t(awake));
    assert_eq!(verdict(&scene, awake), Verdict::Unknown);
}

/// What a member said before the stream ended is not an answer to it, however long the monitor
/// slept in between.
#[test]
fn sleep_does_not_turn_old_words_into_answers() {
    let mut scene = Scene::serving(2);
    let rule = scene.rule();
    let mut connecting = standby_report(&rule, 20);
    connecting.following.as_mut().unwrap().streaming = false;
    scene.hear(2, connecting, T0);
    scene.facts.note_time(&scene.group.settings, t(T0 + 100));
    scene.close(1, T0 + 100);
    suspect(&scene, T0 + 100);
    for ms in [60_000, 60_900, 61_001] {
        scene.facts.note_time(&scene.group.settings, t(T0 + ms));
    }
    suspect(&scene, T0 + 61_001);
}

/// A node that has not heard of a shorter heartbeat is late by the longer one, and the witnesses get
/// its WAL as seldom as before.
#[test]
fn nobody_is_late_by_a_heartbeat_that_it_does_not_know() {
    let told = |interval_ms, report| Report { interval_ms, ..report };
    let mut scene = Scene::serving(3);
    let rule = scene.rule();
    // It was 5 s × 3.
    scene.hear(1, told(5_000, primary_report(&rule, &[2, 3])), T0);
    for n in [2, 3] {
        scene.hear(n, told(1_000, standby_report(&rule, 6_000)), T0 + 15_000);
    }
    assert_eq!(verdict(&scene, T0 + 15_000), Verdict::Fine, "15 s are not over");
    assert!(suspect(&scene, T0 + 16_800).contains("still gets its WAL"));
    lost(&scene, T0 + 16_801);
    // Once it has told that it goes by the new one, that counts.
    scene.hear(1, told(1_000, primary_report(&rule, &[2, 3])), T0 + 20_000);
    for n in [2, 3] {
        scene.hear(n, told(1_000, standby_report(&rule, 1_900)), T0 + 23_000);
    }
    assert_eq!(verdict(&scene, T0 + 23_000), Verdict::Fine, "3 s are not over");
    lost(&scene, T0 + 23_001);
}

/// The members of the sync rule get a fresh deadline as well: nobody is given up because the primary
/// told of them once in five seconds.
#[test]
fn a_shorter_heartbeat_degrades_nobody() {
    let mut monitor = Monitor::new(|scene| scene.group.settings.heartbeat_interval_ms = 5_000);
    let rule = monitor.rule();
    let shorter = Command::SetSettings {
        number_sync_standbys: None,
        heartbeat_interval_ms: Some(1_000),
        heartbeat_misses: None,
    };
    for _ in 0..48 {
        monitor.ms += 98;
        monitor.take(GroupInput::Tick);
    }
    monitor.command(shorter).0.unwrap();
    let mut silent = primary_report(&rule, &[]);
    silent.interval_ms = 1_000;
    monitor.report(1, silent);
    assert_eq!(monitor.rule(), rule);
}

/// An election stops what still runs. It begins only if those who can be reached can end it.
#[test]
fn nothing_is_begun_that_cannot_be_won() {
    let late = T0 + 4000;
    let begun = |scene: &Scene| {
        let mut group = scene.group.clone();
        decide(&mut group, &scene.facts, t(late));
        matches!(group.plan, Plan::Electing { .. })
    };
    let mut scene = Scene::serving(3);
    let rule_1 = scene.rule();
    let quiet = standby_report(&rule_1, 9000);
    scene.hear(2, quiet.clone(), late);
    lost(&scene, late);
    let lacking = can_be_won(&scene.group, &scene.facts, t(late)).unwrap_err();
    assert_eq!(lacking, [NodeId(1), NodeId(3)], "W = 1 of 2: both members or the primary");
    assert!(!begun(&scene));
    scene.hear(3, quiet, late);
    assert!(begun(&scene));

    // A rule in flight under which the primary acknowledged alone: only the primary knows.
    scene.group.rules.push(rule(1, 2, 1, &[], 0));
    assert!(!begun(&scene));
    let mut stopped = primary_report(&rule(1, 2, 1, &[], 0), &[]);
    stopped.server = Server::Stopped;
    scene.hear(1, stopped, late);
    assert!(begun(&scene), "its keeper is there");

    // Nothing can have been acknowledged under a rule with too few members.
    let mut blocked = Scene::serving(2);
    blocked.group.rules = vec![rule(1, 2, 1, &[2], 2)];
    blocked.hear(2, standby_report(&rule(1, 2, 1, &[2], 2), 9000), late);
    assert!(begun(&blocked));
}

/// The evidence goes into the record: it is what the event will say.
#[test]
fn cause_and_evidence_are_recorded() {
    let mut scene = Scene::serving(3);
    scene.report_mut(1).server = Server::Stopped;
    decide(&mut scene.group, &scene.facts, t(T0));
    let episode = scene.group.episode.as_ref().unwrap();
    assert_eq!((episode.cause, episode.from), (Cause::PostgresDown, Some(NodeId(1))));
    assert_eq!(episode.evidence, ["node1's keeper: no process of Postgres lives"]);
    assert!(matches!(scene.group.plan, Plan::Electing { epoch: Epoch(2), .. }));
}
