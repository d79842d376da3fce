//! `set-formation`: settings of all nodes of a formation together.

use std::time::Duration;

use clap::ArgGroup;
use clap::builder::BoolishValueParser;
use vigil_core::command::Command;

use super::perform::bring_about;
use crate::failure::Failure;
use crate::monitor::Session;
use crate::values;

/// Change how many standbys a commit waits for, and how fast a lost node is noticed
// The variables of these options are those of the monitor: see `set-node`.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("setting").required(true).multiple(true))]
#[command(after_help = "\
The settings are taken from the command line only, not from the environment. When it returns they
are in force.

Examples:
  pgctl set-formation --number-sync-standbys 1
  pgctl set-formation --heartbeat-interval 250ms --heartbeat-misses 3")]
pub(crate) struct Args {
    /// Commits wait for so many standbys and block without them; 0 = for one as long as there is one
    #[arg(long, value_name = "N", group = "setting")]
    number_sync_standbys: Option<u32>,

    /// How often keepers report
    #[arg(long, value_name = "DURATION", group = "setting", value_parser = values::duration)]
    heartbeat_interval: Option<Duration>,

    /// So many missed reports make a node suspect
    #[arg(long, value_name = "N", group = "setting")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    heartbeat_misses: Option<u32>,

    /// Return as soon as it is recorded, not only when its effect is there
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_NO_WAIT", hide_env_values = true)]
    no_wait: bool,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let command = Command::SetSettings {
            number_sync_standbys: self.number_sync_standbys,
            heartbeat_interval_ms: self.heartbeat_interval.map(values::millis),
            heartbeat_misses: self.heartbeat_misses,
        };
        bring_about(session, command, self.no_wait).await
    }
}
