//! `set-node`: settings of one node.

use clap::builder::BoolishValueParser;
use clap::{ArgAction, ArgGroup};
use vigil_core::command::Command;

use super::perform::bring_about;
use crate::failure::Failure;
use crate::monitor::Session;

/// Change a node's part in elections and in the synchronous quorum
// The variables of these options are those of the keeper: read here, a keeper's environment would
// change settings that nobody has named.
#[derive(Debug, clap::Args)]
#[command(group = ArgGroup::new("setting").required(true).multiple(true))]
#[command(after_help = "\
The settings are taken from the command line only, not from the environment. When it returns they
are in force.

Examples:
  pgctl set-node node3 --candidate-priority 0      never promote it by itself
  pgctl set-node node3 --replication-quorum false  commits do not wait for it")]
pub(crate) struct Args {
    /// The node to change
    node: String,

    /// The highest is promoted first; 0 = never by itself
    #[arg(long, value_name = "0..100", group = "setting")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=100))]
    candidate_priority: Option<u32>,

    /// Whether it counts for synchronous commits
    #[arg(long, value_name = "true|false", group = "setting", action = ArgAction::Set)]
    replication_quorum: Option<bool>,

    /// Return as soon as it is recorded, not only when its effect is there
    #[arg(long, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_NO_WAIT", hide_env_values = true)]
    no_wait: bool,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let Args { node, candidate_priority, replication_quorum, no_wait } = self;
        bring_about(
            session,
            Command::SetNode { node, candidate_priority, replication_quorum },
            no_wait,
        )
        .await
    }
}
