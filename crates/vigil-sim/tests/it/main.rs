//! What the simulator promises of itself. Meant for `--release`; the other profile takes its time.

mod breaks;
mod drivers;
mod seeds;
