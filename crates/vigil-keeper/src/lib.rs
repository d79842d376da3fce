//! The keeper: acts beside one Postgres as the monitor decides. All deciding is in `vigil-core`;
//! this is the shell around its [`NodeDriver`](vigil_core::driver::node::NodeDriver).
//!
//! | module | what it does |
//! |---|---|
//! | [`config`] | what it was told |
//! | [`prerequisites`], [`takeover`] | what must be true on this machine, and of data that is there |
//! | [`state_file`], [`identity`] | its own disk: the record, and whose data it is about |
//! | [`claim`] | that no other keeper has the same data directory |
//! | [`link`] | ears and mouth: the stream to the monitor |
//! | [`observer`], [`probe`] | eyes |
//! | [`execute`] | hands, one function per step; [`chores`]: what they do meanwhile |
//! | [`agent`] | the loop between all of them |
//! | [`http`], [`metrics`], [`machine`], [`status`] | what it shows |

pub mod agent;
pub mod chores;
pub mod claim;
pub mod clock;
pub mod config;
pub mod execute;
mod failure;
pub mod http;
pub mod identity;
pub mod link;
pub mod local;
pub mod machine;
pub mod metrics;
pub mod observer;
mod pace;
mod passfile;
pub mod prerequisites;
pub mod probe;
mod readiness;
mod socket_lock;
pub mod state_file;
pub mod status;
pub mod takeover;
#[cfg(test)]
mod testing;
mod troubles;
mod witness;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use vigil_core::node::record::NodeRecord;
use vigil_daemon::Failure;
use vigil_postgres::process;

use crate::agent::{Agent, Channels};
use crate::claim::Claim;
use crate::config::Config;
use crate::link::{Introduction, Link};
use crate::local::{Local, Place};
use crate::metrics::Metrics;
use crate::state_file::StateDir;
use crate::status::Status;

/// Runs a keeper until it was stopped as asked or its node was dropped. Every message on `shutdown`
/// is a request to stop; the second one means at once.
///
/// # Errors
/// Why it cannot start or go on. Postgres is left as it is.
pub async fn run(config: Config, shutdown: mpsc::Receiver<()>) -> Result<(), Failure> {
    let dir = config.state_dir();
    let is_new = !dir.exists();
    let result = keep(config, shutdown).await;
    // A node that was never welcomed leaves nothing behind.
    if is_new && result.is_err() && StateDir::peek(&dir).is_none() {
        _ = std::fs::remove_dir_all(&dir);
    }
    result
}

async fn keep(config: Config, shutdown: mpsc::Receiver<()>) -> Result<(), Failure> {
    let (place, record, http) = prepare(&config).await?;
    if let Err(error) = process::become_subreaper() {
        tracing::warn!(%error, "cannot become the reaper of Postgres' orphans");
    }
    tracing::info!(
        name = config.name,
        pgdata = %place.pgdata.display(),
        postgres = place.install.major,
        node_id = record.node_id.map(|id| id.0),
        epoch = record.promise.0,
        "keeper starts"
    );
    let introduction = Introduction {
        host: config.host.clone(),
        port: config.pg_port,
        candidate_priority: config.candidate_priority,
        replication_quorum: config.replication_quorum,
        postgres_major: place.install.major,
    };
    let endpoint = vigil_proto::endpoint(&config.monitor).map_err(Failure::usage)?;
    let pgdata = place.pgdata.clone();
    let local = Local::new(place);

    let (record_in, record_out) = watch::channel(Arc::new(record.clone()));
    let (reports_in, reports) = watch::channel(None);
    let (heard, from_monitor) = mpsc::channel(64);
    let (wanted, wanted_out) = watch::channel(0);
    let (looks_in, looks) = mpsc::channel(4);
    let (hung, hung_out) = watch::channel(false);
    let (status, status_out) = watch::channel(Arc::new(first_status(record.clone())));

    // Dropped, and with it aborted, when this function ends.
    let mut tasks = JoinSet::new();
    let link = Link { endpoint, introduction, record: record_out.clone(), reports, heard };
    tasks.spawn(link.run());
    tasks.spawn(probe::probe(Arc::clone(&local), record_out.clone(), hung));
    let nudge = Arc::new(Notify::new());
    tasks.spawn(observer::observe(
        Arc::clone(&local),
        record_out,
        hung_out,
        wanted_out,
        Arc::clone(&nudge),
        looks_in,
    ));
    tasks.spawn(witness::witness(Arc::clone(&local), status_out.clone(), nudge));
    let metrics = Metrics::install();
    tasks.spawn(metrics.clone().upkeep());
    let (machine, machine_out) = watch::channel(Arc::default());
    tasks.spawn(machine::watch(pgdata, machine));
    let router = http::router(status_out, machine_out, metrics);
    let listener = tokio::net::TcpListener::from_std(http).map_err(Failure::unexpected)?;
    tasks.spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "the HTTP server has ended");
        }
    });

    let channels = Channels {
        record: record_in,
        reports: reports_in,
        from_monitor,
        wanted,
        looks,
        status,
        shutdown,
    };
    let agent = Box::pin(Agent::new(record, local, channels).run());
    tokio::select! {
        result = agent => result,
        panic = panicked(&mut tasks) => Err(panic),
    }
}

