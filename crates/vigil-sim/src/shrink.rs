//! A shorter schedule that still fails.

use crate::scenario::Scenario;
use crate::world::{Violation, World};

/// Runs a scenario to its first violation.
pub fn violation(scenario: &Scenario) -> Option<Violation> {
    let mut world = World::new(scenario.clone(), false);
    world.run();
    world.violation
}

/// Leaves out parts of the schedule, larger ones first, as long as the same invariant breaks
/// (delta debugging, Zeller and Hildebrandt 2002). Returns the entries that are left.
pub fn shrink(scenario: &Scenario) -> Option<(Vec<usize>, Violation)> {
    let mut found = violation(scenario)?;
    let mut left: Vec<usize> = (0..scenario.schedule.len()).collect();
    let mut size = left.len().div_ceil(2);
    while size > 0 {
        let mut start = 0;
        while start < left.len() {
            let end = (start + size).min(left.len());
            let fewer: Vec<usize> = [&left[..start], &left[end..]].concat();
            match violation(&scenario.keeping(&fewer)) {
                Some(v) if v.invariant == found.invariant => (left, found) = (fewer, v),
                _ => start = end,
            }
        }
        size /= 2;
    }
    Some((left, found))
}
