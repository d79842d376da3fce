//! A machine whose processors have no time left.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::harness::{Lab, Owned, Part, all_of_it, own, postgres_bin, secs};

/// So long in a usual run, and with `PGVIGIL_TEST_ALL`, s.
const USUAL_S: u64 = 15;
const LONG_S: u64 = 30 * 60;

/// One worker of something like a build, with the priority of everybody else.
fn worker() -> Owned {
    let work = "while :; do head -c 8000000 /dev/urandom | gzip -9; done";
    own(Command::new("sh").args(["-c", work]).stdin(Stdio::null()).stdout(Stdio::null()))
}

/// pgbench on the primary and a build beside it keep both cores busy: nobody is replaced who is
/// well, and whoever is lost is replaced.
#[test]
fn a_machine_at_its_limit_replaces_nobody_who_is_well() {
    let seconds = if all_of_it() { LONG_S } else { USUAL_S };
    let mut lab = Lab::builder().limit(secs(seconds + 240)).start();
    let bench = |lab: &Lab, args: &[&str]| {
        let at = lab.tcp("node1");
        let mut command =
            lab.workdir().command(postgres_bin().join("pgbench"), &lab.workdir().sockets());
        command.args(["-h", &at.ip().to_string(), "-p", &at.port().to_string()]);
        command.args(["-U", "postgres"]).args(args).arg("postgres");
        own(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
    };
    let mut fill = bench(&lab, &["-i", "-q"]);
    assert!(fill.wait(secs(60)).is_some_and(|status| status.success()), "pgbench -i");
    let writers = lab.writers(2);
    writers.wait_until_steady();
    let begun = Instant::now();
    let load: Vec<Owned> = (0..2).map(|_| worker()).collect();
    let mut pgbench = bench(&lab, &["-c", "4", "-T", &seconds.to_string()]);
    let ended = pgbench.wait(secs(seconds + 60));
    assert!(ended.is_some_and(|status| status.success()), "pgbench was interrupted: {ended:?}");
    println!("busy for {:.0?}, longest pause {:.1?}", begun.elapsed(), writers.gap(begun));
    assert_eq!(lab.primary(), "node1", "it was well all the while");
    // A loss is noticed all the same.
    lab.kill("node1", Part::All);
    writers.wait_for_writes(secs(30));
    drop(load);
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    writers.verify_everywhere(&lab);
}
