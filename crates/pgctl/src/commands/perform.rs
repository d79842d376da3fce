//! What all commands that change something have in common: ask, watch, tell how it ended.

use tokio::time::timeout_at;
use tonic::{Status, Streaming};
use vigil_core::command::{Command, OperationResult, Progress};
use vigil_core::event::Phase;
use vigil_proto::{CommandRequest, pb, refusal_of};

use super::show_state;
use crate::failure::{Failure, Kind};
use crate::monitor::{Monitor, Session, root_cause};

/// Carries out `command`; `no_wait`: only until the monitor has accepted it.
pub(super) async fn perform(
    session: &Session,
    command: Command,
    no_wait: bool,
) -> Result<(), Failure> {
    let operation = name(&command);
    let mut monitor = session.to_change().await?;
    let request = CommandRequest { selector: session.selector(), command };
    let call = monitor.client.perform(pb::CommandRequest::from(request));
    let answer = timeout_at(monitor.deadline, call).await;
    let progress = monitor.changed(answer)?;
    if no_wait {
        return accepted(session, operation);
    }
    match watch(session, &mut monitor, operation, progress).await? {
        Ended::Change(result) => session.output.data(&result, |_| success(&result)),
        Ended::Effect(message) => session.done(&message),
    }
}

/// Carries out a command that changes no primary, and waits until its effect is there; `no_wait`:
/// only until the monitor has recorded it.
pub(super) async fn bring_about(
    session: &Session,
    command: Command,
    no_wait: bool,
) -> Result<(), Failure> {
    if no_wait { session.execute(command).await } else { perform(session, command, false).await }
}

/// How it ended well.
enum Ended {
    Change(OperationResult),
    Effect(String),
}

/// What `--no-wait` prints: the keys of a result, as far as they are known.
fn accepted(session: &Session, operation: &str) -> Result<(), Failure> {
    let data = serde_json::json!({
        "operation": operation,
        "formationid": session.formation(),
        "groupid": session.group,
        "epoch": null,
        "from": null,
        "to": null,
        "host": null,
        "port": null,
        "outage_ms": null,
        "phases": [],
        "accepted": true,
    });
    session.output.data(&data, |_| {
        format!("the {operation} is accepted; `pgctl show-state` tells how far it is")
    })
}

/// Follows the operation to its end, telling people each step on the way.
async fn watch(
    session: &Session,
    monitor: &mut Monitor,
    operation: &str,
    mut progress: Streaming<pb::Progress>,
) -> Result<Ended, Failure> {
    let mut waiting = None;
    loop {
        let next = match timeout_at(monitor.deadline, progress.message()).await {
            Ok(Ok(Some(next))) => Progress::try_from(next)?,
            Ok(Ok(None)) => return Err(monitor.lost("it ended the conversation")),
            Ok(Err(status)) => return Err(broken(monitor, &status)),
            Err(_) => return Err(still_going_on(session, monitor, operation, waiting).await),
        };
        match next {
            Progress::Phase(phase) => session.output.note(&phase_line(&phase)),
            Progress::Waiting { what, who } => {
                let now = Some(format!("{who}: {what}"));
                if waiting != now {
                    waiting = now;
                    session.output.note(&waiting_line(waiting.as_deref().unwrap_or_default()));
                }
            }
            Progress::Done(result) => return Ok(Ended::Change(result)),
            Progress::Effective { message } => return Ok(Ended::Effect(message)),
            Progress::Otherwise { message } => {
                return Err(Failure::new(Kind::RolledBack, message));
            }
            Progress::RolledBack(result) => return Err(otherwise(operation, result)),
            Progress::Failed { message } => {
                let message = format!("the {operation} failed: {message}");
                return Err(Failure::unexpected(message).hint("`pgctl explain` may tell more"));
            }
        }
    }
}

/// `     12 ms  pledged`
fn phase_line(phase: &Phase) -> String {
    format!("{:>7} ms  {}", phase.ms, phase.name)
}

fn waiting_line(waiting: &str) -> String {
    format!("{:>10}  waiting: {waiting}", "...")
}

/// The stream ended with a status: a refusal after all, or the connection is gone.
fn broken(monitor: &Monitor, status: &Status) -> Failure {
    if refusal_of(status).is_some() {
        return monitor.failed(status);
    }
    match monitor.failed(status) {
        failure if failure.kind == Kind::Unreachable => monitor.lost(&root_cause(status)),
        failure => failure,
    }
}

