//! Only the newest recorded winner may be renewed, and only if it led under that very epoch.

use vigil_core::group::Plan;

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Recorded { group, before, after, .. } = moment else { return None };
    let Plan::Promoting { winner, renewal: true, .. } = after.plan else { return None };
    if before.plan == after.plan {
        return None;
    }
    // What was newest then may be gone from S, if it can never have acknowledged anything, or may
    // have been heard of in the same moment.
    let [older @ .., _] = after.rules.as_slice() else { return None };
    let newest = before.rules.iter().chain(older).max_by_key(|rule| rule.id())?;
    // Its disk may be lost by now, and its last word still on the way.
    let led_in = world.hosts[world.host_of(*group, winner)?].disk.led_in;
    let right = newest.primary == winner && led_in == Some(newest.epoch);
    let name = after.name_of(winner);
    (!right).then(|| format!("{name} is renewed, the newest rule is {}", newest.id()))
}
