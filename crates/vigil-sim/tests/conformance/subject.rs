//! What a scenario does and asks, whoever plays it.

use vigil_core::wal::Lsn;

/// A server, counted from 0. At first 0 takes writes and all others follow it.
pub(crate) type Node = usize;

pub(crate) const N1: Node = 0;
pub(crate) const N2: Node = 1;
pub(crate) const N3: Node = 2;

/// A commit that a client sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Commit(pub(crate) usize);

/// What its client was told by now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    /// Success, and no warning.
    Acknowledged,
    /// Success, with a warning: only committed locally.
    Warned,
    Waits,
    /// The session ended without an answer: unknown.
    Unknown,
}

/// What a server in reach says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct View {
    pub(crate) in_recovery: bool,
    pub(crate) timeline: u32,
    /// `None`: nothing since the start.
    pub(crate) received: Option<Lsn>,
    pub(crate) replayed: Lsn,
    /// Nothing on disk is left to replay, and nothing comes in.
    pub(crate) replay_idle: bool,
}

impl View {
    /// What one would take for its end of WAL.
    pub(crate) fn position(&self) -> Lsn {
        self.received.unwrap_or(Lsn::ZERO).max(self.replayed)
    }
}

/// What a data directory says after a fast stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stopped {
    pub(crate) clean: bool,
    pub(crate) checkpoint: Lsn,
}

/// Some servers: the model's, or real ones. What cannot be done panics.
pub(crate) trait Subject {
    /// Node 0 takes writes, `standbys` more stream from it. Commits wait for nobody.
    fn form(&mut self, standbys: usize);
    /// A moment passes.
    fn pass(&mut self);
    fn now_ms(&self) -> u64;

    /// One of `members` must acknowledge from now on; `None`: nobody has to. On a standby: once it
    /// is promoted.
    fn obey(&mut self, node: Node, members: Option<&[Node]>);
    /// The same is asked for by reload, and every new session shows it, but the server has not got
    /// to it yet.
    fn ask(&mut self, node: Node, members: &[Node]);

    /// Sends a commit and returns when it is answered or waits.
    fn commit(&mut self, node: Node) -> Commit;
    fn answer(&mut self, commit: Commit) -> Answer;
    /// A position at or behind the end of the commit's record.
    fn end_of(&self, commit: Commit) -> Lsn;
    /// Cancels the statement that waits.
    fn cancel(&mut self, commit: Commit);
    fn is_visible(&mut self, node: Node, commit: Commit) -> bool;
    /// Sessions that write all the time: one that tells nobody, one whose client listens.
    fn keep_writing(&mut self, node: Node);
    /// Whether those sessions wrote something after their postmaster was gone; asked after a
    /// restart.
    fn wrote_after_the_kill(&mut self, node: Node) -> bool;
    /// Whether everything that was acknowledged to those sessions is there.
    fn has_all_acknowledged(&mut self, node: Node) -> bool;

    fn view(&mut self, node: Node) -> View;
    /// Which receiver process there is.
    fn receiver(&mut self, node: Node) -> Option<u64>;
    fn streams(&mut self, node: Node) -> bool;
    /// Where the history of `node` says that it left `timeline`.
    fn left(&mut self, node: Node, timeline: u32) -> Option<Lsn>;

    /// A query on a standby holds up replay.
    fn stick(&mut self, node: Node);
    fn unstick(&mut self, node: Node);
    /// Sets where to receive from, by reload.
    fn follow(&mut self, node: Node, upstream: Option<Node>);
    /// SIGTERM for the receiver.
    fn end_receiver(&mut self, node: Node);
    /// Triggers a promotion to timeline 2 and waits until it takes writes.
    fn promote(&mut self, node: Node);

    /// SIGSTOP for all processes, and SIGCONT.
    fn freeze(&mut self, node: Node);
    fn thaw(&mut self, node: Node);
    /// SIGKILL for all processes.
    fn kill(&mut self, node: Node);
    /// SIGKILL for the postmaster, which is gone when this returns.
    fn kill_postmaster(&mut self, node: Node);
    fn stop_fast(&mut self, node: Node) -> Stopped;
    /// Whether any process of the data directory lives.
    fn lives(&mut self, node: Node) -> bool;
    /// Whether it can be started beside what lives; it is not.
    fn start_is_refused(&mut self, node: Node) -> bool;
    fn start_primary(&mut self, node: Node);
    /// Starts it as a standby of nobody. `held`: replay of what is on disk does not get on.
    fn start_standby(&mut self, node: Node, held: bool);
    /// pg_rewind of a killed server from one that takes writes, which it follows from then on.
    fn rewind(&mut self, node: Node, source: Node);
    /// Ends what `held` began.
    fn release(&mut self, node: Node);
}
