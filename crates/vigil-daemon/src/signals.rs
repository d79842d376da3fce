//! The requests to stop: SIGTERM and SIGINT.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// Ears for the requests to stop.
#[derive(Debug)]
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// From now on no request to stop ends the process by itself. Within a runtime.
    ///
    /// # Errors
    /// The kernel does not allow it.
    pub fn listen() -> Result<Self, Failure> {
        let listen = |kind| {
            let cannot = |e| Failure::unexpected(format!("cannot listen to signals: {e}"));
            signal(kind).map_err(cannot)
        };
        Ok(StopSignals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next request.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
