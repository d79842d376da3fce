//! A half-rewound directory is never started.

use super::Moment;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Started { host, torn: true } = moment else { return None };
    Some(format!("{} starts a half-rewound directory", world.hosts[*host].name))
}
