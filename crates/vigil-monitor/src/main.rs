//! `vigil-monitor`: see the library.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;
use vigil_daemon::signals::StopSignals;
use vigil_daemon::{Failure, Stop};
use vigil_monitor::config::Config;
use vigil_monitor::data_dir::DataDir;
use vigil_monitor::preflight;
use vigil_postgres::install::RunAs;
use vigil_postgres::user;

fn main() -> ExitCode {
    vigil_daemon::end(start())
}

fn start() -> Result<(), Stop> {
    let config = Config::read(std::env::args_os(), |name| std::env::var_os(name))?;
    if rustix::process::geteuid().is_root() {
        become_postgres(&config)?;
    }
    user::reexec_as_postgres().map_err(Failure::prerequisite)?;
    // After the change of user the kernel would call it `exe`. Cosmetic: no matter if it fails.
    let _ = std::fs::write("/proc/self/comm", "vigil-monitor");
    config.log.start(&["vigil_monitor", "vigil_core", "vigil_postgres"]);
    vigil_daemon::descriptors::raise_limit();
    vigil_postgres::process::hold_process_table()
        .map_err(|e| Failure::prerequisite(format!("cannot read /proc: {e}")).hint("mount it"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(workers())
        .build()
        .map_err(Failure::unexpected)?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        tokio::spawn(cancel_on_signal(StopSignals::listen()?, shutdown.clone()));
        vigil_monitor::run(config, shutdown).await
    });
    // Nothing that is left is worth waiting for.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    Ok(result?)
}

/// At least two, so that one long poll holds up nobody.
fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8)
}

/// As root: makes the data directory for user `postgres`, and goes on as that user. Nothing is
/// made before everything was found to be in order.
fn become_postgres(config: &Config) -> Result<(), Failure> {
    let account = user::lookup("postgres").map_err(Failure::prerequisite)?;
    drop(preflight::check(config)?);
    let dir = DataDir::new(config.absolute_data_dir());
    dir.create(Some(RunAs { uid: account.uid, gid: account.gid }))?;
    user::reexec_as_postgres().map_err(Failure::prerequisite)
}

async fn cancel_on_signal(mut signals: StopSignals, shutdown: CancellationToken) {
    signals.next().await;
    tracing::info!("stopping");
    shutdown.cancel();
}
