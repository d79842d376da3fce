//! A rewind in place waits until the new primary's rule is covered: while a directory is being
//! overwritten, as many others hold what it held as that rule counts on, and the primary.

use vigil_core::node::record::Replacing;

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Saved { host, before, after } = moment else { return None };
    if !before.is_whole() || after.replacing != Some(Replacing::Rewind) {
        return None;
    }
    let h = &world.hosts[*host];
    // The rule that the order was given by.
    let rule = after.rules_held.last()?;
    // A lost disk is a copy fewer, whatever the rule says; a member that was forced out as well.
    let gone = rule.members.iter().any(|m| world.host_of(h.group, *m).is_none());
    if rule.epoch != after.promise || gone || !world.ghost.may_wipe(h.group) {
        return None;
    }
    // One recorded since may count on fewer, although this node has not heard of it yet.
    let newest = world.stores[h.group].record.rule().map_or(rule.acks, |r| r.acks);
    let acks = rule.acks.min(newest) as usize;
    let copies = |tli, len| {
        world.of_group(h.group).filter(|(_, o)| o.is_usable() && o.pg.wal.holds(tli, len)).count()
    };
    let few = world
        .ghost
        .acknowledged(h.group)
        .find(|(tli, len)| h.pg.wal.holds(*tli, *len) && copies(*tli, *len) <= acks);
    few.map(|(tli, len)| {
        format!("{} is rewound while {tli}/{len} is on {} others", h.name, copies(tli, len))
    })
}
