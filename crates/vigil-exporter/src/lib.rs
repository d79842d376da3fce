//! One page of metrics that follows the primary. The stock `postgres_exporter` cannot: its driver
//! does not look for the writable one among several hosts. So this program asks the monitor who is
//! writable, lets the stock exporter probe that node, and labels the figures with whose they are.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | options, variables |
//! | [`client`] | one HTTP request, bounded in time |
//! | [`monitor`] | what the monitor's page tells: itself, and which nodes there are |
//! | [`page`] | the text format: labels put in |
//! | [`stock`] | the stock exporter as a child process |
//! | [`probe`] | a client that writes, and measures when it cannot |
//! | [`http`] | the routes |

pub mod client;
pub mod config;
pub mod http;
pub mod monitor;
pub mod page;
pub mod probe;
pub mod stock;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use vigil_daemon::Failure;

use crate::config::Config;
use crate::http::Shown;
use crate::monitor::Monitor;
use crate::probe::Probe;
use crate::stock::Stock;

/// Serves until `stop` is notified.
///
/// # Errors
/// Its port is taken, or there is no stock exporter.
pub async fn run(config: Config, stop: Arc<Notify>) -> Result<(), Failure> {
    let listener = TcpListener::bind(&config.listen).await.map_err(|error| {
        Failure::prerequisite(format!("cannot listen on {}: {error}", config.listen))
            .hint("choose another address with --listen")
    })?;
    let stock = Stock::start(&config)?;
    let monitor = Arc::new(Monitor::new(config.monitor_http.clone()));
    let probe = Arc::new(Probe::new().map_err(Failure::unexpected)?);
    if let Some(interval) = config.probe_interval {
        let probe = Arc::clone(&probe);
        tokio::spawn(probe.run(Arc::clone(&monitor), config.login(), interval));
    }
    tracing::info!(
        listen = config.listen,
        monitor = config.monitor_http,
        stock = stock.is_some(),
        probe = config.probe_interval.is_some(),
        version = env!("CARGO_PKG_VERSION"),
        "the exporter serves"
    );
    let stock = stock.map(Arc::new);
    let router = http::router(Shown { monitor, stock: stock.clone(), probe });
    let served = tokio::select! {
        served = axum::serve(listener, router) => served.map_err(Failure::unexpected),
        () = stop.notified() => Ok(()),
    };
    if let Some(stock) = stock {
        stock.stop().await;
    }
    served
}
