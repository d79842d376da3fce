//! No order of an old epoch is obeyed, and none that is older than the one before it.

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Obeyed { host, epoch, promise, seq, before } = moment else { return None };
    let name = &world.hosts[*host].name;
    if epoch < promise {
        return Some(format!("{name} obeys an order of epoch {epoch}, its promise is {promise}"));
    }
    let older = before.is_some_and(|before| *seq < before);
    older.then(|| format!("{name} obeys order {seq} after {before:?}"))
}
