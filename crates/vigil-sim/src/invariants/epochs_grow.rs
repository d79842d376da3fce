//! Epochs only grow, on every disk and in the store; one promotion in an epoch, one on a timeline.

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    match moment {
        Moment::Saved { host, before, after } if after.promise < before.promise => {
            let name = &world.hosts[*host].name;
            let (before, after) = (before.promise, after.promise);
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
