//! The password for replication, in a file of its own: in `primary_conninfo` Postgres would write
//! it into its log at every change.

use std::path::{Path, PathBuf};

use vigil_postgres::{FileError, durable};

use crate::local::REPLICATION_ROLE;

/// Writes `<dir>/replication.pgpass` when it differs, and returns its path.
pub(crate) fn write(dir: &Path, password: &str) -> Result<PathBuf, FileError> {
    let path = dir.join("replication.pgpass");
    durable::write_if_changed(&path, line(password).as_bytes())?;
    Ok(path)
}

/// Any host, port and database; `replication` is a database name here.
fn line(password: &str) -> String {
    let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
    format!("*:*:*:{REPLICATION_ROLE}:{escaped}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_separates_fields_is_escaped() {
        assert_eq!(line(r"a:b\c"), "*:*:*:pgvigil_replicator:a\\:b\\\\c\n");
    }
}
