//! Tests with real servers.

mod broken_conf;
mod clones;
mod planted;
mod processes;
mod standbys;
mod sync_rule;
mod timelines;
