//! `next_step`: for every goal × every local situation there is a step, or the goal is met, or a
//! wait that names what ends it.

use crate::ids::{NodeId, RuleId};
use crate::message::{Goal, Order};
use crate::mutation::{Mutation, broken};
use crate::node::observed::{Cluster, Data, Observed, ServerView, UpView};
use crate::node::record::{NodeRecord, Replacing};
use crate::node::step::Step;
use crate::rule::{Pledge, SyncRule};
use crate::wal::{Lsn, Position, TimelineHistory, Tli};

/// How long a fast stop may take before everything is killed, in milliseconds. A frozen standby
/// holds a fast stop up for wal_sender_timeout (2 s); a frozen backend for ever.
const STOP_BUDGET_MS: u64 = 2_500;

/// A standby that is attached but has not streamed for so long is cloned anew, in milliseconds:
/// the WAL that it needs is gone. Long, because a cut link looks the same, and until the clone is
/// there this node is no candidate.
const STALLED_MS: u64 = 120_000;
/// The same while the link is known to work: then only what it asks for can be missing.
const STARVED_MS: u64 = 15_000;

/// A diverged standby waits so long for a rewind to be allowed before it takes a whole copy,
/// in milliseconds.
const CLOSED_MS: u64 = 5_000;

/// It was promoted by somebody else, or the order is a stale one.
pub const ABOVE_PRIMARY: &str = "a newer primary: this node's timeline is above the primary's";

/// What the driver remembers between looks; all of it may be lost with the keeper.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Circumstances {
    /// The rule that is verified to be in force on this primary.
    pub in_force: Option<RuleId>,
    pub bootstrapped: bool,
    pub prepared: bool,
    /// How long an attached standby has not been streaming, in milliseconds.
    pub stalled_ms: u64,
    /// How long the order to follow has not allowed a rewind, in milliseconds.
    pub closed_ms: u64,
}

/// The answer of [`next_step`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    Do(Step),
    /// Make this record durable first, then do the step.
    Write(Box<NodeRecord>, Step),
    /// The goal is met.
    Rest,
    /// Nothing to do here until that happens.
    Wait(&'static str),
}

/// What to do now. `order` must have been accepted and taken into `record`.
pub fn next_step(
    record: &NodeRecord,
    order: Option<&Order>,
    seen: &Observed,
    memory: &Circumstances,
) -> Next {
    if seen.server == ServerView::Orphans && !broken(Mutation::StoppedWithBackends) {
        return Next::Do(Step::Kill);
    }
    if let Data::Foreign { .. } = seen.data {
        return Next::Wait("a data directory that belongs to this group");
    }
    let Some(order) = order else { return boot(record, seen) };
    match &order.goal {
        Goal::Wait => boot(record, seen),
        Goal::Found { rule } => found(record, rule, seen, memory),
        Goal::Lead { rule, tli, renewal, prepare } => {
            let wish = Wish { rule, tli: *tli, renewal: *renewal, prepare: *prepare };
            lead(record, &wish, seen, memory)
        }
        Goal::Follow { primary, history, open } => {
            follow(record, order, *primary, history.as_ref(), *open, seen, memory)
        }
        Goal::Pledge { await_wal, restart } => {
            detach(record, *await_wal, *restart, seen).unwrap_or(Next::Rest)
        }
        Goal::FastForward { source, until } => fast_forward(record, *source, *until, seen),
        Goal::Stop | Goal::Drop => match seen.server {
            ServerView::Down => Next::Rest,
            ServerView::Hung => Next::Do(Step::Kill),
            _ => Next::Do(Step::Stop { budget_ms: 4 * STOP_BUDGET_MS }),
        },
    }
}

