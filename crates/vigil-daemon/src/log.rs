//! The log, on stderr.

use std::io::{self, IsTerminal};

use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// The options about the log, to be flattened into a program's own.
#[derive(Args, Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogOptions {
    /// Format of the log on stderr
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
}

/// How a line of the log looks.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Text,
    Json,
}

/// What is logged: this and what is worse.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

impl LogOptions {
    /// Starts the log of a program that is made of `crates`. Once per process; a second call
    /// changes nothing.
    pub fn start(self, crates: &[&str]) {
        let builder = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::new(self.filter(crates)))
            .with_writer(io::stderr)
            // It would tell stderr, and panic where that is what failed.
            .log_internal_errors(false);
        // Set already (by a test): then the first one stays.
        let _ = match self.log_format {
            LogFormat::Json => builder.json().flatten_event(true).try_init(),
            LogFormat::Text => builder
                .with_ansi(io::stderr().is_terminal())
                // Where in the program it was said is for those who read the program.
                .with_target(self.log_level >= LogLevel::Debug)
                .try_init(),
        };
    }

    /// Libraries have little to say to operators.
    fn filter(self, crates: &[&str]) -> String {
        let others = match self.log_level {
            LogLevel::Error => LogLevel::Error,
            LogLevel::Trace => LogLevel::Debug,
            _ => LogLevel::Warn,
        };
        let ours = self.log_level.as_str();
        crates.iter().fold(others.as_str().to_owned(), |f, name| format!("{f},{name}={ours}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_say_less_than_we_do() {
        for (log_level, expected) in [
            (LogLevel::Error, "error,a=error,b=error"),
            (LogLevel::Info, "warn,a=info,b=info"),
            (LogLevel::Trace, "debug,a=trace,b=trace"),
        ] {
            let options = LogOptions { log_format: LogFormat::Text, log_level };
            assert_eq!(options.filter(&["a", "b"]), expected);
        }
    }
}
