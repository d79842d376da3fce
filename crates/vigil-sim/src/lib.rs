//! A deterministic world: clock, network, disks, and a model of Postgres, around the drivers that
//! run in production. One seed gives one run. No tokio, no real time. `README.md` beside this
//! crate tells how to read a trace.

pub mod batch;
pub mod coverage;
mod invariants;
pub mod postgres;
pub mod rng;
pub mod scenario;
pub mod shrink;
pub mod wal;
pub mod world;
