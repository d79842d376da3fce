//! `vigil-sim --seeds N | --seed S --trace | --seed S --shrink | --break NAME --seeds N |
//! --list-breaks`

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use vigil_core::mutation::{self, Mutation};
use vigil_sim::batch::{Batch, Outcome, threads};
use vigil_sim::scenario::Scenario;
use vigil_sim::shrink::shrink;
use vigil_sim::world::{Violation, World};

/// Drives the production code of monitor and keepers through random fault schedules.
///
/// Exit code 0: nothing was violated; 1: something was; 2: bad arguments.
#[derive(Parser)]
#[command(version)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct Args {
    /// Run this many seeds, counted from --first; 0 goes on without end.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    seeds: u64,
    #[arg(long, default_value_t = 1, value_name = "S")]
    first: u64,
    /// Run one seed only.
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Print one line per event of that seed.
    #[arg(long, requires = "seed")]
    trace: bool,
    /// With --seed: keep only these entries of its schedule (`-` for none).
    #[arg(long, requires = "seed", value_name = "0,3,…")]
    keep: Option<String>,
    /// Leave out what the first violation found does not need, and print the command that replays
    /// what is left.
    #[arg(long)]
    shrink: bool,
    /// Break this rule of safety, to see that it is noticed.
    #[arg(long = "break", value_name = "NAME", value_parser = rule)]
    broken: Option<Mutation>,
    /// The rules that can be broken.
    #[arg(long)]
    list_breaks: bool,
    /// What the seeds met: faults by phase of the plan, and the rare things.
    #[arg(long)]
    coverage: bool,
    #[arg(long, default_value_t = threads(), value_name = "N")]
    threads: usize,
}

fn rule(name: &str) -> Result<Mutation, String> {
    Mutation::named(name).ok_or_else(|| "no such rule; --list-breaks names them".to_owned())
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list_breaks {
        for mutation in Mutation::ALL {
            say(&format!("{:<24}{}", mutation.name(), mutation.about()));
        }
        return ExitCode::SUCCESS;
    }
    mutation::set(args.broken);
    match args.seed {
        Some(seed) => one(&args, seed),
        None => many(&args),
    }
}

/// A reader that has seen enough is no error.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn one(args: &Args, seed: u64) -> ExitCode {
    let mut scenario = Scenario::of(seed);
    if let Some(keep) = &args.keep {
        let entries: Vec<usize> = keep.split(',').filter_map(|n| n.trim().parse().ok()).collect();
        scenario = scenario.keeping(&entries);
    }
    if args.shrink {
        return shortest(args, &scenario);
    }
    let begun = Instant::now();
    let mut world = World::new(scenario, args.trace);
    world.run();
    world.trace.iter().for_each(|line| say(line));
    if args.trace {
        world.last_view().iter().for_each(|line| say(line));
    }
    let coverage = world.coverage;
    let violations = world.violation.map(|v| (seed, v)).into_iter().collect();
    end(args, begun, &Outcome { seeds: 1, violations, coverage })
}

fn many(args: &Args) -> ExitCode {
    let begun = Instant::now();
    let seeds = if args.seeds == 0 { u64::MAX - args.first } else { args.seeds };
    let batch = Batch {
        first: args.first,
        seeds,
        broken: args.broken,
        until_found: args.broken.is_some() || args.shrink,
        threads: args.threads,
    };
    let outcome = batch.run(&|seed, violation| say(&words(args, seed, None, violation)));
    if args.shrink
        && let Some((seed, _)) = outcome.violations.first()
    {
        shortest(args, &Scenario::of(*seed));
    }
    end(args, begun, &outcome)
}

fn shortest(args: &Args, scenario: &Scenario) -> ExitCode {
    let Some((left, violation)) = shrink(scenario) else {
        say(&format!("seed {}: nothing is violated", scenario.seed));
        return ExitCode::SUCCESS;
    };
    for number in &left {
        say(&format!("  [{number}] {:?}", scenario.schedule[*number]));
    }
    let count = left.len();
    say(&format!("shrunk from {} to {count} faults", scenario.schedule.len()));
    let entries: Vec<String> = left.iter().map(ToString::to_string).collect();
    let keep = if entries.is_empty() { "-".to_owned() } else { entries.join(",") };
    say(&words(args, scenario.seed, Some(&keep), &violation));
    ExitCode::FAILURE
}

/// A violation and the command that replays it.
fn words(args: &Args, seed: u64, keep: Option<&str>, violation: &Violation) -> String {
    let keep = keep.map(|k| format!(" --keep {k}")).unwrap_or_default();
    let broken = args.broken.map(|m| format!(" --break {}", m.name())).unwrap_or_default();
    format!(
        "seed {seed}: at {} ms: {}: {}\n  replay: vigil-sim --seed {seed}{keep}{broken} --trace",
        violation.at_ms, violation.invariant, violation.what
    )
}

fn end(args: &Args, begun: Instant, outcome: &Outcome) -> ExitCode {
    let coverage = &outcome.coverage;
    if args.coverage {
        coverage.lines().iter().for_each(|line| say(line));
        let per = |n: u64| n / outcome.seeds.max(1);
        say(&format!(
            "per seed: {} faults, {} commits, {} ms of simulated time",
            per(coverage.faults),
            per(coverage.commits),
            per(coverage.simulated_ms)
        ));
    }
    let ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
    let violations = outcome.violations.len();
    say(&serde_json::json!({
        "seeds": outcome.seeds,
        "violations": violations,
        "events": coverage.events,
        "seeds_per_s": outcome.seeds.saturating_mul(1000) / ms,
    })
    .to_string());
    ExitCode::from(u8::from(violations > 0))
}
