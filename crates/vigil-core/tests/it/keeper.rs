//! The keeper's loop: which orders it obeys, and that it never says or does what its disk does
//! not know.

use proptest::prelude::*;
use vigil_core::driver::node::{NodeDriver, NodeInput, NodeOutput};
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::{Goal, Order, Report, Sender, Server};
use vigil_core::node::observed::{Data, Observed, ServerView, UpView};
use vigil_core::node::record::{NodeRecord, Replacing};
use vigil_core::node::step::{Step, StepDone, StepFailure};
use vigil_core::wal::{Lsn, TimelineHistory, Tli};

use crate::support::{T0, at, cluster, order, record, rule, t, up};

/// A keeper with its disk and the one step that it may run.
struct Keeper {
    driver: NodeDriver,
    disk: NodeRecord,
    running: Option<(u64, Step)>,
    ms: u64,
    sent: Vec<Report>,
    disk_is_full: bool,
}

impl Keeper {
    fn new(disk: NodeRecord) -> Self {
        let driver = NodeDriver::new(disk.clone(), t(T0));
        Keeper { driver, disk, running: None, ms: T0, sent: Vec::new(), disk_is_full: false }
    }

    fn welcomed(disk: NodeRecord) -> Self {
        let mut keeper = Keeper::new(disk);
        let node_id = keeper.disk.node_id.unwrap();
        keeper.take(NodeInput::Welcomed { node_id }).unwrap();
        keeper
    }

    /// Feeds one input and carries the outputs out in their order, checking each against the disk
    /// as it is at that moment. Returns the steps begun.
    fn take(&mut self, input: NodeInput) -> Result<Vec<Step>, String> {
        if let NodeInput::StepEnded { id, .. } = &input {
            self.running.take_if(|(running, _)| running == id);
        }
        let mut begun = Vec::new();
        for output in self.driver.handle(input, t(self.ms)) {
            match output {
                NodeOutput::Save(_) if self.disk_is_full => {
                    let reason = "no space left on device".to_owned();
                    begun.extend(self.take(NodeInput::NotSaved { reason })?);
                    break;
                }
                NodeOutput::Save(next) => {
                    if next.promise < self.disk.promise || next.led_in < self.disk.led_in {
                        return Err("a promise is taken back".to_owned());
                    }
                    self.disk = *next;
                }
                NodeOutput::Run { id, step } => {
                    self.may_begin(&step)?;
                    begun.push(step.clone());
                    self.running = Some((id, step));
                }
                NodeOutput::Send(report) => {
                    self.may_say(&report)?;
                    self.sent.push(*report);
                }
                NodeOutput::Cancel { id } => {
                    let known = self.running.as_ref().is_some_and(|(running, _)| *running == id);
                    if !known {
                        return Err("breaks off what does not run".to_owned());
                    }
                }
                NodeOutput::Look | NodeOutput::Exit => {}
            }
        }
        Ok(begun)
    }

    fn may_begin(&self, step: &Step) -> Result<(), String> {
        let disk = &self.disk;
        let order = self.driver.order();
        let whole = disk.is_whole();
        let must = |holds: bool, what: &str| {
            if holds { Ok(()) } else { Err(format!("{step} is begun, {what}")) }
        };
        must(self.running.is_none(), "another step runs")?;
        must(order.is_none_or(|o| o.epoch == disk.promise), "the promise is not saved")?;
        must(order.is_none_or(|o| o.rules == disk.rules_held), "the rules are not saved")?;
        match step {
            Step::StartPrimary { rule } | Step::Promote { rule, .. } | Step::PutRule { rule } => {
                let saved = disk.own_rule.as_ref() == Some(rule) && disk.led_in == Some(rule.epoch);
                must(saved, "its rule is not saved")?;
                must(whole, "the directory is half-replaced")
            }
            Step::StartStandby => must(whole, "the directory is half-replaced"),
            Step::StartFollowing { primary } => {
                let copy = disk.copied_from == Some((*primary, disk.promise));
                must(copy && disk.replacing.is_none(), "not a copy of that primary")
            }
            Step::Rewind { .. } | Step::Clone { .. } => {
                must(disk.replacing.is_some(), "there is no marker")
            }
            _ => Ok(()),
        }
    }