/// Without a word from the monitor every boot is as a detached standby: it can acknowledge
/// nothing. What runs already is left as it is.
fn boot(record: &NodeRecord, seen: &Observed) -> Next {
    let joined = record.node_id.is_some() && record.is_whole() && !record.stays_down;
    match (&seen.data, &seen.server) {
        (Data::Cluster(_), ServerView::Down) if joined => {
            match record.own_rule.clone().filter(|own| Some(own.epoch) == record.led_in) {
                Some(rule) if broken(Mutation::BootReadWrite) => {
                    Next::Do(Step::StartPrimary { rule })
                }
                _ => Next::Do(Step::StartStandby),
            }
        }
        (_, ServerView::Starting) => Next::Wait("Postgres to start"),
        _ => Next::Rest,
    }
}

fn found(record: &NodeRecord, rule: &SyncRule, seen: &Observed, memory: &Circumstances) -> Next {
    if unusable(record, seen) {
        return match (&seen.data, &seen.server) {
            (Data::None, ServerView::Down) => {
                let mut anew = record.clone();
                anew.replacing = None;
                anew.copied_from = None;
                Next::Write(Box::new(anew), Step::Initdb)
            }
            (_, ServerView::Down) => Next::Wait("a data directory that belongs to this group"),
            _ => Next::Do(Step::Kill),
        };
    }
    match (&seen.data, &seen.server) {
        (_, ServerView::Down) => {
            let led = led(record, rule);
            Next::Write(Box::new(led), Step::StartPrimary { rule: rule.clone() })
        }
        (_, ServerView::Up(up)) if !up.in_recovery => {
            if record.led_in != Some(rule.epoch) {
                // A standalone server that ran before us. Where it listens, whether standbys can
                // connect, which files it reads: all of that is decided at a start.
                return Next::Do(Step::Stop { budget_ms: 4 * STOP_BUDGET_MS });
            }
            serve(record, rule, up, memory, false)
        }
        // Booted without a word from the monitor, as every node does.
        (_, ServerView::Up(_)) => Next::Do(Step::Stop { budget_ms: STOP_BUDGET_MS }),
        (_, ServerView::Hung) => Next::Do(Step::Kill),
        (_, ServerView::Starting | ServerView::Orphans) => Next::Wait("Postgres to start"),
    }
}

struct Wish<'a> {
    rule: &'a SyncRule,
    tli: Tli,
    renewal: bool,
    prepare: bool,
}

fn lead(record: &NodeRecord, wish: &Wish, seen: &Observed, memory: &Circumstances) -> Next {
    let rule = wish.rule;
    let leads = record.led_in == Some(rule.epoch);
    if unusable(record, seen) {
        // Only a stopped node is seen to be of no use.
        return match seen.server {
            ServerView::Down => Next::Wait("another election: this node has no usable data"),
            _ => Next::Do(Step::Kill),
        };
    }
    match &seen.server {
        ServerView::Up(up) if !up.in_recovery => {
            if leads {
                serve(record, rule, up, memory, wish.prepare)
            } else if wish.renewal {
                let led = led(record, rule);
                Next::Write(Box::new(led), Step::PutRule { rule: rule.clone() })
            } else {
                // Read-write under an epoch that is over. It has to be a standby first.
                Next::Do(Step::Stop { budget_ms: STOP_BUDGET_MS })
            }
        }
        ServerView::Up(up) => {
            // Once per epoch. A promotion that did not get as far as a new timeline is the same
            // one and is triggered again; after that, only a new election helps.
            let switched = up.tli >= wish.tli || up.history.tli >= wish.tli;
            if wish.tli == Tli(0) && !wish.renewal {
                return Next::Wait("a new election: this node led in this epoch and stopped");
            }
            if leads && switched && !record.promoting && !broken(Mutation::PromotedTwice) {
                return Next::Wait("a new election: this node led in this epoch and stopped");
            }
            if wish.renewal {
                return Next::Wait("a new election: this node was to go on and has stopped");
            }
            let acks = if broken(Mutation::NamesAfterPromotion) { 0 } else { rule.acks };
            let step = Step::Promote { rule: SyncRule { acks, ..rule.clone() }, tli: wish.tli };
            let begun = leads && record.promoting;
            if begun && record.own_rule.as_ref() == Some(rule) {
                return Next::Do(step);
            }
            if !begun && let Some(first) = detach(record, None, true, seen) {
                return first;
            }
            let promoting = NodeRecord { promoting: true, ..led(record, rule) };
            Next::Write(Box::new(promoting), step)
        }
        ServerView::Down if !leads || broken(Mutation::PromotedTwice) => {
            Next::Do(Step::StartStandby)
        }
        ServerView::Down => Next::Wait("a new election: this node led in this epoch and stopped"),
        ServerView::Starting => Next::Wait("Postgres to start"),
        ServerView::Hung if !leads => Next::Do(Step::Kill),
        // The monitor has been told; killing it is the election's first act.
        ServerView::Hung => Next::Wait("the monitor: Postgres hangs"),
        ServerView::Orphans => Next::Do(Step::Kill),
    }
}

