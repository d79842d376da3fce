//! `perform-switchover`: another primary, planned.

use clap::builder::BoolishValueParser;
use vigil_core::command::Command;

use super::perform::perform;
use crate::failure::Failure;
use crate::monitor::Session;

/// Hand the primary over to a standby, planned: refused if that cannot be done without a loss
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With exit code 0 the node that is named accepts writes.

Examples:
  pgctl perform-switchover --to node3
  pgctl perform-switchover --no-wait")]
pub(crate) struct Args {
    /// The next primary; the best standby if not given
    #[arg(long, value_name = "NODE")]
    #[arg(env = "PGVIGIL_TO", hide_env_values = true)]
    to: Option<String>,

    /// Return as soon as it is accepted
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_NO_WAIT", hide_env_values = true)]
    no_wait: bool,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        perform(session, Command::Switchover { to: self.to }, self.no_wait).await
    }
}
