//! What arrives at a group's task, and how.

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Status;
use vigil_core::command::{Command, Progress, Refusal};
use vigil_core::message::{Hello, Report};
use vigil_proto::MonitorMessage;

use crate::clock;

/// Reports and requests that may wait for a task that waits for its store.
pub(crate) const MAILBOX: usize = 1024;
/// Messages that may wait for a keeper that does not read. Then its stream is given up.
pub const OUTBOX: usize = 256;

/// The way to one keeper. Dropping it ends the stream, once what was sent is through.
#[derive(Debug)]
pub struct Outbox {
    sender: mpsc::Sender<Result<MonitorMessage, Status>>,
    _given_up: DropGuard,
}

impl Outbox {
    /// `given_up` is cancelled when the stream should end.
    pub fn new(
        sender: mpsc::Sender<Result<MonitorMessage, Status>>,
        given_up: CancellationToken,
    ) -> Self {
        Outbox { sender, _given_up: given_up.drop_guard() }
    }

    /// False: the keeper does not read, or has gone.
    pub(crate) fn send(&self, message: Result<MonitorMessage, Status>) -> bool {
        self.sender.try_send(message).is_ok()
    }
}

/// What arrives at a group's task.
#[derive(Debug)]
pub enum Mail {
    Hello {
        stream: u64,
        hello: Box<Hello>,
        outbox: Outbox,
    },
    Report {
        stream: u64,
        report: Box<Report>,
    },
    Closed {
        stream: u64,
    },
    /// Whether a command would be taken; for those that are for several groups or for none.
    Check {
        command: Command,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    Command {
        id: u64,
        command: Command,
        reply: oneshot::Sender<Result<String, Declined>>,
        progress: mpsc::UnboundedSender<Progress>,
    },
}

/// Why a command was not taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Declined {
    Refused(Refusal),
    /// It could not be recorded.
    Unavailable(String),
}

/// A piece of mail with the time at which it came, in monotonic milliseconds: whoever reads it late
/// must not take it for new, nor what came in time for late.
#[derive(Debug)]
pub struct Posted {
    pub(crate) mail: Mail,
    pub(crate) came_ms: u64,
}

impl Posted {
    fn now(mail: Mail) -> Self {
        Posted { mail, came_ms: clock::now().mono_ms }
    }
}

/// The task has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone;

/// Where a group's mail is put.
#[derive(Clone, Debug)]
pub struct Mailbox(mpsc::Sender<Posted>);

impl Mailbox {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Posted>) {
        let (sender, receiver) = mpsc::channel(MAILBOX);
        (Mailbox(sender), receiver)
    }

    /// Waits while the box is full.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub async fn send(&self, mail: Mail) -> Result<(), Gone> {
        self.0.send(Posted::now(mail)).await.map_err(|_| Gone)
    }

    /// At once, or as soon as there is room.
    pub(crate) fn put(&self, mail: Mail) {
        let Err(mpsc::error::TrySendError::Full(mail)) = self.0.try_send(Posted::now(mail)) else {
            return;
        };
        let sender = self.0.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { sender.send(mail).await });
        }
    }
}
