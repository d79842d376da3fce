//! A kill at each plan of the monitor and at each step of a keeper: whatever is killed there, the
//! group becomes whole again and nothing that was acknowledged is lost.
//!
//! Every cell of the table takes some seconds. By default each plan and each step meets one of the
//! three victims, another one each day (or as `PGVIGIL_FAULT_SEED` says); `PGVIGIL_TEST_ALL=1` runs
//! all of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use vigil_core::group::Plan;
use vigil_core::node::step::Step;

use crate::harness::{
    Lab, Part, State, Writers, all_of_it, built_with_fail_points, millis, not_run, run, secs,
};

/// What is being done when something is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// A first node founds a group of its own.
    Found,
    Switchover,
    Failover,
    /// A failover to a node that has to fetch WAL from another one first.
    FailoverBehind,
    /// A failover because Postgres hangs.
    FailoverHung,
    /// A standby restarts.
    Restart,
    /// A former primary with WAL of its own comes back.
    Rejoin,
    /// A node without data joins.
    Join,
    RuleChange,
    Maintenance,
    /// The monitor has lost its data.
    Recovery,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Keeper,
    Monitor,
    Postgres,
}

const VICTIMS: [Victim; 3] = [Victim::Keeper, Victim::Monitor, Victim::Postgres];

/// Where a step occurs for certain; a new one has no place here, and the test says so.
fn operation_with_step(step: &str) -> Option<Operation> {
    Some(match step {
        // Once in the life of a keeper.
        "initdb" | "start_primary" | "bootstrap" => Operation::Found,
        "prepare_handover" | "checkpoint" => Operation::Switchover,
        "drop_receiver" | "promote" => Operation::Failover,
        "fast_forward" => Operation::FailoverBehind,
        "kill" => Operation::FailoverHung,
        "start_standby" | "follow" => Operation::Restart,
        "rewind" => Operation::Rejoin,
        "clone" | "start_following" => Operation::Join,
        "put_rule" => Operation::RuleChange,
        "stop" => Operation::Maintenance,
        _ => return None,
    })
}

fn operation_with_plan(plan: &str) -> Option<Operation> {
    Some(match plan {
        "forming" => Operation::Found,
        "handover" | "promoting" => Operation::Switchover,
        "electing" | "serving" => Operation::Failover,
        "recovering" => Operation::Recovery,
        _ => return None,
    })
}

struct Cell {
    point: String,
    operation: Operation,
    victim: Victim,
}

fn seed() -> usize {
    let given = std::env::var("PGVIGIL_FAULT_SEED").ok().and_then(|s| s.parse().ok());
    let day = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400;
    usize::try_from(given.unwrap_or_else(day) % 3).unwrap()
}

/// The cells, each plan and each step of the programs among them.
fn table(seed: usize, all: bool) -> Vec<Cell> {
    let mut cells = Vec::new();
    let steps = Step::NAMES.map(|name| ("step", name, operation_with_step(name)));
    let plans = Plan::NAMES.map(|name| ("plan", name, operation_with_plan(name)));
    for (i, (kind, name, operation)) in steps.into_iter().chain(plans).enumerate() {
        let operation = operation.unwrap_or_else(|| panic!("no cell for {kind} {name}"));
        for (v, victim) in VICTIMS.into_iter().enumerate() {
            if !all && v != (i + seed) % 3 {
                continue;
            }
            // What a keeper has done and nobody has heard of, when it is the one that dies.
            let done = kind == "step" && victim == Victim::Keeper;
            let point = format!("{kind}_{name}{}", if done { "_done" } else { "" });
            cells.push(Cell { point, operation, victim });
        }
    }
    cells
}

#[test]
fn every_plan_and_every_step_has_a_cell_for_every_victim() {
    let all = table(0, true);
    assert_eq!(all.len(), 3 * (Step::NAMES.len() + Plan::NAMES.len()));
    let share: usize = (0..3).map(|seed| table(seed, false).len()).sum();
    assert_eq!(share, all.len(), "three days make the whole");
}

struct Group<'a> {
    lab: &'a mut Lab,
    /// Counts the groups that were founded, and the changes of a setting.
    turn: u32,
}

/// A node beside the group: it founds others.
const FOUNDER: &str = "node9";

