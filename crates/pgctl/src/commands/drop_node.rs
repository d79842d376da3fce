//! `drop-node`: the node leaves for good.

use clap::builder::BoolishValueParser;
use vigil_core::command::Command;

use crate::failure::Failure;
use crate::monitor::Session;

/// Remove a node for good; its keeper stops Postgres, keeps the data and ends
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl drop-node node3
  pgctl drop-node node3 --force        also if its keeper cannot be told")]
pub(crate) struct Args {
    /// The node to remove
    node: String,

    /// Remove it even if it cannot be reached, or if then too few nodes are counted
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_FORCE", hide_env_values = true)]
    force: bool,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let Args { node, force } = self;
        session.execute(Command::DropNode { node, force }).await
    }
}
