//! What a keeper cannot see is said, and is no news of its Postgres.

use vigil_core::detect::{Verdict, judge};
use vigil_core::driver::node::{NodeDriver, NodeInput, NodeOutput};
use vigil_core::explain::view;
use vigil_core::message::{Barrier, NotLetIn, Report, Server, Trouble, TroubleKind};
use vigil_core::node::observed::{Observed, ServerView};
use vigil_core::view::{Finding, GroupView};

use crate::support::{Scene, T0, cluster, record, t, up};

fn full() -> NotLetIn {
    let text = "sorry, too many clients already".to_owned();
    NotLetIn { barrier: Barrier::TooManyClients, text }
}

fn shown(scene: &Scene) -> GroupView {
    view(&scene.group, &scene.facts, t(T0), &|_| String::new())
}

fn finding(view: &GroupView, node: &str, code: &str) -> Finding {
    let of_node = view.findings.iter().filter(|f| f.nodename == node).flat_map(|f| &f.findings);
    of_node.clone().find(|f| f.code == code).cloned().unwrap_or_else(|| {
        panic!("no {code} of {node}: {:?}", of_node.collect::<Vec<_>>());
    })
}

#[test]
fn nothing_is_wrong_with_a_group_that_is_seen() {
    let view = shown(&Scene::serving(3));
    assert_eq!((view.promotable_standbys, view.sync_expected, view.sync_observed), (2, 2, 2));
    assert_eq!((&view.findings, &view.alerts), (&Vec::new(), &Vec::new()));
}

#[test]
fn a_standby_whose_keeper_is_not_let_in_is_not_counted_on() {
    let mut scene = Scene::serving(3);
    let report = scene.report_mut(2);
    (report.not_let_in, report.look_age_ms) = (Some(full()), 30_000);
    let view = shown(&scene);
    assert_eq!((view.promotable_standbys, view.sync_expected, view.sync_observed), (1, 2, 1));
    assert_eq!(view.nodes[1].health, -1);
    let found = finding(&view, "node2", "not_let_in");
    assert!(found.cause.contains("for 30 s: sorry, too many clients"), "{found:?}");
    assert!(found.remedy.contains("max_connections"), "{found:?}");
    assert!(view.alerts.iter().any(|a| a.code == "not_let_in"), "{:?}", view.alerts);
}

#[test]
fn a_primary_that_does_not_let_its_keeper_in_is_not_replaced() {
    let mut scene = Scene::serving(3);
    let report = scene.report_mut(1);
    (report.not_let_in, report.look_age_ms) = (Some(full()), 30_000);
    let verdict = |scene: &Scene| judge(&scene.group, &scene.facts, &scene.rule(), t(T0));
    assert_eq!(verdict(&scene), Verdict::Fine);
    scene.report_mut(1).server = Server::Unknown;
    assert!(matches!(verdict(&scene), Verdict::Suspect { .. }));
}

#[test]
fn a_standby_that_gets_nothing_cannot_take_over_and_says_why() {
    let mut scene = Scene::serving(3);
    let report = scene.report_mut(3);
    report.following.as_mut().unwrap().streaming = false;
    report.starved_ms = 20_000;
    report.troubles = vec![Trouble {
        kind: TroubleKind::Receiver,
        place: Some("/data/log".to_owned()),
        text: "could not connect to the primary server: no password supplied".to_owned(),
    }];
    let view = shown(&scene);
    assert_eq!(view.promotable_standbys, 1);
    let found = finding(&view, "node3", "not_streaming");
    assert!(found.cause.contains("for 20 s; its receiver says, in /data/log: could not"));
    assert_eq!(found.remedy, "restart node3's keeper: it writes its password file anew");
    // While nobody serves that is no fault of its own.
    scene.report_mut(1).server = Server::Stopped;
    assert_eq!(shown(&scene).promotable_standbys, 2);
}

#[test]
fn a_broken_line_is_named_with_its_place() {
    let mut scene = Scene::serving(2);
    let place = "/data/postgresql.conf line 7";
    scene.report_mut(1).troubles = vec![Trouble {
        kind: TroubleKind::BrokenConfiguration,
        place: Some(place.to_owned()),
        text: "syntax error".to_owned(),
    }];
    let found = finding(&shown(&scene), "node1", "broken_configuration");
    assert!(found.cause.contains(place) && found.remedy.contains(place), "{found:?}");
}

fn sent(driver: &mut NodeDriver, input: NodeInput, ms: u64) -> Option<Report> {
    let out = driver.handle(input, t(ms));
    out.into_iter().rev().find_map(|output| match output {
        NodeOutput::Send(report) => Some(*report),
        _ => None,
    })
}

#[test]
fn a_refused_look_is_told_with_the_age_of_the_last_one() {
    let disk = record(2);
    let mut driver = NodeDriver::new(disk.clone(), t(T0));
    let node_id = disk.node_id.unwrap();
    driver.handle(NodeInput::Welcomed { node_id }, t(T0));
    let refused = |data, standby| NodeInput::NotSeen { why: full(), data, standby };
    // It has never been seen: it may be a primary that works.
    let never = Some(cluster((1, 900), false));
    let report = sent(&mut driver, refused(never.clone(), false), T0).unwrap();
    assert_eq!((report.server, report.pledge), (Server::Unknown, None));
    assert_eq!(report.not_let_in, Some(full()));
    // By its files it has become a standby.
    let report = sent(&mut driver, refused(never, true), T0 + 2000).unwrap();
    assert_eq!(report.server, Server::Starting);
    let seen = Observed { data: cluster((1, 900), false), server: ServerView::Up(up((1, 900))) };
    let report = sent(&mut driver, NodeInput::Observed(seen), T0 + 3000).unwrap();
    let standby = (Server::Standby, None, 0);
    assert_eq!((report.server, report.not_let_in, report.look_age_ms), standby);
    let report = sent(&mut driver, refused(None, true), T0 + 8000).unwrap();
    let still = (Server::Standby, Some(full()), 5000);
    assert_eq!((report.server, report.not_let_in, report.look_age_ms), still);
}
