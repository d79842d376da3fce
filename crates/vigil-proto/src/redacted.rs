//! Messages with a secret in them are never shown whole.

use std::fmt;

use crate::pb;

impl fmt::Debug for pb::Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order")
            .field("epoch", &self.epoch)
            .field("seq", &self.seq)
            .field("goal_state", &self.goal_state())
            .field("goal", &self.goal)
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}
