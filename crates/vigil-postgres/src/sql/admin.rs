//! Roles, passwords, drifted settings, and sessions that are in the way.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::session::{Session, SqlError};

/// What `pg_rewind` calls on its source when its role is no superuser (its documentation).
pub const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// For one transaction: nothing of it is logged, by the server or by its usual extensions (their
/// settings may be set even where they are not loaded), and its commit waits for no standby.
const QUIET: &str = "SELECT set_config(name, value, true) FROM (VALUES \
    ('log_statement', 'none'), \
    ('log_min_error_statement', 'panic'), \
    ('log_min_duration_statement', '-1'), \
    ('log_min_duration_sample', '-1'), \
    ('log_transaction_sample_rate', '0'), \
    ('log_duration', 'off'), \
    ('pg_stat_statements.track_utility', 'off'), \
    ('pgaudit.log', 'none'), \
    ('synchronous_commit', 'local')) AS s(name, value)";

impl Session {
    /// Makes `name` a role that may replicate and be the source of a `pg_rewind`, with this
    /// password. Does the same again without harm. Connect to database `postgres`: grants on
    /// functions belong to one database. The password is not logged.
    pub async fn ensure_role(
        &mut self,
        name: &str,
        password: &str,
        within: Duration,
    ) -> Result<(), SqlError> {
        let role = quote_ident(name);
        let mut statements = Vec::new();
        if !self.role_exists(name, within).await? {
            statements.push(format!("CREATE ROLE {role}"));
        }
        let password = quote_literal(password);
        statements.push(format!("ALTER ROLE {role} LOGIN REPLICATION PASSWORD {password}"));
        for function in REWIND_FUNCTIONS {
            statements.push(format!("GRANT EXECUTE ON FUNCTION {function} TO {role}"));
        }
        self.run_quietly("making the replication role", statements, within).await
    }

    /// Sets the password of a role. It is not logged.
    pub async fn set_password(
        &mut self,
        role: &str,
        password: &str,
        within: Duration,
    ) -> Result<(), SqlError> {
        let (role, password) = (quote_ident(role), quote_literal(password));
        let statement = format!("ALTER ROLE {role} PASSWORD {password}");
        self.run_quietly("setting a password", vec![statement], within).await
    }

    pub async fn role_exists(&mut self, name: &str, within: Duration) -> Result<bool, SqlError> {
        self.run("looking for a role", within, async |conn| {
            let sql = "SELECT count(*) > 0 FROM pg_roles WHERE rolname = $1";
            sqlx::query_scalar(sql).bind(name).fetch_one(conn).await
        })
        .await
    }

    /// Makes the database `name` where there is none; `true` when it was made.
    pub async fn ensure_database(
        &mut self,
        name: &str,
        within: Duration,
    ) -> Result<bool, SqlError> {
        self.run("making a database", within, async |conn: &mut PgConnection| {
            let sql = "SELECT count(*) > 0 FROM pg_database WHERE datname = $1";
            if sqlx::query_scalar(sql).bind(name).fetch_one(&mut *conn).await? {
                return Ok(false);
            }
            let sql = AssertSqlSafe(format!("CREATE DATABASE {}", quote_ident(name)));
            sqlx::raw_sql(sql).execute(conn).await.map(|_| true)
        })
        .await
    }

    /// Takes a setting out of `postgresql.auto.conf`; has effect at the next reload.
    pub async fn reset_system_setting(
        &mut self,
        name: &str,
        within: Duration,
    ) -> Result<(), SqlError> {
        // Names have dots at most between their parts (`extension.setting`).
        let name = name.split('.').map(quote_ident).collect::<Vec<_>>().join(".");
        self.run("ALTER SYSTEM RESET", within, async |conn| {
            let sql = AssertSqlSafe(format!("ALTER SYSTEM RESET {name}"));
            sqlx::raw_sql(sql).execute(conn).await.map(|_| ())
        })
        .await
    }

    /// On a standby: ends the sessions that keep the startup process from replaying, so that a
    /// promotion is not kept waiting. Returns how many; call it again until the promotion is seen,
    /// a new one may come. Nothing is ended when replay is not blocked.
    ///
    /// For a lock these are its holders; which session a snapshot or a buffer pin belongs to is
    /// not told, so there all sessions in a transaction end.
    pub async fn terminate_replay_blockers(&mut self, within: Duration) -> Result<u64, SqlError> {
        self.run("ending sessions that block replay", within, async |conn| {
            let ended: i64 = sqlx::query_scalar(BLOCKERS).fetch_one(conn).await?;
            Ok(u64::try_from(ended).unwrap_or(0))
        })
        .await
    }

    async fn run_quietly(
        &mut self,
        what: &'static str,
        statements: Vec<String>,
        within: Duration,
    ) -> Result<(), SqlError> {
        self.run(what, within, async |conn: &mut PgConnection| {
            let mut transaction = conn.begin().await?;
            sqlx::query(QUIET).execute(&mut *transaction).await?;
            for statement in statements {
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
            }
            transaction.commit().await
        })
        .await
    }
}

const BLOCKERS: &str = r"
WITH startup AS MATERIALIZED (
    SELECT pid, wait_event_type, wait_event FROM pg_stat_activity
    WHERE backend_type = 'startup'
      AND (wait_event_type = 'Lock' OR wait_event_type ILIKE 'buffer%'
           OR wait_event LIKE 'RecoveryConflict%')
), holders AS MATERIALIZED (
    SELECT held.pid
    FROM startup JOIN pg_locks wanted ON wanted.pid = startup.pid AND NOT wanted.granted
    JOIN pg_locks held ON held.granted AND held.pid <> startup.pid
         AND held.locktype = wanted.locktype
         AND held.database IS NOT DISTINCT FROM wanted.database
         AND held.relation IS NOT DISTINCT FROM wanted.relation
         AND held.objid IS NOT DISTINCT FROM wanted.objid
         AND held.classid IS NOT DISTINCT FROM wanted.classid
)
SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid))
FROM pg_stat_activity a
WHERE EXISTS (SELECT FROM startup) AND a.pid <> pg_backend_pid()
  AND CASE WHEN EXISTS (SELECT FROM holders)
      THEN a.pid IN (SELECT pid FROM holders)
      ELSE a.backend_type = 'client backend' AND a.application_name <> 'pgvigil'
           AND (a.xact_start IS NOT NULL OR a.backend_xmin IS NOT NULL
                OR a.state IS DISTINCT FROM 'idle')
      END";

/// The one place where a name becomes part of a statement.
fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('\0', "").replace('"', "\"\""))
}

/// The one place where a text becomes part of a statement. Right for any value of
/// `standard_conforming_strings`.
fn quote_literal(text: &str) -> String {
    let text = text.replace('\0', "").replace('\\', "\\\\").replace('\'', "''");
    format!("E'{text}'")
}
