//! `drop-formation`: the place is given up.

use tokio::time::timeout_at;
use vigil_proto::pb;

use crate::failure::Failure;
use crate::monitor::Session;

/// Remove a formation that has no nodes any more
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  pgctl drop-formation billing")]
pub(crate) struct Args {
    /// Its name
    name: String,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut monitor = session.to_change().await?;
        let request = pb::DropFormationRequest { name: self.name };
        let answer = timeout_at(monitor.deadline, monitor.client.drop_formation(request)).await;
        session.done(&monitor.changed(answer)?.message)
    }
}
