//! A node that may hold the only copy of an acknowledged commit is never overwritten.

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let host = match moment {
        Moment::Torn { host } => *host,
        Moment::Replaced { host, old, .. } if !world.hosts[*host].torn && !old.is_empty() => *host,
        _ => return None,
    };
    let h = &world.hosts[host];
    let held_elsewhere = |tli, len| {
        world.of_group(h.group).any(|(i, o)| i != host && !o.torn && o.pg.wal.holds(tli, len))
    };
    let lost = world
        .ghost
        .acknowledged(h.group)
        .find(|(tli, len)| h.pg.wal.holds(*tli, *len) && !held_elsewhere(*tli, *len));
    lost.map(|(tli, len)| format!("{} wipes the last copy of {tli}/{len}", h.name))
}
