//! A rule that is in force anywhere meets every set of pledges that would satisfy the rules in
//! flight: whoever could be elected has taken that rule's power away.

use vigil_core::group::Plan;
use vigil_core::rule::SyncRule;

use crate::world::World;

pub(super) fn check(world: &World) -> Option<String> {
    (0..world.stores.len()).find_map(|group| check_group(world, group))
}

fn check_group(world: &World, group: usize) -> Option<String> {
    let store = &world.stores[group];
    let rules = &store.record.rules;
    // A store that was put back asks everybody before it elects.
    let given_up = matches!(store.record.plan, Plan::Electing { accept_loss: true, .. });
    let asks = store.doubtful || store.record.plan == Plan::Recovering;
    if asks || rules.is_empty() || given_up || world.is_from_before_the_loss(group) {
        return None;
    }
    let hosts: Vec<usize> = world.of_group(group).map(|(i, _)| i).collect();
    let bit =
        |id| hosts.iter().position(|h| world.hosts[*h].is_member(id)).map_or(0, |i| 1u32 << i);
    for host in &hosts {
        let h = &world.hosts[*host];
        let Some(writer) = h.pg.writer().filter(|w| !w.stopping) else { continue };
        // Recorded, or taken over word for word: nothing can slip between.
        if rules.contains(&writer.rule) || world.is_outlaw(*host) {
            continue;
        }
        let pledged = |other: &&usize| {
            let o = &world.hosts[**other];
            o.disk.promise > writer.rule.epoch && !o.pg.receives_from(*host)
        };
        let own = bit_of(&hosts, *host);
        let already: u32 =
            hosts.iter().filter(pledged).filter(|o| *o != host).map(|o| bit_of(&hosts, *o)).sum();
        if is_blocked(&writer.rule, own, already, &bit) {
            continue;
        }
        let all = (1u32 << hosts.len()) - 1;
        let elects = (0..=all).filter(|set| set & already == already).find(|set| {
            let satisfied = rules.iter().all(|r| is_satisfied(r, *set, &bit));
            satisfied && !is_blocked(&writer.rule, own, *set, &bit)
        });
        if let Some(set) = elects {
            return Some(format!(
                "{} obeys rule {} that pledges {set:b} would not take away",
                h.name,
                writer.rule.id()
            ));
        }
    }
    None
}

fn bit_of(hosts: &[usize], host: usize) -> u32 {
    hosts.iter().position(|h| *h == host).map_or(0, |i| 1 << i)
}

fn members(rule: &SyncRule, set: u32, bit: &dyn Fn(vigil_core::ids::NodeId) -> u32) -> usize {
    rule.members.iter().filter(|m| set & bit(**m) != 0).count()
}

/// Nothing can be acknowledged under `rule` once these have pledged.
fn is_blocked(
    rule: &SyncRule,
    primary: u32,
    set: u32,
    bit: &dyn Fn(vigil_core::ids::NodeId) -> u32,
) -> bool {
    // A node that lost its disk will never acknowledge again.
    let alive = rule.members.iter().filter(|m| bit(**m) != 0).count();
    let left = alive - members(rule, set, bit);
    set & primary != 0 || rule.acks > 0 && left < rule.acks as usize
}

/// DESIGN §4.10 without the positions.
fn is_satisfied(rule: &SyncRule, set: u32, bit: &dyn Fn(vigil_core::ids::NodeId) -> u32) -> bool {
    let needed = rule.members.len() + 1;
    let enough = members(rule, set, bit) + rule.acks as usize >= needed;
    set & bit(rule.primary) != 0 || rule.acks > 0 && enough
}