/// Read-write under its epoch: keep the ordered rule in force, then the chores.
fn serve(
    record: &NodeRecord,
    rule: &SyncRule,
    up: &UpView,
    memory: &Circumstances,
    prepare: bool,
) -> Next {
    if memory.in_force != Some(rule.id()) {
        let step = Step::PutRule { rule: rule.clone() };
        if record.own_rule.as_ref() == Some(rule) {
            return Next::Do(step);
        }
        // Fsynced before it is used: a rule may be in force although nobody has heard so.
        return Next::Write(Box::new(led(record, rule)), step);
    }
    if !memory.bootstrapped {
        return Next::Do(Step::Bootstrap);
    }
    if prepare && !memory.prepared {
        return Next::Do(Step::PrepareHandover);
    }
    if up.checkpoint_tli != up.tli && !prepare {
        return Next::Do(Step::Checkpoint);
    }
    if broken(Mutation::DegradeUnrecorded) && up.senders.iter().all(|s| s.reply_age_ms > 1000) {
        let alone = SyncRule { acks: 0, ..rule.clone() };
        return Next::Do(Step::PutRule { rule: alone });
    }
    Next::Rest
}

fn led(record: &NodeRecord, rule: &SyncRule) -> NodeRecord {
    let mut next = record.clone();
    next.own_rule = Some(rule.clone());
    next.led_in = Some(rule.epoch);
    next
}

/// Half-replaced, or a copy that is not consistent yet: nothing to elect, to stop for, or to start
/// by itself.
fn unusable(record: &NodeRecord, seen: &Observed) -> bool {
    !record.is_whole() || seen.data == Data::None
}

/// What is left to do until this node can acknowledge nothing; `None` when it cannot.
fn detach(
    record: &NodeRecord,
    await_wal: Option<Position>,
    restart: bool,
    seen: &Observed,
) -> Option<Next> {
    match &seen.server {
        ServerView::Down => {
            let Data::Cluster(cluster) = &seen.data else { return None };
            let unknown = !unusable(record, seen) && !cluster.shut_down;
            (restart && unknown).then_some(Next::Do(Step::StartStandby))
        }
        // It may be receiving from the primary that is being replaced.
        _ if unusable(record, seen) => Some(Next::Do(Step::Kill)),
        ServerView::Up(up) if !up.in_recovery => {
            Some(Next::Do(Step::Stop { budget_ms: STOP_BUDGET_MS }))
        }
        // No reload of ours would reach it.
        ServerView::Up(up) if up.foreign_conf => {
            Some(Next::Do(Step::Stop { budget_ms: STOP_BUDGET_MS }))
        }
        // Its promotion cannot be called back.
        ServerView::Up(_) if record.promoting && !broken(Mutation::PledgeWhilePromoting) => {
            Some(Next::Do(Step::Kill))
        }
        ServerView::Up(up) if receives(up) => Some(Next::Do(Step::DropReceiver { await_wal })),
        ServerView::Up(_) => None,
        ServerView::Starting => Some(Next::Wait("Postgres to start")),
        ServerView::Hung | ServerView::Orphans => Some(Next::Do(Step::Kill)),
    }
}

