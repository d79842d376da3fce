//! Never two nodes that can acknowledge under the rules that their backends obey. What counts is
//! whether standbys' receivers exist, not whether a link is up: links come back.

use crate::world::World;

pub(super) fn check(world: &World) -> Option<String> {
    for group in 0..world.stores.len() {
        let mut able = world.of_group(group).filter(|(i, _)| is_able(world, *i));
        if let (Some((_, one)), Some((_, two))) = (able.next(), able.next()) {
            return Some(format!("{} and {} can acknowledge", one.name, two.name));
        }
    }
    None
}

/// Whether a commit that is made now can be acknowledged.
pub(super) fn is_able(world: &World, host: usize) -> bool {
    let h = &world.hosts[host];
    let Some(writer) = h.pg.writer().filter(|w| !w.stopping) else { return false };
    if world.is_outlaw(host) {
        return false;
    }
    let receivers = world.of_group(h.group).filter(|(_, other)| {
        let member = other.disk.node_id.is_some_and(|id| writer.rule.members.contains(&id));
        let attached = other.pg.standby().and_then(|s| s.receiver);
        member && attached == Some((host, h.pg.life))
    });
    writer.rule.acks == 0 || receivers.count() >= writer.rule.acks as usize
}
