//! The gRPC server: keepers and operators.

mod admin;
mod keepers;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use vigil_core::command::Refusal;
use vigil_proto::pb::admin_server::AdminServer;
use vigil_proto::pb::keepers_server::KeepersServer;
use vigil_proto::{BadMessage, refusal_status};

use crate::group_task::Declined;
use crate::registry::Registry;

/// A peer that does not answer for so long is gone.
const KEEPALIVE: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Serves until `stop`. Streams end with it; they would never end by themselves.
pub async fn serve(
    listener: tokio::net::TcpListener,
    registry: Arc<Registry>,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let keepers = keepers::Keepers { registry: registry.clone(), stop: stop.clone() };
    let admin = admin::Admin { registry, stop: stop.clone() };
    let server = Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(Some(128))
        .add_service(KeepersServer::new(keepers))
        .add_service(AdminServer::new(admin))
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let patience = async {
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    tokio::select! {
        result = server => result,
        () = patience => Ok(()),
    }
}

fn declined(why: Declined) -> Status {
    match why {
        Declined::Refused(refusal) => refusal_status(refusal),
        Declined::Unavailable(why) => {
            Status::unavailable(format!("nothing can be recorded at the moment: {why}"))
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn bad_message(bad: BadMessage) -> Status {
    Status::invalid_argument(bad.to_string())
}

fn refused(refusal: Refusal) -> Status {
    refusal_status(refusal)
}
