//! `vigil-sim --seeds N | --seed S --trace`

use std::time::Instant;

use clap::Parser;
use vigil_sim::rng::Rng;
use vigil_sim::world::World;

/// Drives the production code of monitor and keepers through random fault schedules.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Run this many seeds, counted from --first.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Run one seed only.
    #[arg(long)]
    seed: Option<u64>,
    /// Print one line per event.
    #[arg(long)]
    trace: bool,
}

fn world(seed: u64, trace: bool) -> World {
    let mut rng = Rng::new(seed ^ 0x5EED);
    let nodes = [1, 2, 3, 3, 3, 4, 5][usize::try_from(rng.range(0, 6)).unwrap_or(2)];
    let sync = u32::from(nodes >= 3 && rng.chance(30));
    let faults = rng.range(3, 10);
    let mut world = World::new(seed, nodes, sync);
    world.tracing = trace;
    world.run(faults);
    world
}

#[expect(clippy::print_stdout, reason = "this is the program's output")]
fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let begun = Instant::now();
    let (first, count) = args.seed.map_or((args.first, args.seeds), |seed| (seed, 1));
    let (mut violations, mut events) = (0u64, 0u64);
    for seed in first..first + count {
        let world = world(seed, args.trace);
        events += world.stats.commits + world.stats.faults;
        if args.trace {
            for line in &world.trace {
                println!("{line}");
            }
            println!("{:?}", world.stats);
            for line in world.monitor_view() {
                println!("{line}");
            }
        }
        if let Some(violation) = &world.violation {
            violations += 1;
            println!("seed {seed}: at {} ms: {}", violation.at_ms, violation.what);
        }
    }
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    println!(
        "{}",
        serde_json::json!({"seeds": count, "violations": violations, "events": events,
            "seeds_per_s": count * 1000 / ms})
    );
    std::process::ExitCode::from(u8::from(violations > 0))
}