/// The time is up. The newest thing that was waited for says most; if the monitor has not named
/// one, its present state may.
async fn still_going_on(
    session: &Session,
    monitor: &mut Monitor,
    operation: &str,
    waiting: Option<String>,
) -> Failure {
    let waiting = match waiting {
        Some(waiting) => waiting,
        None => ask(session, monitor).await.unwrap_or_else(|| "nothing named".to_owned()),
    };
    let waited = monitor.waited();
    let message =
        format!("the {operation} is still going on after {waited}, waiting for {waiting}");
    Failure::new(Kind::StillGoingOn, message)
        .hint("it goes on without us; `pgctl show-state` tells how far it is")
}

/// What the group waits for, if that can be had at once.
async fn ask(session: &Session, monitor: &mut Monitor) -> Option<String> {
    monitor.deadline = tokio::time::Instant::now() + std::time::Duration::from_millis(300);
    let groups = show_state::groups(session, monitor).await.ok()?;
    let waiting = groups.into_iter().flat_map(|group| group.waiting_on);
    let waiting: Vec<_> = waiting.map(|w| format!("{}: {}", w.who, w.what)).collect();
    (!waiting.is_empty()).then(|| waiting.join("; "))
}

/// Ended otherwise than asked: the old primary serves, or one that nobody has named.
fn otherwise(operation: &str, result: OperationResult) -> Failure {
    let message = match &result.from {
        Some(from) if *from != result.to => {
            format!("the {operation} ended otherwise than asked: {} is the primary now", result.to)
        }
        Some(from) => format!("the {operation} was rolled back: {from} is still the primary"),
        None => format!("the {operation} was rolled back: the old primary still serves"),
    };
    let failure = Failure::new(Kind::RolledBack, message).hint("`pgctl show-events` tells why");
    Failure { result: Some(Box::new(result)), ..failure }
}

/// The last line for people.
fn success(result: &OperationResult) -> String {
    let OperationResult { from, to, host, port, epoch, outage_ms, .. } = result;
    if from.as_ref() == Some(to) {
        return format!("{to} is the primary already, at {host}:{port}: nothing to do");
    }
    let from = from.as_ref().map_or_else(String::new, |from| format!(" after {from}"));
    format!(
        "{to} is the primary now{from}, at {host}:{port} (epoch {epoch}); \
         writes were interrupted for {outage_ms} ms"
    )
}

fn name(command: &Command) -> &'static str {
    match command {
        Command::Switchover { .. } => "switchover",
        Command::Promotion { .. } => "promotion",
        Command::Failover { .. } => "failover",
        Command::SetNode { .. } | Command::SetSettings { .. } => "change of settings",
        Command::EnableMaintenance { .. } | Command::DisableMaintenance { .. } => "maintenance",
        Command::DropNode { .. } => "removal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> OperationResult {
        OperationResult {
            operation: "switchover".to_owned(),
            formationid: "default".to_owned(),
            groupid: 0,
            epoch: 8,
            from: Some("node1".to_owned()),
            to: "node2".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 5433,
            outage_ms: 132,
            phases: Vec::new(),
        }
    }

    #[test]
    fn the_last_line() {
        assert_eq!(
            success(&result()),
            "node2 is the primary now after node1, at 127.0.0.1:5433 (epoch 8); \
             writes were interrupted for 132 ms"
        );
        let already = OperationResult { from: Some("node2".to_owned()), ..result() };
        assert_eq!(
            success(&already),
            "node2 is the primary already, at 127.0.0.1:5433: nothing to do"
        );
        let failure = otherwise("promotion", result());
        let words = "the promotion ended otherwise than asked: node2 is the primary now";
        assert_eq!((failure.message.as_str(), failure.kind.exit_code()), (words, 7));
        let back = OperationResult { to: "node1".to_owned(), ..result() };
        let failure = otherwise("switchover", back);
        assert_eq!(failure.message, "the switchover was rolled back: node1 is still the primary");
        assert_eq!(failure.kind.exit_code(), 7);
    }

    #[test]
    fn steps_stand_in_columns() {
        let phase = Phase { name: "pledged".to_owned(), ms: 12 };
        assert_eq!(phase_line(&phase), "     12 ms  pledged");
        assert_eq!(waiting_line("node3: its pledge"), "       ...  waiting: node3: its pledge");
    }
}
