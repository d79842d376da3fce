//! `vigil-keeper`.

use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use vigil_keeper::config::{Config, Stop};
use vigil_keeper::failure::Failure;
use vigil_keeper::logging;

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
    // Before any thread is started.
    vigil_postgres::user::reexec_as_postgres().map_err(Failure::prerequisite)?;
    logging::init(config.log_format, config.log_level);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // More than there are tasks that a stuck disk can block.
        .worker_threads(6)
        .enable_all()
        .build()
        .map_err(Failure::unexpected)?;
    let result = runtime.block_on(async {
        let (ask, shutdown) = mpsc::channel(2);
        tokio::spawn(forward_signals(ask));
        Box::pin(vigil_keeper::run(config, shutdown)).await
    });
    // Whatever still hangs in the disk must not keep the process.
    runtime.shutdown_background();
    result
}

/// SIGTERM and SIGINT are requests to stop.
async fn forward_signals(ask: mpsc::Sender<()>) {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("cannot listen to signals");
        std::future::pending::<()>().await;
        return;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if ask.send(()).await.is_err() {
            return;
        }
    }
}
