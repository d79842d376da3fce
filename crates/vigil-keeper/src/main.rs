//! `vigil-keeper`.

use std::process::ExitCode;

use tokio::sync::mpsc;
use vigil_daemon::signals::StopSignals;
use vigil_daemon::{Failure, Stop};
use vigil_keeper::config::Config;

fn main() -> ExitCode {
    vigil_daemon::end(start())
}

fn start() -> Result<(), Stop> {
    let config = Config::read(std::env::args_os(), |name| std::env::var_os(name))?;
    // Before any thread is started.
    vigil_postgres::user::reexec_as_postgres().map_err(Failure::prerequisite)?;
    config.log.start(&["vigil_keeper", "vigil_postgres", "vigil_core", "vigil_proto"]);
    vigil_daemon::descriptors::raise_limit();
    vigil_postgres::process::hold_process_table()
        .map_err(|e| Failure::prerequisite(format!("cannot read /proc: {e}")).hint("mount it"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // More than there are tasks that a stuck disk can block.
        .worker_threads(6)
        .enable_all()
        .build()
        .map_err(Failure::unexpected)?;
    let result = runtime.block_on(async {
        let (ask, shutdown) = mpsc::channel(2);
        tokio::spawn(forward_signals(StopSignals::listen()?, ask));
        Box::pin(vigil_keeper::run(config, shutdown)).await
    });
    // Whatever still hangs in the disk must not keep the process.
    runtime.shutdown_background();
    Ok(result?)
}

/// Each signal is a request of its own: the second one means at once.
async fn forward_signals(mut signals: StopSignals, ask: mpsc::Sender<()>) {
    loop {
        signals.next().await;
        if ask.send(()).await.is_err() {
            return;
        }
    }
}
