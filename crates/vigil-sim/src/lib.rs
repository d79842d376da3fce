//! A deterministic world: clock, network, disks, and a model of Postgres, around the drivers that
//! run in production. One seed gives one run. No tokio, no real time.

pub mod postgres;
pub mod rng;
pub mod world;
