//! Every goal × every local situation × an ideal executor: the keeper ends at its goal, or in a
//! wait that names what ends it, and does nothing forbidden on the way.

use std::collections::BTreeMap;

use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::{Goal, Order};
use vigil_core::node::observed::{Data, Observed, ServerView, UpView};
use vigil_core::node::record::{NodeRecord, Replacing};
use vigil_core::node::step::Step;
use vigil_core::node::{Circumstances, Next, lineage_end, next_step, pledge};
use vigil_core::rule::SyncRule;
use vigil_core::wal::{Lsn, Position, TimelineHistory, Tli};

use crate::support::{self, at, cluster, order, record, rule};

/// The epoch of the order; lower ones are over.
const EPOCH: u64 = 7;
/// The node itself, the primary that it is told to follow, and somebody else.
const SELF: i64 = 1;
const PRIMARY: i64 = 2;
const OTHER: i64 = 3;
/// The timeline that a promotion is assigned.
const TLI: u32 = 5;
/// Where the primary's history left timeline 1.
const FORK: u64 = 1000;
/// No goal needs more steps than this from anywhere.
const BOUND: usize = 10;

/// A node: its disk, its Postgres, and what its keeper remembers.
#[derive(Clone, Debug)]
struct World {
    record: NodeRecord,
    seen: Observed,
    memory: Circumstances,
    /// What a server that is starting will be.
    starts_as_primary: bool,
}

// ---- the product

fn own_rule() -> SyncRule {
    rule(EPOCH, 70, SELF, &[PRIMARY, OTHER], 1)
}

fn primary_history() -> TimelineHistory {
    TimelineHistory { tli: Tli(4), ancestors: vec![at(1, FORK)] }
}

/// WAL that ends before the fork, after it, on a timeline above the order's, and (for a node that
/// was promoted by the order) on the assigned timeline.
const BEFORE: (u32, u64) = (1, FORK - 100);
const PAST: (u32, u64) = (1, FORK + 500);
const ABOVE: (u32, u64) = (9, 2000);
const ASSIGNED: (u32, u64) = (TLI, 2000);

fn up(end: (u32, u64)) -> UpView {
    let mut up = support::up(end);
    if end.0 > 1 {
        up.history.ancestors.push(at(1, FORK));
    }
    up
}

fn flags<const N: usize>() -> impl Iterator<Item = [bool; N]> {
    (0..1usize << N).map(|bits| std::array::from_fn(|i| bits >> i & 1 == 1))
}

fn standbys(end: (u32, u64)) -> Vec<ServerView> {
    let upstreams = [
        (Some((NodeId(PRIMARY), Epoch(EPOCH))), false),
        (Some((NodeId(PRIMARY), Epoch(EPOCH - 1))), false),
        (Some((NodeId(OTHER), Epoch(EPOCH))), false),
        // The keeper was restarted and does not know what its predecessor attached it to.
        (None, false),
        (None, true),
    ];
    let mut all = Vec::new();
    for (upstream, detached) in upstreams {
        for [receiver_alive, streamed, replay_idle] in flags() {
            all.push(ServerView::Up(UpView {
                upstream,
                detached,
                receiver_alive,
                streaming: receiver_alive && streamed,
                streamed,
                replay_idle,
                received: streamed.then_some(Lsn(end.1)),
                replayed: Lsn(if replay_idle { end.1 } else { end.1 - 50 }),
                ..up(end)
            }));
        }
    }
    all
}

fn primaries(end: (u32, u64)) -> Vec<ServerView> {
    [end.0, 0]
        .into_iter()
        .map(|checkpoint| {
            ServerView::Up(UpView {
                in_recovery: false,
                received: Some(Lsn(end.1)),
                checkpoint_tli: Tli(checkpoint),
                ..up(end)
            })
        })
        .collect()
}

