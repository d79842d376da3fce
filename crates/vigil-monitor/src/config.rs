//! What the program was told: options, `PGVIGIL_*` variables, `PG_AUTOCTL_*` variables, defaults,
//! in this order.

use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use vigil_core::group::Settings;
use vigil_daemon::log::LogOptions;
use vigil_daemon::options::{self, Alias};
use vigil_daemon::{Failure, Stop, values};
use vigil_postgres::install::{self, RunAs};

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

/// Variables of pg_auto_failover that are understood.
const ALIASES: [Alias; 2] = [
    Alias { option: "heartbeat-interval", variable: "PG_AUTOCTL_HEARTBEAT", read: milliseconds },
    Alias {
        option: "heartbeat-misses",
        variable: "PG_AUTOCTL_TIMEOUT",
        read: |misses| Ok(misses.to_owned()),
    },
];

const HEARTBEAT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_mins(1);

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
          value_parser = values::address("127.0.0.1:6000"))]
    pub listen: String,

    /// Address of the HTTP server: /healthz and /metrics
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:6001",
          value_parser = values::address("127.0.0.1:6001"))]
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
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = values::cidr)]
    pub pg_hba_cidr: Vec<String>,

    /// Pause between two heartbeats, in formations created from now on: 100ms to 1m
    #[arg(long, value_name = "DURATION", default_value = "1s",
          value_parser = values::duration_within(HEARTBEAT))]
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
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = values::duration)]
    pub failover_window: Duration,

    /// Serve gRPC without TLS
    #[arg(long)]
    pub insecure: bool,

    #[command(flatten)]
    pub log: LogOptions,

    /// As whom the monitor's Postgres runs; for tests that are root. Not an option.
    #[arg(skip)]
    pub run_as: Option<RunAs>,
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
        let config: Config = options::read(args, env, &ALIASES)?;
        config.check()?;
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
        values::absolute(&self.data_dir)
    }

    /// Where the Unix socket of the monitor's Postgres is.
    pub fn socket_dir(&self) -> PathBuf {
        match &self.pg_socket_dir {
            Some(dir) => values::absolute(dir),
            None => install::usual_socket_dir(),
        }
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

/// Seconds, decimals allowed, as pg_auto_failover has them.
fn milliseconds(text: &str) -> Result<String, String> {
    let seconds: Option<f64> = text.trim().parse().ok();
    match seconds.filter(|s| (0.1..=60.0).contains(s)) {
        Some(seconds) => Ok(format!("{:.0}ms", seconds * 1000.0)),
        None => Err(format!("invalid value '{text}': seconds from 0.1 to 60 are expected")),
    }
}

#[cfg(test)]
mod tests {
    use vigil_daemon::Exit;

    use super::*;

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
