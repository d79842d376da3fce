//! The monitor: a shell around the core's `GroupDriver`. It keeps the state in a Postgres of its
//! own, carries messages between keepers, operators and groups, and decides nothing.
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | options, variables |
//! | [`preflight`], [`data_dir`] | what must be right before anything is changed |
//! | [`embedded`], [`store`] | its own Postgres, and what is stored there |
//! | [`group_task`], [`registry`] | one task per group; which groups there are |
//! | [`grpc`], [`http`], [`metrics`] | to the outside |

mod changes;
pub mod clock;
pub mod config;
pub mod data_dir;
pub mod embedded;
pub mod group_task;
pub mod grpc;
pub mod http;
pub mod mail;
pub mod metrics;
pub mod node_ids;
pub mod preflight;
pub mod registry;
mod status_writer;
pub mod store;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vigil_daemon::Failure;

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::embedded::Embedded;
use crate::metrics::Metrics;
use crate::preflight::Checked;
use crate::registry::Registry;
use crate::store::{PgStore, StoreError};

/// Among so many events the last changes of a primary are looked for.
const EVENTS_RECALLED: u32 = 1000;

/// Runs the monitor until `shutdown`, then stops everything that it started.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Failure> {
    let Checked { install, grpc, http } = preflight::check(&config)?;
    let dir = DataDir::new(config.absolute_data_dir());
    dir.create(config.run_as)?;
    let _lock = dir.lock()?;
    if let Err(error) = vigil_postgres::process::become_subreaper() {
        tracing::debug!(%error, "orphans of a killed Postgres will go to process 1");
    }

    // It outlives all that uses it.
    let postgres_stop = CancellationToken::new();
    let major = install.major;
    let embedded = tokio::select! {
        embedded = Embedded::start(&config, install) => embedded?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let postgres = tokio::spawn(embedded.supervise(postgres_stop.clone()));
    let result = serve(&config, major, grpc, http, &shutdown).await;
    postgres_stop.cancel();
    let stopped = postgres.await.map_err(Failure::unexpected);
    tracing::info!("stopped");
    result.and(stopped)
}

/// Everything that needs the store.
async fn serve(
    config: &Config,
    major: u32,
    grpc: std::net::TcpListener,
    http: std::net::TcpListener,
    shutdown: &CancellationToken,
) -> Result<(), Failure> {
    let stop = shutdown.child_token();
    let _stops = stop.clone().drop_guard();
    let metrics = Arc::new(Metrics::new().map_err(Failure::unexpected)?);
    let shown = http::Shown { metrics: metrics.clone(), registry: Arc::new(OnceLock::new()) };
    let http = TcpListener::from_std(http).map_err(Failure::unexpected)?;
    let grpc = TcpListener::from_std(grpc).map_err(Failure::unexpected)?;
    let http_address = http.local_addr().map_err(Failure::unexpected)?;
    let grpc_address = grpc.local_addr().map_err(Failure::unexpected)?;
    let web = tokio::spawn(http::serve(http, shown.clone(), stop.clone()));

    let store = tokio::select! {
        store = open_store(config, major) => store?,
        () = shutdown.cancelled() => return Ok(()),
    };
    match store.events(None, None, EVENTS_RECALLED).await {
        Ok(events) => metrics.recall(&events),
        Err(error) => tracing::warn!(%error, "the metrics have no history"),
    }
    let unattended_ms = store.unattended_ms().await.map_err(Failure::unexpected)?;
    let doubtful = unattended_ms.is_some_and(|ms| ms > TRUSTED_FOR_MS);
    if doubtful {
        tracing::warn!(
            unattended_ms,
            "nobody used this store for long, it may be an old copy: asking the keepers first"
        );
    }
    let (store_up, store_is_up) = watch::channel(true);
    tokio::spawn(watch_store(store.clone(), metrics.clone(), store_up, stop.clone()));
    let registry = Registry::start(
        store.clone(),
        metrics,
        store_is_up,
        config.default_settings(),
        doubtful,
        stop.clone(),
    )
    .await
    .map_err(Failure::unexpected)?;
    // Nobody else sets it.
    let _ = shown.registry.set(registry.clone());
    tracing::info!(
        grpc = %grpc_address,
        http = %http_address,
        postgres = config.pg_port,
        version = env!("CARGO_PKG_VERSION"),
        "the monitor serves"
    );
    let served = grpc::serve(grpc, registry.clone(), stop.clone()).await;
    let ended = match served {
        Ok(()) if shutdown.is_cancelled() => Ok(()),
        Ok(()) => Err(Failure::unexpected("the gRPC server has ended")),
        Err(error) => Err(Failure::unexpected(error)),
    };
    stop.cancel();
    // A commit that is under way may end.
    let _ = tokio::time::timeout(Duration::from_secs(3), registry.join()).await;
    let _ = web.await;
    store.close().await;
    ended
}

/// A store that no monitor has used for longer is doubted, in milliseconds: it may have been put back
/// from a copy (DESIGN §4.19).
const TRUSTED_FOR_MS: u64 = 300_000;
const ALIVE_EVERY: Duration = Duration::from_secs(5);

async fn open_store(config: &Config, major: u32) -> Result<PgStore, Failure> {
    let mut attempts = 0;
    loop {
        match PgStore::open(&config.socket_dir(), config.pg_port, major).await {
            Ok(store) => return Ok(store),
            Err(StoreError::Unavailable(why)) if attempts < 20 => {
                tracing::debug!(why, "the store cannot be opened yet");
                attempts += 1;
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            Err(error) => return Err(Failure::unexpected(error)),
        }
    }
}

/// Tells whether the store answers, twice a second, and leaves signs of life in it.
async fn watch_store(
    store: PgStore,
    metrics: Arc<Metrics>,
    is_up: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let look = async {
        let mut noted: Option<std::time::Instant> = None;
        loop {
            if noted.is_none_or(|at| at.elapsed() >= ALIVE_EVERY) {
                // Failing is not worth a word: the look that follows says so.
                let _ = tokio::time::timeout(Duration::from_secs(1), store.note_alive()).await;
                noted = Some(std::time::Instant::now());
            }
            let up = store.is_up(Duration::from_secs(1)).await;
            let changed = is_up.send_if_modified(|old| std::mem::replace(old, up) != up);
            if changed && up {
                tracing::info!("the monitor's Postgres answers again");
            } else if changed {
                tracing::warn!("the monitor's Postgres does not answer");
            }
            metrics.upkeep();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::select! {
        () = look => {}
        () = stop.cancelled() => {}
    }
}
