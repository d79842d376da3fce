//! A bounded part of what `vigil-sim` does without end, and that one seed is one run.

use vigil_sim::batch::{Batch, threads};
use vigil_sim::scenario::{Kind, Scenario};
use vigil_sim::world::World;

fn run(seed: u64, tracing: bool) -> World {
    let mut world = World::new(Scenario::of(seed), tracing);
    world.run();
    world
}

#[test]
fn no_seed_breaks_an_invariant() {
    let batch =
        Batch { first: 1, seeds: 1500, broken: None, until_found: false, threads: threads() };
    let outcome = batch.run(&|_, _| {});
    let found: Vec<_> = outcome.violations.iter().take(3).collect();
    assert!(found.is_empty(), "{found:#?}");

    // Runs without these would prove nothing.
    let did = &outcome.coverage;
    let per_seed = |n: u64| n / outcome.seeds;
    assert!(per_seed(did.faults) >= 5 && per_seed(did.commits) >= 200, "{did:?}");
    let rare = [
        did.renewals,
        did.fetches,
        did.rewinds,
        did.clones,
        did.degrades,
        did.losses_accepted,
        did.recoveries,
        did.mid_change,
    ];
    assert!(rare.iter().all(|n| *n > 0), "{did:?}");
    let missing: Vec<_> =
        Kind::ALL.iter().filter(|(kind, _)| !did.table.contains_key(&(*kind, 1))).collect();
    assert!(missing.is_empty(), "never drawn: {missing:?}");
}

#[test]
fn one_seed_is_one_run_byte_for_byte() {
    for seed in [3, 42, 1378] {
        let (one, two) = (run(seed, true), run(seed, true));
        assert!(!one.trace.is_empty());
        assert_eq!(one.trace.join("\n"), two.trace.join("\n"), "seed {seed}");
        // Tracing only looks on.
        let silent = run(seed, false);
        assert_eq!(silent.coverage, one.coverage, "seed {seed}");
        assert_eq!(silent.last_view(), one.last_view(), "seed {seed}");
    }
    assert_ne!(run(3, true).trace, run(4, true).trace, "the seed matters");
}
