//! The command line and the environment become a configuration, or one line of what is wrong with
//! them.
//!
//! Every option has a variable: `--pg-port` is `PGVIGIL_PG_PORT`. An option beats a variable beats
//! the default. Variables become options before clap sees them, so that both are read alike.

use std::ffi::OsString;

use clap::builder::BoolishValueParser;
use clap::error::{ContextKind, ContextValue};
use clap::{Arg, ArgAction, Command, Parser};

use crate::failure::{Failure, Stop};

/// Somebody else's variable that stands for one of our options where our own variable is not set.
#[derive(Clone, Copy, Debug)]
pub struct Alias {
    /// The option's long name, without `--`.
    pub option: &'static str,
    pub variable: &'static str,
    /// Its value as the option has it, or what is wrong with it.
    pub read: fn(&str) -> Result<String, String>,
}

/// Reads the command line (the program's name first) and the environment, where an empty variable
/// is none. A flag of `C` may be given a value, too: `--insecure=false`.
///
/// # Errors
/// Bad usage, or the text of `--help` and `--version`.
pub fn read<C: Parser>(
    args: impl IntoIterator<Item = OsString>,
    env: impl Fn(&str) -> Option<OsString>,
    aliases: &[Alias],
) -> Result<C, Stop> {
    let args: Vec<OsString> = args.into_iter().collect();
    let command = C::command().mut_args(switch);
    // Who asks for help is helped, whatever is in the environment.
    let named = command.clone().mut_args(|arg| match variable(&arg) {
        Some(variable) => arg.env(variable),
        None => arg,
    });
    if let Err(told) = named.try_get_matches_from(&args)
        && !told.use_stderr()
    {
        return Err(Stop::Text(told.render().to_string()));
    }
    let line = Line::new(&command, args, env, aliases)?;
    let name = command.get_name().to_owned();
    command
        .try_get_matches_from(&line.words)
        .and_then(|matches| C::from_arg_matches(&matches))
        .map_err(|error| Stop::Failed(line.failure(&error, &name)))
}

/// Lets a flag be told what it is, as its variable is.
fn switch(arg: Arg) -> Arg {
    if !matches!(arg.get_action(), ArgAction::SetTrue) {
        return arg;
    }
    arg.action(ArgAction::Set)
        .value_parser(BoolishValueParser::new())
        .value_name("true|false")
        .num_args(0..=1)
        .require_equals(true)
        .default_value("false")
        .default_missing_value("true")
        .hide_default_value(true)
        .hide_possible_values(true)
}

fn variable(arg: &Arg) -> Option<String> {
    Some(format!("PGVIGIL_{}", arg.get_long()?.replace('-', "_").to_ascii_uppercase()))
}

/// A command line with the variables of the environment put in.
struct Line {
    words: Vec<OsString>,
    /// (option, variable) of those put in.
    from_env: Vec<(String, String)>,
}

