//! A node that may hold the only copy of an acknowledged commit is never overwritten.

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    // A directory that is marked is of no use to anybody from then on, even before it is touched.
    let Moment::Saved { host, before, after } = moment else { return None };
    if !before.is_whole() || after.replacing.is_none() || after.is_whole() {
        return None;
    }
    let h = &world.hosts[*host];
    let held_elsewhere =
        |tli, len| world.of_group(h.group).any(|(_, o)| o.is_usable() && o.pg.wal.holds(tli, len));
    let lost = world
        .ghost
        .acknowledged(h.group)
        .find(|(tli, len)| h.pg.wal.holds(*tli, *len) && !held_elsewhere(*tli, *len));
    lost.map(|(tli, len)| format!("{} gives up the last copy of {tli}/{len}", h.name))
}
