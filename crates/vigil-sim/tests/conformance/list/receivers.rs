//! Receivers: what a reload does to them, and which positions are true.

use super::Scenario;
use crate::subject::{N1, N2};

pub(crate) fn a_reload_ends_the_receiver() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(1);
            b.s.obey(N1, Some(&[N2]));
            let before = b.commit("a commit", N1);
            b.s.follow(N2, None);
            b.soon("the reload ends the receiver", |s| s.receiver(N2).is_none());
            let after = b.long_commit("a commit after it", N1);
            b.by_itself("the receiver comes back", |s| s.receiver(N2).is_some());
            b.soon("all is replayed", |s| s.view(N2).replay_idle);
            b.covers("the position covers the first", N2, before);
            b.covers("and the second", N2, after);
            b.s.follow(N2, Some(N1));
            b.soon("streams again", |s| s.streams(N2));
            b.end_of_wait("the second then", after);
        },
        sees: &[
            "a commit: acknowledged",
            "the reload ends the receiver: yes",
            "a commit after it: waits",
            "the receiver comes back: no",
            "all is replayed: yes",
            "the position covers the first: yes",
            "and the second: no",
            "streams again: yes",
            "the second then: acknowledged",
        ],
    }
}

pub(crate) fn a_receiver_that_is_signalled_comes_back() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(1);
            b.s.obey(N1, Some(&[N2]));
            b.commit("a commit", N1);
            b.s.end_receiver(N2);
            b.soon("another one comes, as there is an upstream", |s| s.streams(N2));
            b.commit("a commit after it", N1);
        },
        sees: &[
            "a commit: acknowledged",
            "another one comes, as there is an upstream: yes",
            "a commit after it: acknowledged",
        ],
    }
}

pub(crate) fn stuck_replay_keeps_the_receiver() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(1);
            b.s.obey(N1, Some(&[N2]));
            b.s.stick(N2);
            let stuck = b.commit("a commit while replay is stuck", N1);
            let end = b.s.end_of(stuck);
            b.soon("it is received", |s| s.view(N2).received >= Some(end));
            b.by_itself("it is replayed", |s| s.view(N2).replayed >= end);
            b.s.follow(N2, None);
            b.by_itself("the reload ends the receiver", |s| s.receiver(N2).is_none());
            let last = b.commit("a commit after the reload", N1);
            b.s.end_receiver(N2);
            b.soon("the signal ends the receiver", |s| s.receiver(N2).is_none());
            b.by_itself("it comes back", |s| s.receiver(N2).is_some());
            b.long_commit("a commit after the signal", N1);
            b.covers("the position covers what was acknowledged", N2, last);
            let idle = b.s.view(N2).replay_idle;
            b.note("all is replayed", idle);
            b.s.follow(N2, Some(N1));
            b.by_itself("streams again while replay is stuck", |s| s.receiver(N2).is_some());
            b.s.unstick(N2);
            b.soon("streams again after that", |s| s.streams(N2));
            b.soon("all that is acknowledged is seen there", |s| s.is_visible(N2, last));
        },
        sees: &[
            "a commit while replay is stuck: acknowledged",
            "it is received: yes",
            "it is replayed: no",
            "the reload ends the receiver: no",
            "a commit after the reload: acknowledged",
            "the signal ends the receiver: yes",
            "it comes back: no",
            "a commit after the signal: waits",
            "the position covers what was acknowledged: yes",
            "all is replayed: no",
            "streams again while replay is stuck: no",
            "streams again after that: yes",
            "all that is acknowledged is seen there: yes",
        ],
    }
}

pub(crate) fn positions_after_a_restart() -> Scenario {
    Scenario {
        plays: |b| {
            b.s.form(1);
            b.s.obey(N1, Some(&[N2]));
            b.s.stick(N2);
            b.commit("a commit", N1);
            b.commit("another", N1);
            let last = b.commit("and one more", N1);
            for (again, follows) in [("", false), (", again", true)] {
                b.s.kill(N2);
                b.s.start_standby(N2, true);
                let view = b.s.view(N2);
                b.note(&format!("it knows what it received{again}"), view.received.is_some());
                b.note(&format!("all is replayed{again}"), view.replay_idle);
                b.covers(&format!("the position covers the last{again}"), N2, last);
                if follows {
                    b.s.follow(N2, Some(N1));
                    b.by_itself("it streams before replay is through", |s| {
                        s.receiver(N2).is_some()
                    });
                    b.s.release(N2);
                    b.soon("it streams after that", |s| s.streams(N2));
                    b.covers("the position covers the last then", N2, last);
                    b.commit("a commit", N1);
                }
            }
            b.s.kill(N2);
            b.s.start_standby(N2, false);
            b.soon("without anybody to follow all is replayed", |s| s.view(N2).replay_idle);
            let received = b.s.view(N2).received;
            b.note("it knows what it received", received.is_some());
            b.covers("the position covers the last", N2, last);
        },
        sees: &[
            "a commit: acknowledged",
            "another: acknowledged",
            "and one more: acknowledged",
            "it knows what it received: no",
            "all is replayed: no",
            "the position covers the last: no",
            "it knows what it received, again: no",
            "all is replayed, again: no",
            "the position covers the last, again: no",
            "it streams before replay is through: no",
            "it streams after that: yes",
            "the position covers the last then: yes",
            "a commit: acknowledged",
            "without anybody to follow all is replayed: yes",
            "it knows what it received: no",
            "the position covers the last: yes",
        ],
    }
}
