//! `show-settings`: what operators can change.

use tokio::time::timeout_at;
use vigil_proto::{Selector, SettingsView, pb};

use crate::failure::Failure;
use crate::monitor::Session;
use crate::output::Look;
use crate::render::{Cell, Column, table};

/// Show the settings of formations and nodes
#[derive(Debug, clap::Args)]
#[command(after_help = "\
All formations are shown unless one is named.

Examples:
  pgctl show-settings
  pgctl show-settings --formation default --json | jq '.formations[0].number_sync_standbys'")]
pub(crate) struct Args {}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut monitor = session.to_show().await?;
        let selector = Selector { formation: session.formation.clone(), group: session.group };
        let call = monitor.client.show_settings(pb::Selector::from(selector));
        let answer = timeout_at(monitor.deadline, call).await;
        let settings = monitor.shown(answer)?.try_into()?;
        session.output.data(&settings, |look| text(&settings, look))
    }
}

const FORMATIONS: [Column; 4] = [
    Column::left("Formation", 0),
    Column::right("Sync Standbys", 0),
    Column::right("Heartbeat", 0),
    Column::right("Misses", 0),
];

const NODES: [Column; 5] = [
    Column::left("Formation", 2),
    Column::right("Group", 1),
    Column::left("Node", 0),
    Column::right("Priority", 0),
    Column::left("Quorum", 0),
];

fn text(settings: &SettingsView, look: Look) -> String {
    let formations: Vec<_> = settings
        .formations
        .iter()
        .map(|formation| {
            vec![
                Cell::new(&formation.formationid),
                Cell::new(formation.number_sync_standbys.to_string()),
                Cell::new(format!("{} ms", formation.heartbeat_interval_ms)),
                Cell::new(formation.heartbeat_misses.to_string()),
            ]
        })
        .collect();
    let nodes: Vec<_> = settings
        .nodes
        .iter()
        .map(|node| {
            vec![
                Cell::new(&node.formationid),
                Cell::new(node.groupid.to_string()),
                Cell::new(&node.nodename),
                Cell::new(node.candidatepriority.to_string()),
                Cell::new(node.replicationquorum.to_string()),
            ]
        })
        .collect();
    format!("{}\n\n{}", table(&FORMATIONS, &formations, look), table(&NODES, &nodes, look))
}

#[cfg(test)]
mod tests {
    use super::*;
    use vigil_proto::{FormationSettings, NodeSettings};

    #[test]
    fn for_people() {
        let settings = SettingsView {
            formations: vec![FormationSettings {
                formationid: "default".to_owned(),
                number_sync_standbys: 0,
                heartbeat_interval_ms: 1000,
                heartbeat_misses: 3,
            }],
            nodes: vec![NodeSettings {
                formationid: "default".to_owned(),
                groupid: 0,
                nodename: "node1".to_owned(),
                candidatepriority: 100,
                replicationquorum: true,
            }],
        };
        let expected = "\u{20}Formation | Sync Standbys | Heartbeat | Misses
-----------+---------------+-----------+--------
 default   |             0 |   1000 ms |      3

 Formation | Group | Node  | Priority | Quorum
-----------+-------+-------+----------+--------
 default   |     0 | node1 |      100 | true";
        assert_eq!(text(&settings, Look::default()), expected);
    }
}
