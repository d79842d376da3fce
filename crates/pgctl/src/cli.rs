//! The command line.

use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    create_formation, disable_maintenance, drop_formation, drop_node, enable_maintenance, explain,
    perform_failover, perform_promotion, perform_switchover, set_formation, set_node, show_events,
    show_settings, show_state, show_uri,
};
use crate::failure::{Failure, Kind};
use crate::monitor::Session;
use crate::output::Output;
use crate::values;

const EXAMPLES: &str = "\
Examples:
  pgctl show-state                        who is what in the formation `default`
  pgctl perform-switchover --to node3     make node3 the primary, planned
  pgctl explain node2                     what keeps node2 from being well, and the remedy
  pgctl --monitor db-monitor:6000 show-state --json | jq -r \\
      '.nodes[] | select(.reportedstate==\"primary\") | .nodename'

Exit codes: 0 done, 1 unexpected failure, 2 bad usage or value, 3 monitor unreachable, 4 no such
node, formation or group, 5 refused in the present state, 6 still going on when --timeout ran out,
7 tried and ended otherwise than asked: rolled back, or another node is the primary.";

/// The operator's hand on a pgvigil monitor: see, explain and change who is the primary.
#[derive(Debug, Parser)]
#[command(name = "pgctl", version, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Options of every command; they stand before or after it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Where the monitor is: `http://host:6000`, `host:6000`, or a `postgres://` URL of it
    /// [env: PGVIGIL_MONITOR, then PG_AUTOCTL_MONITOR] [default: http://127.0.0.1:6000]
    // Not read by clap: two variables, and the value is nobody's business.
    #[arg(long, global = true, value_name = "URL")]
    monitor: Option<String>,

    /// The formation that is meant [default: default]
    #[arg(long, global = true, value_name = "NAME")]
    #[arg(env = "PGVIGIL_FORMATION", hide_env_values = true)]
    formation: Option<String>,

    /// The group that is meant; all of the formation, or the only one, if not given
    #[arg(long, global = true, value_name = "N")]
    #[arg(env = "PGVIGIL_GROUP", hide_env_values = true)]
    group: Option<u32>,

    /// Print JSON instead of text, also for errors (those on stderr)
    #[arg(long, global = true, value_parser = BoolishValueParser::new())]
    #[arg(env = "PGVIGIL_JSON", hide_env_values = true)]
    json: bool,

    /// How long to wait, such as `500ms`, `5s`, `1m` [default: 10s to show, 60s to change]
    #[arg(long, global = true, value_name = "DURATION", value_parser = values::duration)]
    #[arg(env = "PGVIGIL_TIMEOUT", hide_env_values = true)]
    timeout: Option<Duration>,

    /// How much to log; pgctl has nothing to log at present
    #[arg(long, global = true, value_name = "LEVEL", value_parser = values::log_level)]
    #[arg(env = "PGVIGIL_LOG_LEVEL", hide_env_values = true)]
    log_level: Option<String>,

    /// Form of the log
    #[arg(long, global = true, value_name = "FORMAT")]
    #[arg(env = "PGVIGIL_LOG_FORMAT", hide_env_values = true)]
    log_format: Option<LogFormat>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    ShowState(show_state::Args),
    ShowEvents(show_events::Args),
    ShowUri(show_uri::Args),
    ShowSettings(show_settings::Args),
    Explain(explain::Args),
    PerformFailover(perform_failover::Args),
    PerformSwitchover(perform_switchover::Args),
    PerformPromotion(perform_promotion::Args),
    SetNode(set_node::Args),
    SetFormation(set_formation::Args),
    EnableMaintenance(enable_maintenance::Args),
    DisableMaintenance(disable_maintenance::Args),
    DropNode(drop_node::Args),
    CreateFormation(create_formation::Args),
    DropFormation(drop_formation::Args),
}

impl Verb {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        match self {
            Verb::ShowState(args) => args.run(session).await,
            Verb::ShowEvents(args) => args.run(session).await,
            Verb::ShowUri(args) => args.run(session).await,
            Verb::ShowSettings(args) => args.run(session).await,
            Verb::Explain(args) => args.run(session).await,
            Verb::PerformFailover(args) => args.run(session).await,
            Verb::PerformSwitchover(args) => args.run(session).await,
            Verb::PerformPromotion(args) => args.run(session).await,
            Verb::SetNode(args) => args.run(session).await,
            Verb::SetFormation(args) => args.run(session).await,
            Verb::EnableMaintenance(args) => args.run(session).await,
            Verb::DisableMaintenance(args) => args.run(session).await,
            Verb::DropNode(args) => args.run(session).await,
            Verb::CreateFormation(args) => args.run(session).await,
            Verb::DropFormation(args) => args.run(session).await,
        }
    }
}

impl Global {
    /// What all commands need to know, with the environment and the defaults filled in.
    pub(crate) fn session(self) -> Result<Session, Failure> {
        let (source, url) = monitor_url(self.monitor, |name| std::env::var(name).ok());
        let endpoint = vigil_proto::endpoint(&url)
            .map_err(|bad| Failure::new(Kind::Usage, format!("bad value of {source}: {bad}")))?;
        Ok(Session {
            endpoint,
            formation: self.formation,
            group: self.group,
            timeout: self.timeout,
            output: Output::new(self.json),
        })
    }
}

/// The monitor's URL and what it was told by: option, environment (ours before that of
/// pg_auto_failover, empty = not set), default.
fn monitor_url(
    option: Option<String>,
    environment: impl Fn(&str) -> Option<String>,
) -> (&'static str, String) {
    let of = |name| environment(name).filter(|url| !url.is_empty());
    if let Some(url) = option {
        return ("`--monitor`", url);
    }
    if let Some(url) = of("PGVIGIL_MONITOR") {
        return ("the environment variable PGVIGIL_MONITOR", url);
    }
    if let Some(url) = of("PG_AUTOCTL_MONITOR") {
        return ("the environment variable PG_AUTOCTL_MONITOR", url);
    }
    ("the default", "http://127.0.0.1:6000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn who_names_the_monitor() {
        let both = |name: &str| Some(if name == "PGVIGIL_MONITOR" { "a" } else { "b" }.to_owned());
        let theirs = |name: &str| match name {
            "PG_AUTOCTL_MONITOR" => Some("b".to_owned()),
            _ => Some(String::new()),
        };
        assert_eq!(monitor_url(Some("o".to_owned()), both).1, "o");
        assert_eq!(monitor_url(None, both).1, "a");
        assert_eq!(monitor_url(None, theirs).1, "b");
        assert_eq!(monitor_url(None, |_| None).1, "http://127.0.0.1:6000");
    }
}