impl Group<'_> {
    fn standby(&self) -> String {
        let primary = self.lab.primary();
        self.lab.others(&[&primary, FOUNDER])[0].clone()
    }

    fn wipe(&self, node: &str) {
        let data = self.lab.data_dir(node);
        let _ = fs::remove_dir_all(&data);
        if node == FOUNDER {
            let _ = fs::remove_dir_all(format!("{}.pgvigil", data.display()));
        }
    }

    /// Begins; returns the node that it is about.
    fn begin(&mut self, operation: Operation) -> String {
        self.turn += 1;
        let primary = self.lab.primary();
        match operation {
            Operation::Found => {
                self.wipe(FOUNDER);
                let group = self.turn.to_string();
                self.lab.set_option(FOUNDER, "--group", &group);
                self.lab.start(FOUNDER);
                FOUNDER.to_owned()
            }
            Operation::Switchover => {
                // In the background: its answer may have to wait for the pause.
                let mut command = self.lab.pgctl_command(&["perform-switchover", "--no-wait"]);
                // A monitor that the machine has held up refuses it for a heartbeat.
                thread::spawn(move || {
                    while run(&mut command, secs(60)).code == Some(5) {
                        thread::sleep(millis(100));
                    }
                });
                primary
            }
            Operation::Failover => {
                self.lab.kill(&primary, Part::Postgres);
                primary
            }
            Operation::FailoverHung => {
                self.lab.freeze(&primary, Part::Postgres);
                primary
            }
            Operation::FailoverBehind => {
                // The best candidate misses what only the other one has got.
                let names = self.lab.others(&[&primary, FOUNDER]);
                // The other one lends it, and never wins, however slow the best one is.
                for (name, priority) in [(&names[0], "90"), (&names[1], "0")] {
                    self.lab.ok(&["set-node", name, "--candidate-priority", priority]);
                }
                self.lab.kill(&names[0], Part::All);
                let table = "create table if not exists ballast (n int)";
                self.lab.sql(&primary, table).unwrap();
                self.lab.sql(&primary, "insert into ballast values (1)").unwrap();
                self.lab.kill(&primary, Part::All);
                self.lab.start(&names[0]);
                primary
            }
            Operation::Restart => {
                let standby = self.standby();
                self.lab.kill(&standby, Part::All);
                self.lab.start(&standby);
                standby
            }
            Operation::Rejoin => {
                // However slow this machine is: the primary must not go on alone.
                self.lab.ok(&["set-formation", "--number-sync-standbys", "1"]);
                let standbys = self.lab.others(&[&primary, FOUNDER]);
                let both: Vec<(&str, Part)> =
                    standbys.iter().map(|n| (n.as_str(), Part::All)).collect();
                self.lab.kill_together(&both);
                let own = "select pg_logical_emit_message(false, 'own', repeat('x', 10000))";
                self.lab.sql(&primary, own).unwrap();
                self.lab.sql(&primary, "select pg_switch_wal()").unwrap();
                self.lab.kill(&primary, Part::All);
                for standby in &standbys {
                    self.lab.start(standby);
                }
                let state = self.lab.wait_for("another one has taken over", secs(30), |s| {
                    s.primary().is_some_and(|p| p != primary) && s.waits_for_nothing()
                });
                // What a rewind needs of it: a checkpoint on its own timeline.
                let on_its_timeline = "select timeline_id = ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int
                    from pg_control_checkpoint()";
                self.lab.wait_until("a rewind is possible", secs(30), || {
                    self.lab.value(state.primary().unwrap(), on_its_timeline).as_deref()
                        == Some("t")
                });
                self.lab.start(&primary);
                primary
            }
            Operation::Join => {
                let standby = self.standby();
                self.lab.kill(&standby, Part::All);
                self.wipe(&standby);
                self.lab.start(&standby);
                standby
            }
            Operation::RuleChange => {
                // It ends with 0, so that this is another rule.
                self.lab.pgctl(&["set-formation", "--number-sync-standbys", "2"]);
                primary
            }
            Operation::Maintenance => {
                let standby = self.standby();
                self.lab.ok(&["enable-maintenance", &standby]);
                standby
            }
            Operation::Recovery => {
                self.lab.kill("monitor", Part::All);
                fs::remove_dir_all(self.lab.data_dir("monitor")).unwrap();
                self.lab.start("monitor");
                primary
            }
        }
    }

    /// Does what an operator, or a service manager, does afterwards.
    fn end(&mut self, operation: Operation, about: &str) {
        let mut hosts = self.lab.node_names();
        hosts.retain(|n| n != FOUNDER || operation == Operation::Found);
        hosts.insert(0, "monitor".to_owned());
        for host in &hosts {
            if !self.lab.is_running(host) {
                self.lab.start(host);
            }
        }
        match operation {
            Operation::FailoverHung => self.lab.thaw(about),
            Operation::Found => {
                let group = self.turn.to_string();
                self.lab.wait_until("the new group has its primary", secs(60), || {
                    let output = self.lab.pgctl(&["--group", &group, "show-state", "--json"]);
                    State::parse(&output.stdout).is_ok_and(|s| s.is_whole(1))
                });
                self.lab.ok(&["--group", &group, "drop-node", FOUNDER]);
                assert_eq!(self.lab.wait_for_exit(FOUNDER, secs(30)), Some(0));
            }
            Operation::FailoverBehind => {
                self.lab.wait_until("all may lead again", secs(20), || {
                    ["node1", "node2", "node3"].iter().all(|node| {
                        let priority = ["set-node", node, "--candidate-priority", "50"];
                        self.lab.pgctl(&priority).code == Some(0)
                    })
                });
            }
            Operation::Maintenance => {
                self.lab.wait_until("maintenance is over", secs(20), || {
                    self.lab.pgctl(&["disable-maintenance", about]).code == Some(0)
                });
            }
            _ => {}
        }
        // Also where it was not changed: the monitor answers after whatever it was held back with, so
        // that its state is not of before that.
        self.lab.wait_until("the setting is back", secs(20), || {
            let back = ["set-formation", "--number-sync-standbys", "0"];
            self.lab.pgctl(&back).code == Some(0)
        });
        self.lab.wait_until_so_many_are_whole(3, secs(60));
    }
}

