//! What `pgctl show-state --json` says.

use std::fmt;

use serde_json::Value;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) reported: String,
    pub(crate) goal: String,
    pub(crate) health: i64,
    pub(crate) epoch: u64,
    /// In the sync rule, as the primary's walsender agrees; or not meant to be.
    pub(crate) counted: bool,
    pub(crate) text: String,
}

#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) nodes: Vec<Node>,
    pub(crate) json: Value,
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// True where an object has every one of these fields, whatever else it has.
pub(crate) fn has_fields(object: &Value, names: &[&str]) -> Result<(), String> {
    let missing: Vec<&&str> = names.iter().filter(|n| object.get(n).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("fields {missing:?} are missing in {object}"))
}

impl State {
    pub(crate) fn parse(output: &str) -> Result<Self, String> {
        let json: Value = serde_json::from_str(output).map_err(|e| format!("{e}: {output}"))?;
        let nodes = json["nodes"].as_array().ok_or_else(|| format!("no nodes in {output}"))?;
        let nodes = nodes
            .iter()
            .map(|n| Node {
                name: text(&n["nodename"]),
                reported: text(&n["reportedstate"]),
                goal: text(&n["goalstate"]),
                health: n["health"].as_i64().unwrap_or(-1),
                epoch: n["epoch"].as_u64().unwrap_or(0),
                counted: n["sync"] == "quorum" || n["replicationquorum"] == false,
                text: [
                    "nodename",
                    "reportedstate",
                    "goalstate",
                    "health",
                    "reportedtli",
                    "reportedlsn",
                    "epoch",
                    "sync",
                    "lag_bytes",
                ]
                .map(|field| format!("{:>17}", text(&n[field])))
                .join(" "),
            })
            .collect();
        Ok(Self { nodes, json })
    }

    pub(crate) fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// A node that has arrived in this state.
    pub(crate) fn is(&self, name: &str, state: &str) -> bool {
        self.node(name).is_some_and(|n| n.reported == state && n.goal == state && n.health == 1)
    }

    /// The node that accepts writes and is meant to.
    pub(crate) fn primary(&self) -> Option<&str> {
        let mut found = self.nodes.iter().filter(|n| {
            n.health == 1
                && n.reported == n.goal
                && matches!(n.reported.as_str(), "single" | "primary" | "wait_primary")
        });
        match (found.next(), found.next()) {
            (Some(one), None) => Some(&one.name),
            _ => None,
        }
    }

    pub(crate) fn standbys(&self) -> Vec<&str> {
        self.nodes
            .iter()
            .filter(|n| n.reported == "secondary" && n.goal == "secondary" && n.health == 1)
            .map(|n| n.name.as_str())
            .collect()
    }

    /// One primary, all others secondary and in its sync rule, nothing on its way.
    pub(crate) fn is_whole(&self, nodes: usize) -> bool {
        let primary = self.primary().is_some_and(|name| {
            let state = if nodes == 1 { "single" } else { "primary" };
            self.is(name, state)
        });
        primary
            && self.nodes.len() == nodes
            && self.standbys().len() == nodes - 1
            && self.nodes.iter().all(|n| n.counted || self.primary() == Some(n.name.as_str()))
            && self.waits_for_nothing()
    }

    /// Also the newest sync rule is confirmed: what is lost now is lost under that one alone.
    pub(crate) fn waits_for_nothing(&self) -> bool {
        self.json["waiting_on"].as_array().is_none_or(Vec::is_empty)
    }

    pub(crate) fn highest_epoch(&self) -> u64 {
        self.nodes.iter().map(|n| n.epoch).max().unwrap_or(0)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for node in &self.nodes {
            writeln!(f, "{}", node.text)?;
        }
        writeln!(f, "waiting_on {} alerts {}", self.json["waiting_on"], self.json["alerts"])
    }
}
