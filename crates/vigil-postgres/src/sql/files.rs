//! Lines of configuration files that the server cannot use.

use std::time::Duration;

use super::session::{Session, SqlError};

/// A line that a server cannot use: it goes on with what it had, and may not start again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnusableLine {
    /// `FILE line N`.
    pub place: String,
    pub error: String,
}

/// A setting that waits for a restart is no error. The text of the one error is looked at, whose
/// session speaks English.
const SQL: &str = "\
SELECT place, error FROM (
    SELECT sourcefile || ' line ' || sourceline AS place, error
    FROM pg_catalog.pg_file_settings
    WHERE error IS NOT NULL AND sourcefile IS NOT NULL
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_settings s
                      WHERE s.name = pg_file_settings.name AND s.pending_restart)
    UNION ALL
    SELECT pg_catalog.current_setting('hba_file') || ' line ' || line_number, error
    FROM pg_catalog.pg_hba_file_rules WHERE error IS NOT NULL
) AS lines LIMIT 5";

impl Session {
    /// As the files are now, whether or not they were loaded. 2 ms.
    pub async fn unusable_lines(
        &mut self,
        within: Duration,
    ) -> Result<Vec<UnusableLine>, SqlError> {
        let rows: Vec<(String, String)> = self
            .run("reading what is wrong in the configuration", within, async |conn| {
                sqlx::query_as(SQL).fetch_all(conn).await
            })
            .await?;
        Ok(rows.into_iter().map(|(place, error)| UnusableLine { place, error }).collect())
    }
}
