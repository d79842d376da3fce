//! The network breaks. Every host is a network namespace; the Unix sockets lie in the file system,
//! so that a cut-off node can be looked into.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Address, Lab, Network, Part, Session, State, millis, not_run, secs};

fn lab_with_network(test: &str, heartbeat: Duration) -> Option<Lab> {
    if let Some(why) = Network::missing() {
        not_run(test, why);
        return None;
    }
    Some(Lab::builder().heartbeat(heartbeat).network(true).start())
}

/// Inserts into one node, whoever it thinks it is, and keeps the time of every success.
struct Insider {
    stop: Arc<AtomicBool>,
    successes: Arc<Mutex<Vec<Instant>>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Insider {
    fn start(address: &Address) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let successes = Arc::<Mutex<Vec<Instant>>>::default();
        // Several: one that waits for a standby must not stop the others. None gives up waiting, as
        // the server would keep the session of one that does.
        let threads = (0..6)
            .map(|n| {
                let (address, stop) = (address.clone(), stop.clone());
                let successes = successes.clone();
                thread::spawn(move || {
                    thread::sleep(millis(n * 70));
                    while !stop.load(Ordering::Relaxed) {
                        if let Ok(session) = Session::open(&address) {
                            let insert = "insert into inside default values";
                            while session.query(insert, secs(120)).is_ok() {
                                successes.lock().unwrap().push(Instant::now());
                                thread::sleep(millis(20));
                                if stop.load(Ordering::Relaxed) {
                                    return;
                                }
                            }
                        }
                        thread::sleep(millis(30));
                    }
                })
            })
            .collect();
        Self { stop, successes, threads }
    }

    fn since(&self, moment: Instant) -> usize {
        let successes = self.successes.lock().unwrap();
        successes.iter().filter(|at| **at > moment).count()
    }
}