    fn may_say(&self, report: &Report) -> Result<(), String> {
        let disk = &self.disk;
        let durable = report.promise == disk.promise
            && report.own_rule == disk.own_rule
            && report.rules_held == disk.rules_held
            && report.pledge.is_none_or(|p| p.epoch <= disk.promise)
            && report.usable <= disk.is_whole();
        if durable { Ok(()) } else { Err(format!("says what is not saved: {report:?}")) }
    }

    fn sees(&mut self, server: ServerView) -> Vec<Step> {
        let seen = Observed { data: cluster((1, 900), false), server };
        self.take(NodeInput::Observed(seen)).unwrap()
    }

    fn ordered(&mut self, order: Order) -> Vec<Step> {
        self.take(NodeInput::Order(order)).unwrap()
    }

    fn ends(&mut self, result: Result<StepDone, StepFailure>) -> Vec<Step> {
        let (id, _) = self.running.clone().expect("a step runs");
        self.take(NodeInput::StepEnded { id, result }).unwrap()
    }

    /// Ends the running step well and sees `server` afterwards.
    fn then_sees(&mut self, server: ServerView) -> Vec<Step> {
        self.ends(Ok(StepDone::Plain));
        self.sees(server)
    }
}

fn standby() -> ServerView {
    ServerView::Up(UpView { replay_idle: true, ..up((1, 900)) })
}

fn attached(primary: i64, epoch: u64, streaming: bool) -> ServerView {
    ServerView::Up(UpView {
        upstream: Some((NodeId(primary), Epoch(epoch))),
        detached: false,
        replay_idle: true,
        receiver_alive: streaming,
        streaming,
        streamed: streaming,
        received: streaming.then_some(Lsn(900)),
        ..up((1, 900))
    })
}

fn primary(senders: &[(i64, u64)]) -> ServerView {
    let sender = |(n, reply_age_ms): &(i64, u64)| Sender {
        name: format!("node{n}"),
        streaming: true,
        flush: Lsn(900),
        replay: Lsn(900),
        reply_age_ms: *reply_age_ms,
    };
    let senders = senders.iter().map(sender).collect();
    ServerView::Up(UpView { in_recovery: false, received: Some(Lsn(900)), senders, ..up((1, 900)) })
}

const PLEDGE: Goal = Goal::Pledge { await_wal: None, restart: true };

fn follow(primary: i64) -> Goal {
    let history = Some(TimelineHistory::first());
    Goal::Follow { primary: NodeId(primary), history, open: true }
}

// ---- orders

/// A delayed or repeated order does no harm: not of an older epoch, not of an older number.
#[test]
fn old_orders_are_refused() {
    let mut keeper = Keeper::welcomed(record(2));
    keeper.sees(attached(1, 7, true));
    assert_eq!(keeper.ordered(order(7, 10, follow(1))), []);
    assert_eq!(keeper.disk.promise, Epoch(7));
    let steps = keeper.ordered(order(8, 20, PLEDGE));
    assert_eq!(steps, [Step::DropReceiver { await_wal: None }]);
    assert_eq!(keeper.disk.promise, Epoch(8));
    keeper.then_sees(standby());

    for (epoch, seq, why) in [
        (7, 30, "a lower epoch, whatever its number"),
        (8, 19, "an older number of the same epoch"),
        (9, 19, "an older number, whatever its epoch"),
    ] {
        let before = keeper.driver.record().clone();
        assert_eq!(keeper.ordered(order(epoch, seq, follow(3))), [], "{why}");
        assert_eq!(keeper.driver.record(), &before, "{why}");
        assert_eq!(keeper.driver.order().unwrap().goal, PLEDGE, "{why}");
    }
    assert_eq!(keeper.ordered(order(8, 20, PLEDGE)), [], "twice the same: nothing is left to do");
    assert_eq!(keeper.ordered(order(8, 21, follow(3))), [Step::Follow { primary: NodeId(3) }]);
}

/// The promise outlives the keeper: who comes up again refuses what it refused before.
#[test]
fn a_promise_outlives_a_restart() {
    let mut keeper = Keeper::welcomed(record(2));
    keeper.ordered(order(8, 20, PLEDGE));
    let mut again = Keeper::welcomed(keeper.disk);
    again.sees(standby());
    assert_eq!(again.ordered(order(7, 30, follow(1))), []);
    assert!(again.driver.order().is_none());
    assert_eq!(again.sent.last().unwrap().pledge.unwrap().epoch, Epoch(8), "and says so by itself");
}

