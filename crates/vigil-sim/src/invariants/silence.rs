//! Silence towards the monitor alone is no failover: while a standby that the monitor hears gets
//! WAL from the primary, only the link between monitor and primary is broken.

use vigil_core::event::Cause;

use super::Moment;
use crate::world::World;

/// WAL is on its way for at most so long, and a report for as long, in milliseconds.
const LATE_MS: u64 = 300;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Recorded { monitor, group, before, after, .. } = moment else { return None };
    let episode = after.episode.as_ref().filter(|_| before.episode.is_none())?;
    if episode.cause != Cause::Unreachable {
        return None;
    }
    if after.settings.silence_ms() < before.settings.silence_ms() {
        return Some("late by a deadline that was not yet there".to_owned());
    }
    let primary = world.host_of(*group, episode.from?)?;
    let receives = |host: usize| {
        let h = &world.hosts[host];
        let recent = world.now_ms - h.pg.grew_ms < LATE_MS;
        h.pg.receives_from(primary) && recent && !h.keeper_frozen && h.stream.is_some()
    };
    // What the monitor itself has in hand: a report of less than a heartbeat ago that vouches.
    let witness = after.members.keys().filter_map(|id| world.host_of(*group, *id)).find(|host| {
        let id = world.hosts[*host].disk.node_id;
        let told = world.monitors[*monitor].cells.get(*group).is_some_and(|cell| {
            let node = id.and_then(|id| cell.driver.facts().node(id));
            node.is_some_and(|n| {
                let fresh = n.heard_ms.is_some_and(|at| world.now_ms - at < LATE_MS);
                let follows = n.report.as_ref().and_then(|r| r.following);
                fresh && follows.is_some_and(|f| f.streaming && f.wal_age_ms < LATE_MS)
            })
        });
        told && receives(*host)
    });
    witness.map(|host| format!("{} receives, and was heard", world.hosts[host].name))
}