impl Drop for Insider {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Another node than node1 has been chosen.
fn is_elected(state: &State) -> bool {
    state.nodes.iter().any(|n| {
        n.name != "node1" && matches!(n.goal.as_str(), "primary" | "wait_primary" | "single")
    })
}

#[test]
fn a_standby_stuck_in_a_recovery_conflict_cannot_acknowledge_for_an_old_primary() {
    let name = "a_standby_stuck_in_a_recovery_conflict_cannot_acknowledge_for_an_old_primary";
    let Some(lab) = lab_with_network(name, millis(500)) else {
        return;
    };
    lab.sql("node1", "create table inside (id bigserial primary key)").unwrap();
    lab.sql("node1", "create table contested as select generate_series(1, 10) as id").unwrap();
    lab.sql("node2", "alter system set max_standby_streaming_delay = -1").unwrap();
    lab.sql("node2", "select pg_reload_conf()").unwrap();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let insider = Insider::start(&lab.socket("node1"));

    // node2 waits for a lock that a query holds, and goes on receiving.
    lab.wait_until("node2 has the table", secs(10), || {
        lab.value("node2", "select count(*) from contested").as_deref() == Some("10")
    });
    let reader = Session::open(&lab.socket("node2")).unwrap();
    reader.query("begin; select * from contested", secs(3)).unwrap();
    lab.sql("node1", "truncate contested").unwrap();
    let startup = "select wait_event from pg_stat_activity where backend_type = 'startup'";
    lab.wait_until("the replay of node2 is stuck", secs(10), || {
        lab.value("node2", startup)
            .is_some_and(|e| e == "relation" || e.starts_with("RecoveryConflict"))
    });

    let cut = Instant::now();
    lab.network().cut("node1", "monitor");
    lab.network().cut("node1", "node3");
    lab.wait_until("node1 commits by node2 alone", secs(10), || {
        cut.elapsed() > millis(300) && insider.since(cut) > 0
    });

    // node2 vouches for node1, so that this cut alone need not be a reason to fail over. An
    // operator's word is.
    let asked = Instant::now();
    let mut by_itself = false;
    while asked.elapsed() < secs(8) && !by_itself {
        by_itself = lab.state().is_ok_and(|s| is_elected(&s));
        thread::sleep(millis(50));
    }
    if !by_itself {
        let asked = lab.pgctl(&["perform-failover", "--no-wait"]);
        // Refused where an election has begun at this moment, which is waited for as well.
        assert!(matches!(asked.code, Some(0 | 5)), "{asked:#?}");
    }
    lab.wait_for("another node is elected", secs(40), is_elected);
    let elected = Instant::now();
    lab.holds("node1 acknowledges nothing", secs(8), || {
        insider.since(elected) == 0 && writers.acks_of("node1", elected) == 0
    });
    lab.wait_for("the new primary serves", secs(40), |s| s.primary().is_some_and(|p| p != "node1"));
    drop(reader);
    lab.network().mend();
    lab.wait_until_whole(secs(60));
    assert_eq!(writers.acks_of("node1", elected), 0);
    drop(insider);
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// A node that cannot be written to: it is down, or in recovery.
fn is_fenced(lab: &Lab, node: &str) -> bool {
    lab.postmaster(node).is_none() || lab.is_in_recovery(node) == Some(true)
}

#[test]
fn an_isolated_primary_fences_itself_and_follows_when_the_cable_is_back() {
    let name = "an_isolated_primary_fences_itself_and_follows_when_the_cable_is_back";
    let Some(lab) = lab_with_network(name, secs(1)) else {
        return;
    };
    lab.sql("node1", "create table inside (id bigserial primary key)").unwrap();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let insider = Insider::start(&lab.socket("node1"));
    lab.wait_until("node1 is written to from inside", secs(10), || {
        insider.since(Instant::now().checked_sub(secs(1)).unwrap()) > 0
    });
    let down = Instant::now();
    lab.network().cable("node1", false);
    writers.wait_for_writes(secs(20));
    println!("outage {:?}", writers.gap(down));
    let taken_over = Instant::now();
    lab.wait_for("node2 took over", secs(20), |s| s.is("node2", "primary"));
    lab.wait_until("node1 fences itself", secs(12), || is_fenced(&lab, "node1"));
    println!("fenced {:?} after the cut", down.elapsed());
    let left = secs(15).saturating_sub(down.elapsed());
    lab.holds("node1 stays fenced", left, || is_fenced(&lab, "node1"));
    assert_eq!(insider.since(taken_over), 0, "node1 acknowledged beside node2");
    let up = Instant::now();
    lab.network().cable("node1", true);
    lab.wait_for("node1 is secondary again", secs(60), |s| {
        s.is("node2", "primary") && s.is("node1", "secondary")
    });
    println!("back {:?} after the cable was", up.elapsed());
    lab.wait_until_whole(secs(30));
    assert_eq!(writers.acks_of("node1", taken_over), 0);
    assert_eq!(insider.since(taken_over), 0, "node1 acknowledged beside node2");
    drop(insider);
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn a_node_that_vanishes_without_a_packet_is_replaced() {
    let name = "a_node_that_vanishes_without_a_packet_is_replaced";
    let Some(mut lab) = lab_with_network(name, secs(1)) else {
        return;
    };
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let lost = Instant::now();
    // The cable first: no FIN and no RST tells the others.
    lab.network().cable("node1", false);
    lab.kill("node1", Part::All);
    writers.wait_for_writes(secs(20));
    println!("outage {:?}", writers.gap(lost));
    lab.wait_for("node2 took over", secs(20), |s| s.is("node2", "primary"));
    lab.network().cable("node1", true);
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn a_cut_between_primary_and_monitor_alone_is_no_failover() {
    let name = "a_cut_between_primary_and_monitor_alone_is_no_failover";
    let Some(lab) = lab_with_network(name, secs(1)) else {
        return;
    };
    let events = lab.events(&["failover", "switchover", "promotion"]).len();
    let goes_on = || {
        lab.network().cut("node1", "monitor");
        lab.holds("node1 goes on", secs(8), || {
            lab.is_in_recovery("node1") != Some(true)
                && lab.is_in_recovery("node2") != Some(false)
                && lab.is_in_recovery("node3") != Some(false)
        });
        lab.network().mend();
        lab.wait_until_whole(secs(30));
        assert_eq!(lab.events(&["failover", "switchover", "promotion"]).len(), events);
    };
    // Where nobody writes, WAL moves only once in a heartbeat: that has to be enough for a witness.
    goes_on();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let cut = Instant::now();
    goes_on();
    let gap = writers.gap(cut);
    assert!(gap < secs(3), "the writers waited {gap:?}");
    writers.verify_everywhere(&lab);
}
