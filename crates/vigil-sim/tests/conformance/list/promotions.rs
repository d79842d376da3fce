//! Promotions: where the new timeline begins, whom its first commits wait for, who comes along.

use super::Scenario;
use crate::book::Book;
use crate::subject::{N1, N2, N3, Node};

fn pledge(b: &mut Book<'_>, node: Node) {
    b.s.follow(node, None);
    b.soon("a receiver ends", |s| s.receiver(node).is_none());
    b.soon("all is replayed", |s| s.view(node).replay_idle);
}

pub(crate) fn a_promotion_forks_after_the_end() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(2);
            b.s.obey(N1, Some(&[N2, N3]));
            b.commit("a commit", N1);
            let both = b.commit("another", N1);
            let end = b.s.end_of(both);
            b.soon("both have it", |s| [N2, N3].into_iter().all(|n| s.view(n).replayed >= end));
            pledge(b, N2);
            pledge(b, N3);
            let late = b.long_commit("a commit after the pledges", N1);
            b.s.obey(N2, Some(&[N3]));
            let (end, old) = (b.s.view(N2).position(), b.s.view(N2).timeline);
            b.s.promote(N2);
            let (new, fork) = (b.s.view(N2).timeline, b.s.left(N2, old));
            b.note("the timeline is a new one", new > old);
            b.note("it forks where its WAL ended", fork == Some(end));
            let sees = (b.s.is_visible(N2, both), b.s.is_visible(N2, late));
            b.note("it has what was acknowledged", sees.0);
            b.note("it has what was not", sees.1);
            let first = b.long_commit("its first commit, with nobody there", N2);
            b.s.follow(N3, Some(N2));
            b.soon("the other standby follows", |s| s.streams(N3));
            b.end_of_wait("its first commit then", first);
            b.soon("the other standby comes to its timeline", |s| s.view(N3).timeline == new);
            b.answer("the commit on the old primary still", late);
        },
        sees: &[
            "a commit: acknowledged",
            "another: acknowledged",
            "both have it: yes",
            "a receiver ends: yes",
            "all is replayed: yes",
            "a receiver ends: yes",
            "all is replayed: yes",
            "a commit after the pledges: waits",
            "the timeline is a new one: yes",
            "it forks where its WAL ended: yes",
            "it has what was acknowledged: yes",
            "it has what was not: no",
            "its first commit, with nobody there: waits",
            "the other standby follows: yes",
            "its first commit then: acknowledged",
            "the other standby comes to its timeline: yes",
            "the commit on the old primary still: waits",
        ],
    }
}

pub(crate) fn without_names_a_new_primary_acknowledges_alone() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(2);
            pledge(b, N2);
            pledge(b, N3);
            b.s.promote(N2);
            let alone = b.commit("its first commit", N2);
            b.covers("somebody else has it", N3, alone);
            b.s.obey(N2, Some(&[N3]));
            let waits = b.long_commit("a commit once names are in force", N2);
            b.s.follow(N3, Some(N2));
            b.end_of_wait("and once that standby follows", waits);
            b.soon("which has the first as well", |s| s.is_visible(N3, alone));
        },
        sees: &[
            "a receiver ends: yes",
            "all is replayed: yes",
            "a receiver ends: yes",
            "all is replayed: yes",
            "its first commit: acknowledged",
            "somebody else has it: no",
            "a commit once names are in force: waits",
            "and once that standby follows: acknowledged",
            "which has the first as well: yes",
        ],
    }
}

pub(crate) fn a_cascade_goes_on_over_a_promotion() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(2);
            b.s.obey(N1, Some(&[N2]));
            b.s.obey(N2, Some(&[N3]));
            b.s.follow(N3, Some(N2));
            b.soon("no sender of the primary is left for it", |s| s.streams(N3));
            let old = b.commit("a commit", N1);
            let end = b.s.end_of(old);
            b.soon("it comes through the first standby", |s| s.view(N3).replayed >= end);
            b.s.kill(N1);
            pledge(b, N2);
            let receiver = b.s.receiver(N3);
            b.note("the second standby still receives", receiver.is_some());
            b.s.promote(N2);
            let new = b.commit("a commit on the new timeline", N2);
            let same = b.s.receiver(N3) == receiver;
            b.note("by the same receiver", same);
            b.soon("the second standby sees it", |s| s.is_visible(N3, new));
            let timelines = (b.s.view(N2).timeline, b.s.view(N3).timeline);
            b.note("on the same timeline", timelines.0 == timelines.1);
        },
        sees: &[
            "no sender of the primary is left for it: yes",
            "a commit: acknowledged",
            "it comes through the first standby: yes",
            "a receiver ends: yes",
            "all is replayed: yes",
            "the second standby still receives: yes",
            "a commit on the new timeline: acknowledged",
            "by the same receiver: yes",
            "the second standby sees it: yes",
            "on the same timeline: yes",
        ],
    }
}

pub(crate) fn an_old_primary_needs_a_rewind() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(1);
            b.s.obey(N1, Some(&[N2]));
            let both = b.commit("a commit", N1);
            pledge(b, N2);
            let late = b.long_commit("a commit after the pledge", N1);
            b.s.promote(N2);
            let new = b.commit("a commit on the new timeline", N2);
            b.s.kill(N1);
            b.s.start_standby(N1, false);
            b.s.follow(N1, Some(N2));
            b.by_itself("the old primary gets it", |s| s.is_visible(N1, new));
            let kept = b.s.is_visible(N1, late);
            b.note("it has what only itself ever had", kept);
            b.s.kill(N1);
            b.s.rewind(N1, N2);
            b.soon("after a rewind the old primary gets it", |s| s.is_visible(N1, new));
            let has = (b.s.is_visible(N1, both), b.s.is_visible(N1, late));
            b.note("it has what was acknowledged", has.0);
            b.note("it still has what only itself had", has.1);
            let timelines = (b.s.view(N1).timeline, b.s.view(N2).timeline);
            b.note("on the same timeline", timelines.0 == timelines.1);
        },
        sees: &[
            "a commit: acknowledged",
            "a receiver ends: yes",
            "all is replayed: yes",
            "a commit after the pledge: waits",
            "a commit on the new timeline: acknowledged",
            "the old primary gets it: no",
            "it has what only itself ever had: yes",
            "after a rewind the old primary gets it: yes",
            "it has what was acknowledged: yes",
            "it still has what only itself had: no",
            "on the same timeline: yes",
        ],
    }
}
