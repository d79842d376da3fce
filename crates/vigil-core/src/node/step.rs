//! What a keeper can do, one thing at a time. Each step is idempotent and bounded in time.

use std::fmt;

use crate::ids::{NodeId, RuleId};
use crate::rule::SyncRule;
use crate::wal::{Lsn, Position, Tli};

/// One step with all that is needed to execute it: there is nothing left to decide.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// initdb (aside, then renamed), configuration.
    Initdb,
    /// Start read-write: only for the founder of a group that has never had a primary.
    StartPrimary { rule: SyncRule },
    /// Role for replication and rewind, slots. Idempotent.
    Bootstrap,
    /// `standby.signal` fsynced, detached, then start. The only way a node boots, but for
    /// `StartFollowing`.
    StartStandby,
    /// As `StartStandby`, but attached to `primary`: for a directory that was just copied from it
    /// and becomes consistent only with its WAL.
    StartFollowing { primary: NodeId },
    /// SIGKILL everything of the data directory, verify.
    Kill,
    /// Fast stop within `budget_ms`, then as `Kill`.
    Stop { budget_ms: u64 },
    /// Detach, and make sure that no receiver process lives. `await_wal`: first wait until WAL up
    /// to there is received, bounded.
    DropReceiver { await_wal: Option<Position> },
    /// Point the receiver at `primary` by reload.
    Follow { primary: NodeId },
    /// Receive from `source` up to `until`, then detach again. Bounded.
    FastForward { source: NodeId, until: Position },
    /// Names in force, replay unblocked, promoted to exactly `tli`, seen read-write.
    Promote { rule: SyncRule, tli: Tli },
    /// Put the rule in force, verify, read the end of WAL after that.
    PutRule { rule: SyncRule },
    /// Two checkpoints, so that the stop that follows has little to write.
    PrepareHandover,
    /// In the background after a promotion: pg_rewind needs the new timeline in the control file.
    Checkpoint,
    /// Stop, keep the WAL from `fork` on aside, pg_rewind from `primary`. Not started afterwards.
    Rewind { primary: NodeId, fork: Position },
    /// Base backup from `primary` (WAL of a present directory kept aside). Not started afterwards.
    Clone { primary: NodeId, keep: Option<Position> },
}

impl Step {
    /// Whether a newer order may break it off. The others are short, or must not be torn.
    pub fn can_be_cancelled(&self) -> bool {
        matches!(
            self,
            Step::Clone { .. }
                | Step::Promote { .. }
                | Step::FastForward { .. }
                | Step::PrepareHandover
                | Step::PutRule { .. }
                | Step::Checkpoint
                | Step::Bootstrap
        )
    }

    /// Whether this node can acknowledge something once the step has ended, or even before.
    pub fn may_attach(&self) -> bool {
        matches!(
            self,
            Step::Follow { .. }
                | Step::StartFollowing { .. }
                | Step::StartPrimary { .. }
                | Step::Promote { .. }
        )
    }

    /// Of all steps.
    pub const NAMES: [&'static str; 16] = [
        "initdb",
        "start_primary",
        "bootstrap",
        "start_standby",
        "start_following",
        "kill",
        "stop",
        "drop_receiver",
        "follow",
        "fast_forward",
        "promote",
        "put_rule",
        "prepare_handover",
        "checkpoint",
        "rewind",
        "clone",
    ];

    /// A new one belongs into [`Step::NAMES`] too, so that it is tested what a kill there does.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Initdb => "initdb",
            Step::StartPrimary { .. } => "start_primary",
            Step::Bootstrap => "bootstrap",
            Step::StartStandby => "start_standby",
            Step::StartFollowing { .. } => "start_following",
            Step::Kill => "kill",
            Step::Stop { .. } => "stop",
            Step::DropReceiver { .. } => "drop_receiver",
            Step::Follow { .. } => "follow",
            Step::FastForward { .. } => "fast_forward",
            Step::Promote { .. } => "promote",
            Step::PutRule { .. } => "put_rule",
            Step::PrepareHandover => "prepare_handover",
            Step::Checkpoint => "checkpoint",
            Step::Rewind { .. } => "rewind",
            Step::Clone { .. } => "clone",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a finished step found out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StepDone {
    Plain,
    /// The rule is in force for every commit above `from`, an end of WAL read after it was
    /// verified.
    InForce {
        rule: RuleId,
        from: Lsn,
    },
    /// The promotion ended before WAL that this node had and told of. Postgres is stopped, and its
    /// data is of no use: on its new timeline it would look like more than all others have.
    CutOff,
    /// initdb, or a clone, made a data directory with this system identifier.
    Created {
        system_id: u64,
    },
}

/// What to make of a step that did not end well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// Its task was given up, by an order or for a stop.
    BrokenOff,
    /// It passes by itself: another node that cannot be reached, a server that is full or starting.
    Passing,
    /// Trying again will hardly help.
    Lasting,
    /// A mistake of ours.
    Panicked,
}

/// Classified where the error is made; `text` is for people alone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StepFailure {
    pub kind: FailureKind,
    pub text: String,
}

impl StepFailure {
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        StepFailure { kind, text: text.into() }
    }

    pub fn lasting(text: impl Into<String>) -> Self {
        StepFailure::new(FailureKind::Lasting, text)
    }

    /// Whether somebody has to look, if it goes on like this.
    pub fn lasts(&self) -> bool {
        matches!(self.kind, FailureKind::Lasting | FailureKind::Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::Step;

    #[test]
    fn every_step_is_among_the_names() {
        let lines = include_str!("step.rs").lines().filter(|l| l.trim().starts_with("Step::"));
        let names: Vec<&str> =
            lines.filter_map(|l| l.split(" => \"").nth(1)?.split('"').next()).collect();
        assert_eq!(names, Step::NAMES);
    }
}
