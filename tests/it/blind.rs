//! Keepers that cannot see: what is unknown is not down.

use std::process::Command;
use std::thread;
use std::time::Instant;

use crate::harness::{FewDescriptors, Lab, Part, is_root, not_run, run, secs};

/// The primary's keeper may open nothing more: no socket, no file, no directory. Its Postgres works,
/// so nobody replaces it, and nobody stops it.
#[test]
fn a_keeper_without_descriptors_says_nothing_of_postgres() {
    let mut lab = Lab::builder().start();
    lab.expect_error("cannot save the state");
    let writers = lab.writers(2);
    writers.wait_until_steady();
    let begun = Instant::now();
    let postmaster = lab.postmaster("node1");
    for limit in [4, 0] {
        let few = FewDescriptors::of(lab.processes("node1", Part::Keeper)[0], limit);
        thread::sleep(secs(5));
        drop(few);
        lab.wait_until_whole(secs(20));
    }
    assert_eq!(lab.postmaster("node1"), postmaster, "nobody stopped it");
    assert!(lab.is_running("node1"), "its keeper lives");
    assert_eq!(lab.primary(), "node1");
    assert!(writers.gap(begun) < secs(2), "{:?} without a commit", writers.gap(begun));
    // It is not blind for good: a real end is seen as fast as ever.
    lab.kill("node1", Part::Postgres);
    lab.wait_until_whole(secs(60));
    writers.verify_everywhere(&lab);
}

/// A primary that does end while its keeper has no descriptors left is replaced by what others see.
#[test]
fn a_keeper_without_descriptors_does_not_hide_a_loss() {
    let mut lab = Lab::builder().start();
    lab.expect_error("cannot save the state");
    let writers = lab.writers(2);
    writers.wait_until_steady();
    let few = FewDescriptors::of(lab.processes("node1", Part::Keeper)[0], 4);
    lab.kill("node1", Part::Postgres);
    writers.wait_for_writes(secs(30));
    drop(few);
    lab.wait_until_whole(secs(60));
    writers.verify_everywhere(&lab);
}

/// Something is mounted over `/proc` of a running keeper, and a keeper is started without it.
#[test]
fn a_keeper_without_proc_is_not_fooled() {
    if !is_root() {
        not_run("a keeper without /proc", "needs root");
        return;
    }
    let mut lab = Lab::builder().prepare();
    // A mount namespace of its own.
    let own = lab.workdir().make_home("seen");
    lab.mount("node1", &own);
    lab.start_all();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    let postmaster = lab.postmaster("node1");
    let begun = Instant::now();
    let keeper = lab.processes("node1", Part::Keeper)[0].pid.to_string();
    let inside = |args: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--target", &keeper, "--mount"]).args(args);
        run(&mut command, secs(10)).expect_code(0);
    };
    inside(&["mount", "-t", "tmpfs", "none", "/proc"]);
    thread::sleep(secs(5));
    assert_eq!(lab.postmaster("node1"), postmaster, "nobody stopped it");
    assert_eq!(lab.primary(), "node1");
    assert!(writers.gap(begun) < secs(2), "{:?} without a commit", writers.gap(begun));
    // Its end is seen all the same: the table is held open.
    lab.kill("node1", Part::Postgres);
    lab.wait_until("somebody leads", secs(30), || lab.state().is_ok_and(|s| s.primary().is_some()));
    writers.wait_for_writes(secs(30));
    inside(&["umount", "/proc"]);
    lab.wait_until_whole(secs(60));
    writers.verify_everywhere(&lab);
}
