//! `vigil-monitor`: see the library.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use vigil_monitor::config::{Config, Stop};
use vigil_monitor::data_dir::DataDir;
use vigil_monitor::failure::Failure;
use vigil_monitor::{log, preflight};
use vigil_postgres::install::RunAs;
use vigil_postgres::user;

fn main() -> ExitCode {
    let config = match Config::read(std::env::args_os(), |name| std::env::var_os(name)) {
        Ok(config) => config,
        Err(Stop::Text(text)) => {
            print(&text);
            return ExitCode::SUCCESS;
        }
        Err(Stop::Failed(failure)) => return fail(&failure),
    };
    match start(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn start(config: Config) -> Result<(), Failure> {
    if rustix::process::geteuid().is_root() {
        become_postgres(&config)?;
    }
    // After the change of user the kernel would call it `exe`. Cosmetic: no matter if it fails.
    let _ = std::fs::write("/proc/self/comm", "vigil-monitor");
    log::start(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(workers())
        .build()
        .map_err(Failure::unexpected)?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        on_signal(shutdown.clone())?;
        vigil_monitor::run(config, shutdown).await
    });
    // Nothing that is left is worth waiting for.
    runtime.shutdown_timeout(std::time::Duration::from_millis(200));
    result
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

fn on_signal(shutdown: CancellationToken) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::unexpected)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::unexpected)?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        shutdown.cancel();
    });
    Ok(())
}

fn fail(failure: &Failure) -> ExitCode {
    use std::io::Write;
    // Where stderr is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "{}", failure.lines());
    ExitCode::from(failure.exit as u8)
}

fn print(text: &str) {
    use std::io::Write;
    let _ = write!(std::io::stdout(), "{text}");
}
