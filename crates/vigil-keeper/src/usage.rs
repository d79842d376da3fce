//! Turns what clap has to say into our one-line form.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::Stop;
use crate::failure::Failure;

const SEE_HELP: &str = "`vigil-keeper --help` tells all options";

/// The end of a command line that was not understood, or that asked for help.
pub(crate) fn stop(error: &clap::Error, args: &[OsString]) -> Stop {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            return Stop::Text(error.render().to_string());
        }
        _ => {}
    }
    let text = error.render().to_string();
    // The first paragraph says what is wrong; others are usage and tips.
    let said = text.split("\n\n").next().unwrap_or_default().trim();
    let mut message = said.strip_prefix("error: ").unwrap_or(said).to_owned();
    if let Some(possible) = text.lines().find(|l| l.trim().starts_with("[possible values"))
        && !message.contains("[possible values")
    {
        message = format!("{message} {}", possible.trim());
    }
    if let Some(variable) = variable_of(error, args) {
        message = format!("{message} (from {variable})");
    }
    let tip = text.lines().find_map(|l| l.trim().strip_prefix("tip: "));
    Stop::Failed(Failure::usage(message).hint(tip.unwrap_or(SEE_HELP)))
}

/// The variable that the bad value came from, if the option is not on the command line.
fn variable_of(error: &clap::Error, args: &[OsString]) -> Option<String> {
    if !matches!(error.kind(), ErrorKind::InvalidValue | ErrorKind::ValueValidation) {
        return None;
    }
    let Some(ContextValue::String(arg)) = error.get(ContextKind::InvalidArg) else { return None };
    let option = arg.split([' ', '=']).next()?;
    let on_command_line = args.iter().any(|given| {
        let given = given.to_string_lossy();
        given == option || given.starts_with(&format!("{option}="))
    });
    let name = option.strip_prefix("--")?.replace('-', "_").to_ascii_uppercase();
    let variable = format!("PGVIGIL_{name}");
    (!on_command_line && std::env::var_os(&variable).is_some()).then_some(variable)
}
