//! Stops, clean and otherwise.

use super::Scenario;
use crate::subject::{N1, N2};

pub(crate) fn a_fast_stop_sends_its_checkpoint() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(1);
            // Nobody has to acknowledge who could: the standby gets all, and no commit is answered.
            b.s.obey(N1, Some(&[]));
            let waits = b.long_commit("a commit that nobody may acknowledge", N1);
            let stopped = b.s.stop_fast(N1);
            b.note("the stop is clean", stopped.clean);
            b.end_of_wait("its client is told", waits);
            b.soon("the receiver ends, as its sender is gone", |s| !s.streams(N2));
            let received = b.s.view(N2).received;
            b.note("the standby has the shutdown checkpoint", received > Some(stopped.checkpoint));
            b.s.follow(N2, None);
            b.soon("all is replayed", |s| s.view(N2).replay_idle);
            b.s.promote(N2);
            let visible = b.s.is_visible(N2, waits);
            b.note("the commit is on the new primary", visible);
        },
        sees: &[
            "a commit that nobody may acknowledge: waits",
            "the stop is clean: yes",
            "its client is told: no answer",
            "the receiver ends, as its sender is gone: yes",
            "the standby has the shutdown checkpoint: yes",
            "all is replayed: yes",
            "the commit is on the new primary: yes",
        ],
    }
}

pub(crate) fn sessions_outlive_their_postmaster() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(1);
            b.s.obey(N1, Some(&[N2]));
            b.s.keep_writing(N1);
            b.s.kill_postmaster(N1);
            let lives = b.s.lives(N1);
            b.note("something lives when the postmaster is gone", lives);
            let refused = b.s.start_is_refused(N1);
            b.note("a start beside it is refused", refused);
            b.s.kill(N1);
            let lives = b.s.lives(N1);
            b.note("something lives when all is killed", lives);
            b.soon("the receiver ends, as its sender is gone", |s| !s.streams(N2));
            b.s.follow(N2, None);
            b.soon("all is replayed", |s| s.view(N2).replay_idle);
            b.s.start_primary(N1);
            let wrote = b.s.wrote_after_the_kill(N1);
            b.note("something was written after the postmaster was gone", wrote);
            let all = b.s.has_all_acknowledged(N2);
            b.note("the standby has all that was acknowledged", all);
        },
        sees: &[
            "something lives when the postmaster is gone: yes",
            "a start beside it is refused: yes",
            "something lives when all is killed: no",
            "the receiver ends, as its sender is gone: yes",
            "all is replayed: yes",
            "something was written after the postmaster was gone: yes",
            "the standby has all that was acknowledged: yes",
        ],
    }
}

pub(crate) fn a_hung_primary_loses_its_receivers() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(1);
            b.s.obey(N1, Some(&[N2]));
            b.commit("a commit", N1);
            b.s.freeze(N1);
            b.soon("the receiver ends, as nothing comes", |s| !s.streams(N2));
            b.by_itself("it streams again", |s| s.streams(N2));
            b.s.thaw(N1);
            b.soon("it streams again when the primary goes on", |s| s.streams(N2));
            b.commit("a commit then", N1);
        },
        sees: &[
            "a commit: acknowledged",
            "the receiver ends, as nothing comes: yes",
            "it streams again: no",
            "it streams again when the primary goes on: yes",
            "a commit then: acknowledged",
        ],
    }
}

pub(crate) fn a_hung_standby_acknowledges_nothing() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(1);
            b.s.obey(N1, Some(&[N2]));
            b.commit("a commit", N1);
            b.s.freeze(N2);
            let waits = b.long_commit("a commit while the standby hangs", N1);
            b.s.thaw(N2);
            b.end_of_wait("the commit, when it goes on", waits);
        },
        sees: &[
            "a commit: acknowledged",
            "a commit while the standby hangs: waits",
            "the commit, when it goes on: acknowledged",
        ],
    }
}
