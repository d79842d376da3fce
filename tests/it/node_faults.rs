//! One thing breaks; four writers must not lose what was acknowledged to them.

use std::time::Instant;

use crate::harness::{Address, Lab, Part, Session, Stream, millis, secs};

/// The time that a failover may take where its cause must first be missed. What is really reached
/// is measured elsewhere; here it only must not hang.
const TAKEOVER: std::time::Duration = secs(20);
const REJOIN: std::time::Duration = secs(60);
/// Of the default heartbeat: nobody does anything about a node before. A shorter pause is this
/// machine's own.
const SILENCE: std::time::Duration = secs(3);

fn wait_for_takeover(lab: &Lab) {
    lab.wait_for("node2 took over and node3 follows it", TAKEOVER, |s| {
        s.is("node2", "primary") && s.is("node3", "secondary")
    });
    let streams = "select application_name from pg_stat_replication
        where application_name = 'node3' and state = 'streaming'";
    lab.wait_until("node3 streams from node2", secs(10), || {
        lab.value("node2", streams).as_deref() == Some("node3")
    });
}

fn wait_until_node1_follows(lab: &Lab) {
    lab.wait_for("node1 is secondary again", REJOIN, |s| {
        s.is("node2", "primary") && s.is("node1", "secondary") && s.is_whole(3)
    });
}

#[test]
fn a_lost_node_is_replaced_and_comes_back_as_standby_without_a_command() {
    let mut lab = Lab::builder().start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let killed = Instant::now();
    lab.kill("node1", Part::All);
    writers.wait_for_writes(TAKEOVER);
    println!("outage {:?}", writers.gap(killed));
    wait_for_takeover(&lab);
    // It is told when it is over: when the new primary's sync rule is confirmed.
    lab.wait_for_event("failover", "node2 took over from node1", secs(10));
    let events = lab.events(&["failover"]);
    let event = events.last().unwrap_or_else(|| lab.fail("no failover event"));
    assert_eq!(event["nodename"], "node2", "{event}");
    assert!(event["cause"].as_str().is_some_and(|c| !c.is_empty()), "{event}");
    assert!(event["evidence"].as_array().is_some_and(|e| !e.is_empty()), "{event}");
    assert!(event["phases"].as_array().is_some_and(|p| !p.is_empty()), "{event}");
    writers.wait_until_steady();
    lab.start("node1");
    wait_until_node1_follows(&lab);
    writers.verify_everywhere(&lab);
}

