//! What the sync rule should be (DESIGN §4.9), as a table, and what no case may ever say.

use std::collections::BTreeSet;

use vigil_core::ids::NodeId;
use vigil_core::sync::{Wanted, first_acks, may_change, wanted};

use crate::support::{Scene, T0, ids, standby_report, t};

/// How a standby is, as the monitor sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Is {
    Streaming,
    /// It streams nothing for so many seconds; its keeper still reports.
    Away(u64),
    /// Nothing at all is heard of it for so many seconds.
    Silent(u64),
    Leaving,
    /// replication-quorum false, streaming.
    Async,
    Maintenance,
    /// Streams, but has not reported the epoch of the rule.
    OldPromise,
}

/// Nodes 2, 3, … are as told; the rule in force is `members`, `acks`, and it is old.
fn scene(k: u32, members: &[i64], acks: u32, nodes: &[Is]) -> Scene {
    let n = i64::try_from(nodes.len()).unwrap();
    let mut scene = Scene::serving(n + 1);
    scene.group.settings.number_sync_standbys = k;
    let rule = &mut scene.group.rules[0];
    (rule.members, rule.acks) = (ids(members), acks);
    let rule = rule.clone();
    scene.report_mut(1).own_rule = Some(rule.clone());
    scene.facts.rule_since_ms = T0 - 60_000;
    scene.facts.plan_since = t(T0 - 60_000);
    for (is, id) in nodes.iter().zip(2i64..) {
        let mut gone = |ms: u64| {
            scene.facts.node_mut(NodeId(id)).streamed_ms = Some(T0 - ms);
            scene.report_mut(1).senders.retain(|s| s.name != format!("node{id}"));
        };
        match is {
            Is::Streaming => {}
            Is::Away(seconds) => {
                gone(seconds * 1000);
                let mut report = standby_report(&rule, seconds * 1000);
                report.following.as_mut().unwrap().streaming = false;
                scene.hear(id, report, T0);
            }
            Is::Silent(seconds) => {
                gone(seconds * 1000);
                scene.facts.node_mut(NodeId(id)).heard_ms = Some(T0 - seconds * 1000);
            }
            Is::Leaving => scene.report_mut(id).leaving = true,
            Is::Async => scene.edit(id, |m| m.replication_quorum = false),
            Is::Maintenance => scene.edit(id, |m| m.maintenance = true),
            Is::OldPromise => scene.report_mut(id).promise.0 = 0,
        }
    }
    scene
}

fn want(scene: &Scene) -> Option<(BTreeSet<NodeId>, u32)> {
    let rule = scene.rule();
    wanted(&scene.group, &scene.facts, &rule, t(T0)).map(|Wanted { members, acks }| (members, acks))
}

