//! `explain`: why something is not as it should be, and what to do.

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::timeout_at;
use vigil_core::view::{Alert, Finding, GroupView, NodeFindings, Waiting};
use vigil_proto::pb;

use super::show_state::waiting_line;
use crate::failure::{Failure, Kind};
use crate::monitor::Session;

/// Explain what is not well, of all nodes or of one, with the remedy
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pgctl explain
  pgctl explain node2")]
pub(crate) struct Args {
    /// Only this node
    node: Option<String>,
}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut monitor = session.to_show().await?;
        let call = monitor.client.explain(pb::Selector::from(session.selector()));
        let answer = timeout_at(monitor.deadline, call).await;
        let groups: Vec<GroupView> = monitor.shown(answer)?.try_into()?;
        let explanation = Explanation::new(&groups, self.node.as_deref())?;
        session.output.data(&explanation, |_| explanation.text(&groups, Timestamp::now()))
    }
}

/// The JSON that scripts rely on.
#[derive(Serialize)]
struct Explanation {
    nodes: Vec<NodeFindings>,
    waiting_on: Vec<Waiting>,
    alerts: Vec<Alert>,
}

/// The name of the node that a word means, as for the monitor's commands: a name, or a host where
/// there is one node only.
fn meant<'a>(groups: &'a [GroupView], word: &str) -> Option<&'a str> {
    let nodes = || groups.iter().flat_map(|g| &g.nodes);
    let named = nodes().find(|n| n.nodename == word);
    let only_one_there = || {
        let mut there = nodes().filter(|n| n.nodehost == word);
        there.next().filter(|_| there.next().is_none())
    };
    named.or_else(only_one_there).map(|n| n.nodename.as_str())
}

impl Explanation {
    /// Every node has its entry, also if there is nothing to say of it; then come the findings
    /// that are of no node.
    fn new(groups: &[GroupView], only: Option<&str>) -> Result<Self, Failure> {
        let names = || groups.iter().flat_map(|g| &g.nodes).map(|n| n.nodename.as_str());
        let told = || groups.iter().flat_map(|g| &g.findings);
        let findings_of = |name: &str| -> Vec<Finding> {
            told().filter(|f| f.nodename == name).flat_map(|f| f.findings.clone()).collect()
        };
        let of =
            |name: &str| NodeFindings { nodename: name.to_owned(), findings: findings_of(name) };
        let waiting_on = groups.iter().flat_map(|g| g.waiting_on.clone()).collect();
        let alerts = groups.iter().flat_map(|g| g.alerts.clone()).collect();
        let nodes = match only {
            None => {
                let of_no_node = told().filter(|f| names().all(|name| name != f.nodename)).cloned();
                names().map(of).chain(of_no_node).collect()
            }
            Some(word) if let Some(name) = meant(groups, word) => vec![of(name)],
            Some(name) => {
                let known: Vec<_> = names().collect();
                let failure = Failure::new(Kind::NotFound, format!("there is no node `{name}`"));
                return Err(match known.as_slice() {
                    [] => failure.hint("there are no nodes at all"),
                    known => failure.hint(format!("the nodes are {}", known.join(", "))),
                });
            }
        };
        Ok(Explanation { nodes, waiting_on, alerts })
    }

    fn text(&self, groups: &[GroupView], now: Timestamp) -> String {
        let mut lines = Vec::new();
        for node in self.nodes.iter().filter(|node| !node.findings.is_empty()) {
            lines.push(node.nodename.clone());
            for finding in &node.findings {
                lines.push(format!("  {} [{}]", finding.cause, finding.code));
                if !finding.remedy.is_empty() {
                    lines.push(format!("    remedy: {}", finding.remedy));
                }
            }
        }
        lines.extend(self.waiting_on.iter().map(|w| format!("waiting: {}", waiting_line(w, now))));
        lines.extend(self.alerts.iter().map(|a| format!("alert: {} [{}]", a.text, a.code)));
        if lines.is_empty() {
            lines.extend(groups.iter().map(healthy));
        }
        if lines.is_empty() {
            lines.push("there are no nodes".to_owned());
        }
        lines.join("\n")
    }
}

