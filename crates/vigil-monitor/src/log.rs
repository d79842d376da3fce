//! Logging, to stderr.

use tracing_subscriber::EnvFilter;

use crate::config::{Config, LogFormat, LogLevel};

/// Once, at the start of the program.
pub fn start(config: &Config) {
    let ours = match config.log_level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // Libraries have little to say to operators.
    let others = match config.log_level {
        LogLevel::Error => "error",
        LogLevel::Trace => "debug",
        _ => "warn",
    };
    let filter = EnvFilter::new(format!(
        "{others},vigil_core={ours},vigil_monitor={ours},vigil_postgres={ours}"
    ));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => {
            let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(is_terminal).with_target(false).init();
        }
    }
}
