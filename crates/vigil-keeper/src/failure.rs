//! From an error of a step to what the core makes of it, and what people read.

use std::error::Error;

use vigil_core::node::step::{FailureKind, StepFailure};
use vigil_postgres::ToolError;
use vigil_postgres::in_force::InForceError;
use vigil_postgres::sql::SqlError;
use vigil_postgres::standby::StandbyError;

/// Longer texts are cut: they are shown in tables and events. Bytes.
const TEXT_MAX: usize = 600;

pub(crate) fn of(error: &anyhow::Error) -> StepFailure {
    let passes = error.chain().any(passes);
    let kind = if passes { FailureKind::Passing } else { FailureKind::Lasting };
    StepFailure::new(kind, told(error))
}

fn passes(cause: &(dyn Error + 'static)) -> bool {
    cause.downcast_ref().is_some_and(SqlError::passes)
        || cause.downcast_ref().is_some_and(ToolError::passes)
        || cause.downcast_ref().is_some_and(StandbyError::passes)
        || cause.downcast_ref().is_some_and(InForceError::passes)
}

/// An error with its causes, each of them once: most say those below them already.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;
    use vigil_postgres::FileError;

    #[test]
    fn a_cause_is_told_once() {
        let source = std::io::Error::from_raw_os_error(28);
        let file = FileError { action: "write", path: "/x".into(), source };
        let error = Err::<(), _>(file).context("keeping WAL").unwrap_err();
        let text = told(&error);
        assert_eq!(text, "keeping WAL: cannot write /x: No space left on device (os error 28)");
        assert_eq!(of(&error).kind, FailureKind::Lasting);
    }

    #[test]
    fn who_passes_is_known_by_its_kind() {
        let failed = |messages: &str| {
            let (program, status) = ("pg_basebackup".to_owned(), "exit status: 1".to_owned());
            anyhow::Error::from(StandbyError::from(ToolError::Failed {
                program,
                status,
                messages: messages.to_owned(),
            }))
        };
        let full = failed("FATAL:  sorry, too many clients already");
        assert_eq!(of(&full).kind, FailureKind::Passing);
        assert_eq!(of(&failed("directory is not empty")).kind, FailureKind::Lasting);
        let limit = std::time::Duration::from_secs(1);
        let late = anyhow::Error::from(SqlError::Timeout { what: "asking", limit });
        assert_eq!(of(&late.context("more")).kind, FailureKind::Passing);
        let long = anyhow::anyhow!("é".repeat(1000));
        assert!(told(&long).len() <= TEXT_MAX + 3);
    }
}
