//! `create-formation`: a place for another cluster on the same monitor.

use tokio::time::timeout_at;
use vigil_proto::pb;

use crate::failure::Failure;
use crate::monitor::Session;

/// Create a formation, which keepers can then join
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  pgctl create-formation billing --number-sync-standbys 1")]
pub(crate) struct Args {
    /// Its name
    name: String,

    /// As in `set-formation`; the monitor's default if not given
    #[arg(long, value_name = "N")]
    #[arg(env = "PGVIGIL_NUMBER_SYNC_STANDBYS", hide_env_values = true)]
    number_sync_standbys: Option<u32>,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let Args { name, number_sync_standbys } = self;
        let mut monitor = session.to_change().await?;
        let request = pb::CreateFormationRequest { name, number_sync_standbys };
        let answer = timeout_at(monitor.deadline, monitor.client.create_formation(request)).await;
        session.done(&monitor.changed(answer)?.message)
    }
}
