//! How often the local Postgres is looked at. The driver says how often it would like to; while
//! nothing changes, or a long step runs, less will do.

use std::time::{Duration, Instant};

use vigil_core::node::observed::{Observed, ServerView};

/// A look that has not come back after so long is asked for again.
const OVERDUE: Duration = Duration::from_secs(1);

pub(crate) struct Pace {
    /// When something last changed.
    news_at: Instant,
    last: Instant,
    pending: bool,
    interval: Duration,
}

impl Pace {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Pace { news_at: now, last: now, pending: false, interval: Duration::ZERO }
    }

    pub(crate) fn news(&mut self) {
        self.news_at = Instant::now();
    }

    pub(crate) fn asked(&mut self) {
        self.pending = true;
        self.last = Instant::now();
    }

    pub(crate) fn looked(&mut self) {
        self.pending = false;
        self.last = Instant::now();
    }

    /// Takes note if the two differ in something that is worth a closer look.
    pub(crate) fn compare(&mut self, before: Option<&Observed>, now: &Observed) {
        if before.is_none_or(|before| gist(before) != gist(now)) {
            self.news();
        }
    }

    /// `wish_ms`: what the driver asks for. `step_since`: how long a step has been running.
    pub(crate) fn plan(&mut self, wish_ms: u64, step_since: Option<Duration>) {
        let quiet = self.news_at.elapsed();
        let floor_ms = match step_since {
            // Its end is told anyway.
            Some(since) if since > Duration::from_secs(1) => 100,
            Some(_) => 50,
            _ if quiet > Duration::from_secs(5) => 100,
            _ if quiet > Duration::from_secs(1) => 20,
            _ => 0,
        };
        self.interval = Duration::from_millis(wish_ms.max(floor_ms));
    }

    pub(crate) fn is_look_due(&self) -> bool {
        self.wake_in().is_zero()
    }

    pub(crate) fn wake_in(&self) -> Duration {
        let after = if self.pending { OVERDUE } else { self.interval };
        (self.last + after).saturating_duration_since(Instant::now())
    }
}

/// What makes two looks different in kind: not the positions and ages that always move.
fn gist(seen: &Observed) -> (u8, [bool; 6], usize) {
    match &seen.server {
        ServerView::Down => (0, [false; 6], 0),
        ServerView::Orphans => (1, [false; 6], 0),
        ServerView::Starting => (2, [false; 6], 0),
        ServerView::Hung => (3, [false; 6], 0),
        ServerView::Up(up) => {
            let flags = [
                up.in_recovery,
                up.streaming,
                up.detached,
                up.replay_idle,
                up.streamed,
                up.checkpoint_tli == up.tli,
            ];
            (4, flags, up.senders.iter().filter(|s| s.streaming).count())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_step_and_a_quiet_time_slow_it_down() {
        let mut pace = Pace::new();
        pace.plan(4, None);
        assert_eq!(pace.interval, Duration::from_millis(4));
        pace.plan(4, Some(Duration::from_mins(1)));
        assert_eq!(pace.interval, Duration::from_millis(100));
        pace.plan(500, Some(Duration::from_mins(1)));
        assert_eq!(pace.interval, Duration::from_millis(500));
    }
}