#[test]
fn when_postgres_alone_dies_the_keeper_reports_it_and_rejoins_by_itself() {
    let mut lab = Lab::builder().start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let killed = Instant::now();
    lab.kill("node1", Part::Postgres);
    writers.wait_for_writes(TAKEOVER);
    println!("outage {:?}", writers.gap(killed));
    wait_for_takeover(&lab);
    wait_until_node1_follows(&lab);
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// Commits in a loop and says each one that was acknowledged to it.
const BUSY: &str = "
    create table busy (id bigserial primary key);
    create procedure be_busy() language plpgsql as $$
    declare last bigint;
    begin
        loop
            insert into busy default values returning id into last;
            commit;
            raise notice '%', last;
        end loop;
    end $$";

#[test]
fn busy_backends_of_a_dead_postmaster_acknowledge_nothing_after_the_takeover() {
    let mut lab = Lab::builder().start();
    lab.sql("node1", BUSY).unwrap();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let address = lab.address("node1");
    let busy: Vec<Stream> =
        (0..2).map(|_| Stream::start(address.clone(), "call be_busy()".to_owned())).collect();
    lab.wait_until("the procedures commit", secs(10), || busy.iter().all(|b| b.said().len() > 50));
    let killed = Instant::now();
    lab.kill("node1", Part::Postmaster);
    writers.wait_for_writes(TAKEOVER);
    let taken_over = lab
        .others(&["node1"])
        .iter()
        .filter_map(|n| writers.first_ack_of(n, killed))
        .min()
        .unwrap_or_else(|| lab.fail("no other node acknowledged"));
    println!("outage {:?}", writers.gap(killed));
    lab.wait_until("the old backends are gone", secs(10), || busy.iter().all(Stream::is_over));
    wait_for_takeover(&lab);
    let stopped = Instant::now();
    wait_until_node1_follows(&lab);

    // What the old primary acknowledged came before the new one did, and is kept.
    assert_eq!(writers.acks_of("node1", taken_over), 0);
    assert_eq!(writers.acks_of("node1", stopped), 0);
    let mut kept = std::collections::HashSet::new();
    for row in lab.sql("node2", "select id from busy").unwrap() {
        kept.insert(row[0].clone().unwrap());
    }
    for said in busy.iter().flat_map(Stream::said) {
        let (at, text) = said;
        let Some(id) = text.strip_prefix("NOTICE ") else {
            continue;
        };
        assert!(kept.contains(id), "acknowledged in a procedure and lost: {id}");
        assert!(
            at <= taken_over,
            "node1 acknowledged {:?} after the new primary did",
            at - taken_over
        );
    }
    writers.verify_everywhere(&lab);
}

#[test]
fn without_its_keeper_postgres_goes_on_and_a_new_keeper_adopts_it() {
    let mut lab = Lab::builder().start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let events = lab.events(&["failover", "switchover", "promotion"]).len();
    let before = lab.postmaster("node1").expect("node1 has a postmaster");
    let session = Session::open(&lab.address("node1")).unwrap();
    session.query("begin; create table later (id int)", secs(2)).unwrap();

    let killed = Instant::now();
    lab.kill("node1", Part::Keeper);
    lab.holds("node1 stays primary without its keeper", secs(8), || {
        lab.postmaster("node1") == Some(before)
            && lab.is_in_recovery("node1") != Some(true)
            && lab.is_in_recovery("node2") != Some(false)
            && lab.is_in_recovery("node3") != Some(false)
    });
    session.query("insert into later values (1); commit", secs(2)).unwrap();
    let gap = writers.gap(killed);
    assert!(gap < SILENCE, "the writers waited {gap:?}");

    lab.start("node1");
    lab.wait_for("the new keeper has adopted node1", secs(20), |s| {
        s.is("node1", "primary") && s.is_whole(3)
    });
    assert_eq!(lab.postmaster("node1"), Some(before), "Postgres was restarted");
    session.query("select * from later", secs(2)).unwrap();
    let now = lab.events(&["failover", "switchover", "promotion"]);
    assert_eq!(now.len(), events, "{now:?}");
    assert!(writers.failures().is_empty(), "{:?}", writers.failures());
    writers.verify_everywhere(&lab);
}

#[test]
fn the_keeper_of_a_standby_may_be_killed_and_restarted_too() {
    let mut lab = Lab::builder().start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let before = lab.postmaster("node2").expect("node2 has a postmaster");
    let killed = Instant::now();
    lab.kill("node2", Part::Keeper);
    lab.holds("node2 goes on as a standby", secs(8), || {
        lab.postmaster("node2") == Some(before) && lab.is_in_recovery("node1") != Some(true)
    });
    lab.start("node2");
    lab.wait_until_whole(secs(20));
    assert_eq!(lab.postmaster("node2"), Some(before), "Postgres was restarted");
    let gap = writers.gap(killed);
    assert!(gap < SILENCE, "the writers waited {gap:?}");
    assert!(writers.failures().is_empty(), "{:?}", writers.failures());
    writers.verify_everywhere(&lab);
}

#[test]
fn while_the_monitor_is_dead_no_statement_fails() {
    let mut lab = Lab::builder().start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let events = lab.events(&["failover", "switchover", "promotion"]).len();
    let killed = Instant::now();
    lab.kill("monitor", Part::All);
    lab.holds("the writers go on without a monitor", secs(30), || {
        let since = Instant::now().checked_sub(SILENCE).unwrap();
        killed.elapsed() < SILENCE || writers.acked_since(since) > 0
    });
    lab.start("monitor");
    lab.wait_until_whole(secs(30));
    lab.wait_for("node1 is still the primary", secs(10), |s| s.is("node1", "primary"));
    let now = lab.events(&["failover", "switchover", "promotion"]);
    assert_eq!(now.len(), events, "{now:?}");
    let gap = writers.gap(killed);
    assert!(gap < SILENCE, "the writers waited {gap:?}");
    assert!(writers.failures().is_empty(), "{:?}", writers.failures());
    writers.verify_everywhere(&lab);
}

#[test]
fn a_frozen_primary_is_replaced_and_does_no_harm_when_it_thaws() {
    let mut lab = Lab::builder().start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let frozen = Instant::now();
    lab.freeze("node1", Part::All);
    writers.wait_for_writes(TAKEOVER);
    println!("outage {:?}", writers.gap(frozen));
    wait_for_takeover(&lab);
    let left = secs(20).saturating_sub(frozen.elapsed());
    lab.holds("node2 serves while node1 is frozen", left, || {
        let since = Instant::now().checked_sub(secs(2)).unwrap();
        writers.acked_since(since) > 0
    });
    let thawed = Instant::now();
    lab.thaw("node1");
    wait_until_node1_follows(&lab);
    assert_eq!(writers.acks_of("node1", thawed), 0, "node1 acknowledged after its thaw");
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn a_hung_postgres_is_replaced_while_its_keeper_lives() {
    let mut lab = Lab::builder().heartbeat(millis(500)).start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let frozen = Instant::now();
    lab.freeze("node1", Part::Postgres);
    writers.wait_for_writes(TAKEOVER);
    println!("outage {:?}", writers.gap(frozen));
    wait_for_takeover(&lab);
    lab.thaw("node1");
    wait_until_node1_follows(&lab);
    writers.verify_everywhere(&lab);
}

#[test]
fn the_next_primary_may_die_before_the_third_node_streams_from_it() {
    let mut lab = Lab::builder().start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let Address::Tcp(node2) = lab.address("node2") else {
        panic!("a lab without namespaces is reached over TCP");
    };
    let session = Session::open(&Address::Tcp(node2)).unwrap();
    lab.kill("node1", Part::All);
    // As soon as it is read-write: its first streaming standby is tens of milliseconds away.
    let begun = Instant::now();
    loop {
        let answer = session.query("select pg_is_in_recovery()", secs(10));
        match answer.map(|rows| rows[0][0].clone()) {
            Ok(Some(value)) if value == "f" => break,
            Ok(_) => std::thread::sleep(millis(1)),
            Err(why) => lab.fail(&format!("node2 does not answer: {why}")),
        }
        if begun.elapsed() > TAKEOVER {
            lab.fail("node2 does not take over");
        }
    }
    lab.kill("node2", Part::All);
    // Alone, the third node may hold less than was acknowledged: nobody may be promoted unless it
    // is known to hold everything, and that is for the writers' account to show.
    lab.start("node2");
    lab.wait_for("there is a primary again", secs(60), |s| s.primary().is_some());
    lab.start("node1");
    lab.wait_until_whole(REJOIN);
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn a_single_killed_backend_costs_an_outage_but_no_commit() {
    use rustix::process::Signal;
    let lab = Lab::builder().heartbeat(millis(500)).start();
    let writers = lab.writers(4);
    writers.wait_until_steady();
    let statement =
        "select pid from pg_stat_activity where application_name = 'vigil-writer' limit 1";
    let pid = lab.value("node1", statement).unwrap().parse().unwrap();
    let before = lab.postmaster("node1");
    let killed = Instant::now();
    crate::harness::Process::of(pid).unwrap().signal(Signal::KILL);
    lab.wait_until("the server ends with it", secs(10), || lab.postmaster("node1") != before);
    writers.wait_for_writes(TAKEOVER);
    println!("outage {:?}", writers.gap(killed));
    lab.wait_until_whole(REJOIN);
    writers.verify_everywhere(&lab);
}
