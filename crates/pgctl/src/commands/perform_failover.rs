//! `perform-failover`: another primary, planned if there is time for it.

use clap::builder::BoolishValueParser;
use vigil_core::command::Command;

use super::perform::perform;
use crate::failure::Failure;
use crate::monitor::Session;

/// Make the best standby the primary: a switchover if the primary is healthy, otherwise an election
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With exit code 0 the node that is named accepts writes.

Examples:
  pgctl perform-failover
  pgctl perform-failover --timeout 10s --json | jq .outage_ms")]
pub(crate) struct Args {
    /// Take nodes that cannot be asked for dead, though commits may be on them alone
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_ALLOW_DATA_LOSS", hide_env_values = true)]
    allow_data_loss: bool,

    /// Return as soon as it is accepted
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_NO_WAIT", hide_env_values = true)]
    no_wait: bool,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let command = Command::Failover { allow_data_loss: self.allow_data_loss };
        perform(session, command, self.no_wait).await
    }
}
