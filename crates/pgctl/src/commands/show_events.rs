//! `show-events`: what happened, why, and how long each step took.

use serde::Serialize;
use tokio::time::timeout_at;
use vigil_core::event::Phase;
use vigil_core::view::EventView;
use vigil_proto::{EventsRequest, pb};

use crate::failure::Failure;
use crate::monitor::Session;

/// Show what happened, the newest last: cause, evidence and the time of each phase
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl show-events --limit 5
  pgctl show-events --json | jq -r '.events[] | select(.kind==\"failover\") | .cause'")]
pub(crate) struct Args {
    /// Show so many of the newest events
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    #[arg(env = "PGVIGIL_LIMIT", hide_env_values = true)]
    limit: u32,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut monitor = session.to_show().await?;
        let request = EventsRequest { selector: session.selector(), limit: self.limit };
        let call = monitor.client.show_events(pb::EventsRequest::from(request));
        let answer = timeout_at(monitor.deadline, call).await;
        let mut events: Vec<EventView> = monitor.shown(answer)?.try_into()?;
        events.sort_by_key(|event| event.eventid);
        let events = Events { events };
        session.output.data(&events, |_| events.text())
    }
}

#[derive(Serialize)]
struct Events {
    events: Vec<EventView>,
}

impl Events {
    fn text(&self) -> String {
        match self.events.as_slice() {
            [] => "no events".to_owned(),
            events => events.iter().map(block).collect::<Vec<_>>().join("\n"),
        }
    }
}

/// An event is a headline and some lines below it: evidence does not fit into a table.
fn block(event: &EventView) -> String {
    let mut head = vec![
        event.eventtime.clone(),
        format!("#{}", event.eventid),
        format!("{:<10}", event.kind.as_str()),
        format!("{}/{}", event.formationid, event.groupid),
    ];
    head.extend(event.nodename.clone());
    head.push(format!("epoch {}", event.epoch));
    let mut lines = vec![head.join("  "), format!("    {}", event.description)];
    if let Some(cause) = &event.cause {
        lines.push(format!("    cause: {cause}"));
    }
    lines.extend(event.evidence.iter().map(|evidence| format!("    evidence: {evidence}")));
    if !event.phases.is_empty() {
        lines.push(format!("    phases: {}", phases(&event.phases)));
    }
    lines.join("\n")
}

/// `detect 3 ms, pledge 21 ms`
fn phases(phases: &[Phase]) -> String {
    let phases: Vec<_> = phases.iter().map(|p| format!("{} {} ms", p.name, p.ms)).collect();
    phases.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vigil_core::event::EventKind;
    use vigil_core::ids::{Epoch, NodeId};

    #[test]
    fn for_people() {
        let failover = EventView {
            eventid: 12,
            eventtime: "2026-11-21T10:00:00.123Z".to_owned(),
            formationid: "default".to_owned(),
            groupid: 0,
            nodeid: Some(NodeId(2)),
            nodename: Some("node2".to_owned()),
            kind: EventKind::Failover,
            epoch: Epoch(8),
            cause: Some("postgres_down".to_owned()),
            evidence: vec!["node1: Postgres was killed".to_owned()],
            phases: vec![
                Phase { name: "detect".to_owned(), ms: 3 },
                Phase { name: "pledge".to_owned(), ms: 21 },
            ],
            description: "node2 took over from node1".to_owned(),
        };
        let setting = EventView {
            eventid: 13,
            nodename: None,
            kind: EventKind::Setting,
            cause: None,
            evidence: Vec::new(),
            phases: Vec::new(),
            description: "number-sync-standbys is 1 now".to_owned(),
            ..failover.clone()
        };
        let expected = "\
2026-11-21T10:00:00.123Z  #12  failover    default/0  node2  epoch 8
    node2 took over from node1
    cause: postgres_down
    evidence: node1: Postgres was killed
    phases: detect 3 ms, pledge 21 ms
2026-11-21T10:00:00.123Z  #13  setting     default/0  epoch 8
    number-sync-standbys is 1 now";
        assert_eq!(Events { events: vec![failover, setting] }.text(), expected);
        assert_eq!(Events { events: Vec::new() }.text(), "no events");
    }
}