/// Every local situation in which an order of this epoch, already taken in, can be met.
fn situations(order: Option<&Order>, ends: &[(u32, u64)]) -> Vec<World> {
    let mut worlds = Vec::new();
    let led = [
        None,
        Some(rule(EPOCH - 1, 60, SELF, &[PRIMARY], 1)),
        Some(rule(EPOCH, 69, SELF, &[PRIMARY], 1)),
        Some(own_rule()),
    ];
    for led_under in led {
        for replacing in
            [None, Some(Replacing::Rewind), Some(Replacing::Clone), Some(Replacing::Beside)]
        {
            let mut record = record(SELF);
            record.replacing = replacing;
            record.led_in = led_under.as_ref().map(|r| r.epoch);
            record.own_rule.clone_from(&led_under);
            if let Some(order) = order {
                assert!(record.accepts(order));
                record.take_in(order);
            }
            for end in ends {
                // Only a promotion by this order leads to the timeline that it assigns.
                let promoted = record.led_in == Some(Epoch(EPOCH));
                let renewed =
                    matches!(order.map(|o| &o.goal), Some(Goal::Lead { renewal: true, .. }));
                if *end == ASSIGNED && !promoted && !renewed {
                    continue;
                }
                worlds.extend(local(&record, *end));
            }
        }
    }
    worlds
}

fn local(record: &NodeRecord, end: (u32, u64)) -> Vec<World> {
    let copies = [
        None,
        Some((NodeId(PRIMARY), Epoch(EPOCH))),
        Some((NodeId(PRIMARY), Epoch(EPOCH - 1))),
        Some((NodeId(OTHER), Epoch(EPOCH))),
    ];
    let mut worlds = Vec::new();
    for data in [Data::None, cluster(end, true), cluster(end, false)] {
        let mut add = |server: &ServerView, memory: Circumstances, starts_as_primary, copied| {
            let mut record = record.clone();
            record.copied_from = copied;
            worlds.push(World {
                record,
                seen: Observed { data: data.clone(), server: server.clone() },
                memory,
                starts_as_primary,
            });
        };
        // A server that answers is consistent: the driver has noted that, and forgotten the copy.
        for copied in copies {
            for server in [ServerView::Down, ServerView::Orphans, ServerView::Hung] {
                add(&server, Circumstances::default(), false, copied);
            }
            for as_primary in [false, true] {
                add(&ServerView::Starting, Circumstances::default(), as_primary, copied);
            }
        }
        for server in standbys(end) {
            for [stalled, closed] in flags() {
                let long = |yes| if yes { 3_600_000 } else { 0 };
                let memory = Circumstances {
                    stalled_ms: long(stalled),
                    closed_ms: long(closed),
                    ..Circumstances::default()
                };
                add(&server, memory, false, None);
            }
        }
        for server in primaries(end) {
            for [verified, bootstrapped, prepared] in flags() {
                let in_force = record.own_rule.as_ref().filter(|_| verified).map(SyncRule::id);
                let memory =
                    Circumstances { in_force, bootstrapped, prepared, ..Default::default() };
                add(&server, memory, false, None);
            }
        }
    }
    worlds
}

// ---- the ideal executor

fn end_of(data: &Data) -> (u32, u64) {
    match data {
        Data::Cluster(cluster) => (cluster.checkpoint.tli.0, cluster.checkpoint.lsn.0),
        _ => BEFORE,
    }
}

fn is_rw(seen: &Observed) -> bool {
    matches!(&seen.server, ServerView::Up(up) if !up.in_recovery)
}

fn apply(world: &mut World, step: &Step) {
    let was_rw = is_rw(&world.seen);
    let end = end_of(&world.seen.data);
    match step {
        Step::Initdb => world.seen.data = cluster(BEFORE, true),
        Step::StartPrimary { .. } => {
            world.seen.server = ServerView::Up(UpView { in_recovery: false, ..up(end) });
        }
        Step::StartStandby => world.seen.server = ServerView::Up(up(end)),
        Step::StartFollowing { primary } => world.seen.server = following(*primary, end),
        Step::Bootstrap => world.memory.bootstrapped = true,
        Step::PrepareHandover => world.memory.prepared = true,
        Step::Kill | Step::Stop { .. } => {
            world.seen.server = ServerView::Down;
            if let Data::Cluster(cluster) = &mut world.seen.data {
                cluster.shut_down = was_rw && matches!(step, Step::Stop { .. });
            }
        }
        Step::PutRule { rule } => world.memory.in_force = Some(rule.id()),
        Step::Rewind { primary, .. } | Step::Clone { primary, .. } => {
            world.seen.server = ServerView::Down;
            world.record.copied_from = Some((*primary, Epoch(EPOCH)));
            world.seen.data = cluster((4, 1500), false);
            world.record.replacing = None;
        }
        Step::Checkpoint
        | Step::DropReceiver { .. }
        | Step::Follow { .. }
        | Step::FastForward { .. }
        | Step::Promote { .. } => {
            let ServerView::Up(up) = &mut world.seen.server else { return };
            match step {
                Step::Checkpoint => up.checkpoint_tli = up.tli,
                Step::DropReceiver { .. } => {
                    (up.upstream, up.detached) = (None, true);
                    (up.receiver_alive, up.streaming) = (false, false);
                }
                Step::Follow { primary } => {
                    (up.upstream, up.detached) = (Some((*primary, Epoch(EPOCH))), false);
                    (up.receiver_alive, up.streaming, up.streamed) = (true, true, true);
                    up.received = Some(up.replayed);
                }
                Step::FastForward { until, .. } => {
                    (up.received, up.streamed) = (Some(until.lsn), true);
                }
                Step::Promote { rule, tli } => {
                    up.in_recovery = false;
                    (up.tli, up.history.tli) = (*tli, *tli);
                    world.memory.in_force = Some(rule.id());
                }
                _ => {}
            }
        }
    }
    looked(world);
}

