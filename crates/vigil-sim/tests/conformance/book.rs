//! Plays a scenario and writes down what is observed, one fact per line.

use crate::list::Scenario;
use crate::subject::{Answer, Commit, Node, Subject, View};

/// What comes at all has come by then, in milliseconds; also on a busy machine.
const SOON_MS: u64 = 30_000;
/// What has not come by then does not come by itself, in milliseconds: receivers are started
/// again after 100, replies come every 1000.
const A_WHILE_MS: u64 = 1_500;

/// A scenario that is being played.
pub(crate) struct Book<'a> {
    pub(crate) s: &'a mut dyn Subject,
    seen: Vec<String>,
}

pub(crate) fn play(scenario: &Scenario, subject: &mut dyn Subject) -> Vec<String> {
    let mut book = Book { s: subject, seen: Vec::new() };
    (scenario.plays)(&mut book);
    book.seen
}

impl Book<'_> {
    pub(crate) fn note(&mut self, what: &str, is_so: bool) {
        self.seen.push(format!("{what}: {}", if is_so { "yes" } else { "no" }));
    }

    /// Whether it comes to be so.
    pub(crate) fn soon(&mut self, what: &str, is_so: impl FnMut(&mut dyn Subject) -> bool) {
        let came = self.within(SOON_MS, is_so);
        self.note(what, came);
    }

    /// Whether it comes to be so without anybody's doing.
    pub(crate) fn by_itself(&mut self, what: &str, is_so: impl FnMut(&mut dyn Subject) -> bool) {
        let came = self.within(A_WHILE_MS, is_so);
        self.note(what, came);
    }

    fn within(&mut self, ms: u64, mut is_so: impl FnMut(&mut dyn Subject) -> bool) -> bool {
        let end_ms = self.s.now_ms() + ms;
        loop {
            if is_so(self.s) {
                return true;
            }
            if self.s.now_ms() >= end_ms {
                return false;
            }
            self.s.pass();
        }
    }

    /// A commit, and what its client is told. For one that should be answered.
    pub(crate) fn commit(&mut self, what: &str, node: Node) -> Commit {
        let commit = self.s.commit(node);
        self.end_of_wait(what, commit);
        commit
    }

    /// The same for one that should wait: what its client is told within a while.
    pub(crate) fn long_commit(&mut self, what: &str, node: Node) -> Commit {
        let commit = self.s.commit(node);
        self.within(A_WHILE_MS, |s| s.answer(commit) != Answer::Waits);
        self.answer(what, commit);
        commit
    }

    /// What the client is told, at once.
    pub(crate) fn answer(&mut self, what: &str, commit: Commit) {
        let answer = match self.s.answer(commit) {
            Answer::Acknowledged => "acknowledged",
            Answer::Warned => "success with a warning",
            Answer::Waits => "waits",
            Answer::Unknown => "no answer",
        };
        self.seen.push(format!("{what}: {answer}"));
    }

    /// What a commit that waits is told at last.
    pub(crate) fn end_of_wait(&mut self, what: &str, commit: Commit) {
        self.within(SOON_MS, |s| s.answer(commit) != Answer::Waits);
        self.answer(what, commit);
    }

    /// Whether what the node says of its position comes up to the commit.
    pub(crate) fn covers(&mut self, what: &str, node: Node, commit: Commit) {
        let covers = position_covers(&self.s.view(node), self.s.end_of(commit));
        self.note(what, covers);
    }
}

fn position_covers(view: &View, end: vigil_core::wal::Lsn) -> bool {
    view.position() >= end
}
