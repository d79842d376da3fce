//! Every change of the primary is one event, with a cause that can be seen.

use vigil_core::event::{Cause, EventKind};
use vigil_core::group::{Group, Plan};

use super::Moment;
use crate::world::World;

/// A cause may have ended so long ago, in milliseconds: it is told before it is acted on.
const FRESH_MS: u64 = 8_000;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Recorded { group, before, after, events, .. } = moment else { return None };
    let closing = events.iter().filter(|e| {
        matches!(e.kind, EventKind::Failover | EventKind::Switchover | EventKind::Promotion)
            && !e.phases.is_empty()
    });
    let identity = |group: &Group| group.episode.as_ref().map(|e| (e.started_ms, e.from.is_some()));
    let ended = before.episode.is_some() && identity(before) != identity(after);
    let told = closing.count();
    // A store that was put back goes on from what it hears: that episode is not told of.
    let rebuilt = |e: &&vigil_core::event::Event| e.description.contains("was rebuilt");
    let recovers = after.plan == Plan::Recovering
        || before.plan == Plan::Recovering
        || events.iter().any(|e| rebuilt(&e));
    if told != usize::from(ended) && !recovers {
        return Some(format!("{told} events tell of a change of the primary, ended: {ended}"));
    }
    let began = after.episode.is_some() && identity(before) != identity(after);
    let episode = after.episode.as_ref().filter(|_| began)?;
    let host = world.host_of(*group, episode.from?)?;
    let pg = &world.hosts[host].pg;
    let ailing = !pg.is_primary() || pg.frozen || world.now_ms - pg.ailing_ms < FRESH_MS;
    let plain = match episode.cause {
        Cause::PostgresDown | Cause::PostgresHung | Cause::NotPrimary => ailing,
        _ => true,
    };
    (!plain).then(|| format!("{:?} of {} is not so", episode.cause, world.hosts[host].name))
}
