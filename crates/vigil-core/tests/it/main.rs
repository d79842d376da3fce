//! What the pure core must do, by its rules: each test names the rule, or the accident that it
//! forbids.
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod commands;
mod detection;
mod effects;
mod election;
mod keeper;
mod looks;
mod monitor;
mod operators;
mod starved;
mod support;
mod sync_policy;
mod totality;
mod winner;