/// One epoch, one promotion: the order that comes again after the promoted server has stopped is
/// not obeyed.
#[test]
fn nobody_is_promoted_twice_in_an_epoch() {
    let rule = rule(8, 3, 2, &[3], 1);
    let lead = Goal::Lead { rule: rule.clone(), tli: Tli(2), renewal: false, prepare: false };
    let mut keeper = Keeper::welcomed(record(2));
    keeper.sees(standby());
    let steps = keeper.ordered(order(8, 20, lead.clone()));
    assert_eq!(steps, [Step::Promote { rule: rule.clone(), tli: Tli(2) }]);
    let promoted = UpView { in_recovery: false, received: Some(Lsn(950)), ..up((2, 950)) };
    keeper.ends(Ok(StepDone::InForce { rule: rule.id(), from: Lsn(950) }));
    assert_eq!(keeper.sees(ServerView::Up(promoted)), [Step::Bootstrap]);

    // Everything is killed and comes back.
    let mut again = Keeper::welcomed(keeper.disk);
    assert_eq!(again.sees(ServerView::Down), [Step::StartStandby]);
    again.then_sees(ServerView::Up(UpView { replay_idle: true, ..up((2, 950)) }));
    assert_eq!(again.ordered(order(8, 30, lead)), []);
    let said = again.sent.last().unwrap();
    assert_eq!(said.server, Server::Standby);
    assert_eq!(said.in_force, None, "it does not claim to lead");
}

// ---- what was stalled under one order is not stalled under the next

/// A standby loses its primary and, cut off for a while, hears of the new one a minute later. That
/// it received nothing meanwhile is no reason to throw its data away and take a whole copy.
#[test]
fn a_new_primary_gets_a_chance_before_a_whole_copy_is_taken() {
    let mut keeper = Keeper::welcomed(record(3));
    keeper.ordered(order(7, 10, follow(1)));
    keeper.sees(attached(1, 7, true));
    for _ in 0..60 {
        keeper.ms += 1000;
        // The old order says nothing of a primary that serves.
        let goal = Goal::Follow { primary: NodeId(1), history: None, open: false };
        keeper.ordered(order(7, 10, goal));
        assert_eq!(keeper.sees(attached(1, 7, false)), []);
    }
    // First off the old one: it might still get WAL from there after its lineage was checked.
    let steps = keeper.ordered(order(8, 20, follow(2)));
    assert_eq!(steps, [Step::DropReceiver { await_wal: None }]);
    keeper.ends(Ok(StepDone::Plain));
    let detached = UpView { streamed: true, replay_idle: true, ..up((1, 900)) };
    assert_eq!(keeper.sees(ServerView::Up(detached)), [Step::Follow { primary: NodeId(2) }]);
    keeper.ms += 10;
    assert_eq!(keeper.then_sees(attached(2, 8, false)), [], "attached a moment ago");
    keeper.ms += 121_000;
    let steps = keeper.sees(attached(2, 8, false));
    assert!(matches!(steps.as_slice(), [Step::Clone { .. }]), "now it is: {steps:?}");
}

// ---- a promotion cannot be called back

/// The winner of epoch 8 is being promoted when epoch 9 begins. It may become read-write at any
/// moment, and at W = 0 acknowledge alone: a pledge told before it has stopped would be a lie that
/// costs commits (seen: the election of 9 relied on it).
#[test]
fn who_is_being_promoted_pledges_nothing_until_it_has_stopped() {
    let mut keeper = Keeper::welcomed(record(2));
    let lead =
        Goal::Lead { rule: rule(8, 4, 2, &[], 0), tli: Tli(2), renewal: false, prepare: false };
    let detached = || ServerView::Up(UpView { streamed: true, ..up((1, 900)) });
    keeper.sees(detached());
    assert!(matches!(keeper.ordered(order(8, 30, lead)).as_slice(), [Step::Promote { .. }]));
    let goal = Goal::Pledge { await_wal: None, restart: false };
    assert_eq!(keeper.ordered(order(9, 40, goal)), []);
    assert_eq!(keeper.then_sees(detached()), [Step::Kill]);
    let said = keeper.sent.last().unwrap();
    assert_eq!((said.promise, said.pledge), (Epoch(9), None));
    assert_eq!(keeper.then_sees(ServerView::Down), []);
    let pledge = keeper.sent.last().unwrap().pledge.unwrap();
    assert_eq!(pledge.epoch, Epoch(9));
}

