//! A bounded part of what `vigil-sim --seeds N` does without end, and that one seed is one run.

use vigil_sim::rng::Rng;
use vigil_sim::world::{Stats, World};

/// The world of one seed: mostly three nodes, sometimes fewer or more, sometimes with
/// number-sync-standbys 1.
fn run(seed: u64, tracing: bool) -> World {
    let mut rng = Rng::new(seed ^ 0x5EED);
    let nodes = if rng.chance(50) { 3 } else { usize::try_from(rng.range(1, 5)).unwrap_or(3) };
    let sync = u32::from(nodes >= 3 && rng.chance(30));
    let faults = rng.range(3, 10);
    let mut world = World::new(seed, nodes, sync);
    world.tracing = tracing;
    world.run(faults);
    world
}

/// Runs seeds on two threads and returns what they did all in all.
fn run_all(seeds: std::ops::RangeInclusive<u64>) -> (Vec<String>, Stats) {
    let (first, last) = (*seeds.start(), *seeds.end());
    let half = |parity: u64| {
        let mut violations = Vec::new();
        let mut sum = Stats::default();
        for seed in (first..=last).filter(|seed| seed % 2 == parity) {
            let world = run(seed, false);
            if let Some(violation) = &world.violation {
                violations.push(format!("seed {seed}: {} ms: {}", violation.at_ms, violation.what));
            }
            add(&mut sum, &world.stats);
        }
        (violations, sum)
    };
    std::thread::scope(|scope| {
        let odd = scope.spawn(move || half(1));
        let (mut violations, mut sum) = half(0);
        let (more, other) = odd.join().expect("a world panicked");
        violations.extend(more);
        add(&mut sum, &other);
        (violations, sum)
    })
}

fn add(sum: &mut Stats, other: &Stats) {
    sum.commits += other.commits;
    sum.faults += other.faults;
    sum.elections += other.elections;
    sum.promotions += other.promotions;
    sum.rewinds += other.rewinds;
    sum.clones += other.clones;
    sum.fetches += other.fetches;
    sum.renewals += other.renewals;
}

#[test]
fn no_seed_breaks_an_invariant() {
    let (violations, did) = run_all(1..=200);
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    // A run without these would prove nothing.
    let Stats { commits, faults, elections, promotions, rewinds, clones, fetches, .. } = did;
    let rare = [elections, promotions, rewinds, clones, fetches];
    assert!(commits > 100_000 && faults > 500 && rare.iter().all(|n| *n > 0), "{did:?}");
}

#[test]
fn one_seed_is_one_run_byte_for_byte() {
    for seed in [3, 42] {
        let (one, two) = (run(seed, true), run(seed, true));
        assert!(!one.trace.is_empty());
        assert_eq!(one.trace.join("\n"), two.trace.join("\n"), "seed {seed}");
        // Tracing only looks on.
        let silent = run(seed, false);
        assert_eq!(format!("{:?}", silent.stats), format!("{:?}", one.stats), "seed {seed}");
        assert_eq!(silent.monitor_view(), one.monitor_view(), "seed {seed}");
    }
    assert_ne!(run(3, true).trace, run(4, true).trace, "the seed matters");
}
