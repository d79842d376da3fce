//! The harm itself, and what an operator or a service manager would do about it.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::kinds::Fault;
use crate::harness::{FewDescriptors, Lab, Part, Process, Random, Throttle, Writers, millis, secs};

/// Percent of one processor that is left to the starved.
const STARVED: u32 = 5;

/// Returns when the cause is gone and commits are acknowledged again.
pub(crate) fn inflict(
    lab: &mut Lab,
    writers: &Writers,
    random: &mut Random,
    fault: Fault,
    target: &str,
) {
    let pause = millis(random.between(300, 4_000));
    match fault {
        Fault::NodeKilled => {
            lab.kill(target, Part::All);
            thread::sleep(pause);
            lab.start(target);
        }
        Fault::PostgresKilled => lab.kill(target, Part::Postgres),
        Fault::PostmasterKilled => lab.kill(target, Part::Postmaster),
        Fault::BackendKilled => kill_a_backend(lab, target),
        Fault::KeeperKilled => {
            lab.kill(target, Part::Keeper);
            thread::sleep(pause);
            lab.start(target);
        }
        Fault::NodeFrozen => freeze(lab, target, Part::All, pause * 2),
        Fault::PostgresFrozen => freeze(lab, target, Part::Postgres, pause * 2),
        Fault::PostgresStopped => lab.stop(target, Part::Postgres),
        Fault::KeeperStopped => {
            lab.stop(target, Part::All);
            thread::sleep(pause);
            lab.start(target);
        }
        Fault::NodeCutOff => {
            lab.network().cable(target, false);
            thread::sleep(pause * 2);
            lab.network().cable(target, true);
        }
        Fault::Switchover => switch_over(lab),
        Fault::DataDiskFull => {
            lab.data_disk(target).fill();
            thread::sleep(pause);
            lab.data_disk(target).free();
        }
        Fault::StateDiskFull => {
            lab.state_disk(target).fill();
            thread::sleep(pause);
            lab.state_disk(target).free();
        }
        Fault::NodeStarved => starve(lab, target, Part::All, pause * 2),
        Fault::KeeperStarved => starve(lab, target, Part::Keeper, pause * 2),
        Fault::KeeperWithoutFiles => {
            let keeper = lab.processes(target, Part::Keeper)[0];
            let few = FewDescriptors::of(keeper, 4);
            thread::sleep(pause * 2);
            drop(few);
        }
        Fault::MonitorKilled => {
            lab.kill("monitor", Part::All);
            thread::sleep(pause);
            lab.start("monitor");
        }
        Fault::MonitorFrozen => freeze(lab, "monitor", Part::All, pause),
        Fault::MonitorStarved => starve(lab, "monitor", Part::All, pause),
        Fault::StandbysKilled => {
            let standbys = lab.others(&[target]);
            let parts: Vec<(&str, Part)> =
                standbys.iter().map(|n| (n.as_str(), Part::All)).collect();
            lab.kill_together(&parts);
            thread::sleep(pause);
            for standby in &standbys {
                lab.start(standby);
            }
        }
        Fault::ClusterKilled => {
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

fn freeze(lab: &mut Lab, target: &str, part: Part, pause: Duration) {
    lab.freeze(target, part);
    thread::sleep(pause);
    lab.thaw(target);
}

fn starve(lab: &Lab, target: &str, part: Part, pause: Duration) {
    let throttle = Throttle::to(STARVED, &lab.processes(target, part));
    thread::sleep(pause);
    drop(throttle);
}

fn kill_a_backend(lab: &mut Lab, target: &str) {
    let statement = "select pid from pg_stat_activity
        where backend_type in ('client backend', 'walreceiver')
          and application_name in ('vigil-writer', '') and pid <> pg_backend_pid()
        order by application_name desc limit 1";
    let pid = lab.value(target, statement).and_then(|p| p.parse().ok());
    let Some(backend) = pid.and_then(Process::of) else {
        lab.kill(target, Part::Postgres);
        return;
    };
    let before = lab.postmaster(target);
    backend.signal(Signal::KILL);
    lab.wait_until("the server ends with its backend", secs(10), || {
        lab.postmaster(target) != before
    });
}

fn switch_over(lab: &Lab) {
    // Refused or given up where the load itself makes a change at this moment.
    let begun = Instant::now();
    lab.wait_until("the switchover is done", secs(60), || {
        match lab.pgctl(&["perform-failover", "--json"]).code {
            Some(0) => true,
            Some(5 | 7) => false,
            code => panic!("perform-failover ended with {code:?} after {:.1?}", begun.elapsed()),
        }
    });
}
