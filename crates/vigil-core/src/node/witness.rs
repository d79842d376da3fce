//! When a standby's keeper asks its primary for a commit. A standby vouches for a primary that the
//! monitor does not hear by WAL that comes; on an idle server WAL comes only because somebody
//! commits, and the primary's own keeper, whose probe does that, may be what is away. So whoever
//! misses WAL commits something itself. That proves more than an open connection: a walsender
//! goes on telling that it lives while no commit can end.

/// Once a commit had to be asked for, it is asked for often enough for so many heartbeats; then the
/// primary's keeper gets a chance to show that it is back.
const ROUNDS: u64 = 20;

/// What a keeper remembers of it. Milliseconds on its own clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Witness {
    asks_until_ms: u64,
    asked_ms: Option<u64>,
}

impl Witness {
    /// In how many milliseconds a commit is to be asked for. `age_ms`: since WAL last came from this
    /// primary; `interval_ms`: the heartbeat, by which the primary's own probe goes.
    ///
    /// A quarter of a heartbeat is left to a probe that is late: less than it takes until this
    /// witness's word counts as too old (one and a half).
    pub fn due_in_ms(&mut self, age_ms: u64, interval_ms: u64, now_ms: u64) -> u64 {
        let missed_ms = interval_ms * 5 / 4;
        if age_ms >= missed_ms {
            self.asks_until_ms = now_ms + ROUNDS * interval_ms;
        }
        let asks = now_ms < self.asks_until_ms;
        let wait_ms = if asks { interval_ms / 2 } else { missed_ms };
        let asked_ago_ms = self.asked_ms.map_or(u64::MAX, |at| now_ms.saturating_sub(at));
        // What was asked for is on its way.
        let rest_ms = (interval_ms / 4).saturating_sub(asked_ago_ms);
        wait_ms.saturating_sub(age_ms).max(rest_ms)
    }

    /// A commit is asked for now.
    pub fn asks(&mut self, now_ms: u64) {
        self.asked_ms = Some(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: u64 = 1000;

    /// Plays so long: WAL comes at every heartbeat of the primary's keeper while `keeper`, and a
    /// moment after each commit that was asked for if `commits`. The greatest age seen, and how
    /// often a commit was asked for.
    fn play(
        witness: &mut Witness,
        from_ms: u64,
        ms: u64,
        keeper: bool,
        commits: bool,
    ) -> (u64, u64) {
        let (mut grown_ms, mut oldest_ms, mut asked) = (from_ms, 0, 0);
        for now_ms in (from_ms..from_ms + ms).step_by(10) {
            if keeper && now_ms % BEAT == 0 {
                grown_ms = now_ms;
            }
            let age_ms = now_ms - grown_ms;
            oldest_ms = oldest_ms.max(age_ms);
            if witness.due_in_ms(age_ms, BEAT, now_ms) == 0 {
                witness.asks(now_ms);
                asked += 1;
                grown_ms = if commits { now_ms } else { grown_ms };
            }
        }
        (oldest_ms, asked)
    }

    #[test]
    fn while_the_primarys_keeper_probes_nothing_is_asked_for() {
        assert_eq!(play(&mut Witness::default(), 10_000, 60_000, true, true).1, 0);
    }

    #[test]
    fn a_keeper_that_is_away_is_stood_in_for_until_it_is_back() {
        let mut witness = Witness::default();
        play(&mut witness, 10_000, 10_000, true, true);
        let (oldest_ms, asked) = play(&mut witness, 20_000, 60_000, false, true);
        assert!(oldest_ms <= BEAT * 5 / 4 + 10, "{oldest_ms}");
        assert!((60..=121).contains(&asked), "{asked}");
        play(&mut witness, 80_000, 21_000, true, true);
        assert_eq!(play(&mut witness, 101_000, 60_000, true, true).1, 0, "it is back");
    }

    #[test]
    fn a_primary_that_does_not_commit_is_asked_again_but_not_all_the_time() {
        let (oldest_ms, asked) = play(&mut Witness::default(), 10_000, 10_000, false, false);
        assert_eq!(oldest_ms, 9_990, "nobody vouches for it");
        assert!(asked <= 4 * 10, "{asked}");
    }

    #[test]
    fn any_interval_is_served() {
        let mut witness = Witness::default();
        for interval_ms in [100, 60_000] {
            assert_eq!(witness.due_in_ms(0, interval_ms, 0), interval_ms * 5 / 4);
            assert_eq!(witness.due_in_ms(u64::MAX, interval_ms, 0), 0);
            witness = Witness::default();
        }
    }
}
