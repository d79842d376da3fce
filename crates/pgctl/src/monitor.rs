//! The conversation with the monitor: connecting, deadlines, and what its failures mean.

use std::error::Error;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use vigil_core::command::Command;
use vigil_proto::pb::admin_client::AdminClient;
use vigil_proto::{CommandRequest, Selector, pb, refusal_of};

use crate::failure::{Failure, Kind};
use crate::output::Output;

/// Nobody who is there takes longer to accept a connection.
const CONNECT: Duration = Duration::from_secs(3);
/// How long to wait for something that the monitor has at hand.
const SHOW: Duration = Duration::from_secs(10);
/// How long to wait for a change.
const CHANGE: Duration = Duration::from_mins(1);

/// What the global options say.
pub(crate) struct Session {
    pub(crate) endpoint: Endpoint,
    pub(crate) formation: Option<String>,
    pub(crate) group: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) output: Output,
}

/// A connected monitor.
pub(crate) struct Monitor {
    pub(crate) client: AdminClient<Channel>,
    pub(crate) deadline: Instant,
    pub(crate) timeout: Duration,
    name: String,
}

impl Session {
    /// The formation that is meant.
    pub(crate) fn formation(&self) -> &str {
        self.formation.as_deref().unwrap_or("default")
    }

    pub(crate) fn selector(&self) -> Selector {
        Selector { formation: Some(self.formation().to_owned()), group: self.group }
    }

    pub(crate) async fn to_show(&self) -> Result<Monitor, Failure> {
        self.connect(self.timeout.unwrap_or(SHOW)).await
    }

    pub(crate) async fn to_change(&self) -> Result<Monitor, Failure> {
        self.connect(self.timeout.unwrap_or(CHANGE)).await
    }

    async fn connect(&self, timeout: Duration) -> Result<Monitor, Failure> {
        let name = self.endpoint.uri().to_string().trim_end_matches('/').to_owned();
        let start = Instant::now();
        let bound = timeout.min(CONNECT);
        let endpoint = self.endpoint.clone().connect_timeout(bound);
        let channel = match timeout_at(start + bound, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(unreachable(&name, &root_cause(&error))),
            Err(_) => {
                let bound = humantime::format_duration(bound);
                return Err(unreachable(&name, &format!("no connection within {bound}")));
            }
        };
        let client = AdminClient::new(channel);
        Ok(Monitor { client, deadline: start + timeout, timeout, name })
    }

    /// Has the monitor carry out `command`, and prints what it says.
    pub(crate) async fn execute(&self, command: Command) -> Result<(), Failure> {
        let mut monitor = self.to_change().await?;
        let request = CommandRequest { selector: self.selector(), command };
        let call = monitor.client.execute(pb::CommandRequest::from(request));
        let answer = timeout_at(monitor.deadline, call).await;
        let done = monitor.changed(answer)?;
        self.done(&done.message)
    }

    /// Prints the monitor's sentence on what it has done.
    pub(crate) fn done(&self, message: &str) -> Result<(), Failure> {
        self.output.data(&serde_json::json!({ "message": message }), |_| message.to_owned())
    }
}

/// A call under the deadline.
type Answer<T> = Result<Result<Response<T>, Status>, tokio::time::error::Elapsed>;

impl Monitor {
    /// The answer to a question. Not to get one in time means that the monitor is not there.
    pub(crate) fn shown<T>(&self, answer: Answer<T>) -> Result<T, Failure> {
        let Ok(answer) = answer else {
            return Err(unreachable(&self.name, &format!("no answer within {}", self.waited())));
        };
        answer.map(Response::into_inner).map_err(|status| self.failed(&status))
    }

    /// The answer to a wish. Not to get one in time says nothing on whether it comes true.
    pub(crate) fn changed<T>(&self, answer: Answer<T>) -> Result<T, Failure> {
        let Ok(answer) = answer else {
            let message = format!("the monitor has not answered within {}", self.waited());
            return Err(Failure::new(Kind::StillGoingOn, message)
                .hint("it may still do it; `pgctl show-state` and `show-events` tell"));
        };
        answer.map(Response::into_inner).map_err(|status| self.failed(&status))
    }

    /// What a status means.
    pub(crate) fn failed(&self, status: &Status) -> Failure {
        if let Some(refusal) = refusal_of(status) {
            return refusal.into();
        }
        // With a source the status was made on this side: something is wrong with the connection.
        if status.source().is_some() {
            return unreachable(&self.name, &root_cause(status));
        }
        let message = status.message();
        // Tonic's words for an answer that no gRPC server gave: a proxy, or another service.
        if message.starts_with("grpc-status header missing") {
            return unreachable(&self.name, "something else listens there");
        }
        match status.code() {
            Code::InvalidArgument | Code::OutOfRange => Failure::new(Kind::BadValue, message),
            Code::NotFound => Failure::new(Kind::NotFound, message),
            Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => {
                Failure::new(Kind::Refused, message)
            }
            Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded => {
                let message = if message.is_empty() { "no reason given" } else { message };
                Failure::new(Kind::Unreachable, format!("the monitor cannot answer: {message}"))
            }
            Code::Unimplemented => Failure::unexpected("the monitor does not know this command")
                .hint("pgctl and the monitor should be of the same version"),
            code => {
                let message = if message.is_empty() { code.description() } else { message };
                Failure::unexpected(format!("the monitor failed: {message}"))
            }
        }
    }

    /// The connection is gone before the operation that was asked for has ended.
    pub(crate) fn lost(&self, why: &str) -> Failure {
        Failure::new(
            Kind::Unreachable,
            format!("the monitor at {} stopped answering before the end: {why}", self.name),
        )
        .hint("the operation may go on without us; `pgctl show-state` and `show-events` tell")
    }

    pub(crate) fn waited(&self) -> String {
        humantime::format_duration(self.timeout).to_string()
    }
}

fn unreachable(name: &str, why: &str) -> Failure {
    Failure::new(Kind::Unreachable, format!("the monitor at {name} does not answer: {why}")).hint(
        "is vigil-monitor running there? `--monitor URL` or PGVIGIL_MONITOR names another place",
    )
}

/// The innermost reason: what the system said, without the layers that passed it on.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    // "(os error 111)" helps nobody.
    match text.split_once(" (os error") {
        Some((reason, _)) => reason.to_lowercase(),
        None => text,
    }
}
