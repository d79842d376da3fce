//! One stream per keeper. The stream's task carries messages between the wire and the group's
//! task; it knows nothing of what they mean.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use vigil_core::ids::GroupKey;
use vigil_core::message::Hello;
use vigil_proto::{KeeperMessage, MonitorMessage, pb};

use super::{bad_message, refused};
use crate::group_task::{GroupHandle, Mail, OUTBOX, Outbox};
use crate::registry::Registry;

pub(super) struct Keepers {
    pub(super) registry: Arc<Registry>,
    pub(super) stop: CancellationToken,
}

type Answers =
    std::pin::Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::MonitorMessage, Status>> + Send>>;

#[tonic::async_trait]
impl pb::keepers_server::Keepers for Keepers {
    type AttendStream = Answers;

    /// Answers at once, so that a keeper may wait for the head before it says hello; a refusal is
    /// the stream's end.
    async fn attend(
        &self,
        request: Request<Streaming<pb::KeeperMessage>>,
    ) -> Result<Response<Answers>, Status> {
        let (sender, answers) = mpsc::channel(OUTBOX);
        let (registry, stop) = (self.registry.clone(), self.stop.clone());
        let from = request.remote_addr();
        tokio::spawn(async move {
            let mut inbound = request.into_inner();
            let given_up = CancellationToken::new();
            let outbox = Outbox::new(sender.clone(), given_up.clone());
            let result = tokio::select! {
                result = attend(&registry, &mut inbound, outbox, &sender) => result,
                () = stop.cancelled() => Err(Status::unavailable("the monitor is being stopped")),
                () = given_up.cancelled() => Ok(()),
                // Nobody reads the answers any more.
                () = sender.closed() => Ok(()),
            };
            if let Err(status) = result {
                tracing::debug!(?from, code = ?status.code(), why = status.message(), "stream");
                let _ = sender.try_send(Err(status));
            }
        });
        let answers = ReceiverStream::new(answers);
        Ok(Response::new(Box::pin(answers.map(|m| m.map(pb::MonitorMessage::from)))))
    }
}

async fn attend(
    registry: &Arc<Registry>,
    inbound: &mut Streaming<pb::KeeperMessage>,
    outbox: Outbox,
    answers: &mpsc::Sender<Result<MonitorMessage, Status>>,
) -> Result<(), Status> {
    let Some(first) = inbound.message().await? else { return Ok(()) };
    let KeeperMessage::Hello(hello) = first.try_into().map_err(bad_message)? else {
        return Err(Status::invalid_argument("a keeper says hello first"));
    };
    let Hello { formation, group, .. } = &*hello;
    let key = GroupKey { formation: formation.clone(), group: *group };
    let handle = registry.for_keeper(&key).await.map_err(refused)?;
    let stream = registry.next_number();
    // However this ends, also by being dropped, the group learns of it.
    let _closes = Closes { handle: handle.clone(), stream };
    post(&handle, Mail::Hello { stream, hello, outbox }).await?;
    while let Some(message) = inbound.message().await? {
        let KeeperMessage::Report { counter, report } = message.try_into().map_err(bad_message)?
        else {
            return Err(Status::invalid_argument("a keeper says hello once"));
        };
        post(&handle, Mail::Report { stream, report }).await?;
        if answers.try_send(Ok(MonitorMessage::Heard { counter })).is_err() {
            return Err(Status::resource_exhausted("the keeper does not read its answers"));
        }
    }
    Ok(())
}

async fn post(handle: &GroupHandle, mail: Mail) -> Result<(), Status> {
    let gone = |_| Status::unavailable("the group's task is starting again");
    handle.mailbox.send(mail).await.map_err(gone)
}

struct Closes {
    handle: GroupHandle,
    stream: u64,
}

impl Drop for Closes {
    fn drop(&mut self) {
        self.handle.mailbox.put(Mail::Closed { stream: self.stream });
    }
}