impl Line {
    fn new(
        command: &Command,
        args: Vec<OsString>,
        env: impl Fn(&str) -> Option<OsString>,
        aliases: &[Alias],
    ) -> Result<Self, Stop> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let mut args = args.into_iter();
        let program = args.next().unwrap_or_else(|| command.get_name().into());
        let rest: Vec<OsString> = args.collect();
        let mut line = Line { words: vec![program], from_env: Vec::new() };
        for arg in command.get_arguments() {
            let (Some(long), Some(ours)) = (arg.get_long(), variable(arg)) else { continue };
            let option = format!("--{long}");
            if is_given(&option, &rest) {
                continue;
            }
            if let Some(value) = set(&ours) {
                line.put(option, ours, value);
                continue;
            }
            let theirs = aliases.iter().filter(|alias| alias.option == long);
            let mut theirs = theirs.filter_map(|alias| Some((alias, set(alias.variable)?)));
            if let Some((alias, value)) = theirs.next() {
                let value = (alias.read)(&value.to_string_lossy()).map_err(|problem| {
                    Failure::usage(format!("{problem} (from {})", alias.variable))
                        .hint(see_help(command.get_name()))
                })?;
                line.put(option, alias.variable.to_owned(), value.into());
            }
        }
        line.words.extend(rest);
        Ok(line)
    }

    fn put(&mut self, option: String, variable: String, value: OsString) {
        let mut word = OsString::from(&option);
        word.push("=");
        word.push(value);
        self.words.push(word);
        self.from_env.push((option, variable));
    }

    /// What clap has to say in our one-line form, with the variable that a bad value came from.
    fn failure(&self, error: &clap::Error, program: &str) -> Failure {
        let text = error.render().to_string();
        // The first paragraph says what is wrong; others are usage and tips.
        let said = text.split("\n\n").next().unwrap_or_default().trim();
        let mut message = said.strip_prefix("error: ").unwrap_or(said).to_owned();
        if let Some(variable) = self.variable_of(error) {
            message = format!("{message} (from {variable})");
        }
        let tip = text.lines().find_map(|l| l.trim().strip_prefix("tip: ")).map(str::to_owned);
        Failure::usage(message).hint(tip.unwrap_or_else(|| see_help(program)))
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

fn see_help(program: &str) -> String {
    format!("`{program} --help` tells all options")
}

fn is_given(option: &str, args: &[OsString]) -> bool {
    args.iter().any(|word| {
        let word = word.to_string_lossy();
        word.strip_prefix(option).is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Exit;
    use crate::log::{LogLevel, LogOptions};

    /// Does nothing
    #[derive(Parser, PartialEq, Eq, Debug)]
    #[command(name = "vigil-nothing", version)]
    struct Options {
        /// A number that is needed
        #[arg(long)]
        pg_port: u16,
        /// Several
        #[arg(long, value_delimiter = ',')]
        names: Vec<String>,
        /// A flag
        #[arg(long)]
        insecure: bool,
        #[command(flatten)]
        log: LogOptions,
    }

    const ALIASES: [Alias; 1] = [Alias {
        option: "pg-port",
        variable: "PGPORT",
        read: |text| text.strip_prefix('p').map(str::to_owned).ok_or(format!("`{text}` has no p")),
    }];

    fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Options, Stop> {
        let args = ["vigil-nothing"].iter().chain(args).map(OsString::from);
        let env = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
        read(args, env, &ALIASES)
    }

    fn lines(args: &[&str], env: &[(&str, &str)]) -> String {
        let Err(Stop::Failed(failure)) = parse(args, env) else { panic!("{args:?}, {env:?}") };
        assert_eq!(failure.exit, Exit::Usage);
        let lines = failure.lines();
        assert_eq!(lines.lines().count(), 2, "{lines}");
        lines
    }

    #[test]
    fn an_option_beats_our_variable_beats_theirs() {
        let port = |args: &[&str], env: &[(&str, &str)]| parse(args, env).unwrap().pg_port;
        let both = [("PGPORT", "p3"), ("PGVIGIL_PG_PORT", "2")];
        assert_eq!(port(&[], &both[..1]), 3);
        assert_eq!(port(&[], &both), 2);
        assert_eq!(port(&["--pg-port", "1"], &both), 1);
        assert_eq!(port(&["--pg-port=1"], &both), 1);
        assert_eq!(port(&[], &[("PGPORT", "p3"), ("PGVIGIL_PG_PORT", "")]), 3, "empty is unset");
        let names = [("PGVIGIL_NAMES", "a,b"), ("PGVIGIL_LOG_LEVEL", "warn"), both[1]];
        let options = parse(&[], &names).unwrap();
        assert_eq!(
            (options.names.join(" ").as_str(), options.log.log_level),
            ("a b", LogLevel::Warn)
        );
        assert_eq!(parse(&["--names", "c"], &names).unwrap().names, ["c"]);
    }

    #[test]
    fn a_flag_and_its_variable_take_the_same_values() {
        for (args, value, expected) in [
            (&[][..], "", false),
            (&["--insecure"], "", true),
            (&["--insecure"], "false", true),
            (&["--insecure=false"], "true", false),
            (&[], "true", true),
            (&[], "1", true),
            (&[], "off", false),
        ] {
            let env = [("PGVIGIL_PG_PORT", "1"), ("PGVIGIL_INSECURE", value)];
            assert_eq!(parse(args, &env).unwrap().insecure, expected, "{args:?} {value}");
        }
    }

    #[test]
    fn what_is_wrong_is_one_line_and_names_the_variable() {
        for (name, value) in [
            ("PGVIGIL_PG_PORT", "x"),
            ("PGVIGIL_INSECURE", "perhaps"),
            ("PGVIGIL_LOG_FORMAT", "xml"),
            ("PGPORT", "5"),
        ] {
            // The first of a name is found.
            let lines = lines(&[], &[(name, value), ("PGPORT", "p1")]);
            assert!(lines.contains(&format!("(from {name})")) && lines.contains(value), "{lines}");
        }
        let port = [("PGVIGIL_PG_PORT", "x")];
        assert!(!lines(&["--pg-port", "y"], &port).contains("from"), "the option was wrong");
        assert!(lines(&["--log-level", "loud"], &[]).contains("[possible values: error, warn"));
        assert!(lines(&["--pg-prot", "1"], &[]).contains("hint: a similar argument exists"));
        let missing = lines(&[], &[]);
        assert!(missing.contains("--pg-port") && missing.contains("`vigil-nothing --help`"));
    }

    #[test]
    fn help_names_the_variables_and_minds_no_bad_one() {
        let Err(Stop::Text(help)) = parse(&["--help"], &[("PGVIGIL_PG_PORT", "x")]) else {
            panic!("no help")
        };
        for expected in
            ["Does nothing", "PGVIGIL_PG_PORT=", "--insecure[=<true|false>]", "PGVIGIL_LOG_LEVEL"]
        {
            assert!(help.contains(expected), "{expected}: {help}");
        }
        let version = parse(&["--version"], &[]);
        assert!(matches!(version, Err(Stop::Text(text)) if text.starts_with("vigil-nothing ")));
    }
}