fn following(primary: NodeId, end: (u32, u64)) -> ServerView {
    ServerView::Up(UpView {
        upstream: Some((primary, Epoch(EPOCH))),
        detached: false,
        receiver_alive: true,
        streaming: true,
        streamed: true,
        received: Some(Lsn(end.1)),
        ..up(end)
    })
}

/// What the driver concludes from every look.
fn looked(world: &mut World) {
    if matches!(world.seen.server, ServerView::Up(_)) {
        world.record.copied_from = None;
    }
    if !is_rw(&world.seen) {
        world.memory.in_force = None;
        world.memory.prepared = false;
    }
    if !matches!(&world.seen.server, ServerView::Up(up) if up.upstream.is_some() && !up.streaming) {
        world.memory.stalled_ms = 0;
    }
}

// ---- what must never be done

fn forbidden(order: Option<&Order>, world: &World, step: &Step) -> Result<(), String> {
    let goal = order.map(|o| &o.goal);
    let (record, seen, memory) = (&world.record, &world.seen, &world.memory);
    let standby = match &seen.server {
        ServerView::Up(up) if up.in_recovery => Some(up),
        _ => None,
    };
    let down = seen.server == ServerView::Down;
    let must = |holds: bool, what: &str| {
        if holds { Ok(()) } else { Err(format!("{step}: {what}")) }
    };
    match step {
        Step::StartPrimary { .. } | Step::StartStandby => {
            must(!is_half_replaced(record), "a half-replaced directory is started")?;
            must(record.copied_from.is_none(), "a copy that is not consistent is started alone")?;
            must(seen.data != Data::None && down, "needs a directory without processes")?;
        }
        Step::StartFollowing { primary } => {
            must(!is_half_replaced(record), "a half-replaced directory is started")?;
            let copy = record.copied_from == Some((*primary, record.promise));
            must(copy, "not a copy of that primary in this epoch")?;
            must(seen.data != Data::None && down, "needs a directory without processes")?;
        }
        Step::Initdb => must(seen.data == Data::None && down, "processes live there")?,
        Step::PutRule { rule } => {
            must(is_rw(seen), "not read-write")?;
            must(record.own_rule.as_ref() == Some(rule), "used before it is durable")?;
            must(record.led_in == Some(rule.epoch), "leads before that is durable")?;
        }
        Step::Promote { rule, tli } => {
            must(!is_half_replaced(record), "a half-replaced directory is promoted")?;
            must(standby.is_some_and(|up| up.detached), "not a detached standby")?;
            must(standby.is_some_and(|up| !up.receiver_alive), "a receiver lives")?;
            must(record.promise == rule.epoch, "promise is not the epoch")?;
            must(record.led_in == Some(rule.epoch), "leads before that is durable")?;
            must(record.own_rule.as_ref() == Some(rule), "used before it is durable")?;
            must(standby.is_some_and(|up| up.tli < *tli), "to a timeline that it is on already")?;
        }
        Step::Follow { .. } => {
            let end = standby.and_then(lineage_end);
            let prefix = end.is_some_and(|end| primary_history().holds(end));
            must(prefix, "its WAL is not known to be a prefix of the primary's")?;
            must(standby.is_some_and(|up| !up.receiver_alive), "two receivers")?;
        }
        Step::FastForward { .. } => {
            must(standby.is_some_and(|up| up.detached && !up.receiver_alive), "not pledged")?;
        }
        Step::Rewind { .. } => {
            let open = matches!(goal, Some(Goal::Follow { open: true, .. }));
            must(open, "in place although the new primary's rule is not covered")?;
            must(record.replacing == Some(Replacing::Rewind), "no marker")?;
            let above = standby.is_some_and(|up| up.tli > primary_history().tli);
            must(!above, "discards WAL of a timeline above the order's")?;
        }
        Step::Clone { keep, .. } => {
            let marked = matches!(record.replacing, Some(Replacing::Clone | Replacing::Beside));
            must(marked, "no marker")?;
            must(seen.data == Data::None || down || keep.is_some(), "WAL is not kept")?;
            must(down || memory.closed_ms > 0 || memory.stalled_ms > 0, "without need")?;
            let attached = standby.is_some_and(|up| up.upstream.is_some() && !up.detached);
            let above = standby.is_some_and(|up| up.tli > primary_history().tli);
            must(!above || attached, "discards WAL of a timeline above the order's")?;
        }
        _ => {}
    }
    let founds = matches!(goal, Some(Goal::Found { .. }));
    let leads = matches!(goal, Some(Goal::Lead { .. }));
    let follows = matches!(goal, Some(Goal::Follow { .. }));
    let allowed = match step {
        Step::Initdb | Step::StartPrimary { .. } => founds,
        Step::Promote { .. } | Step::PrepareHandover => leads,
        Step::PutRule { .. } | Step::Bootstrap | Step::Checkpoint => founds || leads,
        Step::StartFollowing { .. }
        | Step::Follow { .. }
        | Step::Rewind { .. }
        | Step::Clone { .. } => follows,
        Step::FastForward { .. } => matches!(goal, Some(Goal::FastForward { .. })),
        _ => true,
    };
    must(allowed, "not for this goal")
}

