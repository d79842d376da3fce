//! Connection strings of a formation, for libpq and what behaves like it.

use vigil_core::state::NodeState;
use vigil_core::view::GroupView;

use crate::admin::Uri;

/// Two strings for each group: one that finds the primary, and one that prefers a standby. Both
/// name every node, so that they stay right when the primary changes.
pub fn uris(groups: &[GroupView]) -> Vec<Uri> {
    groups.iter().filter_map(addresses).flatten().collect()
}

fn addresses(group: &GroupView) -> Option<[Uri; 2]> {
    let hosts: Vec<String> = group
        .nodes
        .iter()
        .filter(|node| node.goalstate != NodeState::Dropped)
        .map(|node| address(&node.nodehost, node.nodeport))
        .collect();
    let hosts = (!hosts.is_empty()).then(|| hosts.join(","))?;
    let uri = |kind: &str, wanted: &str| Uri {
        formationid: group.formation.clone(),
        groupid: group.group,
        r#type: kind.to_owned(),
        uri: format!("postgres://{hosts}/postgres?target_session_attrs={wanted}"),
    };
    Some([uri("read-write", "read-write"), uri("read-only", "prefer-standby")])
}

fn address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
