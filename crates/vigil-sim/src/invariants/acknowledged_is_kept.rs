//! Whoever acknowledges holds everything that was acknowledged on earlier timelines, and nobody
//! acknowledges on a timeline that has been left.

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Acknowledged { host, tli, len } = moment else { return None };
    let h = &world.hosts[*host];
    let name = &h.name;
    for (other, acked) in world.ghost.acknowledged(h.group) {
        if other > *tli {
            return Some(format!("{name} acknowledges {tli}/{len} after {other}/{acked} was"));
        }
        if other < *tli && !h.pg.wal.holds(other, acked) {
            return Some(format!("{name} acknowledges {tli}/{len} and lacks {other}/{acked}"));
        }
    }
    None
}
