//! What the program was told: options, `PGVIGIL_*` variables, defaults, in this order.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::builder::BoolishValueParser;
use vigil_daemon::log::LogOptions;
use vigil_daemon::{Failure, Stop, options, values};
use vigil_postgres::install;
use vigil_proto::endpoint;

const EXAMPLES: &str = "\
Examples:
  A first node; it creates the cluster if the group has none yet:
    vigil-keeper --pgdata /var/lib/postgresql/node1 --name node1 --host 10.0.0.1 \\
                 --monitor http://10.0.0.9:6000 --pg-hba-cidr 10.0.0.0/24 --insecure

  The same by environment:
    PGVIGIL_PGDATA=/var/lib/postgresql/node1 PGVIGIL_NAME=node1 PGVIGIL_HOST=10.0.0.1 \\
    PGVIGIL_MONITOR=10.0.0.9:6000 PGVIGIL_INSECURE=true vigil-keeper

Exit codes: 0 stopped as asked, or the node was dropped; 1 unexpected failure; 2 bad usage or value,
or refused by the monitor; 8 a prerequisite on this machine (binary, port, directory, user).";

/// Acts beside one Postgres: starts it, promotes it, makes it follow, fences it, as the monitor
/// decides.
#[derive(Parser, Clone, PartialEq, Eq, Debug)]
#[command(name = "vigil-keeper", version, after_help = EXAMPLES)]
pub struct Config {
    /// Data directory of this node; created if the group has no data yet, cloned otherwise
    #[arg(long, value_name = "DIR")]
    pub pgdata: PathBuf,

    /// Name of this node, unique in its formation: a-z, 0-9, `_` and `-`, at most 63 of them
    #[arg(long, value_parser = node_name)]
    pub name: String,

    /// Host name or address under which the other nodes reach this Postgres
    #[arg(long, value_parser = host)]
    pub host: String,

    /// Where the monitor is: `http://host:6000` or `host:6000`
    #[arg(long, value_name = "URL", value_parser = monitor_url)]
    pub monitor: String,

    /// Port of this Postgres
    #[arg(long, value_name = "PORT", default_value_t = 5432,
          value_parser = clap::value_parser!(u16).range(1..))]
    pub pg_port: u16,

    /// Addresses that this Postgres listens on (`listen_addresses`)
    #[arg(long, value_name = "ADDRESSES", default_value = "*")]
    pub pg_listen: String,

    /// Directory of the PostgreSQL programs [default: what PGDATA needs, else the newest installed]
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,

    /// Directory of the Unix socket [default: /var/run/postgresql if writable, else /tmp]
    #[arg(long, value_name = "DIR")]
    pub pg_socket_dir: Option<PathBuf>,

    /// Address of the HTTP server: role checks for load balancers, metrics
    #[arg(long, value_name = "HOST:PORT",
          default_value = "127.0.0.1:6010", value_parser = values::address("127.0.0.1:6010"))]
    pub http_listen: String,

    /// Formation that this node belongs to
    #[arg(long, default_value = "default", value_parser = formation)]
    pub formation: String,

    /// Group within the formation
    #[arg(long, default_value_t = 0)]
    pub group: u32,

    /// 0 to 100: who is preferred as the next primary; 0 never is
    #[arg(long, value_name = "N", default_value_t = 50,
          value_parser = clap::value_parser!(u32).range(0..=100))]
    pub candidate_priority: u32,

    /// Whether this node may be counted for synchronous commits
    #[arg(long, value_name = "true|false", default_value = "true", action = clap::ArgAction::Set,
          value_parser = BoolishValueParser::new())]
    pub replication_quorum: bool,

    /// Network whose clients may connect to Postgres; repeatable, or a list with commas
    #[arg(long, value_name = "CIDR", value_delimiter = ',', value_parser = values::cidr)]
    pub pg_hba_cidr: Vec<String>,

    /// How they and the other nodes authenticate
    #[arg(long, value_name = "METHOD", default_value = "scram-sha-256",
          value_parser = ["scram-sha-256", "md5", "password", "trust"])]
    pub pg_hba_auth: String,

    /// Directory of this keeper's own state [default: PGDATA with `.pgvigil` appended]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,

    /// Talk to the monitor without TLS
    #[arg(long)]
    pub insecure: bool,

    #[command(flatten)]
    pub log: LogOptions,
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
        let config: Config = options::read(args, env, &[])?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), Failure> {
        if self.pgdata.as_os_str().is_empty() || self.pgdata == Path::new("/") {
            return Err(Failure::usage("--pgdata must name a directory of its own"));
        }
        if self.state_dir().starts_with(self.absolute_pgdata()) {
            return Err(Failure::usage("--state-dir must not be inside of PGDATA")
                .hint("a clone replaces PGDATA with all that is in it"));
        }
        if !self.insecure {
            return Err(Failure::usage(
                "gRPC without TLS is refused unless it is asked for, and TLS is not offered yet",
            )
            .hint("add --insecure (or PGVIGIL_INSECURE=true) if the network can be trusted"));
        }
        Ok(())
    }

    /// The data directory as an absolute path: processes are found by it.
    pub fn absolute_pgdata(&self) -> PathBuf {
        values::absolute(&self.pgdata)
    }

    /// Where this keeper keeps its own state.
    pub fn state_dir(&self) -> PathBuf {
        if let Some(dir) = &self.state_dir {
            return values::absolute(dir);
        }
        let pgdata = self.absolute_pgdata();
        let mut name = pgdata.file_name().unwrap_or_default().to_owned();
        name.push(".pgvigil");
        pgdata.with_file_name(name)
    }

    /// Where the Unix socket is.
    pub fn socket_dir(&self) -> PathBuf {
        match &self.pg_socket_dir {
            Some(dir) => values::absolute(dir),
            None => install::usual_socket_dir(),
        }
    }
}

