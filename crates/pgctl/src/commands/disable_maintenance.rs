//! `disable-maintenance`: the node works again.

use vigil_core::command::Command;

use crate::failure::Failure;
use crate::monitor::Session;

/// Start a node that is in maintenance and take it back into service
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  pgctl disable-maintenance node2")]
pub(crate) struct Args {
    /// The node to start
    node: String,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        session.execute(Command::DisableMaintenance { node: self.node }).await
    }
}
