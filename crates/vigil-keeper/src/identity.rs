//! Whose data directory it is. A node that lost its data, or whose data was replaced, comes back
//! as a new node (DESIGN §4.5): its old promises and acknowledgements went with the old data.

use std::path::Path;

use serde::{Deserialize, Serialize};
use vigil_core::ids::NodeId;
use vigil_core::node::record::NodeRecord;
use vigil_daemon::Failure;
use vigil_postgres::FileError;
use vigil_postgres::pgdata::{self, DataDir};

use crate::state_file::StateDir;

/// Name of the marker in the data directory.
const MARKER: &str = "node";

/// Written both into the data directory and into the state directory: the two belong together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    pub node_id: NodeId,
    pub name: String,
    pub system_id: u64,
}

/// Marks the data directory as this node's. A rewind and a clone bring the source's marker with
/// them, so this comes after each of them and before every start.
///
/// # Errors
/// The disk.
pub fn mark(state: &StateDir, dir: &Path, mark: &Mark) -> anyhow::Result<()> {
    if read_marker(dir)?.as_ref() != Some(mark) {
        pgdata::write_marker(dir, MARKER, &serde_json::to_string(mark)?)?;
    }
    if state.load_mark()?.as_ref() != Some(mark) {
        state.save_mark(mark)?;
    }
    Ok(())
}

fn read_marker(dir: &Path) -> Result<Option<Mark>, FileError> {
    let text = pgdata::read_marker(dir, MARKER)?;
    // One that cannot be read belongs to nobody.
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
}

/// Loads the record, or makes a new one when this data directory is not the one it was about.
///
/// # Errors
/// The state directory is another node's, or cannot be read or written.
pub fn load(
    state: &StateDir,
    dir: &Path,
    data: &DataDir,
    new: NodeRecord,
) -> Result<NodeRecord, Failure> {
    let as_standby = matches!(data, DataDir::Cluster { standby_signal: true, .. });
    let new = NodeRecord { found_as_standby: as_standby, ..new };
    let Some(mut record) = state.load_record()? else { return Ok(with_system_id(new, data)) };
    if (&record.formation, record.group, &record.name) != (&new.formation, new.group, &new.name) {
        return Err(Failure::usage(format!(
            "state directory {} belongs to node {} of {}/{}, not to {} of {}/{}",
            state.path().display(),
            record.name,
            record.formation,
            record.group,
            new.name,
            new.formation,
            new.group,
        ))
        .hint("start it with that name, or give this node a --pgdata and --state-dir of its own"));
    }
    let found = read_marker(dir).map_err(Failure::prerequisite)?;
    if let Some(reason) = lost(&record, state.load_mark()?.as_ref(), found.as_ref(), data) {
        tracing::warn!(
            reason,
            node_id = record.node_id.map(|id| id.0),
            "this is not the data directory that this keeper knew: joining as a new node"
        );
        state.forget().map_err(Failure::prerequisite)?;
        record = new;
    }
    Ok(with_system_id(record, data))
}

fn with_system_id(mut record: NodeRecord, data: &DataDir) -> NodeRecord {
    if let DataDir::Cluster { control, .. } = data {
        record.system_id.get_or_insert(control.system_id);
    }
    record
}

/// Why the data directory is not the one that was marked; `None` if it is, or never was one.
fn lost(
    record: &NodeRecord,
    marked: Option<&Mark>,
    found: Option<&Mark>,
    data: &DataDir,
) -> Option<&'static str> {
    let marked = marked?;
    if record.replacing.is_some() {
        // Under reconstruction: nothing in it can be relied on, and it will be cloned anew.
        return None;
    }
    match data {
        DataDir::Missing | DataDir::Empty => Some("the data is gone"),
        DataDir::NotACluster { .. } => None,
        DataDir::Cluster { control, .. } if control.system_id != marked.system_id => {
            Some("another cluster is there")
        }
        DataDir::Cluster { .. } => match found {
            None => Some("the data was replaced: it has no mark of this keeper"),
            Some(found) if found.node_id != marked.node_id => {
                Some("the data was replaced by another node's")
            }
            Some(_) => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vigil_core::node::record::Replacing;

    fn mark(node: i64) -> Mark {
        Mark { node_id: NodeId(node), name: "n".into(), system_id: 1 }
    }

    #[test]
    fn only_data_that_was_marked_can_be_lost() {
        let mut record = NodeRecord::new("default".into(), 0, "n".into());
        assert_eq!(lost(&record, None, None, &DataDir::Missing), None, "never had any");
        assert!(lost(&record, Some(&mark(1)), None, &DataDir::Missing).is_some());
        assert!(lost(&record, Some(&mark(1)), None, &DataDir::Empty).is_some());
        record.replacing = Some(Replacing::Clone);
        assert_eq!(lost(&record, Some(&mark(1)), None, &DataDir::Missing), None, "being cloned");
    }
}
