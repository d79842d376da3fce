//! Groups of one, two, three and five nodes: what fails, and what clients see of it. The table of
//! the README is what this prints.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Lab, Part, Writers, millis, secs};

/// What clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    Nothing,
    Pause,
    /// Writes wait until what was lost is back.
    UntilBack,
}

/// Longer than this is noticed; the rest is the machine's own.
const NOTICED: Duration = secs(2);
/// A pause would have begun: the silence after which a primary stops that nobody hears.
const BEGUN: Duration = secs(4);
/// Writes that do not go on by themselves within this time wait for what was lost: the silence and
/// a failover, several times over.
const BY_THEMSELVES: Duration = secs(12);
/// A pause that ends late is a pause.
const AT_LAST: Duration = secs(40);

struct Row {
    nodes: usize,
    number_sync_standbys: u32,
    what: &'static str,
    lost: Vec<(String, Part)>,
    expected: Seen,
}

fn run_row(lab: &mut Lab, writers: &Writers, row: &Row) -> String {
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    let lost: Vec<(&str, Part)> = row.lost.iter().map(|(n, part)| (n.as_str(), *part)).collect();
    let began = Instant::now();
    lab.kill_together(&lost);
    let resumed = |since: Instant| writers.acked_since(since) > 0;
    thread::sleep(BEGUN);
    let until = began + if row.expected == Seen::UntilBack { BY_THEMSELVES } else { AT_LAST };
    let mut mark = Instant::now();
    let mut goes_on = false;
    while !goes_on && Instant::now() < until {
        thread::sleep(millis(100));
        goes_on = resumed(mark);
        mark = Instant::now();
    }
    let gap = writers.gap(began);
    for (name, part) in &lost {
        if *part == Part::All {
            lab.start(name);
        }
    }
    lab.wait_until_whole(secs(60));
    writers.wait_for_writes(secs(30));
    let seen = match (goes_on, gap < NOTICED) {
        (true, true) => Seen::Nothing,
        (true, false) => Seen::Pause,
        (false, _) => Seen::UntilBack,
    };
    let fits = seen == row.expected || (row.expected, seen) == (Seen::Pause, Seen::Nothing);
    assert!(
        fits,
        "{} nodes, {}: {seen:?} after {gap:?}, not {:?}",
        row.nodes, row.what, row.expected
    );
    let told = match row.expected {
        Seen::Nothing => "nothing",
        Seen::Pause => "a pause",
        Seen::UntilBack => "writes wait until it is back",
    };
    let line = format!("| {} | {} | {} | {told} |", row.nodes, row.number_sync_standbys, row.what);
    println!("{line} {gap:.1?}");
    line
}

fn a_group_of(nodes: usize, number_sync_standbys: u32) {
    let mut lab = Lab::builder()
        .nodes(nodes)
        .number_sync_standbys(number_sync_standbys)
        .limit(secs(300))
        .start();
    let writers = lab.writers(2);
    let mut rows =
        vec!["| nodes | number-sync-standbys | what fails | what clients see |".to_owned()];
    let whats: &[(&str, Seen)] = match (nodes, number_sync_standbys) {
        (1, _) => &[
            ("the monitor", Seen::Nothing),
            ("Postgres of the primary", Seen::Pause),
            ("the primary", Seen::UntilBack),
        ],
        (2, 0) => &[
            ("the monitor", Seen::Nothing),
            ("Postgres of the primary", Seen::Pause),
            ("the primary", Seen::Pause),
            ("a standby", Seen::Pause),
        ],
        (2, _) => &[("a standby", Seen::UntilBack)],
        (3, _) => &[
            ("the monitor", Seen::Nothing),
            ("Postgres of the primary", Seen::Pause),
            ("the primary", Seen::Pause),
            ("a standby", Seen::Nothing),
            ("both standbys", Seen::Pause),
        ],
        (_, 0) => &[
            ("the primary", Seen::Pause),
            ("two standbys", Seen::Nothing),
            // A commit may be on the primary and on that one alone.
            ("the primary and a standby", Seen::UntilBack),
        ],
        _ => &[("the primary and a standby", Seen::Pause), ("two standbys", Seen::Nothing)],
    };
    for (what, expected) in whats {
        let primary = lab.wait_until_whole(secs(60)).primary().unwrap().to_owned();
        let standbys = lab.others(&[&primary]);
        let some = |count: usize| standbys[..count].iter().map(|n| (n.clone(), Part::All));
        let lost = match *what {
            "the monitor" => vec![("monitor".to_owned(), Part::All)],
            "Postgres of the primary" => vec![(primary, Part::Postgres)],
            "the primary" => vec![(primary, Part::All)],
            "a standby" => some(1).collect(),
            "both standbys" | "two standbys" => some(2).collect(),
            "the primary and a standby" => some(1).chain([(primary, Part::All)]).collect(),
            _ => unreachable!(),
        };
        let row = Row { nodes, number_sync_standbys, what, lost, expected: *expected };
        rows.push(run_row(&mut lab, &writers, &row));
    }
    writers.wait_until_steady();
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(readme).unwrap();
    for row in &rows {
        assert!(readme.lines().any(|line| line == row), "not in the README: {row}");
    }
    writers.verify_everywhere(&lab);
}

#[test]
fn a_group_of_one() {
    a_group_of(1, 0);
}

#[test]
fn a_group_of_two() {
    a_group_of(2, 0);
    a_group_of(2, 1);
}

#[test]
fn a_group_of_three() {
    a_group_of(3, 0);
}

#[test]
fn a_group_of_five() {
    a_group_of(5, 0);
    a_group_of(5, 2);
}
