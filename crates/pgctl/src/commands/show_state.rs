//! `show-state`: who is what.

use std::fmt::Write;

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::timeout_at;
use vigil_core::view::{Alert, GroupView, NodeView, Waiting};
use vigil_proto::pb;

use crate::failure::Failure;
use crate::monitor::{Monitor, Session};
use crate::output::Look;
use crate::render::{Cell, Column, Mood, age, bytes, sentence, table};

/// Show the nodes: where they are, what they do and what they are wanted to do
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl show-state
  pgctl show-state --json | jq -r '.nodes[] | select(.reportedstate==\"primary\") | .nodename'")]
pub(crate) struct Args {}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut monitor = session.to_show().await?;
        let groups = groups(session, &mut monitor).await?;
        let state = State::new(session.formation(), session.group, groups);
        session.output.data(&state, |look| state.text(look, Timestamp::now()))
    }
}

/// The groups that are meant, as they are now.
pub(super) async fn groups(
    session: &Session,
    monitor: &mut Monitor,
) -> Result<Vec<GroupView>, Failure> {
    let call = monitor.client.show_state(pb::Selector::from(session.selector()));
    let answer = timeout_at(monitor.deadline, call).await;
    Ok(monitor.shown(answer)?.try_into()?)
}

/// The JSON that scripts rely on.
#[derive(Serialize)]
struct State {
    formation: String,
    /// `None` when several are shown.
    group: Option<u32>,
    nodes: Vec<NodeView>,
    waiting_on: Vec<Waiting>,
    alerts: Vec<Alert>,
}

impl State {
    fn new(formation: &str, asked: Option<u32>, groups: Vec<GroupView>) -> Self {
        let only = match groups.as_slice() {
            [group] => Some(group.group),
            _ => None,
        };
        let mut state = State {
            formation: formation.to_owned(),
            group: asked.or(only),
            nodes: Vec::new(),
            waiting_on: Vec::new(),
            alerts: Vec::new(),
        };
        for group in groups {
            state.nodes.extend(group.nodes);
            state.waiting_on.extend(group.waiting_on);
            state.alerts.extend(group.alerts);
        }
        state
    }

    fn text(&self, look: Look, now: Timestamp) -> String {
        if self.nodes.is_empty() {
            return format!("formation {} has no nodes", self.formation);
        }
        let rows: Vec<_> =
            self.nodes.iter().map(|node| row(node, self.group.is_none(), now)).collect();
        let mut text = table(&COLUMNS, &rows, look);
        if !self.waiting_on.is_empty() || !self.alerts.is_empty() {
            text.push('\n');
        }
        for waiting in &self.waiting_on {
            let line = format!("waiting: {}", waiting_line(waiting, now));
            _ = write!(text, "\n{}", sentence(&line, look));
        }
        for alert in &self.alerts {
            let line = format!("alert: {} [{}]", alert.text, alert.code);
            _ = write!(text, "\n{}", sentence(&line, look));
        }
        text
    }
}

/// Something that is waited for, in a line.
pub(super) fn waiting_line(waiting: &Waiting, now: Timestamp) -> String {
    format!("{}: {}, for {}", waiting.who, waiting.what, age(&waiting.since, now))
}

const COLUMNS: [Column; 10] = [
    Column::left("Name", 0),
    Column::right("Node", 9),
    Column::left("Host:Port", 3),
    Column::right("TLI: LSN", 7),
    Column::left("Sync", 5),
    Column::right("Lag", 6),
    Column::left("Health", 2),
    Column::left("Reported State", 0),
    Column::left("Goal State", 4),
    Column::right("Since", 8),
];

