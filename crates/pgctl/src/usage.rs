//! Reads the command line, and turns clap's blocks of text into one `error:` line.

use std::ffi::{OsStr, OsString};
use std::io::Write;

use clap::builder::{BoolishValueParser, Resettable, TypedValueParser};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use crate::cli::Cli;
use crate::failure::{Failure, Kind};

/// The command to run; `None` when help or the version was asked for, and is printed.
pub(crate) fn parse(args: &[OsString]) -> Result<Option<Cli>, Failure> {
    let command = without_empty_variables(Cli::command());
    match command.try_get_matches_from(args).and_then(|m| Cli::from_arg_matches(&m)) {
        Ok(cli) => Ok(Some(cli)),
        Err(told) if !told.use_stderr() => {
            let mut stdout = std::io::stdout().lock();
            write!(stdout, "{}", told.render())?;
            stdout.flush()?;
            Ok(None)
        }
        Err(error) => Err(failure(&error, args)),
    }
}

/// Whether an error is to be told as JSON; asked before the command line is known to be right.
pub(crate) fn wants_json(args: &[OsString]) -> bool {
    let from_environment = || {
        let value = std::env::var_os("PGVIGIL_JSON").filter(|value| !value.is_empty())?;
        BoolishValueParser::new().parse_ref(&Cli::command(), None, &value).ok()
    };
    given(args, "json") || from_environment().unwrap_or(false)
}

/// `VARIABLE=` is what templates leave behind when there is no value: as good as not set.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| {
        let empty = arg
            .get_env()
            .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
        if empty { arg.env(Resettable::<clap::builder::OsStr>::Reset) } else { arg }
    });
    command.mut_subcommands(without_empty_variables)
}

fn failure(error: &clap::Error, args: &[OsString]) -> Failure {
    let no_command =
        [ErrorKind::MissingSubcommand, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
    if no_command.contains(&error.kind()) {
        return Failure::new(Kind::Usage, "no command is given")
            .hint("`pgctl --help` lists the commands");
    }
    let text = error.render().to_string();
    let mut lines = text.lines();
    let message: Vec<&str> =
        lines.by_ref().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let tip = lines.find_map(|line| line.trim().strip_prefix("tip: "));
    let hint = tip.map_or_else(|| help_for(args), str::to_owned);
    Failure::new(Kind::Usage, named_by_variable(error, message, args)).hint(hint)
}

/// The place where the right usage can be read.
fn help_for(args: &[OsString]) -> String {
    let known = Cli::command();
    let verb = args.iter().skip(1).find_map(|arg| known.find_subcommand(arg));
    match verb {
        Some(verb) => format!("see `pgctl {} --help`", verb.get_name()),
        None => "see `pgctl --help`".to_owned(),
    }
}

/// Clap blames the option also when its value came from the environment; whoever did not write
/// the option looks for it in vain. Says which variable it was.
fn named_by_variable(error: &clap::Error, message: &str, args: &[OsString]) -> String {
    let Some(ContextValue::String(option)) = error.get(ContextKind::InvalidArg) else {
        return message.to_owned();
    };
    let Some(name) = option.strip_prefix("--").and_then(|o| o.split([' ', '=', '[']).next()) else {
        return message.to_owned();
    };
    let variable = format!("PGVIGIL_{}", name.replace('-', "_").to_uppercase());
    if given(args, name) || std::env::var_os(&variable).is_none() {
        return message.to_owned();
    }
    let blamed = format!("for '{option}'");
    message.replacen(&blamed, &format!("in the environment variable {variable}"), 1)
}

/// Whether `--name` stands on the command line.
fn given(args: &[OsString], name: &str) -> bool {
    let option = format!("--{name}");
    args.iter().map(OsString::as_os_str).take_while(|arg| *arg != OsStr::new("--")).any(|arg| {
        let arg = arg.to_string_lossy();
        arg.strip_prefix(option.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}