fn fast_forward(record: &NodeRecord, source: NodeId, until: Position, seen: &Observed) -> Next {
    if unusable(record, seen) {
        return match seen.server {
            ServerView::Down => Next::Wait("another candidate: this node has no usable data"),
            _ => Next::Do(Step::Kill),
        };
    }
    if let ServerView::Up(up) = &seen.server
        && up.in_recovery
        && up.detached
        && !up.receiver_alive
        && !record.promoting
    {
        let reached = end_of_wal(up).is_some_and(|end| end >= until);
        return if reached { Next::Rest } else { Next::Do(Step::FastForward { source, until }) };
    }
    detach(record, None, true, seen).unwrap_or(Next::Do(Step::StartStandby))
}

#[allow(clippy::too_many_arguments, reason = "the goal's parts, taken apart once")]
fn follow(
    record: &NodeRecord,
    order: &Order,
    primary: NodeId,
    history: Option<&TimelineHistory>,
    open: bool,
    seen: &Observed,
    memory: &Circumstances,
) -> Next {
    let copied = record.copied_from == Some((primary, order.epoch)) && seen.data != Data::None;
    if copied && !matches!(record.replacing, Some(Replacing::Rewind | Replacing::Clone)) {
        match &seen.server {
            ServerView::Down => return Next::Do(Step::StartFollowing { primary }),
            ServerView::Starting if memory.stalled_ms >= STALLED_MS => {
                return replace(record, Replacing::Clone, Step::Kill);
            }
            ServerView::Starting => return Next::Wait("the primary's WAL: this copy is new"),
            ServerView::Hung | ServerView::Orphans => return Next::Do(Step::Kill),
            // It answers: consistent. The driver notes that.
            ServerView::Up(_) => {}
        }
    } else if unusable(record, seen) {
        if seen.server != ServerView::Down {
            return Next::Do(Step::Kill);
        }
        // Nothing here is worth keeping, so a primary that serves is enough.
        return if history.is_some() {
            replace(record, Replacing::Clone, Step::Clone { primary, keep: None })
        } else {
            Next::Wait("a primary that can be cloned")
        };
    }
    let up = match &seen.server {
        ServerView::Down => return Next::Do(Step::StartStandby),
        ServerView::Starting => return Next::Wait("Postgres to start"),
        ServerView::Hung | ServerView::Orphans => return Next::Do(Step::Kill),
        ServerView::Up(up) => up,
    };
    if !up.in_recovery {
        return Next::Do(Step::Stop { budget_ms: STOP_BUDGET_MS });
    }
    if record.promoting {
        return Next::Do(Step::Kill);
    }
    if up.upstream.is_some_and(|u| u.0 == primary) && broken(Mutation::LineageUnchecked) {
        return Next::Rest;
    }
    let in_turn = order.room.is_some_and(|room| !up.limits.suffice_for(room));
    if up.cramped || in_turn || up.foreign_conf {
        // The start that follows has the right settings.
        return Next::Do(Step::Stop { budget_ms: STOP_BUDGET_MS });
    }
    if up.upstream == Some((primary, order.epoch)) && !up.detached {
        let patience_ms = if up.upstream_answers { STARVED_MS } else { STALLED_MS };
        // Its WAL is a prefix of the primary's, so a copy beside takes nothing away, and the rule may
        // be waiting for just this node.
        if history.is_some() && up.replay_idle && memory.stalled_ms >= patience_ms {
            let keep = lineage_end(up);
            return replace(record, Replacing::Beside, Step::Clone { primary, keep });
        }
        return Next::Rest;
    }
    // As long as it is attached to anybody its WAL may grow behind the check's back.
    if !up.detached || up.receiver_alive {
        return Next::Do(Step::DropReceiver { await_wal: None });
    }
    let Some(end) = lineage_end(up) else {
        return Next::Wait("replay: the end of this node's WAL is not known yet");
    };
    let Some(history) = history else { return Next::Wait("the primary's timelines") };
    if history.holds(end) || broken(Mutation::LineageUnchecked) {
        return Next::Do(Step::Follow { primary });
    }
    if end.tli > history.tli {
        // Never discard WAL of a timeline above the order's: this order may be the stale one.
        return Next::Wait(ABOVE_PRIMARY);
    }
    if !open && !broken(Mutation::RewindEarly) {
        // Before the new rule is covered the winner may hold the only other copy, so nothing is
        // rewound in place. If this node is what the rule waits for, a copy beside is the way out.
        if memory.closed_ms >= CLOSED_MS {
            return replace(record, Replacing::Beside, Step::Clone { primary, keep: Some(end) });
        }
        return Next::Wait("the new primary's rule to be covered, then a rewind");
    }
    let fork = up.history.fork_with(history).unwrap_or(Position { tli: Tli(1), lsn: Lsn::ZERO });
    let fork = if broken(Mutation::WalNotKept) { end } else { fork };
    replace(record, Replacing::Rewind, Step::Rewind { primary, fork })
}

