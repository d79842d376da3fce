//! The monitor's own Postgres: made on the first start, kept running, stopped with the monitor.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vigil_daemon::Failure;
use vigil_postgres::conf;
use vigil_postgres::durable::{self, Written};
use vigil_postgres::install::Installation;
use vigil_postgres::pgdata::{self, DataDir as Pgdata, InitdbOptions};
use vigil_postgres::process::{self, Postmaster, ProcessError, Stop};

use crate::config::Config;
use crate::data_dir::DataDir;
use crate::store::{DATABASE, READER};

const INITDB: Duration = Duration::from_mins(2);
/// Crash recovery of so small a database is short; a slow disk may have to sync it.
const READY: Duration = Duration::from_mins(2);
const ADOPT: Duration = Duration::from_secs(30);
const FAST_STOP: Duration = Duration::from_secs(8);
const KILL: Duration = Duration::from_secs(5);
/// After an end that nobody asked for.
const RESTART: Duration = Duration::from_millis(50);
const RESTART_MAX: Duration = Duration::from_secs(5);
/// Running for so long means that the last start was a good one.
const STABLE: Duration = Duration::from_secs(30);
/// A log larger than this is put aside at the next start.
const LOG_MAX: u64 = 32 << 20;

/// The server and what it needs to be started again.
#[derive(Debug)]
pub struct Embedded {
    install: Installation,
    pgdata: PathBuf,
    log: PathBuf,
    socket: PathBuf,
    postmaster: Postmaster,
}

impl Embedded {
    /// Makes the cluster if there is none, and starts it, or adopts one that runs: a monitor that
    /// was killed leaves its Postgres behind.
    pub async fn start(config: &Config, install: Installation) -> Result<Self, Failure> {
        let dir = DataDir::new(config.absolute_data_dir());
        let (pgdata, log) = (dir.pgdata(), dir.postgres_log());
        let found = pgdata::inspect(&pgdata).map_err(Failure::prerequisite)?;
        if matches!(found, Pgdata::Missing | Pgdata::Empty) {
            tracing::info!(pgdata = %pgdata.display(), major = install.major, "initdb");
            // Small segments: the decision that has to begin a new one waits for less.
            let options = InitdbOptions { wal_segment_mb: Some(1), ..InitdbOptions::default() };
            pgdata::initdb(&install, &pgdata, &options, INITDB)
                .await
                .map_err(Failure::unexpected)?;
        }
        let written = write_settings(config, &install, &pgdata).map_err(Failure::unexpected)?;
        put_log_aside(&log);
        let socket = config.socket_dir().join(format!(".s.PGSQL.{}", config.pg_port));
        let adopted = adopt(&pgdata, &log, written).await.map_err(Failure::unexpected)?;
        let postmaster = match adopted {
            Some(postmaster) => postmaster,
            None => start(&install, &pgdata, &log, &socket).await.map_err(|e| {
                Failure::unexpected(format!("the monitor's Postgres does not start: {}", brief(&e)))
            })?,
        };
        // An adopted one may have seen other access rules.
        postmaster.reload().map_err(Failure::unexpected)?;
        Ok(Embedded { install, pgdata, log, socket, postmaster })
    }

    /// Keeps it running until `stop`, then stops it.
    pub async fn supervise(mut self, stop: CancellationToken) {
        let mut pause = RESTART;
        let mut started = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = self.postmaster.exited() => {}
                () = stop.cancelled() => return self.stop().await,
            }
            if started.elapsed() > STABLE {
                pause = RESTART;
            }
            tracing::warn!("the monitor's Postgres has ended; it starts again");
            loop {
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = stop.cancelled() => return self.stop().await,
                }
                pause = (pause * 2).min(RESTART_MAX);
                match self.start_again().await {
                    Ok(()) => break,
                    Err(error) => {
                        let error = brief(&error);
                        tracing::warn!(error, "the monitor's Postgres does not start; trying on");
                    }
                }
            }
            started = tokio::time::Instant::now();
            tracing::info!("the monitor's Postgres runs again");
        }
    }

    async fn start_again(&mut self) -> Result<(), ProcessError> {
        process::kill_all(&self.pgdata, KILL).await?;
        self.postmaster = start(&self.install, &self.pgdata, &self.log, &self.socket).await?;
        Ok(())
    }

    async fn stop(&self) {
        if let Err(error) = stop(&self.pgdata, &self.postmaster).await {
            tracing::warn!(%error, "the monitor's Postgres does not stop");
        }
    }
}

/// Starts it and waits until it is ready.
async fn start(
    install: &Installation,
    pgdata: &Path,
    log: &Path,
    socket: &Path,
) -> Result<Postmaster, ProcessError> {
    clear_stale_socket(pgdata, socket)?;
    let postmaster = process::spawn(install, pgdata, log)?;
    process::wait_ready(pgdata, &postmaster, log, READY).await?;
    Ok(postmaster)
}

/// Removes the lock of the Unix socket if a server of this directory left it and none lives. The
/// killed one may still be a zombie that its parent has not reaped, and Postgres takes a zombie
/// for alive. A lock of another server's stays.
fn clear_stale_socket(pgdata: &Path, socket: &Path) -> Result<(), ProcessError> {
    let mut lock = socket.as_os_str().to_owned();
    lock.push(".lock");
    let lock = PathBuf::from(lock);
    // Its second line is the data directory.
    let text = std::fs::read_to_string(&lock).unwrap_or_default();
    let is_of_this = text.lines().nth(1).is_some_and(|dir| Path::new(dir.trim()) == pgdata);
    if is_of_this && process::processes_of(pgdata)?.is_empty() {
        durable::remove(&lock)?;
        durable::remove(socket)?;
    }
    Ok(())
}

