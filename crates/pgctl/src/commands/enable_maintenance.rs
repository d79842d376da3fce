//! `enable-maintenance`: stop a node's Postgres on purpose.

use clap::builder::BoolishValueParser;
use vigil_core::command::Command;

use super::perform::bring_about;
use crate::failure::Failure;
use crate::monitor::Session;

/// Take a node out of service and stop its Postgres
#[derive(Debug, clap::Args)]
#[command(after_help = "\
When it returns, the node's Postgres is stopped and no commit waits for it.

Examples:
  pgctl enable-maintenance node2
  pgctl enable-maintenance node1 --allow-failover")]
pub(crate) struct Args {
    /// The node to stop
    node: String,

    /// If it is the primary, hand over to another node first instead of refusing
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_ALLOW_FAILOVER", hide_env_values = true)]
    allow_failover: bool,

    /// Return as soon as it is recorded, not only when its effect is there
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_NO_WAIT", hide_env_values = true)]
    no_wait: bool,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let Args { node, allow_failover, no_wait } = self;
        bring_about(session, Command::EnableMaintenance { node, allow_failover }, no_wait).await
    }
}
