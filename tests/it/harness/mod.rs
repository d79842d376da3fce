//! What the scenarios are made of.

mod disk;
mod fingerprint;
mod lab;
mod log;
mod network;
mod pg;
mod process;
mod random;
mod state;
mod throttle;
mod workdir;
mod writers;

use std::time::{Duration, Instant};

pub(crate) use disk::Disk;
pub(crate) use fingerprint::fingerprint;
pub(crate) use lab::{Lab, Part};
pub(crate) use network::Network;
pub(crate) use pg::{Address, Session, Stream, config, query};
pub(crate) use process::{Output, Owned, Process, own, run, under};
pub(crate) use random::Random;
pub(crate) use state::{State, has_fields};
pub(crate) use throttle::{FewDescriptors, Throttle};
pub(crate) use workdir::{Workdir, built_with_fail_points, free_port, is_root, postgres_bin};
pub(crate) use writers::{Ack, Writers, longest_gap, two_at_once};

/// A duration in whole seconds: deadlines read better so.
pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// True where the long versions of the repeating scenarios were asked for.
pub(crate) fn all_of_it() -> bool {
    std::env::var_os("PGVIGIL_TEST_ALL").is_some_and(|v| !v.is_empty() && v != "0")
}

/// Says that a scenario did not run, in the form that `scripts/test` collects.
pub(crate) fn not_run(what: &str, why: &str) {
    println!("NOT RUN: {what} ({why})");
}

/// Waits for a condition that needs no state of the cluster; panics when it does not come.
pub(crate) fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < within, "{what}: not within {:.1} s", within.as_secs_f64());
        std::thread::sleep(millis(20));
    }
}