// ---- a primary on its own

/// DESIGN §4.16 in the loop: no monitor is no reason to stop; no monitor and no members are.
#[test]
fn an_isolated_primary_fences_itself_and_nobody_else_does() {
    let rule = rule(7, 3, 1, &[2, 3], 1);
    let leader = || {
        let mut disk = record(1);
        (disk.promise, disk.led_in, disk.own_rule) = (Epoch(7), Some(Epoch(7)), Some(rule.clone()));
        disk.peers = [2, 3].map(|n| crate::support::member(n).as_peer()).to_vec();
        let mut keeper = Keeper::welcomed(disk);
        let lead = Goal::Lead { rule: rule.clone(), tli: Tli(1), renewal: false, prepare: false };
        let mut with_peers = order(7, 10, lead);
        with_peers.peers.clone_from(&keeper.disk.peers);
        keeper.ordered(with_peers);
        keeper.sees(primary(&[(2, 10), (3, 10)]));
        keeper.ends(Ok(StepDone::InForce { rule: rule.id(), from: Lsn(900) }));
        keeper.sees(primary(&[(2, 10), (3, 10)]));
        keeper.then_sees(primary(&[(2, 10), (3, 10)]));
        keeper.take(NodeInput::StreamLost).unwrap();
        for _ in 0..10 {
            keeper.ms += 310;
            keeper.take(NodeInput::Tick).unwrap();
        }
        keeper
    };
    let stops = |steps: &[Step]| matches!(steps, [Step::Stop { .. } | Step::Kill]);
    assert_eq!(leader().sees(primary(&[(2, 10), (3, 10)])), [], "the monitor alone is gone");
    assert_eq!(leader().sees(primary(&[(3, 2900)])), [], "one member is heard: it cannot be two");
    assert!(stops(&leader().sees(primary(&[]))), "both may have pledged");
    assert!(stops(&leader().sees(primary(&[(2, 60_000), (3, 3100)]))), "half-open connections");
    assert!(stops(&leader().sees(ServerView::Hung)), "a server that hangs hears nobody");

    let mut heard = leader();
    heard.ms -= 3000;
    assert_eq!(heard.sees(primary(&[])), [], "the deadline is not over");
    let mut alone = leader();
    alone.take(NodeInput::Heard).unwrap();
    assert_eq!(alone.sees(primary(&[])), [], "the monitor is there: it decides");

    let mut disk = record(1);
    disk.own_rule = Some(rule);
    let mut standby_now = Keeper::welcomed(disk);
    standby_now.ms += 10_000;
    assert_eq!(standby_now.sees(attached(2, 8, true)), [], "it leads nothing any more");
}

