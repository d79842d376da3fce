//! Lines of configuration files for which Postgres refuses all of the configuration: at a reload it
//! goes on with every old setting and says so in its log alone, and it does not start again.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::conf;
use crate::durable;
use crate::error::FileError;
use crate::install::Installation;
use crate::sql::{Session, SqlError};
use crate::tool::{self, ToolError};

/// Where it is, and what Postgres says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokenLine {
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    pub error: String,
}

impl fmt::Display for BrokenLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {}: {}", self.file.display(), self.line, self.error)
    }
}

/// A value that is out of range, or has to wait for a restart, holds up no other setting.
const SQL: &str = "\
SELECT sourcefile, sourceline, error FROM pg_catalog.pg_file_settings \
WHERE error IS NOT NULL AND sourcefile IS NOT NULL AND sourceline IS NOT NULL \
  AND (name IS NULL OR error OPERATOR(pg_catalog.=) 'unrecognized configuration parameter')";

impl Session {
    /// As the files are now. Names that are unknown are seen only where the syntax is right.
    pub async fn broken_lines(&mut self, within: Duration) -> Result<Vec<BrokenLine>, SqlError> {
        let rows: Vec<(String, i32, String)> = self
            .run("reading pg_file_settings", within, async |conn| {
                sqlx::query_as(SQL).fetch_all(conn).await
            })
            .await?;
        let line = |(file, line, error): (String, i32, String)| BrokenLine {
            file: file.into(),
            line: usize::try_from(line).unwrap_or(0),
            error,
        };
        Ok(rows.into_iter().map(line).collect())
    }
}

/// As [`Session::broken_lines`], where no server runs.
pub async fn broken_lines_at_rest(
    install: &Installation,
    pgdata: &Path,
    within: Duration,
) -> Result<Vec<BrokenLine>, ToolError> {
    let mut command = install.command("postgres");
    command.arg("-D").arg(pgdata).args(["-C", "data_directory"]);
    match tool::run(command, within).await {
        Ok(_) => Ok(Vec::new()),
        Err(ToolError::Failed { messages, .. }) => {
            Ok(messages.lines().filter_map(named_in).collect())
        }
        Err(error) => Err(error),
    }
}

/// `LOG:  syntax error in file "/data/postgresql.conf" line 3, near token "1"`. Our tools speak
/// English (`Installation::command`).
fn named_in(message: &str) -> Option<BrokenLine> {
    let (head, rest) = message.split_once(" in file \"")?;
    let (file, rest) = rest.split_once("\" line ")?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let error = head.rsplit_once("LOG:  ").map_or(head, |(_, error)| error);
    let line = rest[..digits].parse().ok()?;
    Some(BrokenLine { file: file.into(), line, error: error.to_owned() })
}

/// Makes a comment of the line; `false` when there is none of this number, it has become one
/// meanwhile, or the file is ours.
pub fn comment_out(broken: &BrokenLine) -> Result<bool, FileError> {
    if broken.file.ends_with(conf::FILE) {
        return Ok(false);
    }
    // Bytes: the file need not be UTF-8.
    let old = durable::read_opt(&broken.file)?.unwrap_or_default();
    let mut lines: Vec<&[u8]> = old.split_inclusive(|b| *b == b'\n').collect();
    let Some(line) = broken.line.checked_sub(1).and_then(|at| lines.get_mut(at)) else {
        return Ok(false);
    };
    let text = line.trim_ascii_start();
    if text.is_empty() || text.starts_with(b"#") {
        return Ok(false);
    }
    let error = broken.error.replace('\n', " ");
    let comment = [format!("# pgvigil, {error}: ").as_bytes(), *line].concat();
    *line = &comment;
    durable::write(&broken.file, &lines.concat())?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn messages_of_a_start() {
        let named = |text| named_in(text).map(|b| (b.file, b.line, b.error));
        let stamp = "2026-12-01 03:00:00.000 UTC [17] LOG:  ";
        let message =
            format!("{stamp}syntax error in file \"/d/postgresql.conf\" line 12, near end of line");
        let expected = (PathBuf::from("/d/postgresql.conf"), 12, "syntax error".to_owned());
        assert_eq!(named(&message), Some(expected));
        let message = format!(
            "{stamp}unrecognized configuration parameter \"x\" in file \"/d/a b.conf\" line 3"
        );
        let error = "unrecognized configuration parameter \"x\"".to_owned();
        assert_eq!(named(&message), Some((PathBuf::from("/d/a b.conf"), 3, error)));
        assert_eq!(named("FATAL:  configuration file \"/d/x\" contains errors"), None);
    }

    #[test]
    fn only_the_line_that_is_named_becomes_a_comment() {
        let dir = TempDir::new();
        let file = dir.path().join("postgresql.conf");
        std::fs::write(&file, b"a = 1\n  max_connections 1OO of \xff\n# c\nlast").unwrap();
        let broken =
            |line| BrokenLine { file: file.clone(), line, error: "syntax error".to_owned() };
        assert!(comment_out(&broken(2)).unwrap());
        assert!(!comment_out(&broken(2)).unwrap(), "it is one already");
        assert!(!comment_out(&broken(3)).unwrap() && !comment_out(&broken(9)).unwrap());
        assert!(comment_out(&broken(4)).unwrap());
        let text = std::fs::read(&file).unwrap();
        let expected = b"a = 1\n# pgvigil, syntax error:   max_connections 1OO of \xff\n# c\n# pgvigil, syntax error: last";
        assert_eq!(text, expected);
        let ours = BrokenLine { file: dir.path().join(conf::FILE), ..broken(1) };
        std::fs::write(&ours.file, "broken\n").unwrap();
        assert!(!comment_out(&ours).unwrap(), "ours is not the user's");
    }
}
