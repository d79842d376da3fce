//! Everything loses power at once and comes back in every order.

use std::thread;

use crate::harness::{Lab, Part, all_of_it, millis, secs};

const ORDERS: [[&str; 3]; 6] = [
    ["node1", "node2", "node3"],
    ["node3", "node2", "node1"],
    ["node2", "node1", "node3"],
    ["node3", "node1", "node2"],
    ["node1", "node3", "node2"],
    ["node2", "node3", "node1"],
];

fn cut_the_power_in_every_order(monitor_first: bool) {
    let mut lab = Lab::builder().heartbeat(millis(250)).limit(secs(420)).start();
    let writers = lab.writers(4);
    // Boots differ in their races, too: the long version goes through all orders twice.
    let rounds = if all_of_it() { 2 } else { 1 };
    for order in ORDERS.iter().cycle().take(ORDERS.len() * rounds) {
        writers.wait_until_steady();
        lab.kill_together(&[
            ("node1", Part::All),
            ("node2", Part::All),
            ("node3", Part::All),
            ("monitor", Part::All),
        ]);
        let mut names = order.to_vec();
        names.insert(if monitor_first { 0 } else { 3 }, "monitor");
        println!("start {}", names.join(", "));
        for name in names {
            lab.start(name);
            // Long enough for a keeper to act on what it finds alone.
            thread::sleep(millis(700));
        }
        lab.wait_until_whole(secs(60));
        writers.wait_for_writes(secs(10));
    }
    writers.verify_everywhere(&lab);
}

#[test]
fn after_a_power_cut_nodes_return_in_any_order_after_the_monitor() {
    cut_the_power_in_every_order(true);
}

#[test]
fn after_a_power_cut_nodes_return_in_any_order_before_the_monitor() {
    cut_the_power_in_every_order(false);
}
