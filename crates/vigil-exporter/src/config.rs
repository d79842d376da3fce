//! What the program was told: options, `PGVIGIL_*` variables, defaults.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use vigil_daemon::log::LogOptions;
use vigil_daemon::{Stop, options, values};

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

const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_mins(1);

/// Shows the metrics of whichever node is writable now, with those of the monitor, on one page
#[derive(Parser, Clone, PartialEq, Eq, Debug)]
#[command(name = "vigil-exporter", version, after_help = EXAMPLES)]
pub struct Config {
    /// Address to serve on
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9187",
          value_parser = values::address("127.0.0.1:9187"))]
    pub listen: String,

    /// The monitor's HTTP address
    #[arg(long, value_name = "HOST:PORT",
          default_value = "127.0.0.1:6001", value_parser = values::address("127.0.0.1:6001"))]
    pub monitor_http: String,

    /// The program of the stock exporter, 0.17 or later; `none` does without it
    /// [default: postgres_exporter or prometheus-postgres-exporter on the PATH]
    #[arg(long, value_name = "PROGRAM")]
    pub stock_exporter: Option<PathBuf>,

    /// Role that logs in to the nodes; a member of pg_monitor suffices
    #[arg(long, value_name = "ROLE", default_value = "postgres")]
    pub pg_user: String,

    /// Its password; better given by the variable, which no process list shows
    #[arg(long, value_name = "PASSWORD", hide_env_values = true, default_value = "")]
    pub pg_password: String,

    /// Database to log in to
    #[arg(long, value_name = "NAME", default_value = "postgres")]
    pub pg_database: String,

    /// Commit an empty transaction so often on the writable node, 10ms to 1m; without it nothing is
    /// written
    #[arg(long, value_name = "DURATION", value_parser = values::duration_within(INTERVAL))]
    pub probe_interval: Option<Duration>,

    #[command(flatten)]
    pub log: LogOptions,
}

impl Config {
    /// Reads a command line, the program's name first, and the environment.
    ///
    /// # Errors
    /// Bad usage, or the text of `--help` and `--version`.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Stop> {
        options::read(args, env, &[])
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

#[cfg(test)]
mod tests {
    use vigil_daemon::Exit;

    use super::*;

    fn parse(args: &[&str]) -> Result<Config, Stop> {
        Config::read(["vigil-exporter"].iter().chain(args).map(OsString::from), |_| None)
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
