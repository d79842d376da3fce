//! One fault after the other, drawn by a seed.

mod inflict;
mod kinds;
mod users;

use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use inflict::inflict;
use kinds::{Deck, Means};
use users::change_a_setting;

use crate::harness::{
    Lab, Network, Random, State, Throttle, all_of_it, is_root, millis, not_run, secs,
};

/// In a usual run.
const FAULTS: usize = 6;

/// How long a run with `PGVIGIL_TEST_ALL` goes on, minutes.
const NIGHT_MINUTES: u64 = 60;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {text}")))
}

fn seed() -> u64 {
    number("PGVIGIL_FAULT_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos()) ^ now.as_secs()
    })
}

fn means() -> Means {
    let (network, throttle) = (Network::missing(), Throttle::missing());
    if let Some(why) = network {
        not_run("node_cut_off among the random faults", why);
    }
    if let Some(why) = throttle {
        not_run("starvation among the random faults", why);
    }
    if !is_root() {
        not_run("full disks among the random faults", "needs root");
    }
    Means { network: network.is_none(), disks: is_root(), throttle: throttle.is_none() }
}

#[test]
fn random_faults_one_after_the_other_lose_nothing() {
    let seed = seed();
    println!("PGVIGIL_FAULT_SEED={seed}");
    let mut random = Random::new(seed);
    let night =
        all_of_it().then(|| secs(60 * number("PGVIGIL_NIGHT_MINUTES").unwrap_or(NIGHT_MINUTES)));
    let means = means();
    let mut deck = Deck::new(means);
    let mut lab = Lab::builder()
        .heartbeat(millis(500))
        .network(means.network)
        .disks(means.disks)
        .limit(night.unwrap_or(secs(40 * FAULTS as u64)) + secs(120))
        .start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let (begun, mut faults, mut outages) = (Instant::now(), 0, Vec::new());
    let mut primary = "node1".to_owned();
    while night.map_or(faults < FAULTS, |night| begun.elapsed() < night) {
        faults += 1;
        if random.index(2) == 0 {
            println!("set: {}", change_a_setting(&lab, &mut random, &primary));
        }
        let (fault, on_primary) = deck.draw(&mut random);
        let target = if on_primary || !fault.hits_one_node() {
            primary.clone()
        } else {
            let standbys = lab.others(&[&primary]);
            standbys[random.index(standbys.len())].clone()
        };
        println!("fault {faults}: {} {target}", fault.kind());
        let struck = Instant::now();
        inflict(&mut lab, &writers, &mut random, fault, &target);
        let state: State = lab.wait_until_whole(secs(60));
        let (before, outage) = (primary.clone(), writers.gap(struck));
        state.primary().unwrap().clone_into(&mut primary);
        println!(
            "fault {faults}: healed after {:.1?}, outage {outage:.0?}, {primary} is primary",
            struck.elapsed(),
        );
        if fault.leaves_the_primary_at_work() {
            assert_eq!(before, primary, "{} was no reason to replace it", fault.kind());
        }
        outages.push(outage);
        thread::sleep(millis(random.between(200, 3_000)));
    }
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    println!(
        "{faults} faults, outages {:.1?} in all, the longest {:.1?}",
        outages.iter().sum::<Duration>(),
        outages.iter().max().unwrap()
    );
    writers.verify_everywhere(&lab);
}
