//! What operators ask for and what they are told of it.

use vigil_core::command::{Command, OperationResult, Progress, Refusal};

use crate::pb;
use crate::pb::command as kinds;
use crate::pb::command::Kind;
use crate::pb::progress;
use crate::wire::{BadMessage, message, wired};

message! {
    Refusal { code, message, hint }
    OperationResult {
        operation,
        formationid,
        groupid,
        epoch,
        from,
        to,
        host,
        port,
        outage_ms,
        phases,
    }
}

wired!(Command);

impl From<Command> for pb::Command {
    fn from(command: Command) -> Self {
        let kind = match command {
            Command::Failover { allow_data_loss } => {
                Kind::Failover(kinds::Failover { allow_data_loss })
            }
            Command::Switchover { to } => Kind::Switchover(kinds::Switchover { to }),
            Command::Promotion { node } => Kind::Promotion(kinds::Promotion { node }),
            Command::SetNode { node, candidate_priority, replication_quorum } => {
                Kind::SetNode(kinds::SetNode { node, candidate_priority, replication_quorum })
            }
            Command::SetSettings {
                number_sync_standbys,
                heartbeat_interval_ms,
                heartbeat_misses,
            } => Kind::SetSettings(kinds::SetSettings {
                number_sync_standbys,
                heartbeat_interval_ms,
                heartbeat_misses,
            }),
            Command::EnableMaintenance { node, allow_failover } => {
                Kind::EnableMaintenance(kinds::EnableMaintenance { node, allow_failover })
            }
            Command::DisableMaintenance { node } => {
                Kind::DisableMaintenance(kinds::DisableMaintenance { node })
            }
            Command::DropNode { node, force, allow_failover } => {
                Kind::DropNode(kinds::DropNode { node, force, allow_failover })
            }
        };
        pb::Command { kind: Some(kind) }
    }
}

impl TryFrom<pb::Command> for Command {
    type Error = BadMessage;

    fn try_from(message: pb::Command) -> Result<Self, BadMessage> {
        Ok(match message.kind.ok_or_else(BadMessage::unknown)? {
            Kind::Failover(kinds::Failover { allow_data_loss }) => {
                Command::Failover { allow_data_loss }
            }
            Kind::Switchover(kinds::Switchover { to }) => Command::Switchover { to },
            Kind::Promotion(kinds::Promotion { node }) => Command::Promotion { node },
            Kind::SetNode(kinds::SetNode { node, candidate_priority, replication_quorum }) => {
                Command::SetNode { node, candidate_priority, replication_quorum }
            }
            Kind::SetSettings(kinds::SetSettings {
                number_sync_standbys,
                heartbeat_interval_ms,
                heartbeat_misses,
            }) => Command::SetSettings {
                number_sync_standbys,
                heartbeat_interval_ms,
                heartbeat_misses,
            },
            Kind::EnableMaintenance(kinds::EnableMaintenance { node, allow_failover }) => {
                Command::EnableMaintenance { node, allow_failover }
            }
            Kind::DisableMaintenance(kinds::DisableMaintenance { node }) => {
                Command::DisableMaintenance { node }
            }
            Kind::DropNode(kinds::DropNode { node, force, allow_failover }) => {
                Command::DropNode { node, force, allow_failover }
            }
        })
    }
}

impl From<Progress> for pb::Progress {
    fn from(value: Progress) -> Self {
        let kind = match value {
            Progress::Phase(phase) => progress::Kind::Phase(phase.into()),
            Progress::Waiting { what, who } => {
                progress::Kind::Waiting(progress::Waiting { what, who })
            }
            Progress::Done(result) => progress::Kind::Done(result.into()),
            Progress::RolledBack(result) => progress::Kind::RolledBack(result.into()),
            Progress::Failed { message } => progress::Kind::Failed(progress::Failed { message }),
            Progress::Effective { message } => progress::Kind::Effective(pb::Done { message }),
            Progress::Otherwise { message } => progress::Kind::Otherwise(pb::Done { message }),
        };
        pb::Progress { kind: Some(kind) }
    }
}

impl TryFrom<pb::Progress> for Progress {
    type Error = BadMessage;

    fn try_from(message: pb::Progress) -> Result<Self, BadMessage> {
        Ok(match message.kind.ok_or_else(BadMessage::unknown)? {
            progress::Kind::Phase(phase) => Progress::Phase(phase.try_into()?),
            progress::Kind::Waiting(progress::Waiting { what, who }) => {
                Progress::Waiting { what, who }
            }
            progress::Kind::Done(result) => Progress::Done(result.try_into()?),
            progress::Kind::RolledBack(result) => Progress::RolledBack(result.try_into()?),
            progress::Kind::Failed(progress::Failed { message }) => Progress::Failed { message },
            progress::Kind::Effective(pb::Done { message }) => Progress::Effective { message },
            progress::Kind::Otherwise(pb::Done { message }) => Progress::Otherwise { message },
        })
    }
}
