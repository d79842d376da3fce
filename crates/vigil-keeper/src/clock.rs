//! The clocks that the core is handed.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use vigil_core::ids::Now;

/// Milliseconds of a duration; a duration that does not fit is as good as endless.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Gives [`Now`] counted from its creation.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    pub fn new() -> Self {
        Clock { start: Instant::now() }
    }

    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now {
            mono_ms: ms(self.start.elapsed()),
            wall_ms: i64::try_from(wall.as_millis()).unwrap_or(0),
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}