// ---- where it may end

/// What is true when the keeper says that the goal is met.
fn at_goal(order: Option<&Order>, world: &World) -> Result<(), String> {
    let (record, seen) = (&world.record, &world.seen);
    let up = match &seen.server {
        ServerView::Up(up) => Some(up),
        _ => None,
    };
    let told = pledge(record, seen);
    let must = |holds: bool, what: &str| {
        if holds { Ok(()) } else { Err(format!("rests although {what}")) }
    };
    let Some(order) = order else {
        let idle = seen.server == ServerView::Down && seen.data != Data::None;
        let whole = record.is_whole();
        return must(!idle || !whole, "its Postgres is not started");
    };
    match &order.goal {
        Goal::Wait => Ok(()),
        Goal::Found { rule } | Goal::Lead { rule, .. } => {
            must(up.is_some_and(|up| !up.in_recovery), "it is not read-write")?;
            must(world.memory.in_force == Some(rule.id()), "the rule is not in force")?;
            must(record.led_in == Some(rule.epoch), "it does not know that it leads")?;
            must(record.own_rule.as_ref() == Some(rule), "the rule is not durable")?;
            must(world.memory.bootstrapped, "the standbys cannot connect")?;
            let prepare = matches!(order.goal, Goal::Lead { prepare: true, .. });
            must(!prepare || world.memory.prepared, "the handover is not prepared")?;
            let source = up.is_some_and(|up| up.checkpoint_tli == up.tli);
            must(source || prepare, "nobody can rewind from it")
        }
        Goal::Follow { primary, .. } => must(
            up.is_some_and(|up| {
                up.in_recovery && !up.detached && up.upstream == Some((*primary, order.epoch))
            }),
            "it is not attached by this order",
        ),
        Goal::Pledge { restart, .. } => {
            let Some(told) = told else { return Err("rests without a pledge".to_owned()) };
            must(told.epoch == Epoch(EPOCH), "its pledge is for another epoch")?;
            let unread = up.is_some_and(|up| !up.streamed && !up.replay_idle);
            let known = told.position.is_some() || !told.usable || unread;
            must(known || !restart, "its position stays unknown")
        }
        Goal::FastForward { until, .. } => {
            let reached = told.and_then(|p| p.position).is_some_and(|at| at >= *until);
            must(reached, "the WAL is not there")
        }
        Goal::Stop | Goal::Drop => must(seen.server == ServerView::Down, "processes live"),
    }
}

/// What ends a wait: time alone (then the world is moved on), or somebody else, who must be able
/// to see that he is waited for.
enum Ends {
    ByItself,
    FromOutside,
}

