//! Epochs only grow, on every disk and in the store; one promotion in an epoch, one on a timeline.

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    match moment {
        Moment::Promised { host, before, after, same_node } if *same_node && after < before => {
            let name = &world.hosts[*host].name;
            Some(format!("{name} goes back from its promise {before} to {after}"))
        }
        Moment::Recorded { before, after, .. } if after.epoch < before.epoch => {
            Some(format!("the store goes back from epoch {} to {}", before.epoch, after.epoch))
        }
        Moment::Promoted { host, epoch, tli } => {
            let memory = &world.ghost.groups[world.hosts[*host].group];
            let name = &world.hosts[*host].name;
            if memory.epochs_led.contains(epoch) {
                return Some(format!(
                    "{name} is promoted in epoch {epoch}, as somebody was before"
                ));
            }
            let used = memory.timelines.contains(tli);
            used.then(|| format!("{name} is promoted to timeline {tli}, as somebody was before"))
        }
        _ => None,
    }
}
