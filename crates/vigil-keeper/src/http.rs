//! Role checks for load balancers (Patroni's names and codes) and metrics.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use tokio::sync::watch;

use crate::machine::Machine;
use crate::metrics::Metrics;
use crate::status::Status;

/// What the handlers look at.
#[derive(Clone)]
struct Shown {
    status: watch::Receiver<Arc<Status>>,
    machine: watch::Receiver<Arc<Machine>>,
    metrics: Metrics,
}

/// All routes. GET answers with JSON; HEAD and OPTIONS with the same code.
pub fn router(
    status: watch::Receiver<Arc<Status>>,
    machine: watch::Receiver<Arc<Machine>>,
    metrics: Metrics,
) -> Router {
    Router::new()
        .route("/", check(Status::is_primary))
        .route("/primary", check(Status::is_primary))
        .route("/read-write", check(Status::is_primary))
        .route("/replica", check(Status::is_replica))
        .route("/read-only", check(|s| s.is_primary() || s.is_replica()))
        .route("/health", check(Status::is_healthy))
        .route("/liveness", check(Status::is_alive))
        .route("/metrics", get(show_metrics))
        .with_state(Shown { status, machine, metrics })
}

fn check(passes: fn(&Status) -> bool) -> MethodRouter<Shown> {
    let answer = move |State(shown): State<Shown>| async move {
        let status = Arc::clone(&shown.status.borrow());
        let code = if passes(&status) { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (code, axum::Json(serde_json::json!(status.json()))).into_response()
    };
    get(answer).options(answer)
}

async fn show_metrics(State(shown): State<Shown>) -> Response {
    let status = Arc::clone(&shown.status.borrow());
    let machine = Arc::clone(&shown.machine.borrow());
    let text = shown.metrics.render(&status, &machine);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