/// A keeper that was stopped for a while, or got no CPU, with the whole machine or alone: what it saw
/// before says nothing of now, and what is seen first is as old as the pause.
#[test]
fn a_starved_keeper_looks_before_it_stops_a_healthy_server() {
    let rule = rule(7, 3, 1, &[2, 3], 1);
    let starved = |pause_ms: u64| {
        let mut disk = record(1);
        (disk.promise, disk.led_in, disk.own_rule) = (Epoch(7), Some(Epoch(7)), Some(rule.clone()));
        disk.peers = [2, 3].map(|n| crate::support::member(n).as_peer()).to_vec();
        let mut keeper = Keeper::welcomed(disk);
        let lead = Goal::Lead { rule: rule.clone(), tli: Tli(1), renewal: false, prepare: false };
        let mut with_peers = order(7, 10, lead);
        with_peers.peers.clone_from(&keeper.disk.peers);
        keeper.ordered(with_peers);
        keeper.sees(primary(&[(2, 10), (3, 10)]));
        keeper.ends(Ok(StepDone::InForce { rule: rule.id(), from: Lsn(900) }));
        keeper.sees(primary(&[(2, 10), (3, 10)]));
        keeper.then_sees(primary(&[(2, 10), (3, 10)]));
        keeper.ms += pause_ms;
        keeper
    };
    for first in [NodeInput::StreamLost, NodeInput::Tick] {
        for pause_ms in [3100, 5000, 20_000] {
            let mut keeper = starved(pause_ms);
            assert_eq!(keeper.take(first.clone()).unwrap(), [], "{first:?} after {pause_ms} ms");
            // The members' words wait for a sender that was not scheduled yet either.
            assert_eq!(keeper.sees(primary(&[(2, pause_ms), (3, pause_ms)])), []);
            keeper.ms += 100;
            assert_eq!(keeper.sees(primary(&[(2, 5), (3, 5)])), []);
            keeper.ms += 1500;
            assert_eq!(keeper.sees(primary(&[(2, 5), (3, 5)])), []);
        }
    }
    // It asks for a look, and stops by what that shows.
    let mut keeper = starved(1000);
    for _ in 0..10 {
        keeper.ms += 300;
        keeper.take(NodeInput::Tick).unwrap();
    }
    let asked = keeper.driver.handle(NodeInput::Tick, t(keeper.ms));
    assert!(!asked.iter().any(|o| matches!(o, NodeOutput::Run { .. })), "{asked:?}");
    assert!(matches!(*keeper.sees(primary(&[])), [Step::Stop { .. }]));
    // Others may have been elected: the pause puts that off for a heartbeat, no longer.
    let mut keeper = starved(20_000);
    keeper.take(NodeInput::StreamLost).unwrap();
    keeper.ms += 1001;
    assert!(matches!(*keeper.sees(primary(&[])), [Step::Stop { .. }]));
}

/// A group that is stopped as a whole comes back as it was: its standbys say at once that they leave,
/// its primary half a second later, when it is known whether anybody stays to hand over to.
#[test]
fn a_primary_lets_the_others_say_first_that_they_leave() {
    let said_after = |server: ServerView, ms: u64| {
        let mut keeper = Keeper::welcomed(record(1));
        keeper.sees(server);
        keeper.take(NodeInput::Leave).unwrap();
        assert!(keeper.driver.wake_in_ms(t(keeper.ms)) <= 500);
        keeper.ms += ms;
        keeper.take(NodeInput::Tick).unwrap();
        keeper.sent.last().unwrap().leaving
    };
    assert!(said_after(standby(), 0));
    assert!(!said_after(primary(&[(2, 10)]), 499));
    assert!(said_after(primary(&[(2, 10)]), 500));
}

/// Covered = W members of the rule have flushed the end of WAL that was read after it came in
/// force; then, not before, older rules may be forgotten.
#[test]
fn a_rule_is_covered_by_its_members_past_its_beginning() {
    let rule = rule(7, 3, 1, &[2, 3], 1);
    let covered = |senders: &[(&str, bool, u64)]| {
        let mut disk = record(1);
        (disk.promise, disk.led_in, disk.own_rule) = (Epoch(7), Some(Epoch(7)), Some(rule.clone()));
        let peer = |n: i64| crate::support::member(n).as_peer();
        disk.peers = [2, 3, 4].map(peer).to_vec();
        let mut keeper = Keeper::welcomed(disk);
        let goal = Goal::Lead { rule: rule.clone(), tli: Tli(1), renewal: false, prepare: false };
        let mut lead = order(7, 10, goal);
        lead.peers.clone_from(&keeper.disk.peers);
        keeper.ordered(lead);
        keeper.sees(primary(&[(2, 10)]));
        keeper.ends(Ok(StepDone::InForce { rule: rule.id(), from: Lsn(1000) }));
        let senders = senders
            .iter()
            .map(|(name, streaming, flush)| Sender {
                name: (*name).to_owned(),
                streaming: *streaming,
                flush: Lsn(*flush),
                replay: Lsn(0),
                reply_age_ms: 10,
            })
            .collect();
        keeper.sees(ServerView::Up(UpView {
            in_recovery: false,
            received: Some(Lsn(1200)),
            senders,
            ..up((1, 1200))
        }));
        let said = keeper.sent.last().unwrap();
        assert_eq!(said.in_force, Some(rule.id()));
        said.covered.is_some()
    };
    assert!(!covered(&[]));
    assert!(!covered(&[("node2", true, 999)]), "flushed before the rule was in force");
    assert!(!covered(&[("node4", true, 1100)]), "not a member");
    assert!(!covered(&[("node2", false, 1100)]), "not streaming");
    assert!(!covered(&[("pg_receivewal", true, 1100)]), "not a node");
    assert!(covered(&[("node2", true, 1000)]));
    assert!(covered(&[("node2", false, 0), ("node3", true, 1100)]), "either of them");
}

