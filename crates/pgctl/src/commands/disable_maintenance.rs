//! `disable-maintenance`: the node works again.

use clap::builder::BoolishValueParser;
use vigil_core::command::Command;

use super::perform::bring_about;
use crate::failure::Failure;
use crate::monitor::Session;

/// Start a node that is in maintenance and take it back into service
#[derive(Debug, clap::Args)]
#[command(after_help = "\
When it returns, the node streams again.

Example:
  pgctl disable-maintenance node2")]
pub(crate) struct Args {
    /// The node to start
    node: String,

    /// Return as soon as it is recorded, not only when its effect is there
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_NO_WAIT", hide_env_values = true)]
    no_wait: bool,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        bring_about(session, Command::DisableMaintenance { node: self.node }, self.no_wait).await
    }
}