fn replace(record: &NodeRecord, how: Replacing, step: Step) -> Next {
    let mut marked = record.clone();
    marked.replacing = Some(how);
    marked.copied_from = None;
    Next::Write(Box::new(marked), step)
}

/// End of WAL on disk, if known: after a restart `max(received, replayed)` is too low until
/// everything has been replayed (seen; DESIGN §4.3).
pub(crate) fn end_of_wal(up: &UpView) -> Option<Position> {
    let known =
        !up.in_recovery || up.streamed || up.replay_idle || broken(Mutation::PositionTooLow);
    let lsn = up.received.unwrap_or(Lsn::ZERO).max(up.replayed);
    known.then_some(Position { tli: up.tli, lsn })
}

/// Where this standby's WAL ends, for the question whether it is a prefix of a primary's. Bytes of
/// an incomplete last record do not count: a promotion forks off before them.
pub fn lineage_end(up: &UpView) -> Option<Position> {
    if up.replay_idle {
        return Some(Position { tli: up.tli, lsn: up.replayed });
    }
    end_of_wal(up)
}

/// Whether this standby could still acknowledge: a receiver outlives a reload while replay hangs.
fn receives(up: &UpView) -> bool {
    !up.detached || up.receiver_alive && !broken(Mutation::PledgeByReload)
}

/// What this node can promise with its epoch, `None` while it might still acknowledge something.
pub fn pledge(record: &NodeRecord, seen: &Observed) -> Option<Pledge> {
    if record.promise.0 == 0 {
        return None;
    }
    let tell = |position, usable| {
        Some(Pledge { epoch: record.promise, position, usable, fetching: false })
    };
    match (&seen.data, &seen.server) {
        (Data::Foreign { .. }, _) => None,
        (_, ServerView::Down) if unusable(record, seen) => tell(None, false),
        (Data::Cluster(cluster), ServerView::Down) => tell(stopped_position(cluster), true),
        (Data::Cluster(_), ServerView::Up(up)) if up.in_recovery => {
            let promoting = record.promoting && !broken(Mutation::PledgeWhilePromoting);
            if promoting || receives(up) && !broken(Mutation::PledgeAttached) {
                return None;
            }
            tell(end_of_wal(up), true)
        }
        (Data::Cluster(cluster), ServerView::Orphans) if broken(Mutation::StoppedWithBackends) => {
            tell(Some(cluster.checkpoint), true)
        }
        _ => None,
    }
}

/// A primary that the control file calls shut down has written nothing after its checkpoint
/// record: a standby that has received past the record's start has every commit.
fn stopped_position(cluster: &Cluster) -> Option<Position> {
    let Position { tli, lsn } = cluster.checkpoint;
    cluster.shut_down.then_some(Position { tli, lsn: Lsn(lsn.0 + 1) })
}