fn row(node: &NodeView, several_groups: bool, now: Timestamp) -> Vec<Cell> {
    let id = node.nodeid.to_string();
    let id = if several_groups { format!("{}/{id}", node.groupid) } else { id };
    let position = match (node.reportedtli, node.reportedlsn) {
        (Some(tli), Some(lsn)) => format!("{tli}: {lsn}"),
        _ => "-".to_owned(),
    };
    let health = match node.health {
        1 => Cell::new("good").felt(Mood::Good),
        0 => Cell::new("bad").felt(Mood::Bad),
        _ => Cell::new("unknown").felt(Mood::Doubtful),
    };
    let converged = if node.reportedstate == node.goalstate { Mood::Plain } else { Mood::Doubtful };
    vec![
        Cell::new(&node.nodename),
        Cell::new(id),
        Cell::new(format!("{}:{}", node.nodehost, node.nodeport)),
        Cell::new(position),
        Cell::new(&node.sync),
        Cell::new(node.lag_bytes.map_or_else(|| "-".to_owned(), bytes)),
        health,
        Cell::new(node.reportedstate.as_str()),
        Cell::new(node.goalstate.as_str()).felt(converged),
        Cell::new(age(&node.since, now)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use vigil_core::ids::{Epoch, NodeId};
    use vigil_core::state::NodeState;
    use vigil_core::wal::{Lsn, Tli};

    fn node(id: i64, state: NodeState, goal: NodeState) -> NodeView {
        NodeView {
            nodeid: NodeId(id),
            nodename: format!("node{id}"),
            nodehost: "127.0.0.1".to_owned(),
            nodeport: 5431 + u16::try_from(id).unwrap(),
            formationid: "default".to_owned(),
            groupid: 0,
            reportedstate: state,
            goalstate: goal,
            health: 1,
            reportedlsn: Some(Lsn(0x500_0028)),
            reportedtli: Some(Tli(3)),
            candidatepriority: 50,
            replicationquorum: true,
            epoch: Epoch(8),
            lag_bytes: Some(0),
            sync: "quorum".to_owned(),
            since: "2026-11-21T11:55:00Z".to_owned(),
        }
    }

    fn group() -> GroupView {
        let mut primary = node(1, NodeState::Primary, NodeState::Primary);
        primary.sync = "-".to_owned();
        let mut lost = node(3, NodeState::Secondary, NodeState::ReportLsn);
        lost.health = -1;
        lost.lag_bytes = None;
        lost.reportedlsn = None;
        GroupView {
            formation: "default".to_owned(),
            group: 0,
            plan: "electing".to_owned(),
            epoch: Epoch(8),
            nodes: vec![primary, node(2, NodeState::Secondary, NodeState::Secondary), lost],
            waiting_on: vec![Waiting {
                what: "its pledge".to_owned(),
                who: "node3".to_owned(),
                since: "2026-11-21T11:59:48Z".to_owned(),
            }],
            alerts: vec![Alert { code: "node_lost".to_owned(), text: "node3 is gone".to_owned() }],
            findings: Vec::new(),
            writable: Some(NodeId(1)),
            sync_expected: 2,
            sync_observed: 1,
            promotable_standbys: 1,
        }
    }

    fn text(width: Option<u16>) -> String {
        let now = "2026-11-21T12:00:00Z".parse().unwrap();
        State::new("default", None, vec![group()]).text(Look { colour: false, width }, now)
    }

    #[test]
    fn for_people() {
        let expected = "\u{20}Name  | Node | Host:Port      |     TLI: LSN | Sync   | Lag | Health  | Reported State | Goal State | Since
-------+------+----------------+--------------+--------+-----+---------+----------------+------------+-------
 node1 |    1 | 127.0.0.1:5432 | 3: 0/5000028 | -      | 0 B | good    | primary        | primary    |    5m
 node2 |    2 | 127.0.0.1:5433 | 3: 0/5000028 | quorum | 0 B | good    | secondary      | secondary  |    5m
 node3 |    3 | 127.0.0.1:5434 |            - | quorum |   - | unknown | secondary      | report_lsn |    5m

waiting: node3: its pledge, for 12s
alert: node3 is gone [node_lost]";
        assert_eq!(text(None), expected);
    }

    #[test]
    fn on_a_narrow_terminal() {
        let expected = "\u{20}Name  | Host:Port      | Health  | Reported State
-------+----------------+---------+----------------
 node1 | 127.0.0.1:5432 | good    | primary
 node2 | 127.0.0.1:5433 | good    | secondary
 node3 | 127.0.0.1:5434 | unknown | secondary";
        assert_eq!(text(Some(60)).split("\n\n").next(), Some(expected));
        for width in [20, 40, 60, 80, 100] {
            let text = text(Some(width));
            let table = text.split("\n\n").next().unwrap();
            let widest = table.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(width.into()), "{width}:\n{table}");
        }
    }

    #[test]
    fn the_group_is_null_when_several_are_shown() {
        let other = GroupView { group: 1, ..group() };
        assert_eq!(State::new("f", None, vec![group(), other]).group, None);
        assert_eq!(State::new("f", None, vec![group()]).group, Some(0));
        assert_eq!(State::new("f", Some(7), Vec::new()).group, Some(7));
        assert_eq!(State::new("f", None, Vec::new()).group, None);
    }
}
