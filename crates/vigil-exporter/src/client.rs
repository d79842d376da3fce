//! One HTTP request. A connection each: what is asked are programs on the same network, a few times
//! a second at most.

use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The longest page that is read, in bytes.
const PAGE_MAX: usize = 16 << 20;

#[derive(Debug, thiserror::Error)]
pub enum GetError {
    #[error("{address} did not answer within {within:?}")]
    Timeout { address: String, within: Duration },
    #[error("{address} answered with {status}")]
    Status { address: String, status: hyper::StatusCode },
    #[error("{address}: {source}")]
    Failed { address: String, source: Box<dyn std::error::Error + Send + Sync> },
}

/// The body of `http://address/path`, within `within`.
///
/// # Errors
/// No answer in time, or another one than 200 with text.
pub async fn get(address: &str, path: &str, within: Duration) -> Result<String, GetError> {
    match tokio::time::timeout(within, ask(address, path)).await {
        Ok(Ok((hyper::StatusCode::OK, text))) => Ok(text),
        Ok(Ok((status, _))) => Err(GetError::Status { address: address.to_owned(), status }),
        Ok(Err(source)) => Err(GetError::Failed { address: address.to_owned(), source }),
        Err(_) => Err(GetError::Timeout { address: address.to_owned(), within }),
    }
}

async fn ask(
    address: &str,
    path: &str,
) -> Result<(hyper::StatusCode, String), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = hyper::Request::get(path).header(HOST, address).body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), PAGE_MAX).collect().await?.to_bytes();
        Ok((status, String::from_utf8(body.into())?))
    };
    tokio::pin!(connection);
    tokio::select! {
        result = exchange => result,
        // The connection has to be driven; it ends before the answer only when it is lost.
        ended = &mut connection => Err(ended.err().map_or_else(|| "closed".into(), Into::into)),
    }
}
