//! What the program was told: options, `PGVIGIL_*` variables, defaults; and how it ends.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::probe::Login;

const EXAMPLES: &str = "\
Routes:
  /metrics       the monitor's page, the stock exporter's series of the writable node, the probe's
  /nodes/NAME    the stock exporter's series of one node
  /targets       all nodes, for Prometheus' http_sd_configs
  /healthz       200 while it runs

Examples:
  PGVIGIL_PG_PASSWORD=… vigil-exporter --listen 0.0.0.0:9187 --monitor-http 10.0.0.9:6001

  Measure what clients see: commit an empty transaction every 100 ms on the writable node
    vigil-exporter --monitor-http 10.0.0.9:6001 --probe-interval 100ms

Exit codes: 0 stopped as asked; 1 unexpected failure; 2 bad usage or value; 8 a prerequisite on
this machine (program, port).";

/// Shows the metrics of whichever node is writable now, with those of the monitor, on one page
#[derive(Parser, Clone, PartialEq, Eq, Debug)]
#[command(name = "vigil-exporter", version, after_help = EXAMPLES)]
pub struct Config {
    /// Address to serve on
    #[arg(long, env = "PGVIGIL_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:9187",
          value_parser = address)]
    pub listen: String,

    /// The monitor's HTTP address
    #[arg(long, env = "PGVIGIL_MONITOR_HTTP", value_name = "HOST:PORT",
          default_value = "127.0.0.1:6001", value_parser = address)]
    pub monitor_http: String,

    /// The program of the stock exporter, 0.17 or later; `none` does without it
    /// [default: postgres_exporter or prometheus-postgres-exporter on the PATH]
    #[arg(long, env = "PGVIGIL_STOCK_EXPORTER", value_name = "PROGRAM")]
    pub stock_exporter: Option<PathBuf>,

    /// Role that logs in to the nodes; a member of pg_monitor suffices
    #[arg(long, env = "PGVIGIL_PG_USER", value_name = "ROLE", default_value = "postgres")]
    pub pg_user: String,

    /// Its password; better given by the variable, which no process list shows
    #[arg(
        long,
        env = "PGVIGIL_PG_PASSWORD",
        value_name = "PASSWORD",
        hide_env_values = true,
        default_value = ""
    )]
    pub pg_password: String,

    /// Database to log in to
    #[arg(long, env = "PGVIGIL_PG_DATABASE", value_name = "NAME", default_value = "postgres")]
    pub pg_database: String,

    /// Commit an empty transaction so often on the writable node, 10ms to 1m; without it nothing is
    /// written
    #[arg(long, env = "PGVIGIL_PROBE_INTERVAL", value_name = "DURATION", value_parser = interval)]
    pub probe_interval: Option<Duration>,

    /// Format of the log on stderr
    #[arg(long, env = "PGVIGIL_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged
    #[arg(long, env = "PGVIGIL_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// Why there is no configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// `--help` or `--version`: this text, exit 0.
    Text(String),
    Failed(Failure),
}

impl Config {
    /// Reads a command line, the program's name first, and the environment.
    ///
    /// # Errors
    /// Bad usage, or the text of `--help` and `--version`.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, Stop> {
        Config::try_parse_from(args).map_err(|error| {
            let text = error.render().to_string();
            if !error.use_stderr() {
                return Stop::Text(text);
            }
            // The first paragraph says what is wrong; others are usage and tips.
            let said = text.split("\n\n").next().unwrap_or_default().trim();
            let said = said.strip_prefix("error: ").unwrap_or(said);
            let failure = Failure::usage(said).hint("`vigil-exporter --help` tells all options");
            Stop::Failed(failure)
        })
    }

    /// How to log in to a node.
    pub fn login(&self) -> Login {
        Login {
            user: self.pg_user.clone(),
            password: self.pg_password.clone(),
            database: self.pg_database.clone(),
        }
    }
}

fn address(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match parts.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(_)) => Ok(text.to_owned()),
        _ => Err("an address and a port are expected, like 127.0.0.1:9187".to_owned()),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text)
        .map_err(|e| format!("{e}; a duration like 100ms or 1s is expected"))?;
    if !(Duration::from_millis(10)..=Duration::from_mins(1)).contains(&interval) {
        return Err("10ms to 1m are allowed".to_owned());
    }
    Ok(interval)
}

/// Exit codes of the daemons; they are part of the contract with users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Unexpected = 1,
    Usage = 2,
    Prerequisite = 8,
}

/// Why the program cannot go on: one line of what is wrong, at most one of what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    fn new(exit: Exit, message: impl fmt::Display) -> Self {
        let message = message.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        Failure { exit, message, hint: None }
    }

    pub fn unexpected(message: impl fmt::Display) -> Self {
        Failure::new(Exit::Unexpected, message)
    }

    pub fn usage(message: impl fmt::Display) -> Self {
        Failure::new(Exit::Usage, message)
    }

    pub fn prerequisite(message: impl fmt::Display) -> Self {
        Failure::new(Exit::Prerequisite, message)
    }

    #[must_use]
    pub fn hint(mut self, hint: &str) -> Self {
        self.hint = Some(hint.to_owned());
        self
    }

    /// What is printed on stderr.
    pub fn lines(&self) -> String {
        let hint = self.hint.as_ref().map(|h| format!("\nhint: {h}")).unwrap_or_default();
        format!("error: {}{hint}", self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Config, Stop> {
        Config::from_args(["vigil-exporter"].iter().chain(args).map(OsString::from))
    }

    #[test]
    fn nothing_is_written_unless_it_is_asked_for() {
        let config = parse(&[]).unwrap();
        assert_eq!((config.listen.as_str(), config.probe_interval), ("127.0.0.1:9187", None));
        let config = parse(&["--probe-interval", "100ms"]).unwrap();
        assert_eq!(config.probe_interval, Some(Duration::from_millis(100)));
    }

    #[test]
    fn a_bad_value_is_one_line_with_what_is_expected() {
        for (args, expected) in [
            (["--listen", "9187"], "127.0.0.1:9187"),
            (["--probe-interval", "1ms"], "10ms to 1m"),
            (["--probe-interval", "soon"], "100ms or 1s"),
            (["--nonsense", "x"], "--nonsense"),
        ] {
            let Err(Stop::Failed(failure)) = parse(&args) else { panic!("{args:?}") };
            let lines = failure.lines();
            assert_eq!(failure.exit, Exit::Usage);
            assert!(lines.contains(expected) && lines.lines().count() == 2, "{lines}");
        }
    }
}
