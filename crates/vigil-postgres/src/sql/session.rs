//! One connection, each query bounded in time.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};
use tokio::time::Instant;
use vigil_core::wal::Lsn;

use super::pinned;
use super::status::PendingRestart;

/// The database that every cluster has: where the wanted one is missing.
const MAKESHIFT: &str = "template1";

/// Where a server listens, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub socket_dir: PathBuf,
    pub port: u16,
    pub user: String,
    pub database: String,
    /// Of the server: some settings came later than 13.
    pub major: u32,
}

impl Target {
    /// Database `postgres` as superuser `postgres`.
    pub fn postgres(socket_dir: impl Into<PathBuf>, port: u16, major: u32) -> Self {
        let name = || "postgres".to_owned();
        Target { socket_dir: socket_dir.into(), port, user: name(), database: name(), major }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    #[error("cannot connect to Postgres in {} port {port}: {}", socket_dir.display(), said(cause))]
    Connect { socket_dir: PathBuf, port: u16, cause: sqlx::Error },
    #[error("Postgres in {} port {port} did not answer a connection within {limit:?}", socket_dir.display())]
    ConnectTimeout { socket_dir: PathBuf, port: u16, limit: Duration },
    #[error("{what} failed: {}", said(cause))]
    Query { what: &'static str, cause: sqlx::Error },
    #[error("{what} did not end within {limit:?}; the session was given up")]
    Timeout { what: &'static str, limit: Duration },
    #[error("{what} not tried: the session was given up after an earlier timeout or failure")]
    Broken { what: &'static str },
    #[error("{what} gave something unexpected: {reason}")]
    Unexpected { what: &'static str, reason: String },
}

impl SqlError {
    /// Whether the connection is of no use any more and a new [`Session`] is needed.
    pub fn is_broken(&self) -> bool {
        match self {
            SqlError::Query { cause, .. } => cause.as_database_error().is_none(),
            SqlError::Unexpected { .. } => false,
            _ => true,
        }
    }

    /// The five characters of `SQLSTATE`, if the server refused.
    pub fn sqlstate(&self) -> Option<String> {
        match self {
            SqlError::Query { cause, .. } | SqlError::Connect { cause, .. } => {
                cause.as_database_error()?.code().map(std::borrow::Cow::into_owned)
            }
            _ => None,
        }
    }

    /// Whether it can pass by itself: a server that is full, starts, stops or cannot be reached, an
    /// object that somebody else is using, no answer in time.
    pub fn passes(&self) -> bool {
        match self {
            SqlError::Query { cause, .. } | SqlError::Connect { cause, .. } => {
                match self.sqlstate() {
                    Some(code) => PASSING.iter().any(|class| code.starts_with(class)),
                    None => matches!(cause, sqlx::Error::Io(_)),
                }
            }
            SqlError::ConnectTimeout { .. }
            | SqlError::Timeout { .. }
            | SqlError::Broken { .. } => true,
            SqlError::Unexpected { .. } => false,
        }
    }

    /// What kind of refusal it was; `None` when the server did not answer with one.
    pub fn refusal(&self) -> Option<Refusal> {
        self.sqlstate().map(|code| Refusal::of(&code))
    }
}

/// `SQLSTATE`s, or their first characters, of what passes: connections (08), in use (55006), no lock
/// in time (55P03), full (53300), no memory (53200), told to stop (57P01 to 57P03, 57014), a
/// conflict (40).
const PASSING: &[&str] =
    &["08", "40", "53200", "53300", "55006", "55P03", "57014", "57P01", "57P02", "57P03"];

/// Why a server that answers does not do what it was asked, by `SQLSTATE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// It starts or stops, or an operator has ended the session.
    NotNow,
    /// No such role, or one that may not log in, or not in this way.
    Login,
    /// There is no such database, or it takes no connections.
    Database,
    /// All connections are in use.
    Full,
    /// Memory, disk, locks.
    Resources,
    /// The right for it is missing.
    Rights,
    /// A reason that lies in the statement, the settings or the state of the server.
    Other,
}

impl Refusal {
    fn of(code: &str) -> Self {
        match (code, code.get(..2)) {
            ("53300", _) => Refusal::Full,
            (_, Some("53")) => Refusal::Resources,
            (_, Some("57")) => Refusal::NotNow,
            (_, Some("28")) => Refusal::Login,
            (_, Some("3D")) => Refusal::Database,
            ("42501", _) => Refusal::Rights,
            _ => Refusal::Other,
        }
    }
}

/// What the server said, once: the driver repeats it, with lines of the server's own source.
fn said(error: &sqlx::Error) -> String {
    let Some(refused) = error.as_database_error() else { return error.to_string() };
    let detail = refused
        .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
        .and_then(sqlx::postgres::PgDatabaseError::detail);
    match detail {
        Some(detail) => format!("{} ({detail})", refused.message()),
        None => refused.message().to_owned(),
    }
}

fn has_no_database(error: &SqlError) -> bool {
    // 55000: it is marked as one that takes no connections.
    error.refusal() == Some(Refusal::Database) || error.sqlstate().as_deref() == Some("55000")
}

/// A connection as `application_name` pgvigil, with settings of its own (`pinned`), among them that
/// its commits wait for the local disk only. After a timeout or a lost connection it is unusable
/// and says so; giving up never cancels the query (a cancelled sync wait would tell success).
#[derive(Debug)]
pub struct Session {
    conn: Option<PgConnection>,
    makeshift: bool,
    pub(super) pending_restart: PendingRestart,
}

impl Session {
    pub async fn connect(target: &Target, within: Duration) -> Result<Self, SqlError> {
        let end = Instant::now() + within;
        match Self::log_in(target, &target.database, within).await {
            Err(error) if target.database != MAKESHIFT && has_no_database(&error) => {
                let left = end.saturating_duration_since(Instant::now());
                Self::log_in(target, MAKESHIFT, left).await.map_err(|_| error)
            }
            done => done,
        }
    }

    async fn log_in(target: &Target, database: &str, within: Duration) -> Result<Self, SqlError> {
        let (socket_dir, port) = (target.socket_dir.clone(), target.port);
        let options = PgConnectOptions::new_without_pgpass()
            .socket(&socket_dir)
            .port(port)
            .username(&target.user)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
            .application_name("pgvigil")
            .options(pinned::superuser_settings(target.major))
            .disable_statement_logging();
        match tokio::time::timeout(within, PgConnection::connect_with(&options)).await {
            Ok(Ok(conn)) => Ok(Session {
                conn: Some(conn),
                makeshift: database != target.database,
                pending_restart: PendingRestart::default(),
            }),
            Ok(Err(cause)) => Err(SqlError::Connect { socket_dir, port, cause }),
            Err(_) => Err(SqlError::ConnectTimeout { socket_dir, port, limit: within }),
        }
    }

    /// Whether it is with another database than was wanted, because that one is missing or takes
    /// no connections: it will do for what concerns the whole server. Do not keep it: as long as
    /// it is there, nobody can make databases.
    pub fn is_makeshift(&self) -> bool {
        self.makeshift
    }

    /// Whether queries are still possible.
    pub fn is_usable(&self) -> bool {
        self.conn.is_some()
    }

    /// Runs `work` on the connection. Unless it ends in time, with success or with an error of the
    /// server, the connection is dropped: what it would say next belongs to an old question. The
    /// same when the caller drops the future.
    pub(crate) async fn run<T>(
        &mut self,
        what: &'static str,
        within: Duration,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, SqlError> {
        let Some(mut conn) = self.conn.take() else { return Err(SqlError::Broken { what }) };
        match tokio::time::timeout(within, work(&mut conn)).await {
            Ok(Ok(value)) => {
                self.conn = Some(conn);
                Ok(value)
            }
            Ok(Err(cause)) => {
                let error = SqlError::Query { what, cause };
                if !error.is_broken() {
                    self.conn = Some(conn);
                }
                Err(error)
            }
            Err(_) => Err(SqlError::Timeout { what, limit: within }),
        }
    }

    /// `pg_is_in_recovery()`: 0.1 ms, made to be polled every 1-2 ms during a promotion.
    pub async fn in_recovery(&mut self, within: Duration) -> Result<bool, SqlError> {
        self.run("pg_is_in_recovery()", within, async |conn| {
            sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(conn).await
        })
        .await
    }

    /// The value of a setting in this session; proof of a reload only when the session is fresh.
    pub async fn show(&mut self, name: &str, within: Duration) -> Result<String, SqlError> {
        self.run("reading a setting", within, async |conn| {
            sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(conn).await
        })
        .await
    }

    /// The same for one that the server may not know.
    pub(crate) async fn show_if_known(
        &mut self,
        name: &str,
        within: Duration,
    ) -> Result<Option<String>, SqlError> {
        self.run("reading a setting", within, async |conn| {
            sqlx::query_scalar("SELECT current_setting($1, true)").bind(name).fetch_one(conn).await
        })
        .await
    }

    /// Runs statements that the program knows beforehand, for their effect.
    pub async fn execute(&mut self, sql: &'static str, within: Duration) -> Result<(), SqlError> {
        self.run(sql, within, async |conn| sqlx::raw_sql(sql).execute(conn).await.map(|_| ())).await
    }

    /// The process id of this session's backend.
    pub async fn backend_pid(&mut self, within: Duration) -> Result<i32, SqlError> {
        self.run("pg_backend_pid()", within, async |conn| {
            sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(conn).await
        })
        .await
    }

    /// Writes and flushes a small WAL record (96 bytes, 0.8 ms): proves that the disk works, and
    /// makes WAL move on an idle server. It waits for no standby.
    pub async fn emit_probe(&mut self, within: Duration) -> Result<(), SqlError> {
        self.run("the write probe", within, async |conn| {
            // As text: without a type for pg_lsn nothing needs to be decoded.
            sqlx::query("SELECT pg_logical_emit_message(true, 'pgvigil', '')::text")
                .execute(conn)
                .await
                .map(|_| ())
        })
        .await
    }

    /// Ends when the checkpoint has: seconds to minutes on a busy server.
    pub async fn checkpoint(&mut self, within: Duration) -> Result<(), SqlError> {
        self.run("CHECKPOINT", within, async |conn| {
            sqlx::query("CHECKPOINT").execute(conn).await.map(|_| ())
        })
        .await
    }

    /// The end of all WAL on a primary, flushed or not.
    pub async fn insert_lsn(&mut self, within: Duration) -> Result<Lsn, SqlError> {
        let what = "reading the insert LSN";
        let text: String = self
            .run(what, within, async |conn| {
                let sql = "SELECT pg_current_wal_insert_lsn()::text";
                sqlx::query_scalar(sql).fetch_one(conn).await
            })
            .await?;
        parse_lsn(what, &text)
    }

    /// From now on this session's commits wait for the standbys.
    pub(crate) async fn commit_with_sync(&mut self, within: Duration) -> Result<(), SqlError> {
        self.run("SET synchronous_commit", within, async |conn| {
            sqlx::query("SET synchronous_commit = on").execute(conn).await.map(|_| ())
        })
        .await
    }

    /// The standbys (`application_name`) whose walsender says that they count for commits.
    pub(crate) async fn synchronous_senders(
        &mut self,
        within: Duration,
    ) -> Result<Vec<String>, SqlError> {
        self.run("reading sync priorities", within, async |conn| {
            let sql = "SELECT application_name FROM pg_stat_replication WHERE sync_priority > 0";
            sqlx::query_scalar(sql).fetch_all(conn).await
        })
        .await
    }

    /// Whether backend `pid` waits for a standby to confirm its commit.
    pub(crate) async fn waits_for_sync(
        &mut self,
        pid: i32,
        within: Duration,
    ) -> Result<bool, SqlError> {
        self.run("looking for a sync wait", within, async |conn| {
            let sql = "SELECT count(*) > 0 FROM pg_stat_activity \
                       WHERE pid = $1 AND wait_event = 'SyncRep'";
            sqlx::query_scalar(sql).bind(pid).fetch_one(conn).await
        })
        .await
    }

    /// Ends a backend. Its commit, if it waits for a standby, is told to nobody; cancelling the
    /// query instead would tell success.
    pub async fn terminate_backend(
        &mut self,
        pid: i32,
        within: Duration,
    ) -> Result<bool, SqlError> {
        self.run("pg_terminate_backend()", within, async |conn| {
            sqlx::query_scalar("SELECT pg_terminate_backend($1)").bind(pid).fetch_one(conn).await
        })
        .await
    }
}

pub(crate) fn parse_lsn(what: &'static str, text: &str) -> Result<Lsn, SqlError> {
    text.parse().map_err(|e| SqlError::Unexpected { what, reason: format!("{e}") })
}
