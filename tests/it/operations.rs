//! What an operator asks for.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Address, Lab, Writers, all_of_it, has_fields, millis, query, run, secs};

const ANSWER: [&str; 9] =
    ["operation", "formationid", "groupid", "epoch", "from", "to", "host", "port", "phases"];

/// The answer has its fields, and an INSERT to where it points succeeds at the first attempt.
fn insert_where_it_points(lab: &Lab, answer: &Value) {
    has_fields(answer, &ANSWER).unwrap();
    has_fields(answer, &["outage_ms"]).unwrap();
    let host = answer["host"].as_str().unwrap().parse().unwrap();
    let port = u16::try_from(answer["port"].as_u64().unwrap()).unwrap();
    let address = Address::Tcp(std::net::SocketAddr::new(host, port));
    let config = crate::harness::config(&address);
    let inserted = query(&config, "insert into promised default values", secs(5));
    if let Err(why) = inserted {
        lab.fail(&format!("the very next INSERT to {address:?} failed: {why}; {answer}"));
    }
}

fn phases_of(answer: &Value) -> Vec<(String, u64)> {
    let phases = answer["phases"].as_array().unwrap().iter();
    phases.map(|p| (p["name"].as_str().unwrap().to_owned(), p["ms"].as_u64().unwrap())).collect()
}