// ---- nothing runs ahead of the disk

#[derive(Clone, Debug)]
enum Event {
    Order {
        epoch: u64,
        newer: bool,
        goal: usize,
    },
    Sees {
        data: usize,
        server: usize,
    },
    /// Of the running step, or of one that has ended long ago.
    Ends {
        well: bool,
        stale: bool,
    },
    Welcomed,
    StreamLost,
    Later(u64),
    Disk {
        full: bool,
    },
    Leave,
    /// The keeper is killed; only its disk is left.
    Restart,
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (1..5u64, prop::bool::weighted(0.9), 0..9usize)
            .prop_map(|(epoch, newer, goal)| Event::Order { epoch, newer, goal }),
        6 => (0..4usize, 0..11usize).prop_map(|(data, server)| Event::Sees { data, server }),
        5 => (prop::bool::weighted(0.8), prop::bool::weighted(0.1))
            .prop_map(|(well, stale)| Event::Ends { well, stale }),
        2 => Just(Event::Welcomed),
        1 => Just(Event::StreamLost),
        2 => prop::sample::select(vec![1u64, 200, 4000, 40_000]).prop_map(Event::Later),
        2 => any::<bool>().prop_map(|full| Event::Disk { full }),
        1 => prop::bool::weighted(0.2).prop_map(|l| if l { Event::Leave } else { Event::Restart }),
    ]
}

fn goal(n: usize, epoch: u64, version: u64) -> Goal {
    let rule = rule(epoch, version, 1, &[2, 3], 1);
    let lead = |renewal| Goal::Lead { rule: rule.clone(), tli: Tli(9), renewal, prepare: renewal };
    match n {
        0 => Goal::Found { rule },
        1 => lead(false),
        2 => lead(true),
        3 => follow(2),
        4 => Goal::Follow { primary: NodeId(2), history: None, open: false },
        5 => PLEDGE,
        6 => Goal::Pledge { await_wal: Some(at(1, 900)), restart: false },
        7 => Goal::FastForward { source: NodeId(3), until: at(1, 2000) },
        _ => Goal::Stop,
    }
}

fn seen(data: usize, server: usize) -> Observed {
    let diverged = UpView { replay_idle: true, streamed: true, ..up((3, 900)) };
    let server = match server {
        0 | 1 => ServerView::Down,
        2 => ServerView::Orphans,
        3 => ServerView::Starting,
        4 => ServerView::Hung,
        5 => standby(),
        6 => attached(2, 2, true),
        7 => attached(2, 3, false),
        8 => ServerView::Up(diverged),
        9 => primary(&[(2, 10)]),
        _ => primary(&[]),
    };
    let data = match data {
        0 => Data::None,
        1 => cluster((1, 900), true),
        _ => cluster((1, 900), false),
    };
    Observed { data, server }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..Default::default() })]

    /// Whatever happens in whatever order: no step is begun and no report is sent whose promise,
    /// rule or marker is not on the disk by then, one step at a time, and no promise is taken
    /// back, over restarts as well.
    #[test]
    fn nothing_runs_ahead_of_the_disk(events in prop::collection::vec(events(), 1..60)) {
        let mut keeper = Keeper::welcomed(record(1));
        let mut seq = 10;
        for event in events {
            keeper.ms += 5;
            let input = match event {
                Event::Order { epoch, newer, goal: n } => {
                    if newer {
                        seq += 1;
                    }
                    let mut order = order(epoch, seq, goal(n, epoch, seq));
                    order.rules = vec![rule(epoch, seq, 1, &[2, 3], 1)];
                    NodeInput::Order(order)
                }
                Event::Sees { data, server } => NodeInput::Observed(seen(data, server)),
                Event::Ends { well, stale } => {
                    let Some((id, step)) = keeper.running.clone() else { continue };
                    let done = match &step {
                        Step::PutRule { rule } | Step::Promote { rule, .. } => {
                            StepDone::InForce { rule: rule.id(), from: Lsn(900) }
                        }
                        Step::Clone { .. } | Step::Initdb => StepDone::Created { system_id: 1 },
                        _ => StepDone::Plain,
                    };
                    let result = if well { Ok(done) } else { Err(StepFailure::lasting("failed")) };
                    NodeInput::StepEnded { id: if stale { id - 1 } else { id }, result }
                }
                Event::Welcomed => NodeInput::Welcomed { node_id: NodeId(1) },
                Event::StreamLost => NodeInput::StreamLost,
                Event::Later(ms) => {
                    keeper.ms += ms;
                    NodeInput::Tick
                }
                Event::Disk { full } => {
                    keeper.disk_is_full = full;
                    NodeInput::Tick
                }
                Event::Leave => NodeInput::Leave,
                Event::Restart => {
                    keeper.driver = NodeDriver::new(keeper.disk.clone(), t(keeper.ms));
                    keeper.running = None;
                    NodeInput::Tick
                }
            };
            keeper.take(input).map_err(TestCaseError::fail)?;
        }
    }
}

