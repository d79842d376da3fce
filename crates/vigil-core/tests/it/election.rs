//! Who may become primary: the predicate as a property against what can have been acknowledged,
//! and the accidents that each part of it forbids.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use vigil_core::election::{Call, Election, FETCH_MS, WaitFor, elect};
use vigil_core::facts::Facts;
use vigil_core::group::{Group, Settings};
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::{Goal, Server};
use vigil_core::node::fence::may_go_on;
use vigil_core::node::observed::{Observed, ServerView, UpView};
use vigil_core::node::record::Replacing;
use vigil_core::rule::{Pledge, Pledges, SyncRule, satisfied};
use vigil_core::wal::{Position, TimelineHistory, Tli};

use crate::support::{
    Scene, T0, at, cluster, ids, key, member, pledge, pledged_report, primary_report, record, rule,
    standby_report, t, up,
};

/// The epoch of every election here; the rules are older.
const E: Epoch = Epoch(9);

// ---- the property

/// What a node has promised.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Promise {
    Nothing,
    AnotherEpoch,
    ThisEpoch,
}

/// One node as it truly is, and what of that the monitor was told.
#[derive(Clone, Debug)]
struct Truth {
    /// The end of its WAL when it pledged. It may have acknowledged everything up to here.
    wal: Position,
    promise: Promise,
    known: bool,
    usable: bool,
}

fn truth() -> impl Strategy<Value = Truth> {
    let often = || prop::bool::weighted(0.8);
    let promise = prop_oneof![
        2 => Just(Promise::Nothing),
        1 => Just(Promise::AnotherEpoch),
        7 => Just(Promise::ThisEpoch),
    ];
    (1..4u32, 0..6u64, promise, often(), often()).prop_map(|(tli, lsn, promise, known, usable)| {
        Truth { wal: at(tli, lsn), promise, known, usable }
    })
}

fn told(truth: &Truth) -> Option<Pledge> {
    let epoch = match truth.promise {
        Promise::Nothing => return None,
        Promise::AnotherEpoch => Epoch(E.0 - 1),
        Promise::ThisEpoch => E,
    };
    let position = truth.known.then_some(truth.wal);
    Some(Pledge { epoch, position, usable: truth.usable, fetching: false })
}

fn all_told(nodes: &BTreeMap<NodeId, Truth>) -> Pledges {
    nodes.iter().filter_map(|(id, truth)| Some((*id, told(truth)?))).collect()
}

fn has_pledged(nodes: &BTreeMap<NodeId, Truth>, id: NodeId) -> bool {
    nodes.get(&id).is_some_and(|n| n.promise == Promise::ThisEpoch)
}

/// The furthest position that W members hold. What the primary has not written, nobody
/// acknowledged.
fn acknowledged(rule: &SyncRule, nodes: &BTreeMap<NodeId, Truth>) -> Option<Position> {
    let own = nodes.get(&rule.primary)?.wal;
    if rule.acks == 0 {
        return Some(own);
    }
    let mut held: Vec<Position> = rule.members.iter().map(|m| nodes[m].wal).collect();
    held.sort_unstable_by(|a, b| b.cmp(a));
    held.get(rule.acks as usize - 1).map(|at| (*at).min(own))
}

/// Revocation and completeness, from the definition of "acknowledged" alone.
fn safe(
    rule: &SyncRule,
    nodes: &BTreeMap<NodeId, Truth>,
    winner: Position,
) -> Result<(), TestCaseError> {
    let free = rule.members.iter().filter(|m| !has_pledged(nodes, **m)).count();
    let revoked = has_pledged(nodes, rule.primary) || free < rule.acks as usize;
    prop_assert!(revoked, "{free} members can still give {} acknowledgements", rule.acks);
    if let Some(acknowledged) = acknowledged(rule, nodes) {
        prop_assert!(acknowledged <= winner, "{acknowledged} was acknowledged, {winner} wins");
    }
    Ok(())
}

fn rules(nodes: i64) -> impl Strategy<Value = SyncRule> {
    let member = prop::collection::btree_set(1..=nodes, 0..usize::try_from(nodes).unwrap());
    (1..=nodes, member, 0..4u32, 1..E.0).prop_map(|(primary, members, acks, epoch)| {
        let members: Vec<i64> = members.into_iter().filter(|m| *m != primary).collect();
        rule(epoch, epoch, primary, &members, acks)
    })
}

