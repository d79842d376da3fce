//! A winner that cannot lead, for a reason of its own, makes way for somebody else.

use std::fs;

use crate::harness::{Lab, Part, built_with_fail_points, millis, not_run, secs};

/// The promotion of node2 stands still, with its keeper in good health, as a command of the user's at
/// the end of recovery would have it.
#[test]
fn a_winner_that_cannot_lead_makes_way() {
    let Some(programs) = built_with_fail_points() else {
        let name = "a_winner_that_cannot_lead_makes_way";
        return not_run(name, "no programs with fail points: cargo build makes some");
    };
    let lab = Lab::builder().heartbeat(millis(500)).limit(secs(200));
    let mut lab = lab.programs(programs).prepare();
    let armed = lab.workdir().make_home("points").join("armed");
    lab.set_env("node2", "PGVIGIL_FAILPOINT", &format!("@{}", armed.display()));
    lab.start_all();
    let writers = lab.writers(2);
    writers.wait_until_steady();

    // It has the better priority and wins; node3 leads.
    fs::write(&armed, "step_promote:pause").unwrap();
    lab.kill("node1", Part::All);
    lab.wait_for("node3 leads", secs(60), |s| s.is("node3", "primary"));
    assert!(!armed.exists(), "node2 was to lead");
    let said = |e: &serde_json::Value| e["evidence"].to_string().contains("node2 does not come up");
    lab.wait_until("the event says why", secs(20), || lab.events(&["failover"]).iter().any(said));
    writers.wait_for_writes(secs(20));
    lab.start("node1");
    lab.wait_until_whole(secs(60));
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