// ---- a state file that cannot be written

/// What is on the disk is told, with the reason; the promise is made once there is room.
#[test]
fn without_room_for_its_state_a_node_promises_nothing_and_goes_on_otherwise() {
    let mut keeper = Keeper::welcomed(record(2));
    keeper.ordered(order(7, 10, follow(1)));
    keeper.sees(attached(1, 7, true));
    keeper.disk_is_full = true;
    assert_eq!(keeper.ordered(order(8, 20, PLEDGE)), []);
    let told = keeper.sent.last().unwrap();
    let problem = told.problem.as_ref().unwrap();
    assert_eq!((told.promise, problem.code.as_str()), (Epoch(7), "state_not_saved"));
    assert!(problem.text.contains("no space left"), "{problem:?}");
    assert_eq!(problem.failures, 0, "no reason to take it out of service");
    assert!(!told.can_promise());

    // The order that it has taken in is obeyed further.
    let steps = keeper.sees(ServerView::Down);
    assert_eq!(steps, [Step::StartStandby]);
    keeper.then_sees(standby());
    assert_eq!(keeper.disk.promise, Epoch(7));

    keeper.disk_is_full = false;
    keeper.ms += 2_000;
    keeper.sees(standby());
    assert_eq!(keeper.disk.promise, Epoch(8));
    let told = keeper.sent.last().unwrap();
    assert_eq!((told.promise, &told.problem), (Epoch(8), &None));
}

/// A copy that was made must not be made again because its end could not be noted at once.
#[test]
fn what_a_step_has_done_is_noted_as_soon_as_there_is_room() {
    let disk = NodeRecord { replacing: Some(Replacing::Clone), ..record(2) };
    let mut keeper = Keeper::welcomed(disk);
    keeper.sees(ServerView::Down);
    let steps = keeper.ordered(order(7, 10, follow(1)));
    assert!(matches!(steps.as_slice(), [Step::Clone { .. }]), "{steps:?}");
    keeper.disk_is_full = true;
    keeper.ends(Ok(StepDone::Created { system_id: 1 }));
    for _ in 0..3 {
        keeper.ms += 600;
        assert_eq!(keeper.sees(ServerView::Down), [], "it waits for its disk");
    }
    keeper.disk_is_full = false;
    keeper.ms += 1_100;
    let steps = keeper.sees(ServerView::Down);
    assert_eq!(steps, [Step::StartFollowing { primary: NodeId(1) }]);
}

/// It is known before an election needs it.
#[test]
fn an_idle_node_proves_that_it_could_save_a_promise() {
    let mut keeper = Keeper::welcomed(record(2));
    keeper.ordered(order(7, 10, follow(1)));
    keeper.disk_is_full = true;
    for _ in 0..6 {
        keeper.ms += 1_000;
        keeper.sees(attached(1, 7, true));
    }
    assert!(!keeper.sent.last().unwrap().can_promise());
}

// ---- what the simulator found in the keeper