fn nodes() -> impl Strategy<Value = BTreeMap<NodeId, Truth>> {
    prop::collection::vec(truth(), 2..6)
        .prop_map(|all| all.into_iter().enumerate().map(|(i, n)| (id(i), n)).collect())
}

fn id(index: usize) -> NodeId {
    NodeId(i64::try_from(index).unwrap() + 1)
}

fn count(nodes: &BTreeMap<NodeId, Truth>) -> i64 {
    i64::try_from(nodes.len()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..Default::default() })]

    /// One rule cannot have two outcomes: where a winner satisfies it, nobody can go on
    /// acknowledging under it, and all that was acknowledged is the winner's.
    #[test]
    fn satisfied_is_revocation_and_completeness(
        (nodes, rule, tli, lsn) in nodes().prop_flat_map(|nodes| {
            let rule = rules(count(&nodes));
            (Just(nodes), rule, 1..4u32, 0..6u64)
        }),
    ) {
        let pledges = all_told(&nodes);
        let winner = at(tli, lsn);
        match satisfied(&rule, winner, E, &pledges) {
            Ok(()) => safe(&rule, &nodes, winner)?,
            Err(short) => {
                // What it says is missing would do: everybody's pledge, and the furthest node.
                prop_assert!(short.missing > 0 && !(short.silent.is_empty() && short.ahead.is_empty()));
                let all: Pledges =
                    nodes.iter().map(|(id, n)| (*id, pledge(E.0, Some(n.wal)))).collect();
                let furthest = nodes.values().map(|n| n.wal).max().unwrap();
                prop_assert!(satisfied(&rule, furthest, E, &all).is_ok());
            }
        }
    }

    /// The same of whole elections: whoever is elected, for every rule in flight.
    #[test]
    fn an_elected_node_is_safe_for_every_rule_in_flight(
        (nodes, in_flight, priorities) in nodes().prop_flat_map(|nodes| {
            let n = count(&nodes);
            let rules = prop::collection::vec(rules(n), 1..4);
            let priorities = prop::collection::vec(prop::sample::select(vec![0u32, 50, 100]), nodes.len());
            (Just(nodes), rules, priorities)
        }),
        (from, wanted) in (prop::option::of(1..6i64), prop::option::of(1..6i64)),
        waited in prop::sample::select(vec![0u64, 400, FETCH_MS + 1]),
    ) {
        let mut group = Group::new(key(), Settings::default(), String::new());
        group.rules.clone_from(&in_flight);
        let mut facts = Facts::new(t(1000));
        facts.plan_since = t(T0 - waited);
        for ((id, truth), priority) in nodes.iter().zip(&priorities) {
            let mut member = member(id.0);
            member.candidate_priority = *priority;
            group.members.insert(*id, member);
            let mut report = pledged_report(E.0, truth.wal);
            report.pledge = told(truth);
            report.usable = truth.usable;
            facts.node_mut(*id).stream = Some(id.0.unsigned_abs());
            facts.take_report(id.0.unsigned_abs(), *id, report, t(T0));
        }
        let call = Call {
            epoch: E,
            from: from.map(NodeId),
            wanted: wanted.map(NodeId),
            renewable: false,
            accept_loss: false,
        };
        if let Election::Elected { winner, position } = elect(&group, &facts, call, t(T0)) {
            let (truth, member) = (&nodes[&winner], &group.members[&winner]);
            prop_assert_eq!(position, truth.wal, "its own position, as it told it");
            prop_assert!(truth.usable && truth.known && has_pledged(&nodes, winner));
            prop_assert!(member.candidate_priority > 0);
            for rule in &in_flight {
                safe(rule, &nodes, position)?;
            }
        }
    }
}

