//! The clocks that are handed into the core.

use rustix::time::{ClockId, Timespec, clock_gettime};
use vigil_core::ids::Now;

/// Counts while the machine sleeps, so that a monitor that was asleep knows.
pub fn now() -> Now {
    let boot = clock_gettime(ClockId::Boottime);
    let wall = clock_gettime(ClockId::Realtime);
    Now { mono_ms: u64::try_from(milliseconds(boot)).unwrap_or(0), wall_ms: milliseconds(wall) }
}

fn milliseconds(time: Timespec) -> i64 {
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

/// A wall-clock time for people, RFC 3339.
pub fn text(wall_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(wall_ms).unwrap_or_default().to_string()
}