#[test]
fn after_perform_failover_the_very_next_insert_succeeds_every_time() {
    let times: u32 = if all_of_it() { 20 } else { 5 };
    let lab =
        Lab::builder().heartbeat(millis(500)).limit(secs(100 + 20 * u64::from(times))).start();
    lab.sql("node1", "create table promised (id bigserial primary key)").unwrap();
    let writers: Writers = lab.writers(4);
    writers.wait_until_steady();
    for n in 0..times {
        let before = lab.primary();
        let epoch = lab.state().unwrap().highest_epoch();
        let output = lab.pgctl(&["perform-failover", "--json"]);
        output.expect_code(0);
        let answer = output.json();
        insert_where_it_points(&lab, &answer);
        println!("{n}: {} ms {:?}", answer["outage_ms"], phases_of(&answer));
        assert_eq!(answer["from"], before.as_str(), "{answer}");
        assert_ne!(answer["to"], before.as_str(), "{answer}");
        assert!(answer["epoch"].as_u64().unwrap() > epoch, "{answer}");
        assert!(!phases_of(&answer).is_empty(), "{answer}");
        lab.wait_until_whole(secs(30));
        assert_eq!(lab.primary(), answer["to"].as_str().unwrap());
    }
    let count = lab.value(&lab.primary(), "select count(*) from promised").unwrap();
    assert_eq!(count, times.to_string());
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// "12 ms", "0.34 s": what tells a step's time to a person.
fn tells_a_time(line: &str) -> bool {
    let words: Vec<&str> =
        line.split(|c: char| c.is_whitespace() || "()[]:,".contains(c)).collect();
    words.iter().enumerate().any(|(i, word)| {
        let number = word.trim_end_matches("ms").trim_end_matches('s');
        let with_unit = *word != number;
        let next_is_unit = matches!(words.get(i + 1), Some(&"ms" | &"s"));
        number.trim_start_matches('+').parse::<f64>().is_ok() && (with_unit || next_is_unit)
    })
}

#[test]
fn operators_move_the_primary_and_are_told_each_step() {
    let lab = Lab::builder().heartbeat(millis(500)).start();
    lab.sql("node1", "create table promised (id bigserial primary key)").unwrap();
    let writers = lab.writers(4);
    writers.wait_until_steady();

    // To a named node, as data for programs.
    let output = lab.pgctl(&["perform-switchover", "--to", "node3", "--json"]);
    output.expect_code(0);
    let answer = output.json();
    insert_where_it_points(&lab, &answer);
    assert_eq!(answer["to"], "node3", "{answer}");
    let state = lab.wait_until_whole(secs(30));
    assert!(state.is("node3", "primary"), "{state}");

    // With steps for people.
    let output = lab.pgctl(&["perform-switchover", "--to", "node1"]);
    output.expect_code(0);
    let steps = output.stderr.lines().filter(|l| tells_a_time(l)).count();
    assert!(steps >= 2, "the steps are not told with their times: {output:#?}");
    assert!(!output.stderr.contains('\u{1b}'), "colour though it is no terminal: {output:#?}");
    let state = lab.wait_until_whole(secs(30));
    assert!(state.is("node1", "primary"), "{state}");

    // A promotion of a standby, and one of who is primary already.
    lab.pgctl(&["perform-promotion", "node2"]).expect_code(0);
    let state = lab.wait_until_whole(secs(30));
    assert!(state.is("node2", "primary"), "{state}");
    let events = lab.events(&["failover", "switchover", "promotion"]);
    lab.pgctl(&["perform-promotion", "node2"]).expect_code(0);
    lab.wait_for("node2 is still the primary", secs(10), |s| s.is("node2", "primary"));
    assert_eq!(lab.events(&["failover", "switchover", "promotion"]).len(), events.len());

    // What happened can be read afterwards.
    assert!(events.len() >= 3, "{events:?}");
    for event in &events {
        assert!(event["cause"].as_str().is_some_and(|c| !c.is_empty()), "{event}");
        assert!(event["evidence"].is_array(), "{event}");
        let phases = event["phases"].as_array().unwrap();
        assert!(!phases.is_empty(), "{event}");
        for phase in phases {
            assert!(phase["name"].is_string() && phase["ms"].is_number(), "{event}");
        }
    }
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

#[test]
fn a_second_command_while_one_runs_is_refused() {
    let lab = Lab::builder().heartbeat(millis(500)).start();
    lab.sql("node1", "create table promised (id bigserial primary key)").unwrap();
    lab.sql("node1", "create table ballast (id int, text text)").unwrap();
    let mut refused = 0;
    for attempt in 0..6 {
        // Something for the checkpoint to write, so that the first command takes its time.
        let primary = lab.primary();
        lab.sql(
            &primary,
            "insert into ballast select n, repeat('x', 200) from generate_series(1, 150000) n",
        )
        .unwrap();
        lab.wait_for_replay();
        let mut first = lab.pgctl_command(&["perform-failover", "--json"]);
        let running = thread::spawn(move || run(&mut first, secs(60)));
        let (mut tries, mut overtook) = (0, false);
        while !running.is_finished() && refused == 0 {
            thread::sleep(millis(40 * (attempt + 1)));
            if running.is_finished() {
                break;
            }
            let second = lab.pgctl(&["perform-failover"]);
            tries += 1;
            match second.code {
                Some(5) => {
                    second.expect_one_error_line();
                    refused += 1;
                }
                // The first one had just ended, or was not yet there.
                Some(0) => {
                    overtook = true;
                    break;
                }
                _ => panic!("{second:#?}"),
            }
        }
        let first = running.join().unwrap();
        if overtook && first.code == Some(5) {
            lab.wait_until_whole(secs(30));
            continue;
        }
        first.expect_code(0);
        println!("attempt {attempt}: {tries} second commands, {refused} refused");
        lab.wait_until_whole(secs(30));
        if refused > 0 {
            insert_where_it_points(&lab, &first.json());
            return;
        }
    }
    panic!("no second command met a running first one");
}

#[test]
fn a_switchover_that_cannot_be_is_refused_and_changes_nothing() {
    use crate::harness::Part;
    let mut lab = Lab::builder().nodes(2).start();
    let writers = lab.writers(2);
    lab.kill("node2", Part::All);
    lab.wait_for("node1 degrades", Duration::from_secs(12), |s| s.is("node1", "wait_primary"));
    for args in [
        vec!["perform-switchover", "--to", "node2"],
        vec!["perform-promotion", "node2"],
        vec!["perform-failover"],
    ] {
        let output = lab.pgctl(&args);
        output.expect_code(5).expect_one_error_line();
    }
    let json = lab.pgctl(&["perform-switchover", "--to", "node2", "--json"]);
    json.expect_code(5);
    lab.wait_for("node1 goes on alone", secs(10), |s| s.is("node1", "wait_primary"));
    writers.wait_for_writes(secs(5));
    lab.start("node2");
    lab.wait_until_whole(secs(40));
    writers.verify_everywhere(&lab);
}
