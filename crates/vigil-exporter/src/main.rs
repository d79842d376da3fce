//! `vigil-exporter`: see the library.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::sync::Notify;
use vigil_daemon::signals::StopSignals;
use vigil_daemon::{Failure, Stop};
use vigil_exporter::config::Config;

fn main() -> ExitCode {
    vigil_daemon::end(start())
}

fn start() -> Result<(), Stop> {
    let config = Config::read(std::env::args_os(), |name| std::env::var_os(name))?;
    config.log.start(&["vigil_exporter"]);
    vigil_daemon::descriptors::raise_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::unexpected)?;
    let result = runtime.block_on(async {
        let stop = Arc::new(Notify::new());
        tokio::spawn(notify_on_signal(StopSignals::listen()?, Arc::clone(&stop)));
        vigil_exporter::run(config, stop).await
    });
    Ok(result?)
}

async fn notify_on_signal(mut signals: StopSignals, stop: Arc<Notify>) {
    signals.next().await;
    stop.notify_one();
}
