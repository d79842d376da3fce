//! When older rules are given up because the newest is covered, as many of its members as it counts
//! on hold everything that was ever acknowledged.

use super::{Moment, loss_accepted};
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Recorded { group, before, after, events, .. } = moment else { return None };
    let [.., _, newest] = before.rules.as_slice() else { return None };
    let closed = after.rules.as_slice() == std::slice::from_ref(newest);
    // A lost disk is a copy fewer, whatever the rule says.
    let lost = !world.ghost.may_wipe(*group) || loss_accepted(after, events).is_some();
    if !closed || lost || world.stores[*group].doubtful {
        return None;
    }
    let holders = |tli, len| {
        let members = newest.members.iter().filter_map(|m| world.host_of(*group, *m));
        members.filter(|h| world.hosts[*h].pg.wal.holds(tli, len)).count()
    };
    let few = world
        .ghost
        .acknowledged(*group)
        .find(|(tli, len)| holders(*tli, *len) < newest.acks as usize);
    few.map(|(tli, len)| {
        let id = newest.id();
        format!("{id} counts as covered, {tli}/{len} is on {} members", holders(tli, len))
    })
}
