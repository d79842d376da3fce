//! One fault after the other, drawn by a seed.

use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::harness::{
    Lab, Network, Part, Process, Random, State, Writers, all_of_it, millis, not_run, secs,
};

/// `tests/faults.json` lists them for whoever asks; a test below holds the two together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NodeKilled,
    PostgresKilled,
    PostmasterKilled,
    BackendKilled,
    KeeperKilled,
    NodeFrozen,
    PostgresFrozen,
    PostgresStopped,
    KeeperStopped,
    NodeCutOff,
    Switchover,
    MonitorKilled,
    MonitorFrozen,
    StandbysKilled,
    ClusterKilled,
}

use Fault::{
    BackendKilled, ClusterKilled, KeeperKilled, KeeperStopped, MonitorFrozen, MonitorKilled,
    NodeCutOff, NodeFrozen, NodeKilled, PostgresFrozen, PostgresKilled, PostgresStopped,
    PostmasterKilled, StandbysKilled, Switchover,
};

impl Fault {
    const ALL: [Self; 15] = [
        NodeKilled,
        PostgresKilled,
        PostmasterKilled,
        BackendKilled,
        KeeperKilled,
        NodeFrozen,
        PostgresFrozen,
        PostgresStopped,
        KeeperStopped,
        NodeCutOff,
        Switchover,
        MonitorKilled,
        MonitorFrozen,
        StandbysKilled,
        ClusterKilled,
    ];

    const fn kind(self) -> &'static str {
        match self {
            NodeKilled => "node_killed",
            PostgresKilled => "postgres_killed",
            PostmasterKilled => "postmaster_killed",
            BackendKilled => "backend_killed",
            KeeperKilled => "keeper_killed",
            NodeFrozen => "node_frozen",
            PostgresFrozen => "postgres_frozen",
            PostgresStopped => "postgres_stopped",
            KeeperStopped => "keeper_stopped",
            NodeCutOff => "node_cut_off",
            Switchover => "switchover",
            MonitorKilled => "monitor_killed",
            MonitorFrozen => "monitor_frozen",
            StandbysKilled => "standbys_killed",
            ClusterKilled => "cluster_killed",
        }
    }

    /// Hits one node, and the primary as well as a standby.
    const fn hits_one_node(self) -> bool {
        !matches!(self, MonitorKilled | MonitorFrozen | StandbysKilled | ClusterKilled)
    }
}

/// Which faults, and whether the primary is hit: three of four do. Every kind comes once before any
/// comes again.
fn draw(random: &mut Random, count: usize, network: bool) -> Vec<(Fault, bool)> {
    let usable = |f: &Fault| network || *f != NodeCutOff;
    let deck = |random: &mut Random, one_node: bool| {
        let mut deck: Vec<Fault> = Fault::ALL
            .into_iter()
            .filter(usable)
            .filter(|f| f.hits_one_node() == one_node)
            .collect();
        random.shuffle(&mut deck);
        deck
    };
    let (mut nodes, mut others) = (Vec::new(), Vec::new());
    (0..count)
        .map(|n| {
            if n % 4 == 3 {
                if others.is_empty() {
                    others = deck(random, false);
                    // And some that hit a standby.
                    others.push(NodeKilled);
                    others.push(PostgresFrozen);
                    random.shuffle(&mut others);
                }
                (others.pop().unwrap(), false)
            } else {
                if nodes.is_empty() {
                    nodes = deck(random, true);
                }
                (nodes.pop().unwrap(), true)
            }
        })
        .collect()
}

