//! A winner that cannot lead, for a reason of its own, makes way for somebody else: by itself, and
//! when an operator says so.

use std::fs;
use std::thread;

use crate::harness::{Lab, Part, millis, run, secs};

/// A command at the end of recovery that does not end: nothing else about the node is wrong.
fn never_promotes(lab: &Lab, node: &str) {
    let path = lab.data_dir(node).join("postgresql.conf");
    let own = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("recovery_end_command = 'sleep 600'\n{own}")).unwrap();
    lab.sql(node, "select pg_reload_conf()").unwrap();
    lab.wait_until("the command is in force", secs(10), || {
        lab.value(node, "show recovery_end_command").as_deref() == Some("sleep 600")
    });
}

#[test]
fn a_winner_that_cannot_lead_makes_way() {
    let mut lab = Lab::builder().heartbeat(millis(500)).limit(secs(200)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    never_promotes(&lab, "node2");

    // By itself: node2 has the better priority and wins, node3 leads.
    lab.kill("node1", Part::All);
    lab.wait_for("node3 leads", secs(60), |s| s.is("node3", "primary"));
    let event = lab.events(&["failover"]).pop().unwrap();
    assert!(event["evidence"].to_string().contains("node2 does not come up"), "{event}");
    writers.wait_for_writes(secs(20));
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();

    // A command that names it ends otherwise than asked. Meanwhile an operator chooses another one,
    // and accepts no loss for it.
    let mut asked = lab.pgctl_command(&["perform-switchover", "--to", "node2", "--json"]);
    let first = thread::spawn(move || run(&mut asked, secs(80)));
    lab.wait_for("node2 is to lead", secs(30), |s| {
        s.node("node2").is_some_and(|n| n.goal.ends_with("primary"))
    });
    lab.wait_until("another one may be chosen", secs(9), || {
        let output = lab.pgctl(&["perform-promotion", "node1"]);
        if output.code == Some(0) {
            return true;
        }
        output.expect_code(5);
        thread::sleep(millis(200));
        false
    });
    let first = first.join().unwrap();
    first.expect_code(7);
    assert!(first.stderr.contains("ended otherwise than asked: node1"), "{first:#?}");
    let state = lab.wait_until_whole(secs(60));
    assert!(state.is("node1", "primary"), "{state}");
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