/// The policy, one row for each of its sentences.
#[test]
fn the_policy() {
    use Is::{Async, Away, Leaving, Maintenance, OldPromise, Silent, Streaming};
    type Row<'a> = (&'a str, u32, (&'a [i64], u32), &'a [Is], Option<(&'a [i64], u32)>);
    let rows: &[Row] = &[
        // number-sync-standbys 0: one of those that are there; alone when nobody is.
        ("as it should be", 0, (&[2, 3], 1), &[Streaming, Streaming], None),
        ("a first standby", 0, (&[], 0), &[Streaming], Some((&[2], 1))),
        ("a second one", 0, (&[2], 1), &[Streaming, Streaming], Some((&[2, 3], 1))),
        ("not of this epoch yet", 0, (&[2], 1), &[Streaming, OldPromise], None),
        ("away for a moment", 0, (&[2, 3], 1), &[Streaming, Away(2)], None),
        ("away for less than 10 s", 0, (&[2, 3], 1), &[Streaming, Away(9)], None),
        ("away for more", 0, (&[2, 3], 1), &[Streaming, Away(11)], Some((&[2], 1))),
        ("silent for more", 0, (&[2, 3], 1), &[Silent(11), Streaming], Some((&[3], 1))),
        ("the last for a moment", 0, (&[2], 1), &[Away(2)], None),
        ("the last is gone", 0, (&[2], 1), &[Away(4)], Some((&[], 0))),
        ("the last is silent", 0, (&[2], 1), &[Silent(4)], Some((&[], 0))),
        ("both are gone", 0, (&[2, 3], 1), &[Silent(4), Away(5)], Some((&[], 0))),
        ("one of two is back", 0, (&[2, 3], 1), &[Silent(11), Away(2)], Some((&[3], 1))),
        ("another one took its place", 0, (&[2], 1), &[Away(4), Streaming], Some((&[2, 3], 1))),
        ("degraded, nobody is back", 0, (&[], 0), &[Away(60)], None),
        ("degraded, somebody is back", 0, (&[], 0), &[Away(60), Streaming], Some((&[3], 1))),
        ("one leaves politely", 0, (&[2, 3], 1), &[Leaving, Streaming], Some((&[3], 1))),
        ("the last leaves politely", 0, (&[2], 1), &[Leaving], Some((&[], 0))),
        ("one goes into maintenance", 0, (&[2, 3], 1), &[Maintenance, Streaming], Some((&[3], 1))),
        // 1: never below 1, whatever happens.
        ("as it should be", 1, (&[2, 3], 1), &[Streaming, Streaming], None),
        ("from 0", 1, (&[], 0), &[Streaming], Some((&[2], 1))),
        ("away for more", 1, (&[2, 3], 1), &[Away(11), Streaming], Some((&[3], 1))),
        ("the last is gone for ever", 1, (&[2], 1), &[Away(600)], None),
        ("the last is silent for ever", 1, (&[2], 1), &[Silent(600)], None),
        ("both are gone: the later one", 1, (&[2, 3], 1), &[Away(40), Away(30)], Some((&[3], 1))),
        ("another one is there", 1, (&[2], 1), &[Away(60), Streaming], Some((&[3], 1))),
        ("the last leaves politely", 1, (&[2], 1), &[Leaving], None),
        ("nobody yet: commits block", 1, (&[], 1), &[Away(60)], None),
        // 2: never below 2.
        ("as it should be", 2, (&[2, 3, 4], 2), &[Streaming; 3], None),
        (
            "one of three is gone",
            2,
            (&[2, 3, 4], 2),
            &[Away(11), Streaming, Streaming],
            Some((&[3, 4], 2)),
        ),
        ("then a second one", 2, (&[3, 4], 2), &[Away(90), Away(60), Streaming], None),
        (
            "one takes its place",
            2,
            (&[3, 4], 2),
            &[Streaming, Away(60), Streaming],
            Some((&[2, 4], 2)),
        ),
        ("only one is there: block", 2, (&[2], 1), &[Streaming, Away(60)], Some((&[2], 2))),
        // The setting was changed.
        ("2 to 0", 0, (&[2, 3], 2), &[Streaming, Streaming], Some((&[2, 3], 1))),
        ("0 to 2", 2, (&[2, 3], 1), &[Streaming, Streaming], Some((&[2, 3], 2))),
        // Asynchronous by choice: nobody has replication-quorum true.
        ("by choice", 0, (&[], 0), &[Async, Async], None),
        ("becomes a choice", 0, (&[2], 1), &[Async], Some((&[], 0))),
        ("an async one is never counted", 0, (&[3], 1), &[Async, Away(4)], Some((&[], 0))),
        ("an async one is never counted", 1, (&[3], 1), &[Async, Away(4)], None),
        ("no standby at all", 0, (&[], 0), &[], None),
    ];
    let mut wrong = Vec::new();
    for (what, k, (members, acks), nodes, expected) in rows {
        let got = want(&scene(*k, members, *acks, nodes));
        if got != expected.map(|(members, acks)| (ids(members), acks)) {
            wrong.push(format!(
                "number-sync-standbys {k}, {members:?} × {acks}, {nodes:?}: {what}: expected \
                 {expected:?}, got {got:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// All cases of three standbys × every rule that can be in force.
#[test]
fn no_case_degrades_too_early_or_below_what_was_asked() {
    let states = [
        Is::Streaming,
        Is::Away(2),
        Is::Away(5),
        Is::Away(11),
        Is::Silent(4),
        Is::Leaving,
        Is::Async,
        Is::OldPromise,
    ];
    let there = |is: &Is| *is == Is::Streaming;
    let mut cases = 0;
    for nodes in states.iter().flat_map(|a| states.iter().map(move |b| [*a, *b])) {
        for third in states {
            let nodes = [nodes[0], nodes[1], third];
            for k in 0..=2u32 {
                for bits in 0..8i64 {
                    let members: Vec<i64> = (2..5).filter(|m| bits >> (m - 2) & 1 == 1).collect();
                    let in_force = if members.is_empty() && k == 0 { 0 } else { k.max(1) };
                    let scene = scene(k, &members, in_force, &nodes);
                    let (old, now) = (ids(&members), want(&scene));
                    let (members, acks) = now.clone().unwrap_or((old.clone(), in_force));
                    let told = format!("{k}, {old:?}, {nodes:?} -> {now:?}");
                    let is = |id: &NodeId| nodes[usize::try_from(id.0 - 2).unwrap()];
                    assert!(members.iter().all(|m| is(m) != Is::Async), "{told}");
                    for new in members.difference(&old) {
                        assert!(there(&is(new)), "{new} is counted without streaming: {told}");
                    }
                    let counted = nodes.iter().any(|n| *n != Is::Async);
                    let usable = old.iter().filter(|m| is(m) != Is::Async).count();
                    let streaming = nodes.iter().filter(|n| there(n)).count();
                    if k > 0 && counted {
                        assert_eq!(acks, k, "{told}");
                        let reachable = usable.max(streaming).min(k as usize);
                        assert!(members.len() >= reachable, "below k: {told}");
                    }
                    if k == 0 && acks == 0 && in_force > 0 {
                        let left = |m: &NodeId| there(&is(m)) || is(m) == Is::Away(2);
                        assert!(!old.iter().any(left) && streaming == 0, "too early: {told}");
                    }
                    if k == 0 && streaming > 0 {
                        assert_eq!(acks, 1, "somebody is there: {told}");
                    }
                    cases += 1;
                }
            }
        }
    }
    assert_eq!(cases, 8 * 8 * 8 * 3 * 8);
}

/// Somebody who has promised to acknowledge nothing here, streams from elsewhere, or whom the
/// primary's walsender does not know, cannot be waited for.
#[test]
fn a_new_member_is_checked_from_both_sides() {
    let base = scene(0, &[2], 1, &[Is::Streaming, Is::Streaming]);
    assert_eq!(want(&base), Some((ids(&[2, 3]), 1)));
    let mut broken: Vec<(&str, Scene)> = Vec::new();
    let mut with = |what, change: &dyn Fn(&mut Scene)| {
        let mut scene = base.clone();
        change(&mut scene);
        broken.push((what, scene));
    };
    with("a newer promise", &|s| s.report_mut(3).promise.0 = 2);
    with("follows by an older order", &|s| {
        s.report_mut(3).following.as_mut().unwrap().epoch.0 = 0;
    });
    with("follows somebody else", &|s| {
        s.report_mut(3).following.as_mut().unwrap().primary = NodeId(2);
    });
    with("no sender", &|s| s.report_mut(1).senders.retain(|x| x.name != "node3"));
    with("far behind", &|s| {
        s.report_mut(1).position.as_mut().unwrap().lsn.0 += 17 * 1024 * 1024;
        s.report_mut(1).senders[0].flush.0 += 17 * 1024 * 1024;
    });
    for (what, scene) in &broken {
        assert_eq!(want(scene), None, "{what}");
    }
}

/// "Never degrades": maintenance of the last counted standby is no choice to be asynchronous.
#[test]
fn maintenance_does_not_make_it_asynchronous() {
    for k in [1, 2] {
        let scene = scene(k, &[2], k, &[Is::Maintenance, Is::Async]);
        let acks = want(&scene).map_or(k, |(_, acks)| acks);
        assert_eq!(acks, k, "number-sync-standbys {k}");
        assert_eq!(first_acks(&scene.group, NodeId(1), &ids(&[]), false), k, "after an election");
    }
}

/// The rule of a winner, before anybody streams from it.
#[test]
fn a_winner_starts_with_what_the_setting_asks_for() {
    let scene = |k| {
        let mut scene = Scene::serving(3);
        scene.group.settings.number_sync_standbys = k;
        scene.group
    };
    let first = |k, members: &[i64], late| first_acks(&scene(k), NodeId(2), &ids(members), late);
    assert_eq!(first(0, &[3], false), 1);
    assert_eq!(first(0, &[], false), 0, "nobody is there: it is writable at once");
    assert_eq!(first(0, &[], true), 1, "somebody is about to follow: worth a moment");
    assert_eq!(first(1, &[], false), 1, "commits block");
    assert_eq!(first(2, &[3], false), 2);
    assert_eq!(first_acks(&Scene::serving(1).group, NodeId(1), &ids(&[]), false), 0, "single");
}

/// Two rule changes are in flight only if the first cannot become covered.
#[test]
fn a_rule_is_changed_when_it_is_in_force_and_covered_or_stuck() {
    let base = Scene::serving(3);
    let may = |scene: &Scene| may_change(&scene.group, &scene.facts, &scene.rule(), t(T0));
    assert!(may(&base));
    let mut other = base.clone();
    other.report_mut(1).in_force = None;
    assert!(!may(&other), "not in force");
    let mut silent = base.clone();
    silent.facts.node_mut(NodeId(1)).heard_ms = Some(T0 - 4000);
    assert!(!may(&silent), "the primary is not heard");
    let mut uncovered = base.clone();
    let old = crate::support::rule(1, 0, 1, &[2], 1);
    uncovered.group.rules.insert(0, old);
    uncovered.facts.rule_since_ms = T0 - 1000;
    assert!(!may(&uncovered), "about to be covered");
    uncovered.facts.rule_since_ms = T0 - 10_000;
    assert!(may(&uncovered), "whom it needs is away");
}

/// A superseded rule is forgotten when it is covered, or when nothing can have been acknowledged
/// under it; never because a newer one was recorded.
#[test]
fn an_uncovered_rule_is_not_forgotten() {
    let mut group = Scene::serving(3).group;
    let (epoch, primary) = (group.epoch, NodeId(1));
    let versions =
        |g: &vigil_core::group::Group| -> Vec<u64> { g.rules.iter().map(|r| r.version).collect() };
    group.record_rule(epoch, primary, ids(&[2]), 1);
    group.record_rule(epoch, primary, ids(&[]), 0);
    assert_eq!(versions(&group), [1, 2, 3]);
    group.record_rule(epoch, primary, ids(&[2]), 2);
    assert_eq!(versions(&group), [1, 2, 3, 4], "the newest may be in force by now");
    group.record_rule(epoch, primary, ids(&[2]), 1);
    assert_eq!(versions(&group), [1, 2, 3, 5], "2 of 1: nothing was acknowledged under it");
}
