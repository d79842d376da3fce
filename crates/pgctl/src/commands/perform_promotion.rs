//! `perform-promotion`: this node is to be the primary.

use vigil_core::command::Command;

use super::perform::perform;
use crate::failure::Failure;
use crate::monitor::Session;

/// Make a node the primary; nothing to do if it is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With exit code 0 the node accepts writes. Exit code 7: another node is the primary.

Example:
  pgctl perform-promotion node1")]
pub(crate) struct Args {
    /// The next primary
    node: String,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        perform(session, Command::Promotion { node: self.node }, false).await
    }
}
