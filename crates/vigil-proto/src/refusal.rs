//! A refusal travels as a gRPC status: the code and message that any client can read, and the
//! whole of it in one metadata value.

use prost::Message;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use tonic::{Code, Status};
use vigil_core::command::{Refusal, RefusalCode};

use crate::pb;

const KEY: &str = "pgvigil-refusal-bin";

/// The status that tells a caller of `refusal`.
pub fn refusal_status(refusal: Refusal) -> Status {
    let code = match refusal.code {
        RefusalCode::BadValue => Code::InvalidArgument,
        RefusalCode::NotFound => Code::NotFound,
        RefusalCode::Refused => Code::FailedPrecondition,
    };
    let message = refusal.message.clone();
    let whole = pb::Refusal::from(refusal).encode_to_vec();
    let mut metadata = MetadataMap::new();
    metadata.insert_bin(KEY, BinaryMetadataValue::from_bytes(&whole));
    Status::with_metadata(code, message, metadata)
}

/// The refusal that `status` tells of; `None` when it is some other failure.
pub fn refusal_of(status: &Status) -> Option<Refusal> {
    let whole = status.metadata().get_bin(KEY)?.to_bytes().ok()?;
    pb::Refusal::decode(whole).ok()?.try_into().ok()
}
