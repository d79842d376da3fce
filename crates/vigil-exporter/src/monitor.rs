//! What the monitor's page of metrics tells: it is shown as it is, and it names the nodes.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::client::{self, GetError};
use crate::page::Sample;

/// A node as the monitor has it registered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    pub name: String,
    pub host: String,
    pub port: u16,
    /// It may accept writes now and acknowledge them.
    pub writable: bool,
}

impl Node {
    /// Host and port as URLs have them.
    pub fn address(&self) -> String {
        let Node { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// The monitor, and what it last said of the nodes.
#[derive(Debug)]
pub struct Monitor {
    address: String,
    known: Mutex<Vec<Node>>,
}

impl Monitor {
    pub fn new(address: String) -> Self {
        Monitor { address, known: Mutex::default() }
    }

    /// Its page, within `within`.
    ///
    /// # Errors
    /// It does not answer in time; [`Monitor::nodes`] are then those that it last named, which is
    /// right because nothing fails over without it.
    pub async fn page(&self, within: Duration) -> Result<String, GetError> {
        let page = client::get(&self.address, "/metrics", within).await?;
        let nodes = nodes(&page);
        // None at all: it has just started and is still reading what it has stored.
        if !nodes.is_empty() {
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) = nodes;
        }
        Ok(page)
    }

    /// The nodes as last heard.
    pub fn nodes(&self) -> Vec<Node> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The nodes that a page names, by `pgvigil_node_writable`.
fn nodes(page: &str) -> Vec<Node> {
    let mut nodes: Vec<Node> = page
        .lines()
        .filter_map(Sample::parse)
        .filter(|sample| sample.name == "pgvigil_node_writable")
        .filter_map(|sample| {
            Some(Node {
                name: sample.label("nodename")?,
                host: sample.label("nodehost")?,
                port: sample.label("nodeport")?.parse().ok()?,
                writable: sample.value == "1",
            })
        })
        .collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_read_from_the_page() {
        let page = "# TYPE pgvigil_node_writable gauge\n\
            pgvigil_node_writable{formation=\"default\",nodename=\"n2\",nodehost=\"::1\",nodeport=\"5433\"} 1\n\
            pgvigil_node_writable{formation=\"default\",nodename=\"n1\",nodehost=\"db1\",nodeport=\"5432\"} 0\n\
            pgvigil_node_writable{nodename=\"broken\"} 1\npgvigil_epoch 3\n";
        let nodes = nodes(page);
        let shown: Vec<_> =
            nodes.iter().map(|n| (n.name.as_str(), n.address(), n.writable)).collect();
        assert_eq!(
            shown,
            [("n1", "db1:5432".to_owned(), false), ("n2", "[::1]:5433".to_owned(), true)]
        );
    }
}