/// DESIGN §4.16 against §4.10, all cases up to four members: an isolated primary goes on exactly
/// when those it does not hear could not elect somebody else.
#[test]
fn an_isolated_primary_goes_on_exactly_while_the_others_cannot_elect() {
    let mut cases = 0;
    for n in 0..=4i64 {
        let members: Vec<i64> = (2..2 + n).collect();
        for acks in 1..=u32::try_from(n).unwrap() {
            let rule = rule(1, 1, 1, &members, acks);
            for bits in 0..1u32 << n {
                let heard = |m: &NodeId| bits >> (m.0 - 2) & 1 == 1;
                let reached: BTreeSet<NodeId> =
                    rule.members.iter().copied().filter(heard).collect();
                let others: Pledges = rule
                    .members
                    .iter()
                    .filter(|m| !heard(m))
                    .map(|m| (*m, pledge(E.0, Some(at(1, 1)))))
                    .collect();
                let elected = satisfied(&rule, at(1, 1), E, &others).is_ok();
                assert_eq!(may_go_on(&rule, &reached), !elected, "{rule:?}, hears {reached:?}");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 98);
}

// ---- the accidents, by name

fn pledges(told: &[(i64, Position)]) -> Pledges {
    told.iter().map(|(n, at)| (NodeId(*n), pledge(E.0, Some(*at)))).collect()
}

/// A node may hold WAL past a fork: its LSN is higher and it lacks what was acknowledged since.
#[test]
fn a_higher_lsn_on_an_older_timeline_loses() {
    let rule = rule(2, 2, 1, &[2, 3], 1);
    let told = pledges(&[(2, at(1, 9000)), (3, at(2, 100))]);
    assert!(satisfied(&rule, at(2, 100), E, &told).is_ok());
    let short = satisfied(&rule, at(1, 9000), E, &told).unwrap_err();
    assert_eq!(short.ahead, ids(&[3]));
}

/// W = 2 of 3: a commit is on two of them, so one pledge may miss it and two may not. One pledge
/// leaves two members that go on acknowledging.
#[test]
fn a_quorum_smaller_by_one_misses_a_commit() {
    let rule = rule(2, 2, 1, &[2, 3, 4], 2);
    assert_eq!(rule.pledges_needed(), 2);
    assert!(satisfied(&rule, at(1, 10), E, &pledges(&[(2, at(1, 10))])).is_err());
    assert!(satisfied(&rule, at(1, 10), E, &pledges(&[(2, at(1, 10)), (3, at(1, 5))])).is_ok());
}

/// After a restart what a node has read so far is less than what it has acknowledged.
#[test]
fn an_unknown_position_is_not_a_low_one() {
    let rule = rule(2, 2, 1, &[2, 3], 1);
    let mut told = pledges(&[(2, at(1, 10)), (3, at(1, 5))]);
    told.get_mut(&NodeId(3)).unwrap().position = None;
    let short = satisfied(&rule, at(1, 10), E, &told).unwrap_err();
    assert!(short.silent.contains(&NodeId(3)) && short.missing == 1);
    told.insert(NodeId(1), pledge(E.0, None));
    assert!(satisfied(&rule, at(1, 10), E, &told).is_err(), "the same of the primary");
}

/// A half-rewound or half-cloned directory has lost what it acknowledged.
#[test]
fn an_unusable_node_proves_nothing() {
    let rule = rule(2, 2, 1, &[2, 3], 1);
    let mut told = pledges(&[(2, at(1, 10)), (3, at(1, 5))]);
    told.get_mut(&NodeId(3)).unwrap().usable = false;
    assert!(satisfied(&rule, at(1, 10), E, &told).is_err());
    told.insert(NodeId(1), Pledge { usable: false, ..pledge(E.0, Some(at(1, 5))) });
    assert!(satisfied(&rule, at(1, 10), E, &told).is_err(), "the same of the primary");
    told.insert(NodeId(1), pledge(E.0, Some(at(1, 5))));
    assert!(satisfied(&rule, at(1, 10), E, &told).is_ok(), "the primary alone does");
}

/// A pledge of a lower epoch binds nobody in this one; one of a higher epoch belongs to another
/// election.
#[test]
fn a_pledge_counts_in_its_epoch_only() {
    let rule = rule(2, 2, 1, &[2], 1);
    for epoch in [E.0 - 1, E.0 + 1] {
        let told = Pledges::from([(NodeId(2), pledge(epoch, Some(at(1, 10))))]);
        assert!(satisfied(&rule, at(1, 10), E, &told).is_err());
    }
}

/// What a keeper tells is never more than it knows: unread WAL, a living receiver.
#[test]
fn what_is_pledged_is_what_is_known() {
    use vigil_core::node::pledge as told;
    let mut record = record(2);
    let stopped = |shut_down| {
        let data = cluster((1, 500), shut_down);
        Observed { data, server: ServerView::Down }
    };
    assert_eq!(told(&record, &stopped(true)), None, "nothing was ever promised");
    record.promise = E;
    assert_eq!(told(&record, &stopped(false)).unwrap().position, None, "crashed: WAL is unread");
    let clean = told(&record, &stopped(true)).unwrap().position.unwrap();
    assert!(clean > at(1, 500), "who has not received the checkpoint record is behind");
    let sees = |server| told(&record, &Observed { data: cluster((1, 500), false), server });
    let standby = || UpView { replay_idle: true, ..up((1, 500)) };
    assert_eq!(sees(ServerView::Up(standby())).unwrap().position, Some(at(1, 500)));
    for (why, server) in [
        ("a receiver lives", ServerView::Up(UpView { receiver_alive: true, ..standby() })),
        ("one may be started", ServerView::Up(UpView { detached: false, ..standby() })),
        ("read-write", ServerView::Up(UpView { in_recovery: false, ..standby() })),
        ("not stopped", ServerView::Orphans),
        ("who knows as what", ServerView::Starting),
        ("who knows", ServerView::Hung),
    ] {
        assert_eq!(sees(server), None, "{why}");
    }
    let restarted = UpView { replay_idle: false, ..standby() };
    assert_eq!(sees(ServerView::Up(restarted)).unwrap().position, None, "it still reads");
    record.replacing = Some(Replacing::Rewind);
    let half = told(&record, &stopped(true)).unwrap();
    assert_eq!((half.usable, half.position), (false, None));
}

// ---- whole elections

const CALL: Call =
    Call { epoch: E, from: Some(NodeId(1)), wanted: None, renewable: false, accept_loss: false };

/// Three nodes, node 1 gone, the election as old as `age_ms`.
fn electing(age_ms: u64, told: &[(i64, Position)]) -> Scene {
    let mut scene = Scene::serving(3);
    scene.facts.node_mut(NodeId(1)).heard_ms = Some(0);
    scene.facts.plan_since = t(T0 - age_ms);
    for (n, position) in told {
        scene.hear(*n, pledged_report(E.0, *position), T0);
    }
    scene
}

fn outcome(scene: &Scene) -> Election {
    elect(&scene.group, &scene.facts, CALL, t(T0))
}

fn elected(scene: &Scene) -> NodeId {
    match outcome(scene) {
        Election::Elected { winner, .. } => winner,
        other => panic!("{other:?}"),
    }
}

/// A rule that was replaced and is not covered: what it acknowledged may be nowhere else.
#[test]
fn every_rule_in_flight_binds() {
    let mut scene = electing(400, &[(2, at(1, 10)), (3, at(1, 10))]);
    assert_eq!(elected(&scene), NodeId(2));
    scene.group.rules.insert(0, rule(1, 0, 1, &[], 0));
    match outcome(&scene) {
        Election::Wait(WaitFor::Pledges(short)) => {
            assert_eq!((short.len(), short[0].primary), (1, NodeId(1)));
        }
        other => panic!("the degraded primary alone knows what it acknowledged: {other:?}"),
    }
    scene.hear(1, pledged_report(E.0, at(1, 10)), T0);
    assert_eq!(elected(&scene), NodeId(2), "and it is not elected again if another one can be");
}

#[test]
fn priority_then_position_then_id() {
    let mut scene = electing(400, &[(2, at(1, 10)), (3, at(1, 10))]);
    assert_eq!(elected(&scene), NodeId(2), "the higher priority");
    scene.edit(2, |m| m.candidate_priority = 80);
    assert_eq!(elected(&scene), NodeId(2), "equal priority and position: the lower id");
    scene.hear(3, pledged_report(E.0, at(1, 11)), T0);
    assert_eq!(elected(&scene), NodeId(3), "equal priority: the further one");
    scene.edit(3, |m| m.candidate_priority = 0);
    match outcome(&scene) {
        Election::Fetch { who, source, until } => {
            assert_eq!((who, source, until), (NodeId(2), NodeId(3), at(1, 11)));
        }
        other => panic!("priority 0 is never elected, its WAL is: {other:?}"),
    }
    scene.edit(2, |m| m.candidate_priority = 0);
    assert_eq!(outcome(&scene), Election::Wait(WaitFor::Candidate));
}

/// The better candidate fetches, but not for ever: then the one that has the WAL is taken.
#[test]
fn a_better_candidate_gets_time_to_fetch() {
    let told = [(2, at(1, 10)), (3, at(1, 20))];
    assert!(matches!(outcome(&electing(400, &told)), Election::Fetch { who: NodeId(2), .. }));
    assert_eq!(elected(&electing(FETCH_MS, &told)), NodeId(3));
    let mut foreign = electing(400, &[(2, at(1, 10)), (3, at(2, 5))]);
    foreign.report_mut(3).history =
        Some(TimelineHistory { tli: Tli(2), ancestors: vec![at(1, 4)] });
    assert_eq!(elected(&foreign), NodeId(3), "what does not extend its own WAL is not fetched");
}

/// A node in maintenance is not elected either. If only it has the newest commits, its WAL is
/// fetched for as long as that takes: an election that gives up fetching would wait for ever.
#[test]
fn fetching_from_a_node_that_cannot_be_elected_has_no_deadline() {
    let told = [(2, at(1, 10)), (3, at(1, 20))];
    for age_ms in [400, FETCH_MS, 600_000] {
        let mut scene = electing(age_ms, &told);
        scene.edit(3, |m| m.maintenance = true);
        let got = outcome(&scene);
        assert!(matches!(got, Election::Fetch { who: NodeId(2), .. }), "{age_ms} ms: {got:?}");
    }
}

#[test]
fn live_standbys_are_waited_for_a_moment() {
    let mut scene = electing(0, &[(2, at(1, 10))]);
    let rule = scene.rule();
    scene.group.rules = vec![rule_of_one(&rule)];
    assert_eq!(outcome(&scene), Election::Wait(WaitFor::Late(ids(&[3]))));
    scene.facts.plan_since = t(T0 - 300);
    assert_eq!(elected(&scene), NodeId(2));
}

fn rule_of_one(old: &SyncRule) -> SyncRule {
    SyncRule { members: ids(&[2]), ..old.clone() }
}

/// §4.13: only the newest recorded winner, only if it still leads, only if nobody else can be
/// elected, never if it was told to go.
#[test]
fn renewal_is_for_the_newest_winner_that_still_runs() {
    let call = Call { renewable: true, ..CALL };
    let mut scene = electing(400, &[(2, at(1, 10))]);
    let rule = scene.rule();
    scene.hear(1, primary_report(&rule, &[]), T0);
    let outcome = |scene: &Scene, call| elect(&scene.group, &scene.facts, call, t(T0));
    assert_eq!(outcome(&scene, call), Election::Renew { primary: NodeId(1) });
    assert!(matches!(outcome(&scene, CALL), Election::Wait(_)), "it was told to go");

    let mut pledged = scene.clone();
    pledged.report_mut(1).promise = E;
    assert!(matches!(outcome(&pledged, call), Election::Wait(_)), "it has pledged");
    let mut stopped = scene.clone();
    stopped.report_mut(1).server = Server::Stopped;
    assert!(matches!(outcome(&stopped, call), Election::Wait(_)), "it has stopped");
    let mut older = scene.clone();
    older.report_mut(1).own_rule.as_mut().unwrap().epoch = Epoch(0);
    assert!(matches!(outcome(&older, call), Election::Wait(_)), "it leads in an older epoch");
    scene.hear(3, pledged_report(E.0, at(1, 10)), T0);
    assert_eq!(elected(&scene), NodeId(2), "too late: the others can do without it");
}

/// Data loss is accepted by an operator only, and then as little as possible.
#[test]
fn accepted_loss_is_as_small_as_possible() {
    let mut scene = electing(400, &[(2, at(1, 10)), (3, at(1, 20))]);
    scene.group.rules.push(rule(1, 2, 1, &[], 0));
    let got = elect(&scene.group, &scene.facts, CALL, t(T0));
    assert!(matches!(got, Election::Wait(WaitFor::Pledges(_))));
    let call = Call { accept_loss: true, ..CALL };
    let got = elect(&scene.group, &scene.facts, call, t(T0));
    assert_eq!(got, Election::Elected { winner: NodeId(3), position: at(1, 20) });
}

/// The members of the first rule are those whose WAL is a prefix of the winner's.
#[test]
fn who_has_more_wal_than_the_winner_is_not_counted_by_it() {
    use vigil_core::election::{first_members, future_history};
    let mut scene = electing(400, &[(2, at(1, 10)), (3, at(1, 20))]);
    let history = future_history(&TimelineHistory::first(), at(1, 10), Tli(2));
    let members = |scene: &Scene| first_members(&scene.group, &scene.facts, E, NodeId(2), &history);
    assert_eq!(members(&scene), ids(&[]));
    scene.hear(3, pledged_report(E.0, at(1, 10)), T0);
    assert_eq!(members(&scene), ids(&[3]));
    scene.edit(3, |m| m.replication_quorum = false);
    assert_eq!(members(&scene), ids(&[]));
}

/// While it fetches, a node's WAL is already longer than the position that it pledged.
#[test]
fn who_is_fetching_is_not_counted_by_another_winner() {
    use vigil_core::election::{first_members, future_history};
    let mut scene = electing(400, &[(2, at(1, 10)), (3, at(1, 10))]);
    let mut report = pledged_report(E.0, at(1, 10));
    report.pledge = Some(Pledge { fetching: true, ..report.pledge.unwrap() });
    scene.hear(3, report, T0);
    let history = future_history(&TimelineHistory::first(), at(1, 10), Tli(2));
    let members = first_members(&scene.group, &scene.facts, E, NodeId(2), &history);
    assert_eq!(members, ids(&[]));
}

/// A pledge stands: a restart that forgets the position for a while takes nothing back, a clone
/// that begins does.
#[test]
fn a_pledge_told_once_stands() {
    let mut scene = electing(400, &[(2, at(1, 10)), (3, at(1, 10))]);
    let mut restarted = pledged_report(E.0, at(1, 10));
    restarted.server = Server::Starting;
    restarted.pledge = None;
    scene.hear(3, restarted.clone(), T0);
    assert_eq!(elected(&scene), NodeId(2));
    restarted.pledge = Some(pledge(E.0, None));
    scene.hear(3, restarted.clone(), T0);
    assert_eq!(elected(&scene), NodeId(2));
    restarted.pledge = Some(Pledge { usable: false, ..pledge(E.0, None) });
    scene.hear(3, restarted.clone(), T0);
    assert!(matches!(outcome(&scene), Election::Wait(WaitFor::Pledges(_))));
    restarted.pledge = Some(pledge(E.0 - 1, Some(at(1, 10))));
    scene.hear(3, restarted, T0);
    assert!(matches!(outcome(&scene), Election::Wait(WaitFor::Pledges(_))), "an older one");
}

/// Orders of an election: who may still be renewed is left alone, everybody else pledges.
#[test]
fn the_old_primary_is_left_alone_while_it_may_be_a_false_alarm() {
    use vigil_core::event::Cause;
    use vigil_core::goals::goals;
    let mut scene = Scene::serving(3);
    let rule = scene.rule();
    scene.hear(1, primary_report(&rule, &[2, 3]), T0);
    scene.hear(2, standby_report(&rule, 10), T0);
    let begin = |cause| {
        let mut scene = scene.clone();
        let (group, facts) = (&mut scene.group, &scene.facts);
        vigil_core::decide::begin_election(group, facts, cause, Vec::new(), None, None, t(T0));
        goals(&scene.group, &scene.facts, t(T0))
    };
    let alarm = begin(Cause::Unreachable);
    assert!(matches!(alarm[&NodeId(1)].goal, Goal::Lead { .. }));
    assert!(matches!(alarm[&NodeId(2)].goal, Goal::Pledge { .. }));
    for cause in [Cause::Operator, Cause::Leaving, Cause::PostgresHung] {
        assert!(matches!(begin(cause)[&NodeId(1)].goal, Goal::Pledge { .. }), "{cause:?}");
    }
}