/// Does the harm, and what an operator or a service manager would do about it.
fn inflict(lab: &mut Lab, writers: &Writers, random: &mut Random, fault: Fault, target: &str) {
    let pause = millis(random.between(300, 4_000));
    match fault {
        NodeKilled => {
            lab.kill(target, Part::All);
            thread::sleep(pause);
            lab.start(target);
        }
        PostgresKilled => lab.kill(target, Part::Postgres),
        PostmasterKilled => lab.kill(target, Part::Postmaster),
        BackendKilled => {
            let statement = "select pid from pg_stat_activity
                where backend_type in ('client backend', 'walreceiver')
                  and application_name in ('vigil-writer', '') and pid <> pg_backend_pid()
                order by application_name desc limit 1";
            let pid = lab.value(target, statement).and_then(|p| p.parse().ok());
            if let Some(backend) = pid.and_then(Process::of) {
                let before = lab.postmaster(target);
                backend.signal(Signal::KILL);
                lab.wait_until("the server ends with its backend", secs(10), || {
                    lab.postmaster(target) != before
                });
            } else {
                lab.kill(target, Part::Postgres);
            }
        }
        KeeperKilled => {
            lab.kill(target, Part::Keeper);
            thread::sleep(pause);
            lab.start(target);
        }
        NodeFrozen => {
            lab.freeze(target, Part::All);
            thread::sleep(pause * 2);
            lab.thaw(target);
        }
        PostgresFrozen => {
            lab.freeze(target, Part::Postgres);
            thread::sleep(pause * 2);
            lab.thaw(target);
        }
        PostgresStopped => lab.stop(target, Part::Postgres),
        KeeperStopped => {
            lab.stop(target, Part::All);
            thread::sleep(pause);
            lab.start(target);
        }
        NodeCutOff => {
            lab.network().cable(target, false);
            thread::sleep(pause * 2);
            lab.network().cable(target, true);
        }
        Switchover => {
            // Refused or given up where the load itself makes a change at this moment.
            lab.wait_until("the switchover is done", secs(60), || {
                match lab.pgctl(&["perform-failover", "--json"]).code {
                    Some(0) => true,
                    Some(5 | 7) => false,
                    code => panic!("perform-failover ended with {code:?}"),
                }
            });
        }
        MonitorKilled => {
            lab.kill("monitor", Part::All);
            thread::sleep(pause);
            lab.start("monitor");
        }
        MonitorFrozen => {
            lab.freeze("monitor", Part::All);
            thread::sleep(pause);
            lab.thaw("monitor");
        }
        StandbysKilled => {
            let standbys = lab.others(&[target]);
            let parts: Vec<(&str, Part)> =
                standbys.iter().map(|n| (n.as_str(), Part::All)).collect();
            lab.kill_together(&parts);
            thread::sleep(pause);
            for standby in &standbys {
                lab.start(standby);
            }
        }
        ClusterKilled => {
            let mut hosts = lab.node_names();
            hosts.push("monitor".to_owned());
            let parts: Vec<(&str, Part)> = hosts.iter().map(|n| (n.as_str(), Part::All)).collect();
            lab.kill_together(&parts);
            random.shuffle(&mut hosts);
            for host in &hosts {
                lab.start(host);
                thread::sleep(pause / 4);
            }
        }
    }
    writers.wait_for_writes(secs(60));
}

fn seed() -> u64 {
    if let Ok(seed) = std::env::var("PGVIGIL_FAULT_SEED") {
        return seed.parse().expect("PGVIGIL_FAULT_SEED is a number");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos()) ^ now.as_secs()
}

#[test]
fn random_faults_one_after_the_other_lose_nothing() {
    let seed = seed();
    println!("PGVIGIL_FAULT_SEED={seed}");
    let mut random = Random::new(seed);
    let count = if all_of_it() { 20 } else { 6 };
    let network = Network::missing();
    if let Some(why) = network {
        not_run("node_cut_off among the random faults", why);
    }
    let plan = draw(&mut random, count, network.is_none());
    let mut lab = Lab::builder()
        .heartbeat(millis(500))
        .network(network.is_none())
        .limit(secs(60 + 40 * count as u64))
        .start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let mut primary = "node1".to_owned();
    for (n, (fault, on_primary)) in plan.into_iter().enumerate() {
        let target = if on_primary || !fault.hits_one_node() {
            primary.clone()
        } else {
            let standbys = lab.others(&[&primary]);
            standbys[random.index(standbys.len())].clone()
        };
        println!("fault {}: {} {target}", n + 1, fault.kind());
        let begun = Instant::now();
        inflict(&mut lab, &writers, &mut random, fault, &target);
        let state: State = lab.wait_until_whole(secs(60));
        state.primary().unwrap().clone_into(&mut primary);
        println!(
            "fault {}: healed after {:.1?}, outage {:.0?}, {primary} is primary",
            n + 1,
            begun.elapsed(),
            writers.gap(begun)
        );
        thread::sleep(millis(random.between(200, 3_000)));
    }
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn the_list_of_faults_names_every_kind() {
    let list: serde_json::Value = serde_json::from_str(include_str!("../faults.json")).unwrap();
    let listed: Vec<&str> =
        list.as_array().unwrap().iter().map(|f| f["kind"].as_str().unwrap()).collect();
    let known: Vec<&str> = Fault::ALL.iter().map(|f| f.kind()).collect();
    assert_eq!(listed, known);
}

#[test]
fn at_least_half_of_the_faults_hit_the_primary_and_eight_kinds_occur() {
    for seed in 0..200 {
        for network in [false, true] {
            let plan = draw(&mut Random::new(seed), 20, network);
            let on_primary = plan.iter().filter(|(_, primary)| *primary).count();
            assert!(on_primary * 2 >= plan.len(), "{plan:?}");
            let mut kinds: Vec<&str> = plan.iter().map(|(f, _)| f.kind()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            assert!(kinds.len() >= 8, "{plan:?}");
        }
    }
}
