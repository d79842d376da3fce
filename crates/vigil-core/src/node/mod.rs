//! The keeper's mind: from what is seen of the local Postgres, what is on its own disk, and what
//! the monitor wants, the next step. Level-triggered: it converges from any local state.

pub mod fence;
pub mod observed;
pub mod record;
pub mod step;
pub mod witness;

mod next;

pub use next::{ABOVE_PRIMARY, Circumstances, Next, lineage_end, next_step, pledge};
