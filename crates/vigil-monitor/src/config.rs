//! What the program was told: options, `PGVIGIL_*` variables, `PG_AUTOCTL_*` variables, defaults,
//! in this order.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Parser, ValueEnum};
use vigil_core::group::Settings;
use vigil_postgres::install::RunAs;

use crate::failure::Failure;
use crate::usage;

const EXAMPLES: &str = "\
Every option has a variable: --pg-port is PGVIGIL_PG_PORT. PG_AUTOCTL_HEARTBEAT (seconds) and
PG_AUTOCTL_TIMEOUT (misses) are understood as well.

Examples:
  Everything on this machine:
    vigil-monitor --data-dir /var/lib/postgresql/monitor --insecure

  For keepers and readers of the SQL views on a trusted network:
    vigil-monitor --data-dir /var/lib/postgresql/monitor --listen 0.0.0.0:6000 \\
                  --pg-listen '*' --pg-hba-cidr 10.0.0.0/24 --insecure

Exit codes: 0 stopped as asked; 1 unexpected failure; 2 bad usage or value; 8 a prerequisite on
this machine (binary, port, directory, user).";

/// Watches over groups of Postgres servers: decides who is the primary and keeps that in a Postgres
/// of its own
#[derive(Parser, Clone, PartialEq, Eq, Debug)]
#[command(name = "vigil-monitor", version, after_help = EXAMPLES, args_override_self = true)]
pub struct Config {
    /// Directory for all that the monitor keeps; created if it is not there
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,

    /// Address of the gRPC server, for keepers and pgctl
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6000",
          value_parser = listen_address)]
    pub listen: String,

    /// Address of the HTTP server: /healthz and /metrics
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6001",
          value_parser = listen_address)]
    pub http_listen: String,

    /// Port of the monitor's own Postgres
    #[arg(long, value_name = "PORT", default_value_t = 5431,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub pg_port: u16,

    /// Addresses that the monitor's own Postgres listens on (`listen_addresses`)
    #[arg(long, value_name = "ADDRESSES", default_value = "127.0.0.1")]
    pub pg_listen: String,

    /// Directory of the PostgreSQL programs [default: what the data needs, else the newest
    /// installed]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,

    /// Directory of the Unix socket [default: /var/run/postgresql if writable, else /tmp]
    #[arg(long, value_name = "DIR")]
    pub pg_socket_dir: Option<PathBuf>,

    /// Network whose clients may read the SQL views without a password; repeatable, or a list with
    /// commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = cidr)]
    pub pg_hba_cidr: Vec<String>,

    /// Pause between two heartbeats, in formations created from now on: 100ms to 1m
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = heartbeat)]
    pub heartbeat_interval: Duration,

    /// Heartbeats missed before a node counts as lost, in formations created from now on
    #[arg(long, value_name = "N", default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(2..=100))]
    pub heartbeat_misses: u32,

    /// Standbys that must have each commit, whatever happens; 0: one as long as there is one
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=100))]
    pub number_sync_standbys: u32,

    /// Failovers that may begin by themselves within the window, in formations created from now on;
    /// then an operator has to say so. 0: no limit
    #[arg(long, value_name = "N", default_value_t = 30)]
    pub max_failovers: u32,

    /// The window of --max-failovers
    #[arg(long, value_name = "DURATION", default_value = "10m",
          value_parser = humantime::parse_duration)]
    pub failover_window: Duration,

    /// Serve gRPC without TLS
    #[arg(long, value_name = "true|false", num_args = 0..=1, require_equals = true,
          default_value = "false", default_missing_value = "true", hide_default_value = true,
          hide_possible_values = true, action = clap::ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    pub insecure: bool,

    /// Format of the log on stderr
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,

    /// What is logged
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// As whom the monitor's Postgres runs; for tests that are root. Not an option.
    #[arg(skip)]
    pub run_as: Option<RunAs>,
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

/// Why [`Config::read`] gives no configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// `--help` or `--version`: this text, exit 0.
    Text(String),
    Failed(Failure),
}