/// Who has reached the fail point: the file that it left, and its process id.
fn hit(points: &Path) -> Option<(PathBuf, i32)> {
    let mut entries = fs::read_dir(points).unwrap().flatten();
    entries.find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some((entry.path(), name.split(".hit.").nth(1)?.parse().ok()?))
    })
}

fn run_cell(lab: &mut Lab, writers: &Writers, points: &Path, cell: &Cell, turn: u32) -> Duration {
    let began = Instant::now();
    fs::write(points.join("armed"), format!("{}:pause", cell.point)).unwrap();
    let mut group = Group { lab, turn };
    let about = group.begin(cell.operation);
    let lab = &mut *group.lab;
    lab.wait_until(&format!("{} is reached", cell.point), secs(40), || hit(points).is_some());
    let (file, pid) = hit(points).unwrap();
    let at = lab.host_of(pid).unwrap_or_else(|| panic!("nobody has the process id {pid}"));
    let node = if at == "monitor" { about.clone() } else { at };
    match cell.victim {
        Victim::Keeper if lab.is_running(&node) => lab.kill(&node, Part::Keeper),
        Victim::Monitor => lab.kill("monitor", Part::All),
        Victim::Keeper | Victim::Postgres => lab.kill(&node, Part::Postgres),
    }
    // The pause is over, for whoever is left.
    let _ = fs::remove_file(file);
    let _ = fs::remove_file(points.join("armed"));
    group.end(cell.operation, &about);
    writers.wait_for_writes(secs(30));
    began.elapsed()
}

#[test]
fn whatever_is_killed_at_whichever_step_the_group_heals() {
    let name = "whatever_is_killed_at_whichever_step_the_group_heals";
    let Some(programs) = built_with_fail_points() else {
        return not_run(name, "no programs with fail points: cargo build makes some");
    };
    let (seed, all) = (seed(), all_of_it());
    let cells = table(seed, all);
    let limit = secs(60 + 30 * u64::try_from(cells.len()).unwrap());
    let mut lab = Lab::builder().heartbeat(millis(250)).limit(limit).programs(programs).prepare();
    let points = lab.workdir().make_home("points");
    lab.set_option("monitor", "--max-failovers", "0");
    let armed = format!("@{}", points.join("armed").display());
    for host in ["monitor", "node1", "node2", "node3"] {
        lab.set_env(host, "PGVIGIL_FAILPOINT", &armed);
    }
    lab.start_all();
    let writers = lab.writers(3);
    writers.wait_until_steady();
    lab.add_node(FOUNDER);
    lab.set_env(FOUNDER, "PGVIGIL_FAILPOINT", &armed);
    let mut rows = Vec::new();
    for (turn, cell) in (1..).zip(&cells) {
        print!(
            "{:<26} {:<16} {:<9}",
            cell.point,
            format!("{:?}", cell.operation),
            format!("{:?}", cell.victim)
        );
        let took = run_cell(&mut lab, &writers, &points, cell, turn);
        println!(" whole after {:>5.1} s", took.as_secs_f64());
        rows.push(took);
    }
    println!("{} cells of {}, seed {seed}", rows.len(), table(seed, true).len());
    lab.remove_host(FOUNDER);
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}
