//! A monitor that answers what the test tells it to.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};
use vigil_core::command::{Command, Progress, Refusal};
use vigil_core::event::{EventKind, Phase};
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::state::NodeState;
use vigil_core::view::{Alert, EventView, GroupView, NodeView, Waiting};
use vigil_core::wal::{Lsn, Tli};
use vigil_proto::pb::admin_server::{Admin, AdminServer};
use vigil_proto::{CommandRequest, FormationSettings, NodeSettings, SettingsView, pb};

/// What a perform-* call gets.
#[derive(Clone, Default)]
pub(crate) enum Ending {
    /// The last of these is the last word.
    #[default]
    Ends,
    /// After these the monitor says nothing more.
    Hangs,
}

#[derive(Clone, Default)]
pub(crate) struct Fake {
    pub(crate) groups: Vec<GroupView>,
    pub(crate) progress: Vec<Progress>,
    pub(crate) ending: Ending,
    pub(crate) refusal: Option<Refusal>,
    /// What was asked for.
    pub(crate) commands: Arc<Mutex<Vec<Command>>>,
}

impl Fake {
    /// Serves until the test ends.
    pub(crate) async fn serve(self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder().add_service(AdminServer::new(self));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        address
    }

    fn refused(&self) -> Result<(), Status> {
        self.refusal.clone().map_or(Ok(()), |refusal| Err(vigil_proto::refusal_status(refusal)))
    }

    fn take(&self, request: Request<pb::CommandRequest>) -> Result<(), Status> {
        self.refused()?;
        let request = CommandRequest::try_from(request.into_inner())?;
        self.commands.lock().unwrap().push(request.command);
        Ok(())
    }
}

type Answer<T> = Result<Response<T>, Status>;
type Stream_<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Admin for Fake {
    type WatchStateStream = Stream_<pb::GroupViews>;
    type PerformStream = Stream_<pb::Progress>;

    async fn show_state(&self, _: Request<pb::Selector>) -> Answer<pb::GroupViews> {
        self.refused()?;
        Ok(Response::new(self.groups.clone().into()))
    }

    async fn watch_state(&self, _: Request<pb::Selector>) -> Answer<Self::WatchStateStream> {
        Err(Status::unimplemented(""))
    }

    async fn show_events(&self, _: Request<pb::EventsRequest>) -> Answer<pb::EventViews> {
        Ok(Response::new(vec![event(2), event(1)].into()))
    }

    async fn show_uri(&self, _: Request<pb::Selector>) -> Answer<pb::Uris> {
        Ok(Response::new(vigil_proto::uris(&self.groups).into()))
    }

    async fn show_settings(&self, _: Request<pb::Selector>) -> Answer<pb::SettingsView> {
        let formation = FormationSettings {
            formationid: "default".to_owned(),
            number_sync_standbys: 0,
            heartbeat_interval_ms: 1000,
            heartbeat_misses: 3,
        };
        let node = NodeSettings {
            formationid: "default".to_owned(),
            groupid: 0,
            nodename: "node1".to_owned(),
            candidatepriority: 100,
            replicationquorum: true,
        };
        let settings = SettingsView { formations: vec![formation], nodes: vec![node] };
        Ok(Response::new(settings.into()))
    }

    async fn explain(&self, request: Request<pb::Selector>) -> Answer<pb::GroupViews> {
        self.show_state(request).await
    }

    async fn perform(&self, request: Request<pb::CommandRequest>) -> Answer<Self::PerformStream> {
        self.take(request)?;
        let progress: Vec<_> = self.progress.iter().map(|p| Ok(p.clone().into())).collect();
        let progress = tokio_stream::iter(progress);
        Ok(Response::new(match self.ending {
            Ending::Ends => Box::pin(progress),
            Ending::Hangs => Box::pin(progress.chain(tokio_stream::pending())),
        }))
    }

    async fn execute(&self, request: Request<pb::CommandRequest>) -> Answer<pb::Done> {
        self.take(request)?;
        Ok(Response::new(pb::Done { message: "done as told".to_owned() }))
    }

    async fn create_formation(
        &self,
        request: Request<pb::CreateFormationRequest>,
    ) -> Answer<pb::Done> {
        self.refused()?;
        let asked = request.into_inner();
        let message = format!("{} with {:?}", asked.name, asked.number_sync_standbys);
        Ok(Response::new(pb::Done { message }))
    }

    async fn drop_formation(&self, _: Request<pb::DropFormationRequest>) -> Answer<pb::Done> {
        Err(Status::unimplemented(""))
    }
}

pub(crate) fn node(id: i64, state: NodeState) -> NodeView {
    NodeView {
        nodeid: NodeId(id),
        nodename: format!("node{id}"),
        nodehost: "127.0.0.1".to_owned(),
        nodeport: 5431 + u16::try_from(id).unwrap(),
        formationid: "default".to_owned(),
        groupid: 0,
        reportedstate: state,
        goalstate: state,
        health: 1,
        reportedlsn: Some(Lsn(0x500_0028)),
        reportedtli: Some(Tli(3)),
        candidatepriority: 50,
        replicationquorum: true,
        epoch: Epoch(8),
        lag_bytes: None,
        sync: "quorum".to_owned(),
        since: "2026-11-21T11:55:00Z".to_owned(),
    }
}

pub(crate) fn group() -> GroupView {
    GroupView {
        formation: "default".to_owned(),
        group: 0,
        plan: "serving".to_owned(),
        epoch: Epoch(8),
        nodes: vec![node(1, NodeState::Primary), node(2, NodeState::Secondary)],
        waiting_on: vec![Waiting {
            what: "its pledge".to_owned(),
            who: "node3".to_owned(),
            since: "2026-11-21T11:59:48Z".to_owned(),
        }],
        alerts: vec![Alert { code: "node_lost".to_owned(), text: "node3 is gone".to_owned() }],
        findings: Vec::new(),
        writable: Some(NodeId(1)),
        sync_expected: 1,
        sync_observed: 1,
        promotable_standbys: 1,
    }
}

fn event(eventid: i64) -> EventView {
    EventView {
        eventid,
        eventtime: "2026-11-21T10:00:00Z".to_owned(),
        formationid: "default".to_owned(),
        groupid: 0,
        nodeid: Some(NodeId(2)),
        nodename: Some("node2".to_owned()),
        kind: EventKind::Failover,
        epoch: Epoch(8),
        cause: Some("postgres_down".to_owned()),
        evidence: vec!["node1 was killed".to_owned()],
        phases: vec![Phase { name: "detect".to_owned(), ms: 3 }],
        description: "node2 took over".to_owned(),
    }
}