/// Checks everything, changes nothing but the state directory.
async fn prepare(config: &Config) -> Result<(Place, NodeRecord, TcpListener), Failure> {
    let pgdata = config.absolute_pgdata();
    let dir = config.state_dir();
    let before = StateDir::peek(&dir);
    let rebuilding = before.as_ref().is_some_and(|record| record.replacing.is_some());
    let known = before.is_some_and(|record| record.node_id.is_some());
    let data = prerequisites::data_dir(&pgdata, rebuilding)?;
    if !rebuilding {
        takeover::recovery(&pgdata, &data, known)?;
    }
    // Another keeper of this node explains the busy ports best.
    let state = if dir.exists() { Some(StateDir::open(&dir)?) } else { None };
    let claim = Claim::of(&pgdata)?;
    let install = prerequisites::installation(config.pg_bin.as_deref(), &data)?;
    let socket_dir = config.socket_dir();
    prerequisites::socket_dir(&socket_dir, config.pg_port)?;
    prerequisites::postgres_port(&pgdata, &config.pg_listen, config.pg_port, &socket_dir)?;
    if !known {
        takeover::running(&pgdata, &socket_dir, config.pg_port, install.major).await?;
    }
    let http = prerequisites::http_listener(&config.http_listen)?;
    let state = match state {
        Some(state) => state,
        None => StateDir::open(&dir)?,
    };

    let new = NodeRecord::new(config.formation.clone(), config.group, config.name.clone());
    let record = identity::load(&state, &pgdata, &data, new)?;
    let place = Place {
        pgdata,
        install,
        listen: config.pg_listen.clone(),
        port: config.pg_port,
        socket_dir,
        hba_auth: config.pg_hba_auth.clone(),
        hba_cidrs: config.pg_hba_cidr.clone(),
        os_user: vigil_postgres::user::current_user(),
        log: dir.join("postgres.log"),
        state,
        claim,
    };
    Ok((place, record, http))
}

/// Ends when one of the tasks has panicked. That one has ended properly is told by its channel.
async fn panicked(tasks: &mut JoinSet<()>) -> Failure {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            return Failure::unexpected(format!("a task failed: {error}"));
        }
    }
    std::future::pending().await
}

fn first_status(record: NodeRecord) -> Status {
    Status {
        record,
        order: None,
        seen: None,
        in_force: None,
        step: None,
        monitor_connected: false,
        leaving: false,
        looked_at: None,
        not_let_in: None,
        streamed_at: None,
        slots: Vec::new(),
        turned_at: Instant::now(),
    }
}
