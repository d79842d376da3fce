//! Keepers on real Postgres servers. Each test is a cluster; they take turns.

#![allow(clippy::unwrap_used)] // tests panic when they fail

mod cluster;
mod memory;
mod scenarios;