/// Every text that may be waited with. Anything else is a wait that nobody has thought about.
fn ends(what: &str, order: Option<&Order>, world: &mut World) -> Result<Ends, String> {
    let down = world.seen.server == ServerView::Down;
    let leads = world.record.led_in == Some(Epoch(EPOCH));
    let history = match order.map(|o| &o.goal) {
        Some(Goal::Follow { history, .. }) => history.clone(),
        _ => None,
    };
    let half = !world.record.is_whole();
    let unusable = half || world.seen.data == Data::None;
    let data_end = end_of(&world.seen.data);
    let standby = match &mut world.seen.server {
        ServerView::Up(up) if up.in_recovery => Some(up),
        _ => None,
    };
    let founds = matches!(order.map(|o| &o.goal), Some(Goal::Found { .. }));
    let (holds, ends) = match what {
        // An operator puts something else there. Nothing of a half-replaced directory can be used.
        "a data directory that belongs to this group" => {
            (founds && down && half, Ends::FromOutside)
        }
        "Postgres to start" => {
            let starting = world.seen.server == ServerView::Starting;
            let in_recovery = !world.starts_as_primary;
            world.seen.server = ServerView::Up(UpView { in_recovery, ..up(data_end) });
            (starting, Ends::ByItself)
        }
        // It comes, or the primary is lost and an election orders a pledge, which kills it.
        "the primary's WAL: this copy is new" => {
            let starting = world.seen.server == ServerView::Starting;
            world.seen.server = following(NodeId(PRIMARY), data_end);
            (starting && half, Ends::ByItself)
        }
        // It reads what is on disk, and then is idle.
        "replay: the end of this node's WAL is not known yet" => match standby {
            Some(up) => {
                let unread = !up.replay_idle;
                up.replay_idle = true;
                (unread, Ends::ByItself)
            }
            None => (false, Ends::ByItself),
        },
        // If that does not come, the order stays closed, and then a copy is taken.
        "the new primary's rule to be covered, then a rewind" => {
            let patient = world.memory.closed_ms == 0;
            world.memory.closed_ms = 3_600_000;
            (patient, Ends::ByItself)
        }
        // The monitor sees a winner that is stopped (or has no data) and elects anew.
        "another election: this node has no usable data"
        // The pledge of a stopped, unusable node is reported as such: another candidate is taken.
        | "another candidate: this node has no usable data" => {
            (down && unusable, Ends::FromOutside)
        }
        // Stopped or in recovery, and reported so: first-hand evidence.
        "a new election: this node led in this epoch and stopped" => {
            (leads && (down || standby.is_some()), Ends::FromOutside)
        }
        // A renewal that came too late, seen by the monitor in the same way.
        "a new election: this node was to go on and has stopped" => {
            (!leads && standby.is_some(), Ends::FromOutside)
        }
        // Reported as hung: first-hand evidence; the election orders a pledge, which kills it.
        "the monitor: Postgres hangs" => {
            (leads && world.seen.server == ServerView::Hung, Ends::FromOutside)
        }
        // The primary reports its timelines as soon as it serves.
        "a primary that can be cloned" | "the primary's timelines" => {
            (history.is_none(), Ends::FromOutside)
        }
        // A newer order: timelines are unique, so somebody was promoted to that one.
        "a newer primary: this node's timeline is above the primary's" => {
            let above = standby.is_some_and(|up| {
                history.is_some_and(|h| up.tli > h.tli)
            });
            (above, Ends::FromOutside)
        }
        _ => return Err(format!("waits for {what:?}, and nobody can end that")),
    };
    if holds { Ok(ends) } else { Err(format!("waits for {what:?}, which cannot come")) }
}

fn run(order: Option<&Order>, start: &World) -> Result<(), String> {
    let mut world = start.clone();
    let mut done = Vec::new();
    for _ in 0..BOUND {
        let step = match next_step(&world.record, order, &world.seen, &world.memory) {
            Next::Do(step) => step,
            Next::Write(record, step) => {
                world.record = *record;
                step
            }
            Next::Rest => return at_goal(order, &world),
            Next::Wait(what) => match ends(what, order, &mut world)? {
                Ends::ByItself => {
                    looked(&mut world);
                    continue;
                }
                Ends::FromOutside => return Ok(()),
            },
        };
        forbidden(order, &world, &step)?;
        apply(&mut world, &step);
        done.push(step.name());
    }
    Err(format!("comes to no end: {}", done.join(", ")))
}

