//! How a command ends when it does not end well: exit code, message, hint.

use std::io::Write;

use serde::Serialize;
use vigil_core::command::{OperationResult, Refusal, RefusalCode};
use vigil_proto::BadMessage;

use crate::monitor::root_cause;

/// The documented ways to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// Whoever read our output has gone (`pgctl … | head`): that is no failure.
    ReaderGone,
    Unexpected,
    Usage,
    BadValue,
    Unreachable,
    NotFound,
    Refused,
    StillGoingOn,
    RolledBack,
}

impl Kind {
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Kind::ReaderGone => 0,
            Kind::Unexpected => 1,
            Kind::Usage | Kind::BadValue => 2,
            Kind::Unreachable => 3,
            Kind::NotFound => 4,
            Kind::Refused => 5,
            Kind::StillGoingOn => 6,
            Kind::RolledBack => 7,
        }
    }
}

/// Why a command ends with an exit code other than 0.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// What a rolled back operation did, for scripts.
    pub(crate) result: Option<Box<OperationResult>>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into(), hint: None, result: None }
    }

    pub(crate) fn unexpected(message: impl Into<String>) -> Self {
        Failure::new(Kind::Unexpected, message)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Tells the user, on stderr: one `error:` line and perhaps one `hint:` line, or one line of
    /// JSON.
    pub(crate) fn report(&self, json: bool) {
        if self.kind == Kind::ReaderGone {
            return;
        }
        // There is nobody left to tell when this fails.
        _ = std::io::stderr().write_all(self.text(json).as_bytes());
    }

    fn text(&self, json: bool) -> String {
        if json {
            return format!("{}\n", self.json());
        }
        let hint = self.hint.as_deref().map(one_line);
        let hint = hint.map_or_else(String::new, |hint| format!("hint: {hint}\n"));
        format!("error: {}\n{hint}", one_line(&self.message))
    }

    fn json(&self) -> String {
        #[derive(Serialize)]
        struct Outer<'a> {
            error: Inner<'a>,
        }
        #[derive(Serialize)]
        struct Inner<'a> {
            code: Kind,
            message: &'a str,
            hint: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            result: Option<&'a OperationResult>,
        }
        let error = Inner {
            code: self.kind,
            message: &self.message,
            hint: self.hint.as_deref(),
            result: self.result.as_deref(),
        };
        serde_json::to_string(&Outer { error }).unwrap_or_default()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal.code {
            RefusalCode::BadValue => Kind::BadValue,
            RefusalCode::NotFound => Kind::NotFound,
            RefusalCode::Refused => Kind::Refused,
        };
        Failure { hint: refusal.hint, ..Failure::new(kind, refusal.message) }
    }
}

impl From<BadMessage> for Failure {
    fn from(bad: BadMessage) -> Self {
        Failure::unexpected(format!("the monitor's answer is not understood: {bad}"))
            .hint("pgctl and the monitor should be of the same version")
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::new(Kind::ReaderGone, ""),
            _ => Failure::unexpected(format!("cannot write the output: {}", root_cause(&error))),
        }
    }
}

/// Messages come from elsewhere, too; the contract with scripts is one line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_the_documented_ones() {
        for (kind, code, name) in [
            (Kind::ReaderGone, 0, "reader_gone"),
            (Kind::Unexpected, 1, "unexpected"),
            (Kind::Usage, 2, "usage"),
            (Kind::BadValue, 2, "bad_value"),
            (Kind::Unreachable, 3, "unreachable"),
            (Kind::NotFound, 4, "not_found"),
            (Kind::Refused, 5, "refused"),
            (Kind::StillGoingOn, 6, "still_going_on"),
            (Kind::RolledBack, 7, "rolled_back"),
        ] {
            assert_eq!(kind.exit_code(), code);
            assert_eq!(serde_json::to_value(kind).unwrap(), name);
        }
        for code in [RefusalCode::BadValue, RefusalCode::NotFound, RefusalCode::Refused] {
            let failure = Failure::from(Refusal::new(code, "m", ""));
            assert_eq!(failure.kind.exit_code(), code.exit_code());
        }
    }

    #[test]
    fn an_error_is_one_line_whatever_is_in_it() {
        let failure = Failure::new(Kind::Refused, "first\n  second").hint("try\nthis");
        assert_eq!(failure.text(false), "error: first second\nhint: try this\n");
        let expected =
            r#"{"error":{"code":"refused","message":"first\n  second","hint":"try\nthis"}}"#;
        assert_eq!(failure.text(true), format!("{expected}\n"));
        let bare = Failure::new(Kind::Refused, "no");
        assert_eq!(bare.text(false), "error: no\n");
        assert_eq!(
            bare.text(true),
            "{\"error\":{\"code\":\"refused\",\"message\":\"no\",\"hint\":null}}\n"
        );
    }
}
