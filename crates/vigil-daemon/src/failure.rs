//! How a program ends: one line of what is wrong, at most one of what to do, and the documented
//! exit code.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// Exit codes of the daemons; they are part of the contract with users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    Unexpected = 1,
    /// Bad usage or value; also what the monitor refuses for ever.
    Usage = 2,
    /// Something on this machine: binary, port, directory, user.
    Prerequisite = 8,
}

/// Why the program cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub exit: Exit,
    /// One line.
    pub message: String,
    /// What to do; one line.
    pub hint: Option<String>,
}

impl Failure {
    fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Failure { exit, message: one_line(message), hint: None }
    }

    /// Nobody's mistake that we know of.
    pub fn unexpected(message: impl fmt::Display) -> Self {
        Failure::new(Exit::Unexpected, message)
    }

    /// Bad usage or value.
    pub fn usage(message: impl fmt::Display) -> Self {
        Failure::new(Exit::Usage, message)
    }

    /// Something on this machine.
    pub fn prerequisite(message: impl fmt::Display) -> Self {
        Failure::new(Exit::Prerequisite, message)
    }

    /// The same with what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(one_line(hint));
        self
    }

    /// What is printed on stderr: exactly one `error:` line, then at most one `hint:` line.
    pub fn lines(&self) -> String {
        let hint = self.hint.as_ref().map(|h| format!("\nhint: {h}")).unwrap_or_default();
        format!("error: {}{hint}", self.message)
    }
}

fn one_line(text: impl fmt::Display) -> String {
    text.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Why a program does not run, or no longer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// `--help` or `--version`: this text, exit 0.
    Text(String),
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

/// The end of `main`: prints what there is to print. Where nobody reads that is no failure.
pub fn end(result: Result<(), Stop>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Stop::Text(text)) => {
            let mut stdout = io::stdout();
            let _ = write!(stdout, "{text}").and_then(|()| stdout.flush());
            ExitCode::SUCCESS
        }
        Err(Stop::Failed(failure)) => {
            let _ = writeln!(io::stderr(), "{}", failure.lines());
            ExitCode::from(failure.exit as u8)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_error_line_and_at_most_one_hint() {
        let failure = Failure::prerequisite("port 5432\n is busy").hint("stop\nit");
        assert_eq!(failure.lines(), "error: port 5432 is busy\nhint: stop it");
        assert_eq!(Failure::usage("no").lines(), "error: no");
    }
}