/// What is good about a group of which there is nothing bad to say.
fn healthy(group: &GroupView) -> String {
    let writable = group.nodes.iter().find(|node| Some(node.nodeid) == group.writable);
    let primary = match writable {
        Some(node) => format!("{} is the primary and accepts writes", node.nodename),
        None => "no node accepts writes yet".to_owned(),
    };
    let standbys = match group.promotable_standbys {
        0 => "no standby can take over".to_owned(),
        1 => "1 standby can take over".to_owned(),
        n => format!("{n} standbys can take over"),
    };
    let name = format!("{}/{}", group.formation, group.group);
    format!("{name}: nothing is wrong; {primary}, {standbys}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vigil_core::ids::{Epoch, NodeId};
    use vigil_core::state::NodeState;
    use vigil_core::view::NodeView;

    fn group(findings: Vec<NodeFindings>) -> GroupView {
        let node = |id: i64, state| NodeView {
            nodeid: NodeId(id),
            nodename: format!("node{id}"),
            nodehost: "h".to_owned(),
            nodeport: 5432,
            formationid: "default".to_owned(),
            groupid: 0,
            reportedstate: state,
            goalstate: state,
            health: 1,
            reportedlsn: None,
            reportedtli: None,
            candidatepriority: 50,
            replicationquorum: true,
            epoch: Epoch(1),
            lag_bytes: None,
            sync: "-".to_owned(),
            since: "2026-11-21T11:55:00Z".to_owned(),
        };
        GroupView {
            formation: "default".to_owned(),
            group: 0,
            plan: "serving".to_owned(),
            epoch: Epoch(1),
            nodes: vec![node(1, NodeState::Primary), node(2, NodeState::Secondary)],
            waiting_on: Vec::new(),
            alerts: Vec::new(),
            findings,
            writable: Some(NodeId(1)),
            sync_expected: 1,
            sync_observed: 1,
            promotable_standbys: 1,
        }
    }

    fn findings(name: &str) -> NodeFindings {
        let finding = Finding {
            code: "rewind_failed".to_owned(),
            cause: "pg_rewind failed three times".to_owned(),
            remedy: "look into its log".to_owned(),
        };
        NodeFindings { nodename: name.to_owned(), findings: vec![finding] }
    }

    #[test]
    fn a_healthy_group_is_called_healthy() {
        let groups = [group(Vec::new())];
        let explanation = Explanation::new(&groups, None).unwrap();
        assert_eq!(
            explanation.text(&groups, Timestamp::UNIX_EPOCH),
            "default/0: nothing is wrong; node1 is the primary and accepts writes, \
             1 standby can take over"
        );
        let names: Vec<_> = explanation.nodes.iter().map(|n| n.nodename.as_str()).collect();
        assert_eq!(names, ["node1", "node2"]);
    }

    #[test]
    fn what_is_wrong_and_what_to_do() {
        let mut group = group(vec![findings("node2"), findings("elsewhere")]);
        group.waiting_on = vec![Waiting {
            what: "its pledge".to_owned(),
            who: "node2".to_owned(),
            since: "1969-12-31T23:59:50Z".to_owned(),
        }];
        let groups = [group];
        let text =
            |only| Explanation::new(&groups, only).map(|e| e.text(&groups, Timestamp::UNIX_EPOCH));
        let of_node2 = "\
node2
  pg_rewind failed three times [rewind_failed]
    remedy: look into its log
waiting: node2: its pledge, for 10s";
        assert_eq!(text(Some("node2")), Ok(of_node2.to_owned()));
        assert!(text(None).unwrap().contains("\nelsewhere\n"));
        let missing = text(Some("node9")).unwrap_err();
        assert_eq!((missing.kind, missing.kind.exit_code()), (Kind::NotFound, 4));
        assert_eq!(missing.hint.as_deref(), Some("the nodes are node1, node2"));
    }
}
