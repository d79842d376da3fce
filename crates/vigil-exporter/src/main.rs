//! `vigil-exporter`: see the library.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tracing_subscriber::EnvFilter;
use vigil_exporter::config::{Config, Failure, LogFormat, Stop};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}", failure.lines());
            ExitCode::from(failure.exit as u8)
        }
    }
}

fn start() -> Result<(), Failure> {
    let config = match Config::from_args(std::env::args_os()) {
        Ok(config) => config,
        Err(Stop::Text(text)) => {
            print!("{text}");
            return Ok(());
        }
        Err(Stop::Failed(failure)) => return Err(failure),
    };
    log(&config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::unexpected)?;
    runtime.block_on(async {
        let stop = Arc::new(Notify::new());
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate()).map_err(Failure::unexpected)?,
            signal(SignalKind::interrupt()).map_err(Failure::unexpected)?,
        );
        let asked = Arc::clone(&stop);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            asked.notify_one();
        });
        vigil_exporter::run(config, stop).await
    })
}

fn log(config: &Config) {
    let filter = EnvFilter::new(format!("warn,vigil_exporter={}", config.log_level.as_str()));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_ansi(false).with_target(false).init(),
    }
}