/// What the server said when it died, from its log: the last complaint, not the whole tail.
fn brief(error: &ProcessError) -> String {
    let (ProcessError::Died { log } | ProcessError::NotReady { log, .. }) = error else {
        return error.to_string();
    };
    let is_complaint = |line: &&str| line.contains("FATAL:") || line.contains("PANIC:");
    let complaint = log.lines().rev().find(is_complaint).or(log.lines().last());
    complaint.unwrap_or_default().to_owned()
}

async fn stop(pgdata: &Path, postmaster: &Postmaster) -> Result<(), ProcessError> {
    if !postmaster.has_exited() {
        postmaster.signal(Stop::Fast)?;
        if tokio::time::timeout(FAST_STOP, postmaster.exited()).await.is_ok() {
            return Ok(());
        }
    }
    process::kill_all(pgdata, KILL).await.map(|_| ())
}

/// One that runs with the settings that are wanted. What is left of a killed one, one with other
/// settings, and one that is being stopped, is stopped.
async fn adopt(
    pgdata: &Path,
    log: &Path,
    settings: Written,
) -> Result<Option<Postmaster>, ProcessError> {
    match process::adopt(pgdata)? {
        Some(postmaster) if settings == Written::Unchanged => {
            let pid = postmaster.pid.as_raw_pid();
            tracing::info!(pid, "the monitor's Postgres still runs");
            if process::wait_ready(pgdata, &postmaster, log, ADOPT).await.is_ok() {
                return Ok(Some(postmaster));
            }
            tracing::warn!(pid, "it does not get ready; starting another one");
            process::kill_all(pgdata, KILL).await?;
            Ok(None)
        }
        Some(postmaster) => {
            stop(pgdata, &postmaster).await?;
            Ok(None)
        }
        None => {
            let killed = process::kill_all(pgdata, KILL).await?;
            if killed > 0 {
                tracing::warn!(killed, "killed what a dead postmaster left behind");
            }
            Ok(None)
        }
    }
}

fn write_settings(
    config: &Config,
    install: &Installation,
    pgdata: &Path,
) -> Result<Written, vigil_postgres::FileError> {
    let hba = hba(&config.pg_hba_cidr);
    durable::write_if_changed(&pgdata.join("pg_hba.conf"), hba.as_bytes())?;
    let ident = format!("pgvigil \"{}\" postgres\n", vigil_postgres::user::current_user());
    durable::write_if_changed(&pgdata.join("pg_ident.conf"), ident.as_bytes())?;
    let settings = settings(config, install.major);
    let written = durable::write_if_changed(&pgdata.join(conf::FILE), settings.as_bytes())?;
    let included = conf::ensure_included(pgdata)?;
    Ok(if written.changed() { written } else { included })
}

fn hba(cidrs: &[String]) -> String {
    let mut lines = vec![
        "# Written by vigil-monitor at each start: changes are lost. See --pg-hba-cidr.".to_owned(),
        "local all postgres peer map=pgvigil".to_owned(),
        format!("local {DATABASE} {READER} trust"),
    ];
    let loopback = ["127.0.0.1/32", "::1/128"].map(str::to_owned);
    for cidr in loopback.iter().chain(cidrs) {
        lines.push(format!("host {DATABASE} {READER} {cidr} trust"));
    }
    lines.join("\n") + "\n"
}

fn settings(config: &Config, major: u32) -> String {
    let port = config.pg_port.to_string();
    let socket_dir = config.socket_dir().display().to_string();
    let mut settings = vec![
        ("cluster_name", "vigil-monitor"),
        ("listen_addresses", config.pg_listen.as_str()),
        ("port", port.as_str()),
        ("unix_socket_directories", socket_dir.as_str()),
        ("max_connections", "50"),
        ("shared_buffers", "64MB"),
        ("max_wal_size", "256MB"),
        // Decisions are small and rare; each is flushed, at once.
        ("fsync", "on"),
        ("synchronous_commit", "on"),
        ("full_page_writes", "on"),
        ("commit_delay", "0"),
        // Writing into space that is there already is the faster flush.
        ("wal_init_zero", "on"),
        ("min_wal_size", "32MB"),
        ("jit", "off"),
        // The monitor starts it again if need be.
        ("restart_after_crash", "off"),
        ("tcp_keepalives_idle", "10"),
        ("tcp_keepalives_interval", "5"),
        ("tcp_keepalives_count", "3"),
        ("log_checkpoints", "off"),
        ("log_line_prefix", "%m [%p] %q%u@%d/%a "),
    ];
    if major >= 14 {
        // Otherwise a start after a crash opens and syncs each file.
        settings.push(("recovery_init_sync_method", "syncfs"));
    }
    let head = "# Written by vigil-monitor at each start: changes are lost. See its options.";
    let lines = settings.iter().map(|(name, value)| format!("{name} = {}", conf::quote(value)));
    [head.to_owned()].into_iter().chain(lines).collect::<Vec<_>>().join("\n") + "\n"
}

/// Best effort: a large log is a nuisance, not a reason to stay down.
fn put_log_aside(log: &Path) {
    if std::fs::metadata(log).is_ok_and(|m| m.len() > LOG_MAX) {
        let _ = std::fs::rename(log, log.with_extension("log.old"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_get_in_from_where_they_may_only() {
        let text = hba(&["10.0.0.0/8".to_owned()]);
        let rules: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
        assert_eq!(
            rules,
            [
                "local all postgres peer map=pgvigil",
                "local pg_auto_failover autoctl_node trust",
                "host pg_auto_failover autoctl_node 127.0.0.1/32 trust",
                "host pg_auto_failover autoctl_node ::1/128 trust",
                "host pg_auto_failover autoctl_node 10.0.0.0/8 trust",
            ]
        );
    }
}
