//! Commits that wait: what ends the wait, and what their clients are told.

use super::Scenario;
use crate::book::Book;
use crate::subject::{Commit, N1, N2};

/// A commit that nobody will acknowledge, because the only standby has pledged.
fn one_that_waits(b: &mut Book<'_>) -> Commit {
    b.s.form(1);
    b.s.obey(N1, Some(&[N2]));
    b.commit("a commit", N1);
    b.s.follow(N2, None);
    b.soon("the receiver ends", |s| s.receiver(N2).is_none());
    b.long_commit("a commit after it", N1)
}

pub(crate) fn a_cancelled_wait_is_not_acknowledged() -> Scenario {
    Scenario {
        plays: |b| {
            let waits = one_that_waits(b);
            b.s.cancel(waits);
            b.end_of_wait("its client is told, once it is cancelled", waits);
            let visible = b.s.is_visible(N1, waits);
            b.note("everybody sees it", visible);
            b.covers("the standby has it", N2, waits);
            b.long_commit("the next commit", N1);
        },
        sees: &[
            "a commit: acknowledged",
            "the receiver ends: yes",
            "a commit after it: waits",
            "its client is told, once it is cancelled: success with a warning",
            "everybody sees it: yes",
            "the standby has it: no",
            "the next commit: waits",
        ],
    }
}

pub(crate) fn dropping_the_names_releases_who_waits() -> Scenario {
    Scenario {
        plays: |b| {
            let waits = one_that_waits(b);
            b.s.obey(N1, None);
            b.end_of_wait("its client is told, once nobody is named", waits);
            b.covers("the standby has it", N2, waits);
        },
        sees: &[
            "a commit: acknowledged",
            "the receiver ends: yes",
            "a commit after it: waits",
            "its client is told, once nobody is named: acknowledged",
            "the standby has it: no",
        ],
    }
}

pub(crate) fn names_asked_for_are_not_in_force() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(1);
            b.s.follow(N2, None);
            b.soon("the receiver ends", |s| s.receiver(N2).is_none());
            b.s.ask(N1, &[N2]);
            let alone = b.commit("a commit while the names are only asked for", N1);
            b.s.obey(N1, Some(&[N2]));
            b.long_commit("a commit once they are in force", N1);
            b.covers("the standby has the first", N2, alone);
        },
        sees: &[
            "the receiver ends: yes",
            "a commit while the names are only asked for: acknowledged",
            "a commit once they are in force: waits",
            "the standby has the first: no",
        ],
    }
}

pub(crate) fn a_crash_with_commits_that_wait() -> Scenario {
    Scenario {
        plays: |b| {
            let waits = one_that_waits(b);
            let timeline = b.s.view(N1).timeline;
            b.s.kill(N1);
            b.end_of_wait("its client is told, after a crash", waits);
            b.s.start_primary(N1);
            let visible = b.s.is_visible(N1, waits);
            b.note("everybody sees it after the restart", visible);
            let same = b.s.view(N1).timeline == timeline;
            b.note("on the same timeline", same);
            b.covers("the standby has it", N2, waits);
            let next = b.long_commit("the next commit", N1);
            b.s.follow(N2, Some(N1));
            b.end_of_wait("the next commit, once the standby follows", next);
            b.soon("the standby sees the first", |s| s.is_visible(N2, waits));
        },
        sees: &[
            "a commit: acknowledged",
            "the receiver ends: yes",
            "a commit after it: waits",
            "its client is told, after a crash: no answer",
            "everybody sees it after the restart: yes",
            "on the same timeline: yes",
            "the standby has it: no",
            "the next commit: waits",
            "the next commit, once the standby follows: acknowledged",
            "the standby sees the first: yes",
        ],
    }
}
