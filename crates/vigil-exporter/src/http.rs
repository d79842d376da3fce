//! The routes. Each answers within a second, whatever the monitor and the nodes do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics::{describe_gauge, gauge, with_local_recorder};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use tokio::task::JoinSet;

use crate::monitor::{Monitor, Node};
use crate::page;
use crate::probe::Probe;
use crate::stock::Stock;

/// Together less than a second, with some left for a busy machine.
const MONITOR_WITHIN: Duration = Duration::from_millis(300);
const STOCK_WITHIN: Duration = Duration::from_millis(500);

/// What the handlers look at.
#[derive(Clone)]
pub struct Shown {
    pub monitor: Arc<Monitor>,
    /// `None`: done without.
    pub stock: Option<Arc<Stock>>,
    pub probe: Arc<Probe>,
}

pub fn router(shown: Shown) -> Router {
    Router::new()
        .route("/metrics", get(writable))
        .route("/nodes/{name}", get(one_node))
        .route("/targets", get(targets))
        .route("/healthz", get(|| async { "ok\n" }))
        .with_state(shown)
}

/// The monitor's page, the probe's, and those of the nodes that are writable now.
async fn writable(State(shown): State<Shown>) -> Response {
    let began = Instant::now();
    let monitor = shown.monitor.page(MONITOR_WITHIN).await;
    if let Err(error) = &monitor {
        tracing::debug!(%error, "no page of the monitor");
    }
    let nodes = shown.monitor.nodes().into_iter().filter(|node| node.writable);
    let mut pages: JoinSet<(Node, Option<String>)> = nodes
        .map(|node| {
            let shown = shown.clone();
            async move {
                let page = stock_page(&shown, &node).await;
                (node, page)
            }
        })
        .collect();
    let mut texts = vec![shown.probe.render()];
    let mut answered = Vec::new();
    while let Some(Ok((node, page))) = pages.join_next().await {
        answered.push((node.clone(), page.is_some()));
        texts.push(page.unwrap_or_else(|| without(&shown, &node)));
    }
    texts.push(own(&shown, monitor.is_ok(), &answered, began.elapsed()));
    let monitor = monitor.as_deref().unwrap_or_default();
    plain(page::join([monitor].into_iter().chain(texts.iter().map(String::as_str))))
}

async fn one_node(State(shown): State<Shown>, Path(name): Path<String>) -> Response {
    let known = |name: &str| shown.monitor.nodes().into_iter().find(|node| node.name == name);
    let mut node = known(&name);
    if node.is_none() {
        // Just registered, or this program has just started.
        let _ = shown.monitor.page(MONITOR_WITHIN).await;
        node = known(&name);
    }
    match node {
        Some(node) => {
            plain(stock_page(&shown, &node).await.unwrap_or_else(|| without(&shown, &node)))
        }
        None => (StatusCode::NOT_FOUND, format!("no node {name} is known\n")).into_response(),
    }
}

/// For `http_sd_configs`: every node as a target of its own, reached through this server.
async fn targets(State(shown): State<Shown>, headers: HeaderMap) -> Response {
    let asked = shown.monitor.page(MONITOR_WITHIN).await;
    let nodes = shown.monitor.nodes();
    if let Err(error) = asked
        && nodes.is_empty()
    {
        // An empty list would drop what Prometheus knows; after an error it keeps that.
        return (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response();
    }
    let here = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let targets: Vec<_> = nodes
        .iter()
        .map(|node| {
            json!({
                "targets": [here],
                "labels": {
                    "__metrics_path__": format!("/nodes/{}", node.name),
                    "instance": node.address(),
                    "nodename": node.name,
                    "nodehost": node.host,
                },
            })
        })
        .collect();
    Json(targets).into_response()
}

/// The stock exporter's page of `node`, labelled; `None` when there is none in time.
async fn stock_page(shown: &Shown, node: &Node) -> Option<String> {
    let stock = shown.stock.as_ref()?;
    match stock.probe(node, STOCK_WITHIN).await {
        Ok(text) => Some(page::with_labels(&text, &labels_of(node))),
        Err(error) => {
            tracing::debug!(node = node.name, %error, "no figures of this node");
            None
        }
    }
}

/// What the stock exporter would say of a node that is down, if it did not take a second for it.
fn without(shown: &Shown, node: &Node) -> String {
    if shown.stock.is_none() {
        return String::new();
    }
    let text = "# HELP pg_up Whether the server could be reached (1 for yes, 0 for no).\n\
                # TYPE pg_up gauge\npg_up 0\n";
    page::with_labels(text, &labels_of(node))
}

fn labels_of(node: &Node) -> [(&str, &str); 2] {
    [("nodename", &node.name), ("nodehost", &node.host)]
}

/// What there is to say of this program itself.
fn own(shown: &Shown, monitor: bool, answered: &[(Node, bool)], took: Duration) -> String {
    let recorder = PrometheusBuilder::new().build_recorder();
    with_local_recorder(&recorder, || {
        describe_gauge!("pgvigil_exporter_info", "The version of the exporter; always 1");
        describe_gauge!("pgvigil_exporter_monitor_up", "1 if the monitor's page is on this one");
        describe_gauge!(
            "pgvigil_exporter_node_up",
            "1 if the figures of this writable node are on this page"
        );
        describe_gauge!("pgvigil_exporter_page_seconds", "How long this page took");
        let (version, stock) = (env!("CARGO_PKG_VERSION"), shown.stock.is_some().to_string());
        gauge!("pgvigil_exporter_info", "version" => version, "stock" => stock).set(1);
        gauge!("pgvigil_exporter_monitor_up").set(i32::from(monitor));
        for (node, is_up) in answered {
            gauge!("pgvigil_exporter_node_up", "nodename" => node.name.clone())
                .set(i32::from(*is_up));
        }
        gauge!("pgvigil_exporter_page_seconds").set(took.as_secs_f64());
    });
    recorder.handle().render()
}

fn plain(text: String) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
