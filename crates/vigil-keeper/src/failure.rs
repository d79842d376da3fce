//! How the program ends when it cannot go on: one line of what is wrong, one of what to do, and
//! the documented exit code.

use std::fmt;

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
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    pub fn unexpected(message: impl fmt::Display) -> Self {
        Failure { exit: Exit::Unexpected, message: one_line(message), hint: None }
    }

    pub fn usage(message: impl fmt::Display) -> Self {
        Failure { exit: Exit::Usage, message: one_line(message), hint: None }
    }

    pub fn prerequisite(message: impl fmt::Display) -> Self {
        Failure { exit: Exit::Prerequisite, message: one_line(message), hint: None }
    }

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