/// Runs one goal from everywhere. Equal failures are told once, with one example.
fn check(goal: Option<Goal>, ends: &[(u32, u64)]) {
    let name = format!("{goal:?}");
    let order = goal.map(|goal| order(EPOCH, 1, goal));
    let mut failures: BTreeMap<String, (usize, String)> = BTreeMap::new();
    let worlds = situations(order.as_ref(), ends);
    assert!(worlds.len() > 1000);
    for world in &worlds {
        if let Err(what) = run(order.as_ref(), world) {
            let example = || {
                let World { record: r, seen, memory, .. } = world;
                let (replacing, led) = (r.replacing, r.led_in);
                let copied = r.copied_from;
                format!("{replacing:?}, copied {copied:?}, led in {led:?}, {seen:?}, {memory:?}")
            };
            failures.entry(what).or_insert_with(|| (0, example())).0 += 1;
        }
    }
    let text: Vec<String> = failures
        .iter()
        .map(|(what, (n, example))| format!("- {what}\n  {n} times, as from: {example}"))
        .collect();
    assert!(failures.is_empty(), "{name}\nof {}:\n{}", worlds.len(), text.join("\n"));
}

#[test]
fn without_a_word_from_the_monitor() {
    check(None, &[BEFORE]);
    check(Some(Goal::Wait), &[BEFORE]);
}

#[test]
fn found_is_reached_from_everywhere() {
    check(Some(Goal::Found { rule: own_rule() }), &[BEFORE]);
}

#[test]
fn lead_is_reached_from_everywhere() {
    for prepare in [false, true] {
        let goal = Goal::Lead { rule: own_rule(), tli: Tli(TLI), renewal: false, prepare };
        check(Some(goal), &[BEFORE, ASSIGNED]);
    }
}

/// A renewal goes on without a stop, on the same timeline: it promotes nobody.
#[test]
fn a_renewal_promotes_nobody() {
    let goal = Goal::Lead { rule: own_rule(), tli: Tli(TLI), renewal: true, prepare: false };
    check(Some(goal), &[ASSIGNED]);
}

#[test]
fn follow_is_reached_from_everywhere() {
    let primary = NodeId(PRIMARY);
    for history in [None, Some(primary_history())] {
        for open in [false, true] {
            let goal = Goal::Follow { primary, history: history.clone(), open };
            check(Some(goal), &[BEFORE, PAST, ABOVE]);
        }
    }
}

#[test]
fn pledge_is_reached_from_everywhere() {
    for await_wal in [None, Some(at(1, FORK))] {
        for restart in [false, true] {
            check(Some(Goal::Pledge { await_wal, restart }), &[BEFORE, ABOVE]);
        }
    }
}

#[test]
fn fast_forward_is_reached_from_everywhere() {
    let until = Position { tli: Tli(1), lsn: Lsn(FORK) };
    check(Some(Goal::FastForward { source: NodeId(OTHER), until }), &[BEFORE]);
}

#[test]
fn stop_and_drop_are_reached_from_everywhere() {
    check(Some(Goal::Stop), &[BEFORE]);
    check(Some(Goal::Drop), &[BEFORE]);
}

/// Nothing of a directory that is not ours is touched, whatever is wanted.
#[test]
fn a_foreign_directory_is_left_alone() {
    let seen = |server| Observed { data: Data::Foreign { reason: "not ours".into() }, server };
    let goals = [
        Goal::Found { rule: own_rule() },
        Goal::Lead { rule: own_rule(), tli: Tli(TLI), renewal: false, prepare: false },
        Goal::Follow { primary: NodeId(PRIMARY), history: Some(primary_history()), open: true },
        Goal::Pledge { await_wal: None, restart: true },
        Goal::Stop,
        Goal::Drop,
    ];
    for goal in goals {
        let order = order(EPOCH, 1, goal);
        let next = next_step(
            &record(SELF),
            Some(&order),
            &seen(ServerView::Down),
            &Circumstances::default(),
        );
        assert_eq!(next, Next::Wait("a data directory that belongs to this group"));
        assert_eq!(pledge(&record(SELF), &seen(ServerView::Down)), None, "it can promise nothing");
    }
}

fn is_half_replaced(record: &NodeRecord) -> bool {
    matches!(record.replacing, Some(Replacing::Rewind | Replacing::Clone))
}
