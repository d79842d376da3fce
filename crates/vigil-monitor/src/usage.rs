//! Variables become options before clap sees them, and what clap has to say becomes our one-line
//! form, with the variable that a bad value came from.

use std::ffi::OsString;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::{Config, Stop};
use crate::failure::Failure;

/// A command line with the variables of the environment put in.
pub(crate) struct Words {
    words: Vec<OsString>,
    /// (option, variable) of those put in.
    from_env: Vec<(String, String)>,
}

/// Puts the environment in. An empty variable is none.
pub(crate) fn with_variables(
    mut args: Vec<OsString>,
    env: &impl Fn(&str) -> Option<OsString>,
) -> Result<Words, Stop> {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    if args.is_empty() {
        args.push("vigil-monitor".into());
    }
    let rest = args.split_off(1);
    let mut words = Words { words: args, from_env: Vec::new() };
    for arg in Config::command().get_arguments() {
        let Some(long) = arg.get_long().filter(|l| !matches!(*l, "help" | "version")) else {
            continue;
        };
        let option = format!("--{long}");
        if is_given(&option, &rest) {
            continue;
        }
        let variable = format!("PGVIGIL_{}", long.replace('-', "_").to_ascii_uppercase());
        if let Some(value) = set(&variable) {
            words.put(option, variable, value);
            continue;
        }
        match long {
            "heartbeat-interval" => {
                let variable = "PG_AUTOCTL_HEARTBEAT";
                let Some(value) = set(variable) else { continue };
                let value = milliseconds(&value.to_string_lossy()).map_err(|problem| {
                    let message = format!("{problem} (from {variable})");
                    Stop::Failed(Failure::usage(message))
                })?;
                words.put(option, variable.to_owned(), value.into());
            }
            "heartbeat-misses" => {
                let variable = "PG_AUTOCTL_TIMEOUT";
                let Some(value) = set(variable) else { continue };
                words.put(option, variable.to_owned(), value);
            }
            _ => {}
        }
    }
    words.words.extend(rest);
    Ok(words)
}

impl Words {
    pub(crate) fn words(&self) -> &[OsString] {
        &self.words
    }

    fn put(&mut self, option: String, variable: String, value: OsString) {
        let mut word = OsString::from(&option);
        word.push("=");
        word.push(value);
        self.words.push(word);
        self.from_env.push((option, variable));
    }

    /// The end of a command line that was not understood, or that asked for help.
    pub(crate) fn stop(&self, error: &clap::Error) -> Stop {
        let text = error.render().to_string();
        if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
            return Stop::Text(text);
        }
        // The first paragraph says what is wrong; others are usage and tips.
        let said = text.split("\n\n").next().unwrap_or_default().trim();
        let mut message = said.strip_prefix("error: ").unwrap_or(said).to_owned();
        if let Some(variable) = self.variable_of(error) {
            message = format!("{message} (from {variable})");
        }
        let tip = text.lines().find_map(|l| l.trim().strip_prefix("tip: "));
        let hint = tip.unwrap_or("`vigil-monitor --help` tells all options");
        Stop::Failed(Failure::usage(message).hint(hint))
    }

    fn variable_of(&self, error: &clap::Error) -> Option<&str> {
        let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else {
            return None;
        };
        // `--pg-port <PORT>`, `--insecure[=<true|false>]`
        let option = arg.split([' ', '=', '[']).next()?;
        let found = self.from_env.iter().find(|(o, _)| o == option)?;
        Some(&found.1)
    }
}

fn is_given(option: &str, args: &[OsString]) -> bool {
    args.iter().any(|word| {
        let word = word.to_string_lossy();
        word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

/// Seconds, decimals allowed, as pg_auto_failover has them.
fn milliseconds(text: &str) -> Result<String, String> {
    let seconds: Option<f64> = text.trim().parse().ok();
    match seconds.filter(|s| (0.1..=60.0).contains(s)) {
        Some(seconds) => Ok(format!("{:.0}ms", seconds * 1000.0)),
        None => Err(format!("invalid value '{text}': seconds from 0.1 to 60 are expected")),
    }
}
