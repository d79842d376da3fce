//! Tests of the monitor with a real Postgres of its own, and of its group task with a store in
//! memory.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod cli;
mod group_task;
mod harness;
mod memory;
mod monitor;
mod store;