impl Config {
    /// Reads the command line (the program's name first) and the environment.
    ///
    /// # Errors
    /// Bad usage, or the text of `--help` and `--version`.
    pub fn read(
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, Stop> {
        let args = usage::with_variables(args.into_iter().collect(), &env)?;
        let config = Config::try_parse_from(args.words()).map_err(|e| args.stop(&e))?;
        config.check().map_err(Stop::Failed)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.data_dir.as_os_str().is_empty() || self.data_dir == Path::new("/") {
            return Err(Failure::usage("--data-dir must name a directory of its own"));
        }
        if !self.insecure {
            return Err(Failure::usage(
                "gRPC without TLS is refused unless it is asked for, and TLS is not offered yet",
            )
            .hint("add --insecure (or PGVIGIL_INSECURE=true) if the network can be trusted"));
        }
        Ok(())
    }

    /// The data directory as an absolute path without a slash at the end.
    pub fn absolute_data_dir(&self) -> PathBuf {
        let absolute = std::path::absolute(&self.data_dir);
        absolute.unwrap_or_else(|_| self.data_dir.clone()).components().collect()
    }

    /// Where the Unix socket of the monitor's Postgres is.
    pub fn socket_dir(&self) -> PathBuf {
        if let Some(dir) = &self.pg_socket_dir {
            return std::path::absolute(dir).unwrap_or_else(|_| dir.clone());
        }
        let usual = PathBuf::from("/var/run/postgresql");
        let writable = rustix::fs::access(&usual, rustix::fs::Access::WRITE_OK).is_ok();
        if writable { usual } else { PathBuf::from("/tmp") }
    }

    /// What formations that are created from now on start with.
    pub fn default_settings(&self) -> Settings {
        Settings {
            number_sync_standbys: self.number_sync_standbys,
            heartbeat_interval_ms: u64::try_from(self.heartbeat_interval.as_millis())
                .unwrap_or(u64::MAX),
            heartbeat_misses: self.heartbeat_misses,
            max_failovers: self.max_failovers,
            failover_window_ms: u64::try_from(self.failover_window.as_millis()).unwrap_or(u64::MAX),
            ..Settings::default()
        }
    }
}

fn heartbeat(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text)
        .map_err(|e| format!("{e}; a duration like 250ms or 5s is expected"))?;
    if !(Duration::from_millis(100)..=Duration::from_mins(1)).contains(&interval) {
        return Err("100ms to 1m are allowed".to_owned());
    }
    Ok(interval)
}

fn listen_address(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match parts.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(_)) => Ok(text.to_owned()),
        _ => Err("an address and a port are expected, like 127.0.0.1:6000".to_owned()),
    }
}

