//! Tests with real servers.

mod processes;
mod standbys;
mod sync_rule;
mod timelines;