/// A new epoch begins while the keeper attaches to the primary of the old one. What was seen before
/// says "detached", and so it would pledge; a moment later it receives, acknowledges, and the
/// commit is on no node that the election knows of.
#[test]
fn nothing_is_pledged_while_a_step_attaches() {
    let mut keeper = Keeper::welcomed(record(2));
    keeper.sees(standby());
    assert_eq!(keeper.ordered(order(7, 10, follow(1))), [Step::Follow { primary: NodeId(1) }]);
    keeper.ms += 10;
    keeper.ordered(order(8, 20, PLEDGE));
    assert_eq!(keeper.sent.last().unwrap().promise, Epoch(8));
    assert_eq!(keeper.sent.last().unwrap().pledge, None, "it is about to receive");
    keeper.ends(Ok(StepDone::Plain));
    assert_eq!(keeper.sent.last().unwrap().pledge, None, "nobody has looked since");
    let steps = keeper.sees(attached(1, 7, true));
    assert_eq!(steps, [Step::DropReceiver { await_wal: None }]);
    keeper.then_sees(standby());
    assert_eq!(keeper.sent.last().unwrap().pledge.unwrap().epoch, Epoch(8));
}

/// A rule changes every minute, and with it whether a rewind is allowed. A standby whose WAL is gone
/// still counts its two minutes up.
#[test]
fn a_stall_outlives_orders_that_change_nothing_for_it() {
    let mut keeper = Keeper::welcomed(record(2));
    keeper.ordered(order(7, 10, follow(1)));
    keeper.sees(attached(1, 7, true));
    let mut steps = Vec::new();
    for n in 0..12 {
        keeper.ms += 10_001;
        let history = Some(TimelineHistory::first());
        let goal = Goal::Follow { primary: NodeId(1), history, open: n % 2 == 0 };
        steps = keeper.ordered(order(7, 20 + n, goal));
        steps.extend(keeper.sees(attached(1, 7, false)));
    }
    assert!(matches!(steps.as_slice(), [Step::Clone { keep: Some(_), .. }]), "{steps:?}");
    // It may hold the only copy of something until the new one takes its place.
    assert!(keeper.disk.is_whole());
    keeper.ends(Err(StepFailure::lasting("the primary is gone")));
    keeper.sees(attached(1, 7, false));
    assert_eq!(keeper.disk.replacing, None, "nothing was replaced");
}

/// On an idle server WAL comes once in a heartbeat, as reports do. Told with the report that is due
/// next it would be two heartbeats old before the one after that.
#[test]
fn wal_that_comes_after_a_pause_is_told_at_once() {
    let mut keeper = Keeper::welcomed(record(2));
    let receives = |wal_age_ms: u64| {
        let ServerView::Up(up) = attached(1, 7, true) else { unreachable!() };
        ServerView::Up(UpView { wal_age_ms: Some(wal_age_ms), ..up })
    };
    keeper.ordered(order(7, 10, follow(1)));
    let age = |keeper: &Keeper| keeper.sent.last().unwrap().following.unwrap().wal_age_ms;
    keeper.sees(receives(800));
    let told = keeper.sent.len();
    keeper.ms += 500;
    keeper.sees(receives(1_300));
    assert_eq!(keeper.sent.len(), told, "the monitor knows how old it is");
    keeper.ms += 400;
    keeper.sees(receives(200));
    assert_eq!((keeper.sent.len(), age(&keeper)), (told + 1, 200));
    // On a busy one it comes all the time, and the reports that are due say so.
    for _ in 0..2 {
        keeper.ms += 300;
        keeper.sees(receives(5));
    }
    assert_eq!(keeper.sent.len(), told + 1);
    // What is told between two looks is as old as it is then.
    keeper.ms += 400;
    keeper.take(NodeInput::Tick).unwrap();
    assert_eq!((keeper.sent.len(), age(&keeper)), (told + 2, 405));
}

/// A primary that serves is never promoted: whatever timelines were skipped meanwhile, it was
/// promoted once in its epoch.
#[test]
fn nobody_is_promoted_without_a_timeline() {
    let rule = rule(7, 4, 2, &[3], 1);
    let disk = NodeRecord {
        own_rule: Some(rule.clone()),
        led_in: Some(Epoch(7)),
        promise: Epoch(7),
        ..record(2)
    };
    let mut keeper = Keeper::welcomed(disk);
    keeper.sees(standby());
    let goal = Goal::Lead { rule, tli: Tli(0), renewal: false, prepare: false };
    assert_eq!(keeper.ordered(order(7, 10, goal)), []);
}
