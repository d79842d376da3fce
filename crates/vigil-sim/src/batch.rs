//! Many seeds on every core.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vigil_core::mutation::{self, Mutation};

use crate::coverage::Coverage;
use crate::scenario::Scenario;
use crate::world::{Violation, World};

/// What a batch of seeds came to.
#[derive(Default)]
pub struct Outcome {
    /// Seeds that ran.
    pub seeds: u64,
    /// By seed.
    pub violations: Vec<(u64, Violation)>,
    pub coverage: Coverage,
}

/// How a batch is run.
#[derive(Clone, Copy)]
pub struct Batch {
    pub first: u64,
    pub seeds: u64,
    /// A rule of safety that is broken meanwhile.
    pub broken: Option<Mutation>,
    /// Stop at the first violation.
    pub until_found: bool,
    pub threads: usize,
}

impl Batch {
    /// Runs it. `told` is called for every violation when it is found, from any thread.
    ///
    /// # Panics
    /// When a run panics: then the simulator itself is wrong.
    pub fn run(self, told: &(dyn Fn(u64, &Violation) + Sync)) -> Outcome {
        let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let work = || {
            mutation::set(self.broken);
            let mut mine = Outcome::default();
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.seeds {
                    break;
                }
                let seed = self.first + number;
                let mut world = World::new(Scenario::of(seed), false);
                world.run();
                mine.seeds += 1;
                mine.coverage.add(&world.coverage);
                if let Some(violation) = world.violation {
                    told(seed, &violation);
                    mine.violations.push((seed, violation));
                    stop.fetch_or(self.until_found, Ordering::Relaxed);
                }
            }
            mine
        };
        let mut sum = Outcome::default();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads.max(1)).map(|_| scope.spawn(work)).collect();
            for thread in threads {
                let part = thread.join().expect("a run panicked");
                sum.seeds += part.seeds;
                sum.violations.extend(part.violations);
                sum.coverage.add(&part.coverage);
            }
        });
        sum.violations.sort_by_key(|(seed, _)| *seed);
        sum
    }
}

/// As many threads as there are cores.
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