fn node_name(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
    if text.is_empty() || text.len() > 63 || !text.chars().all(fits) {
        return Err("1 to 63 of a-z, 0-9, `_` and `-` are allowed".to_owned());
    }
    Ok(text.to_owned())
}

fn formation(text: &str) -> Result<String, String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if text.is_empty() || text.len() > 63 || !text.chars().all(fits) {
        return Err("1 to 63 letters, digits, `_`, `-` and `.` are allowed".to_owned());
    }
    Ok(text.to_owned())
}

fn host(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<IpAddr>().is_ok() {
        return Ok(bare.to_owned());
    }
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if bare.is_empty() || bare.len() > 253 || !bare.chars().all(fits) {
        return Err("a host name or an IP address is expected, without a port".to_owned());
    }
    Ok(bare.to_owned())
}

fn monitor_url(text: &str) -> Result<String, String> {
    endpoint(text).map(|_| text.to_owned()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use vigil_daemon::Exit;

    use super::*;

    const MINIMAL: [&str; 10] = [
        "vigil-keeper",
        "--pgdata",
        "/data/n1",
        "--name",
        "n1",
        "--host",
        "db1",
        "--monitor",
        "m:6000",
        "--insecure",
    ];

    fn parse(more: &[&str]) -> Result<Config, Stop> {
        Config::read(MINIMAL.iter().chain(more).map(OsString::from), |_| None)
    }

    fn failure(more: &[&str]) -> Failure {
        match parse(more) {
            Err(Stop::Failed(failure)) => failure,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.pg_port, 5432);
        assert_eq!(config.pg_listen, "*");
        assert_eq!(config.http_listen, "127.0.0.1:6010");
        assert_eq!((config.formation.as_str(), config.group), ("default", 0));
        assert_eq!((config.candidate_priority, config.replication_quorum), (50, true));
        assert_eq!(config.pg_hba_auth, "scram-sha-256");
        assert_eq!(config.state_dir(), Path::new("/data/n1.pgvigil"));
        assert_eq!(parse(&["--pgdata", "/data/n1/"]).err(), parse(&["--pgdata", "/x"]).err());
    }

    #[test]
    fn bad_values_are_named_with_what_is_expected() {
        for (args, expected) in [
            (&["--pg-port", "0"][..], "--pg-port"),
            (&["--pg-port", "x"], "--pg-port"),
            (&["--candidate-priority", "101"], "0..=100"),
            (&["--pg-hba-cidr", "10.0.0.0/33"], "not a network"),
            (&["--http-listen", "6010"], "127.0.0.1:6010"),
            (&["--replication-quorum", "perhaps"], "--replication-quorum"),
            (&["--pg-hba-auth", "magic"], "scram-sha-256"),
            (&["--log-level", "loud"], "--log-level"),
            (&["--nonsense"], "--nonsense"),
            (&["--state-dir", "/data/n1/state"], "--state-dir"),
        ] {
            let failure = failure(args);
            assert_eq!(failure.exit, Exit::Usage, "{args:?}");
            assert!(failure.lines().contains(expected), "{args:?}: {}", failure.lines());
            assert!(failure.lines().lines().count() <= 2, "{}", failure.lines());
        }
    }

    #[test]
    fn names_and_networks() {
        for bad in ["", "Node1", "a b", "a\"b", &"x".repeat(64)] {
            assert!(node_name(bad).is_err(), "{bad}");
        }
        assert!(node_name("node_1-b").is_ok());
        assert_eq!(host("[::1]").unwrap(), "::1");
        assert!(host("db:5432").is_err() && host("a,b").is_err());
        let config = parse(&["--pg-hba-cidr", "10.0.0.0/8,::/0", "--pg-hba-cidr", "1.2.3.4"]);
        assert_eq!(config.unwrap().pg_hba_cidr, ["10.0.0.0/8", "::/0", "1.2.3.4/32"]);
    }

    #[test]
    fn without_tls_it_must_be_asked_for() {
        let args = MINIMAL[..9].iter().map(OsString::from);
        let Err(Stop::Failed(failure)) = Config::read(args, |_| None) else { panic!("accepted") };
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.lines().contains("hint: add --insecure"), "{}", failure.lines());
    }

    #[test]
    fn everything_can_be_told_by_variables() {
        let env = |name: &str| match name {
            "PGVIGIL_PGDATA" => Some("/data/n2".into()),
            "PGVIGIL_NAME" | "PGVIGIL_HOST" => Some("n2".into()),
            "PGVIGIL_MONITOR" => Some("m:6000".into()),
            "PGVIGIL_INSECURE" => Some("true".into()),
            "PGVIGIL_PG_HBA_CIDR" => Some("10.0.0.0/8,::/0".into()),
            "PGVIGIL_REPLICATION_QUORUM" => Some("no".into()),
            _ => None,
        };
        let config = Config::read(["vigil-keeper".into()], env).unwrap();
        assert_eq!((config.name.as_str(), config.replication_quorum), ("n2", false));
        assert_eq!(config.pg_hba_cidr, ["10.0.0.0/8", "::/0"]);
        let Err(Stop::Text(help)) = parse(&["--help"]) else { panic!("no help") };
        assert!(help.contains("Examples:") && help.contains("PGVIGIL_PG_HBA_CIDR="));
    }
}
