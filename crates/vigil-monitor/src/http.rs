//! `/healthz` and `/metrics`.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use vigil_proto::Selector;

use crate::group_task::Published;
use crate::metrics::Metrics;
use crate::registry::Registry;

/// What the server can show: nothing of groups before the store was read.
#[derive(Clone)]
pub struct Shown {
    pub metrics: Arc<Metrics>,
    pub registry: Arc<OnceLock<Arc<Registry>>>,
}

/// Serves until `stop`.
pub async fn serve(
    listener: tokio::net::TcpListener,
    shown: Shown,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(shown);
    let patience = stop.clone();
    tokio::select! {
        result = axum::serve(listener, app)
            .with_graceful_shutdown(stop.cancelled_owned()) => result,
        () = async {
            patience.cancelled().await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        } => Ok(()),
    }
}

async fn store_is_up(shown: &Shown) -> bool {
    match shown.registry.get() {
        Some(registry) => registry.store.is_up(Duration::from_secs(1)).await,
        None => false,
    }
}

async fn healthz(State(shown): State<Shown>) -> Response {
    let is_serving = shown.registry.get().is_some();
    let store = store_is_up(&shown).await;
    let (code, status) = match (is_serving, store) {
        (true, true) => (StatusCode::OK, "ok"),
        (true, false) => (StatusCode::SERVICE_UNAVAILABLE, "store_down"),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
    };
    let up = |is_up| if is_up { "up" } else { "down" };
    let body = json!({ "status": status, "store": up(store), "grpc": up(is_serving) });
    (code, Json(body)).into_response()
}

async fn metrics(State(shown): State<Shown>) -> Response {
    let registry = shown.registry.get();
    let groups: Vec<Published> = match registry {
        Some(registry) => registry
            .select(&Selector::default())
            .unwrap_or_default()
            .iter()
            .map(|group| group.published.borrow().clone())
            .collect(),
        None => Vec::new(),
    };
    // A scrape waits for nothing: it is made of what is known.
    let text = shown.metrics.render(&groups, registry.is_some_and(|r| r.store_was_up()));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
