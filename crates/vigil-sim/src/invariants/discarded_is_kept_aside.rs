//! WAL that a rewind or a copy discards was kept aside first, and none of it is of a timeline above
//! that of the primary it was discarded for.

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Replaced { host, from, old, new, kept_from } = moment else { return None };
    let h = &world.hosts[*host];
    let shared = old.common(new);
    if shared == old.len() || old.is_empty() {
        return None;
    }
    // A directory whose replacement was broken off has nothing of its own any more.
    let known = h.torn || kept_from.is_some();
    if known && kept_from.is_none_or(|kept| kept > shared) {
        return Some(format!(
            "{} discards records {} to {} and keeps {kept_from:?}",
            h.name,
            shared + 1,
            old.len()
        ));
    }
    let above = old.tli() > new.tli() && !world.is_outlaw(*host);
    let source = &world.hosts[*from].name;
    above.then(|| {
        format!("{} discards timeline {} for {} of {source}", h.name, old.tli(), new.tli())
    })
}
