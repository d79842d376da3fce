//! The log, on stderr.

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogLevel};

/// Once per process; a second call changes nothing.
pub fn init(format: LogFormat, level: LogLevel) {
    let (ours, others) = match level {
        LogLevel::Error => ("error", "error"),
        LogLevel::Warn => ("warn", "warn"),
        LogLevel::Info => ("info", "warn"),
        LogLevel::Debug => ("debug", "warn"),
        LogLevel::Trace => ("trace", "info"),
    };
    let crates = ["vigil_keeper", "vigil_postgres", "vigil_core", "vigil_proto"];
    let filter = crates.iter().fold(others.to_owned(), |f, name| format!("{f},{name}={ours}"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // Set already (by a test): then the first one stays.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
