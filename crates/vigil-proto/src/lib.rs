//! What monitor, keepers and `pgctl` say to each other, on the wire.
//!
//! [`pb`] is generated from `proto/pgvigil.proto`: the clients and servers, and one message per
//! type of `vigil-core`. The conversions are `pb::X::from(x)` and `X::try_from(message)`; the way
//! back can fail, because a peer may be of another version: see [`BadMessage`]. This is the only
//! crate that knows the encoding.

mod admin;
mod convert;
mod endpoint;
mod redacted;
mod refusal;
mod stream;
mod uris;
mod wire;

pub use admin::{
    CommandRequest, EventsRequest, FormationSettings, NodeSettings, Selector, SettingsView, Uri,
};
pub use endpoint::{BadUrl, DEFAULT_PORT, endpoint};
pub use refusal::{refusal_of, refusal_status};
pub use stream::{KeeperMessage, MonitorMessage};
pub use uris::uris;
pub use wire::BadMessage;

/// Generated: messages, `keepers_client`, `keepers_server`, `admin_client`, `admin_server`.
#[allow(clippy::all, clippy::pedantic, clippy::unwrap_used, unreachable_pub, missing_docs)]
pub mod pb {
    tonic::include_proto!("pgvigil.v1");
}
