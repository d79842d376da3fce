//! `drop-node`: the node leaves for good.

use clap::builder::BoolishValueParser;
use vigil_core::command::Command;

use super::perform::bring_about;
use crate::failure::Failure;
use crate::monitor::Session;

/// Remove a node for good; its keeper stops Postgres, keeps the data and ends
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl drop-node node3                when it returns, Postgres is stopped and the node has left
  pgctl drop-node node1 --allow-failover
  pgctl drop-node node3 --force        also if its keeper cannot be told")]
pub(crate) struct Args {
    /// The node to remove
    node: String,

    /// Remove it even if it cannot be reached, or if then too few nodes are counted
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_FORCE", hide_env_values = true)]
    force: bool,

    /// If it is the primary, hand over to another node first instead of refusing
    #[arg(long)]
    allow_failover: bool,

    /// Return as soon as it is recorded, not only when its effect is there
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_NO_WAIT", hide_env_values = true)]
    no_wait: bool,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let Args { node, force, allow_failover, no_wait } = self;
        bring_about(session, Command::DropNode { node, force, allow_failover }, no_wait).await
    }
}
