//! Silence towards the monitor alone is no failover: while a standby that the monitor hears gets
//! WAL from the primary, only the link between monitor and primary is broken. And nobody is late by
//! a heartbeat that it has not heard of.

use vigil_core::event::Cause;
use vigil_core::group::Group;

use super::Moment;
use crate::world::World;

/// WAL is on its way for at most so long, and a report for as long, in milliseconds.
const LATE_MS: u64 = 100;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Recorded { monitor, group, before, after, .. } = moment else { return None };
    let episode = after.episode.as_ref().filter(|_| before.episode.is_none())?;
    if episode.cause != Cause::Unreachable {
        return None;
    }
    let primary = world.host_of(*group, episode.from?)?;
    if let Some((at_ms, interval_ms)) = world.monitors[*monitor].heard(*group, episode.from?)
        && world.now_ms - at_ms <= interval_ms * u64::from(after.settings.heartbeat_misses)
    {
        return Some(format!("late by a heartbeat that it does not know: said at {at_ms} ms"));
    }
    let p = &world.hosts[primary];
    if p.pg.frozen || p.pg.sessions_frozen || p.lag_ms > 0 {
        return None;
    }
    let longest_ms = (0..world.hosts.len()).map(|host| world.pace_ms(host)).max().unwrap_or(0);
    let well = p.pg.ailing_ms + 3 * longest_ms < world.now_ms;
    // Also while its keeper is away, and nobody writes: whoever is fed commits something.
    let takes = p.pg.commits() && p.pg.writer().is_some_and(|w| !w.stopping);
    let commits = well && takes && p.powered && !p.slow_disk;
    let witness = (0..world.hosts.len())
        .filter(|host| is_heard(world, *monitor, after, *group, *host))
        .find(|host| {
            let pg = &world.hosts[*host].pg;
            let recent = world.now_ms - pg.grew_ms <= world.pace_ms(primary) + LATE_MS;
            let reaches = world.linked(*host, primary) && world.linked(primary, *host);
            pg.receives_from(primary) && (recent || commits && reaches) && !pg.frozen
        });
    witness.map(|host| format!("{} receives, and was heard", world.hosts[host].name))
}

/// Whether a member's keeper has gone on telling the monitor, undisturbed for two heartbeats: then
/// what it saw a heartbeat ago has been told.
fn is_heard(world: &World, monitor: usize, record: &Group, group: usize, host: usize) -> bool {
    let h = &world.hosts[host];
    let longest_ms = (0..world.hosts.len()).map(|host| world.pace_ms(host)).max().unwrap_or(0);
    let settled_ms = world.now_ms.saturating_sub(2 * longest_ms + LATE_MS);
    h.group == group
        && h.disk.node_id.is_some_and(|id| record.members.contains_key(&id))
        && h.powered
        && !h.keeper_frozen
        && h.lag_ms == 0
        && !world.net.lossy
        && world.calm_since_ms < settled_ms
        && world.is_connected(host, monitor, settled_ms)
}
