//! Whoever is promoted holds every acknowledged commit.

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Promoted { host, tli, .. } = moment else { return None };
    let h = &world.hosts[*host];
    // A promotion that ends after its epoch is over can acknowledge nothing.
    let lacks = world
        .ghost
        .acknowledged(h.group)
        .find(|(other, len)| other < tli && !h.pg.wal.holds(*other, *len));
    lacks.map(|(other, len)| format!("{} is promoted without {other}/{len}", h.name))
}
