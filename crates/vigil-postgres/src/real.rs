//! Tests with real servers.

mod clones;
mod planted;
mod processes;
mod standbys;
mod sync_rule;
mod timelines;