fn cidr(text: &str) -> Result<String, String> {
    let bad = || format!("`{text}` is not a network like 10.0.0.0/8");
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| bad())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    match bits.unwrap_or(width) {
        bits if bits <= width => Ok(format!("{address}/{bits}")),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;

    fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Config, Stop> {
        let args = ["vigil-monitor"].iter().chain(args).map(OsString::from);
        Config::read(args, |name| {
            env.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn failure(args: &[&str], env: &[(&str, &str)]) -> Failure {
        match parse(args, env) {
            Err(Stop::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }

    const MINIMAL: [&str; 3] = ["--data-dir", "/data/m/", "--insecure"];

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = parse(&MINIMAL, &[]).unwrap();
        assert_eq!(config.listen, "127.0.0.1:6000");
        assert_eq!(config.http_listen, "127.0.0.1:6001");
        assert_eq!((config.pg_port, config.pg_listen.as_str()), (5431, "127.0.0.1"));
        assert_eq!(config.default_settings(), Settings::default());
        assert_eq!(config.absolute_data_dir().as_os_str(), "/data/m");
    }

    #[test]
    fn an_option_beats_our_variable_beats_theirs_beats_the_default() {
        let theirs = [("PG_AUTOCTL_HEARTBEAT", "0.25"), ("PG_AUTOCTL_TIMEOUT", "4")];
        let ours = [("PGVIGIL_HEARTBEAT_INTERVAL", "2s"), ("PGVIGIL_HEARTBEAT_MISSES", "5")];
        let both = [ours.as_slice(), theirs.as_slice()].concat();
        let read = |args: &[&str], env: &[(&str, &str)]| {
            let settings = parse(&[&MINIMAL, args].concat(), env).unwrap().default_settings();
            (settings.heartbeat_interval_ms, settings.heartbeat_misses)
        };
        assert_eq!(read(&[], &theirs), (250, 4));
        assert_eq!(read(&[], &both), (2000, 5));
        assert_eq!(read(&["--heartbeat-interval=500ms"], &both), (500, 5));
        assert_eq!(read(&["--heartbeat-misses", "7"], &both), (2000, 7));
        assert_eq!(read(&[], &[("PGVIGIL_HEARTBEAT_MISSES", "")]), (1000, 3), "empty is unset");
        let config = parse(&[], &[("PGVIGIL_DATA_DIR", "/d"), ("PGVIGIL_INSECURE", "1")]).unwrap();
        assert_eq!(config.data_dir, Path::new("/d"));
        let nets = [("PGVIGIL_PG_HBA_CIDR", "10.0.0.0/8,::/0")];
        assert_eq!(parse(&MINIMAL, &nets).unwrap().pg_hba_cidr, ["10.0.0.0/8", "::/0"]);
        let args = [&MINIMAL[..], &["--pg-hba-cidr", "1.2.3.4", "--pg-hba-cidr", "::1"]].concat();
        assert_eq!(parse(&args, &nets).unwrap().pg_hba_cidr, ["1.2.3.4/32", "::1/128"]);
    }

    #[test]
    fn a_bad_variable_is_named() {
        for (name, value) in [
            ("PGVIGIL_PG_PORT", "x"),
            ("PGVIGIL_HEARTBEAT_INTERVAL", "1"),
            ("PGVIGIL_HEARTBEAT_INTERVAL", "1ms"),
            ("PGVIGIL_HEARTBEAT_MISSES", "0"),
            ("PGVIGIL_INSECURE", "perhaps"),
            ("PGVIGIL_PG_HBA_CIDR", "10.0.0.0/33"),
            ("PGVIGIL_LOG_FORMAT", "xml"),
            ("PG_AUTOCTL_HEARTBEAT", "soon"),
            ("PG_AUTOCTL_HEARTBEAT", "-1"),
            ("PG_AUTOCTL_HEARTBEAT", "0.001"),
            ("PG_AUTOCTL_TIMEOUT", "1.5"),
        ] {
            let failure = failure(&MINIMAL[..2], &[(name, value)]);
            let lines = failure.lines();
            assert_eq!(failure.exit, Exit::Usage, "{name}");
            assert!(lines.contains(name) && lines.contains(value), "{lines}");
            assert!(lines.lines().count() <= 2, "{lines}");
        }
    }

    #[test]
    fn a_bad_option_is_named_with_what_is_expected() {
        for (args, expected) in [
            (&["--pg-port", "0"][..], "--pg-port"),
            (&["--listen", "6000"], "127.0.0.1:6000"),
            (&["--heartbeat-interval", "5x"], "--heartbeat-interval"),
            (&["--pg-hba-cidr", "all"], "not a network"),
            (&["--log-level", "loud"], "possible values"),
            (&["--nonsense"], "--nonsense"),
        ] {
            let lines = failure(&[&MINIMAL[..], args].concat(), &[]).lines();
            assert!(lines.contains(expected) && lines.lines().count() <= 2, "{args:?}: {lines}");
        }
        assert!(failure(&["--insecure"], &[]).lines().contains("--data-dir"));
        assert!(failure(&MINIMAL[..2], &[]).lines().contains("hint: add --insecure"));
        let help = parse(&["--help"], &[]);
        assert!(matches!(help, Err(Stop::Text(text)) if text.contains("Examples:")));
    }
}
