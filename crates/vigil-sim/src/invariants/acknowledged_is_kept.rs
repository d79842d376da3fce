//! Whoever acknowledges holds everything that was acknowledged on earlier timelines, and nobody
//! acknowledges anything on a timeline that has been left, but what the newer one has.

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Acknowledged { host, tli, len } = moment else { return None };
    let h = &world.hosts[*host];
    let name = &h.name;
    for (other, acked) in world.ghost.acknowledged(h.group) {
        // A standby's word may arrive late. What it speaks of is part of the newer timeline.
        let part = || {
            world
                .of_group(h.group)
                .any(|(_, o)| o.pg.wal.holds(other, acked) && o.pg.wal.holds(*tli, *len))
        };
        if other > *tli && !part() {
            return Some(format!("{name} acknowledges {tli}/{len} after {other}/{acked} was"));
        }
        if other < *tli && !h.pg.wal.holds(other, acked) {
            return Some(format!("{name} acknowledges {tli}/{len} and lacks {other}/{acked}"));
        }
    }
    None
}
