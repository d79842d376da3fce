//! What operators ask for.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use vigil_core::command::{Command, Progress, Refusal, RefusalCode};
use vigil_core::view::GroupView;
use vigil_proto::{
    BadMessage, CommandRequest, EventsRequest, FormationSettings, NodeSettings, Selector,
    SettingsView, pb,
};

use super::{bad_message, declined, refused};
use crate::registry::{self, Registry};

pub(super) struct Admin {
    pub(super) registry: Arc<Registry>,
    pub(super) stop: CancellationToken,
}

/// A watcher is told at most so often: every report of every node is a change.
const WATCH_EVERY: Duration = Duration::from_millis(250);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl pb::admin_server::Admin for Admin {
    type WatchStateStream = Answers<pb::GroupViews>;
    type PerformStream = Answers<pb::Progress>;

    async fn show_state(&self, request: Request<pb::Selector>) -> Answer<pb::GroupViews> {
        let selector = read(request)?;
        Ok(Response::new(views(&self.registry, &selector)?.into()))
    }

    async fn watch_state(&self, request: Request<pb::Selector>) -> Answer<Self::WatchStateStream> {
        let selector: Selector = read(request)?;
        let (registry, stop) = (self.registry.clone(), self.stop.clone());
        let mut versions = registry.changes();
        let mut shown = views(&registry, &selector)?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(async move {
            let mut next = Ok(shown.clone().into());
            loop {
                let failed = next.is_err();
                if sender.send(next).await.is_err() || failed {
                    return;
                }
                let other = async {
                    while versions.changed().await.is_ok() {
                        // What changes meanwhile is in the next one.
                        tokio::time::sleep(WATCH_EVERY).await;
                        versions.mark_unchanged();
                        match views(&registry, &selector) {
                            Ok(views) if views == shown => {}
                            views => return views,
                        }
                    }
                    Err(Status::unavailable("the monitor is being stopped"))
                };
                next = tokio::select! {
                    other = other => other.map(|views| {
                        shown.clone_from(&views);
                        views.into()
                    }),
                    () = stop.cancelled() => {
                        Err(Status::unavailable("the monitor is being stopped"))
                    }
                    () = sender.closed() => return,
                };
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn show_events(&self, request: Request<pb::EventsRequest>) -> Answer<pb::EventViews> {
        let EventsRequest { selector, limit } = read(request)?;
        // Only to name what does not exist.
        self.registry.select(&selector).map_err(refused)?;
        let store = &self.registry.store;
        let events = store.events(selector.formation.as_deref(), selector.group, limit).await;
        let events = events.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(Response::new(events.into()))
    }

    async fn show_uri(&self, request: Request<pb::Selector>) -> Answer<pb::Uris> {
        let views = views(&self.registry, &read(request)?)?;
        Ok(Response::new(vigil_proto::uris(&views).into()))
    }

    async fn show_settings(&self, request: Request<pb::Selector>) -> Answer<pb::SettingsView> {
        let selector: Selector = read(request)?;
        let formations = self.registry.formations(&selector).map_err(refused)?;
        let formations = formations.into_iter().map(|(formationid, s)| FormationSettings {
            formationid,
            number_sync_standbys: s.number_sync_standbys,
            heartbeat_interval_ms: s.heartbeat_interval_ms,
            heartbeat_misses: s.heartbeat_misses,
        });
        let views = views(&self.registry, &selector)?;
        let nodes = views.into_iter().flat_map(|view| view.nodes).map(|n| NodeSettings {
            formationid: n.formationid,
            groupid: n.groupid,
            nodename: n.nodename,
            candidatepriority: n.candidatepriority,
            replicationquorum: n.replicationquorum,
        });
        let view = SettingsView { formations: formations.collect(), nodes: nodes.collect() };
        Ok(Response::new(view.into()))
    }

    async fn explain(&self, request: Request<pb::Selector>) -> Answer<pb::GroupViews> {
        self.show_state(request).await
    }

    async fn perform(&self, request: Request<pb::CommandRequest>) -> Answer<Self::PerformStream> {
        let CommandRequest { selector, command } = read(request)?;
        let mut waited_for = Vec::new();
        let mut ask = async |group: &crate::group_task::GroupHandle| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let id = self.registry.next_number();
            registry::ask(group, id, command.clone(), sender).await.map_err(declined)?;
            waited_for.push(receiver);
            Ok::<(), Status>(())
        };
        match &command {
            Command::SetSettings { .. } if selector.group.is_none() => {
                let groups = self.groups_to_set(&selector, &command).await?;
                for group in &groups {
                    ask(group).await?;
                }
                let message = self.set_formation(&selector, &command).await?;
                if groups.is_empty() {
                    let done = Ok(Progress::Effective { message }.into());
                    return Ok(Response::new(Box::pin(tokio_stream::once(done))));
                }
            }
            _ => ask(&self.registry.select_one(&selector).map_err(refused)?).await?,
        }
        let progress = until_last(waited_for, self.stop.clone());
        Ok(Response::new(Box::pin(progress)))
    }

    async fn execute(&self, request: Request<pb::CommandRequest>) -> Answer<pb::Done> {
        let CommandRequest { selector, command } = read(request)?;
        let message = match &command {
            Command::SetSettings { .. } if selector.group.is_none() => {
                self.set_settings(&selector, &command).await?
            }
            _ if is_operation(&command) => {
                return Err(Status::invalid_argument("this command is for Perform"));
            }
            _ => {
                let group = self.registry.select_one(&selector).map_err(refused)?;
                self.ask(&group, command).await?
            }
        };
        Ok(Response::new(pb::Done { message }))
    }

    async fn create_formation(
        &self,
        request: Request<pb::CreateFormationRequest>,
    ) -> Answer<pb::Done> {
        let pb::CreateFormationRequest { name, number_sync_standbys } = request.into_inner();
        let done = self.registry.create_formation(&name, number_sync_standbys).await;
        Ok(Response::new(pb::Done { message: done.map_err(declined)? }))
    }

    async fn drop_formation(&self, request: Request<pb::DropFormationRequest>) -> Answer<pb::Done> {
        let done = self.registry.drop_formation(&request.into_inner().name).await;
        Ok(Response::new(pb::Done { message: done.map_err(declined)? }))
    }
}

impl Admin {
    async fn ask(
        &self,
        group: &crate::group_task::GroupHandle,
        command: Command,
    ) -> Result<String, Status> {
        // Nobody listens: these commands have no progress.
        let (progress, _) = mpsc::unbounded_channel();
        let id = self.registry.next_number();
        registry::ask(group, id, command, progress).await.map_err(declined)
    }

    /// A formation's settings are those of all its groups, and of the ones to come.
    async fn set_settings(&self, selector: &Selector, command: &Command) -> Result<String, Status> {
        for group in &self.groups_to_set(selector, command).await? {
            self.ask(group, command.clone()).await?;
        }
        self.set_formation(selector, command).await
    }

    /// The groups of the one formation that is meant. All or none: what one of them refuses is not
    /// begun in the others.
    async fn groups_to_set(
        &self,
        selector: &Selector,
        command: &Command,
    ) -> Result<Vec<crate::group_task::GroupHandle>, Status> {
        self.one_formation(selector)?;
        let groups = self.registry.select(selector).map_err(refused)?;
        for group in &groups {
            registry::check(group, command.clone()).await.map_err(declined)?;
        }
        Ok(groups)
    }

    fn one_formation(&self, selector: &Selector) -> Result<String, Status> {
        let formations = self.registry.formations(selector).map_err(refused)?;
        let [(formation, _)] = formations.as_slice() else {
            return Err(refused(Refusal::new(
                RefusalCode::BadValue,
                "several formations are meant, this is for one",
                "name it with --formation",
            )));
        };
        Ok(formation.clone())
    }

    async fn set_formation(
        &self,
        selector: &Selector,
        command: &Command,
    ) -> Result<String, Status> {
        let formation = self.one_formation(selector)?;
        self.registry.set_formation(&formation, command).await.map_err(declined)
    }
}

fn read<M, T: TryFrom<M, Error = BadMessage>>(request: Request<M>) -> Result<T, Status> {
    request.into_inner().try_into().map_err(bad_message)
}

fn views(registry: &Registry, selector: &Selector) -> Result<Vec<GroupView>, Status> {
    let groups = registry.select(selector).map_err(refused)?;
    Ok(groups.iter().map(|group| group.published.borrow().view.clone()).collect())
}

/// Whether a command has progress to watch.
fn is_operation(command: &Command) -> bool {
    matches!(
        command,
        Command::Failover { .. } | Command::Switchover { .. } | Command::Promotion { .. }
    )
}

/// Progress until the final one, of one group after the other: what went otherwise than asked in one
/// of them is the end. A stream that ends without one says why.
fn until_last(
    groups: Vec<mpsc::UnboundedReceiver<Progress>>,
    stop: CancellationToken,
) -> impl Stream<Item = Result<pb::Progress, Status>> {
    let (sender, answers) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut left = groups.len();
        for receiver in groups {
            left -= 1;
            let mut progress = UnboundedReceiverStream::new(receiver);
            loop {
                let next = tokio::select! {
                    next = progress.next() => next,
                    () = stop.cancelled() => None,
                    // The operation goes on without its watcher.
                    () = sender.closed() => return,
                };
                let Some(next) = next else {
                    let text = "the monitor stopped watching it; see pgctl show-state";
                    let _ = sender.send(Err(Status::unavailable(text))).await;
                    return;
                };
                let well = matches!(next, Progress::Effective { .. });
                let last = next.is_last();
                if last && well && left > 0 {
                    break;
                }
                if sender.send(Ok(next.into())).await.is_err() || last {
                    return;
                }
            }
        }
    });
    ReceiverStream::new(answers)
}
