//! Whoever is starved judges nobody by it. No healthy primary is replaced for a silence that was the
//! monitor's own, or by the word of a member that has said nothing; none is stopped by a keeper that
//! has not looked, nor by an order that waited for it.

use std::collections::BTreeSet;

use vigil_core::event::Cause;
use vigil_core::group::{Group, Plan};
use vigil_core::message::Goal;
use vigil_core::node::fence;

use super::Moment;
use crate::world::World;

/// WAL is on its way for at most so long, in milliseconds.
const LATE_MS: u64 = 100;

/// What came is read within so long, in milliseconds, by a monitor that runs.
const READ_MS: u64 = 25;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    match moment {
        Moment::Recorded { monitor, group, before, after, .. } => {
            replaced(world, *monitor, *group, before, after)
        }
        Moment::Fenced { host } => fenced(world, *host),
        Moment::Obeyed { host, .. } => ordered(world, *host),
        _ => None,
    }
}

fn replaced(
    world: &World,
    monitor: usize,
    group: usize,
    before: &Group,
    after: &Group,
) -> Option<String> {
    let episode = after.episode.as_ref().filter(|_| before.episode.is_none())?;
    if episode.cause != Cause::Unreachable {
        return None;
    }
    let primary = world.host_of(group, episode.from?)?;
    let told_ms = world.monitors[monitor].heard(group, episode.from?).map_or(0, |told| told.1);
    let interval_ms = after.settings.heartbeat_interval_ms.max(told_ms);
    let silence_ms = interval_ms * u64::from(after.settings.heartbeat_misses);
    if let Some(at_ms) = world.word_came(primary, monitor)
        && (READ_MS..silence_ms).contains(&(world.now_ms - at_ms))
    {
        return Some(format!("its word came at {at_ms} ms"));
    }
    let p = &world.hosts[primary];
    let stands = p.keeper_stands_still() || p.pg.frozen || p.pg.sessions_frozen;
    if stands || p.driver.is_none() || p.lag_ms > 0 {
        return None;
    }
    let feeds = |host: usize| {
        let (h, pg) = (&world.hosts[host], &world.hosts[host].pg);
        let recent = world.now_ms - pg.grew_ms <= world.pace_ms(primary) + LATE_MS;
        pg.receives_from(primary) && recent && !pg.frozen && h.lag_ms == 0
    };
    // Whoever says nothing for a deadline after it came is as silent as the primary: a member that
    // stays mute must not hold a failover up for ever.
    let unasked = |host: &usize| {
        let h = &world.hosts[*host];
        let id = h.disk.node_id.filter(|id| after.members.contains_key(id));
        let m = &world.monitors[monitor];
        h.group == group && id.is_some_and(|id| m.is_unasked(group, id, world.now_ms, silence_ms))
    };
    let settled = world.whole_since_ms + 2 * silence_ms < world.now_ms && !world.net.lossy;
    let mut hosts = (0..world.hosts.len()).filter(|_| settled);
    hosts
        .find(|host| unasked(host) && feeds(*host))
        .map(|host| format!("{} receives, and was not asked yet", world.hosts[host].name))
}

/// A keeper stops its server because others may have elected somebody: not if enough of them just
/// told that server that they follow it.
fn fenced(world: &World, host: usize) -> Option<String> {
    let h = &world.hosts[host];
    let driver = h.driver.as_ref()?;
    let (rule, writer) = (driver.record().own_rule.as_ref()?, h.pg.writer()?);
    let silence_ms = driver.record().settings.silence_ms();
    let stands = h.pg.frozen || h.pg.sessions_frozen;
    if stands || world.whole_since_ms + 2 * silence_ms >= world.now_ms || world.net.lossy {
        return None;
    }
    let told = writer.told.iter().filter(|t| world.now_ms.saturating_sub(t.2) < silence_ms / 2);
    let heard: BTreeSet<_> = told.filter_map(|t| world.hosts[t.0].disk.node_id).collect();
    fence::may_go_on(rule, &heard)
        .then(|| "it is stopped unseen, and its members answer it".to_owned())
}

/// A primary that leads is asked to pledge by no election that silence alone has begun.
fn ordered(world: &World, host: usize) -> Option<String> {
    let h = &world.hosts[host];
    let order = h.driver.as_ref()?.order()?;
    let store = &world.stores[h.group].record;
    let episode = store.episode.as_ref().filter(|e| e.operation.is_none())?;
    let silence = matches!(episode.cause, Cause::Unreachable | Cause::ConnectionsClosed);
    let electing = matches!(store.plan, Plan::Electing { epoch, .. } if epoch == order.epoch);
    let newest = store.rule().filter(|rule| h.disk.node_id == Some(rule.primary))?;
    let writer = h.pg.writer().filter(|_| !h.pg.frozen && !h.pg.sessions_frozen)?;
    let leads = writer.rule.epoch == newest.epoch && h.pg.is_primary();
    let calm = world.whole_since_ms + 2000 < world.now_ms;
    let stops = matches!(order.goal, Goal::Pledge { .. });
    (silence && electing && leads && calm && stops)
        .then(|| "a primary that stood still is stopped by what waited for it".to_owned())
}
