//! Roles, passwords, drifted settings, and sessions that are in the way.

use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::session::{Session, SqlError};

/// What `pg_rewind` calls on its source when its role is no superuser (its documentation), and what
/// everybody may call until somebody takes that from PUBLIC.
const REWIND_FUNCTIONS: [&str; 9] = [
    "pg_catalog.pg_ls_dir(text, boolean, boolean)",
    "pg_catalog.pg_stat_file(text, boolean)",
    "pg_catalog.pg_read_binary_file(text)",
    "pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean)",
    "pg_catalog.pg_is_in_recovery()",
    "pg_catalog.pg_current_wal_insert_lsn()",
    "pg_catalog.pg_tablespace_location(oid)",
    "pg_catalog.set_config(text, text, boolean)",
    "pg_catalog.unnest(anyarray)",
];

/// What the role lacks; only that is granted, so that nothing is left in dumps without need. The
/// function by which standbys' keepers commit has other arguments from PostgreSQL 17 on.
const MISSING: &str = r"
SELECT 'EXECUTE ON FUNCTION ' || f FROM unnest($2::text[]) AS f
WHERE NOT has_function_privilege($1, f, 'EXECUTE')
UNION ALL SELECT format('EXECUTE ON FUNCTION pg_catalog.%I(%s)', proname,
    pg_get_function_identity_arguments(oid))
FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
AND proname = 'pg_logical_emit_message' AND NOT has_function_privilege($1, oid, 'EXECUTE')
UNION ALL SELECT 'USAGE ON SCHEMA pg_catalog'
WHERE NOT has_schema_privilege($1, 'pg_catalog', 'USAGE')
UNION ALL SELECT 'SELECT ON pg_catalog.pg_tablespace'
WHERE NOT has_table_privilege($1, 'pg_catalog.pg_tablespace', 'SELECT')
UNION ALL SELECT format('CONNECT ON DATABASE %I', current_database())
WHERE NOT has_database_privilege($1, current_database(), 'CONNECT')";

/// Everything about the role that [`Session::ensure_role`] sees to.
const STATE: &str = r"
SELECT concat_ws(' ', rolcanlogin, rolreplication, rolconnlimit, rolvaliduntil, rolpassword,
    (SELECT string_agg(array_to_string(setconfig, ','), ';' ORDER BY setdatabase)
     FROM pg_db_role_setting WHERE setrole = role.oid),
    has_schema_privilege(oid, 'pg_catalog', 'USAGE'),
    has_table_privilege(oid, 'pg_catalog.pg_tablespace', 'SELECT'),
    has_database_privilege(oid, current_database(), 'CONNECT'),
    (SELECT string_agg(has_function_privilege(role.oid, f, 'EXECUTE')::text, ' ')
     FROM unnest($2::text[]) AS f),
    (SELECT bool_and(has_function_privilege(role.oid, p.oid, 'EXECUTE')) FROM pg_proc AS p
     WHERE pronamespace = 'pg_catalog'::regnamespace AND proname = 'pg_logical_emit_message'))
FROM pg_authid AS role WHERE rolname = $1";

/// How a role stands, to be compared. It holds what the server keeps of the password.
#[derive(Clone, PartialEq, Eq)]
pub struct RoleState(String);

impl std::fmt::Debug for RoleState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RoleState")
    }
}

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
    ('log_parameter_max_length', '0')) AS s(name, value)";

impl Session {
    /// Makes `name` a role that may replicate and be the source of a `pg_rewind`, with this
    /// password, whatever became of it meanwhile: logins forbidden, bounded or expired, rights
    /// taken from PUBLIC, a password that was hashed with md5. Does the same again without harm.
    /// Connect to database `postgres`: grants on functions belong to one database. The password
    /// is not logged.
    pub async fn ensure_role(
        &mut self,
        name: &str,
        password: &str,
        within: Duration,
    ) -> Result<RoleState, SqlError> {
        let exists = self.role_exists(name, within).await?;
        let (role, password) = (quote_ident(name), quote_literal(password));
        let create = if exists { String::new() } else { format!("CREATE ROLE {role}; ") };
        let statement = format!(
            "{create}ALTER ROLE {role} LOGIN REPLICATION CONNECTION LIMIT -1 \
             VALID UNTIL 'infinity' PASSWORD {password}; \
             ALTER ROLE {role} SET lc_messages = 'C'"
        );
        self.run("making the replication role", within, async |conn: &mut PgConnection| {
            let mut transaction = conn.begin().await?;
            sqlx::query(QUIET).execute(&mut *transaction).await?;
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *transaction).await?;
            let missing: Vec<String> = sqlx::query_scalar(MISSING)
                .bind(name)
                .bind(REWIND_FUNCTIONS)
                .fetch_all(&mut *transaction)
                .await?;
            for right in missing {
                let grant = AssertSqlSafe(format!("GRANT {right} TO {role}"));
                sqlx::raw_sql(grant).execute(&mut *transaction).await?;
            }
            let state = sqlx::query_scalar(STATE)
                .bind(name)
                .bind(REWIND_FUNCTIONS)
                .fetch_one(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(RoleState(state))
        })
        .await
    }

    /// How the role stands; `None` when it does not exist.
    pub async fn role_state(
        &mut self,
        name: &str,
        within: Duration,
    ) -> Result<Option<RoleState>, SqlError> {
        self.run("looking at the replication role", within, async |conn| {
            let query = sqlx::query_scalar(STATE).bind(name).bind(REWIND_FUNCTIONS);
            Ok(query.fetch_optional(conn).await?.map(RoleState))
        })
        .await
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
            // Of template0: nobody may be connected to a template, and we may be to the other.
            let name = quote_ident(name);
            let sql = AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0"));
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
