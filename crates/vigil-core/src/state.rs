//! The public names of a node's state (pg_auto_failover's, because its users know them).

use std::fmt;

use serde::{Deserialize, Serialize};

/// What `reportedstate` and `goalstate` say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Init,
    Single,
    WaitPrimary,
    Primary,
    ApplySettings,
    Draining,
    DemoteTimeout,
    Demoted,
    WaitStandby,
    Catchingup,
    Secondary,
    PreparePromotion,
    StopReplication,
    ReportLsn,
    FastForward,
    JoinSecondary,
    PrepareMaintenance,
    WaitMaintenance,
    Maintenance,
    Dropped,
}

impl NodeState {
    pub const ALL: [NodeState; 20] = [
        NodeState::Init,
        NodeState::Single,
        NodeState::WaitPrimary,
        NodeState::Primary,
        NodeState::ApplySettings,
        NodeState::Draining,
        NodeState::DemoteTimeout,
        NodeState::Demoted,
        NodeState::WaitStandby,
        NodeState::Catchingup,
        NodeState::Secondary,
        NodeState::PreparePromotion,
        NodeState::StopReplication,
        NodeState::ReportLsn,
        NodeState::FastForward,
        NodeState::JoinSecondary,
        NodeState::PrepareMaintenance,
        NodeState::WaitMaintenance,
        NodeState::Maintenance,
        NodeState::Dropped,
    ];

    /// The spelling in JSON, SQL and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            NodeState::Init => "init",
            NodeState::Single => "single",
            NodeState::WaitPrimary => "wait_primary",
            NodeState::Primary => "primary",
            NodeState::ApplySettings => "apply_settings",
            NodeState::Draining => "draining",
            NodeState::DemoteTimeout => "demote_timeout",
            NodeState::Demoted => "demoted",
            NodeState::WaitStandby => "wait_standby",
            NodeState::Catchingup => "catchingup",
            NodeState::Secondary => "secondary",
            NodeState::PreparePromotion => "prepare_promotion",
            NodeState::StopReplication => "stop_replication",
            NodeState::ReportLsn => "report_lsn",
            NodeState::FastForward => "fast_forward",
            NodeState::JoinSecondary => "join_secondary",
            NodeState::PrepareMaintenance => "prepare_maintenance",
            NodeState::WaitMaintenance => "wait_maintenance",
            NodeState::Maintenance => "maintenance",
            NodeState::Dropped => "dropped",
        }
    }

    /// The number in `pg_auto_failover_node_state_reported_state_code`: 0 to 4 are fixed by users'
    /// dashboards, the rest extends them.
    pub fn metric_code(self) -> i64 {
        match self {
            NodeState::Draining => 0,
            NodeState::WaitStandby => 1,
            NodeState::Secondary => 2,
            NodeState::Primary => 3,
            NodeState::Single => 4,
            NodeState::Init => 5,
            NodeState::WaitPrimary => 6,
            NodeState::ApplySettings => 7,
            NodeState::DemoteTimeout => 8,
            NodeState::Demoted => 9,
            NodeState::Catchingup => 10,
            NodeState::PreparePromotion => 11,
            NodeState::StopReplication => 12,
            NodeState::ReportLsn => 13,
            NodeState::FastForward => 14,
            NodeState::JoinSecondary => 15,
            NodeState::PrepareMaintenance => 16,
            NodeState::WaitMaintenance => 17,
            NodeState::Maintenance => 18,
            NodeState::Dropped => 19,
        }
    }
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_in_json_is_the_spelling_in_tables_and_codes_are_unique() {
        let mut codes = std::collections::BTreeSet::new();
        for state in NodeState::ALL {
            let json = serde_json::to_string(&state).unwrap();
            assert_eq!(json, format!("\"{state}\""));
            assert!(codes.insert(state.metric_code()), "{state}");
        }
    }
}
