//! The commands, one file each: its options, what it asks the monitor, what it prints.

pub(crate) mod create_formation;
pub(crate) mod disable_maintenance;
pub(crate) mod drop_formation;
pub(crate) mod drop_node;
pub(crate) mod enable_maintenance;
pub(crate) mod explain;
mod perform;
pub(crate) mod perform_failover;
pub(crate) mod perform_promotion;
pub(crate) mod perform_switchover;
pub(crate) mod set_formation;
pub(crate) mod set_node;
pub(crate) mod show_events;
pub(crate) mod show_settings;
pub(crate) mod show_state;
pub(crate) mod show_uri;
