//! The few questions that are asked of another node's server.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions, Connection};

use super::pinned;
use super::session::SqlError;
use crate::standby::Upstream;

/// Whether `upstream` takes a connection and answers as a primary.
pub async fn answers(upstream: &Upstream, within: Duration) -> bool {
    let ask = async {
        let mut connection = PgConnection::connect_with(&options(upstream)).await?;
        let standby: bool =
            sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut connection).await?;
        // It has answered; how the connection ends does not matter.
        let _ = connection.close().await;
        Ok::<_, sqlx::Error>(!standby)
    };
    matches!(tokio::time::timeout(within, ask).await, Ok(Ok(true)))
}

/// A kept session on a primary that commits something small when asked: who gets that WAL by its own
/// receiver can vouch that commits end there. It is held because a new one may find no place.
#[derive(Debug)]
pub struct Committer {
    connection: PgConnection,
}

impl Committer {
    pub async fn connect(primary: &Upstream, within: Duration) -> Result<Self, SqlError> {
        let what = "connecting to the primary";
        // As all of ours it waits for the primary's own disk, and for no standby.
        let options = options(primary).application_name("pgvigil");
        match tokio::time::timeout(within, PgConnection::connect_with(&options)).await {
            Ok(Ok(connection)) => Ok(Committer { connection }),
            Ok(Err(error)) => Err(SqlError::Query { what, cause: error }),
            Err(_) => Err(SqlError::Timeout { what, limit: within }),
        }
    }

    /// Ends when the commit is on the primary's disk. Gives itself back unless that fails.
    pub async fn commit(mut self, within: Duration) -> Result<Self, SqlError> {
        let what = "a commit on the primary";
        let sql = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgvigil', '')::text";
        let commit = sqlx::query(sql).execute(&mut self.connection);
        match tokio::time::timeout(within, commit).await {
            Ok(Ok(_)) => Ok(self),
            Ok(Err(error)) => Err(SqlError::Query { what, cause: error }),
            Err(_) => Err(SqlError::Timeout { what, limit: within }),
        }
    }
}

/// The tablespaces of `upstream`: their numbers, and where they are over there.
pub(crate) async fn tablespaces(
    upstream: &Upstream,
    within: Duration,
) -> Result<Vec<(i64, String)>, SqlError> {
    let what = "asking the primary for its tablespaces";
    let ask = async {
        let mut connection = PgConnection::connect_with(&options(upstream)).await?;
        let sql = "SELECT oid::int8, pg_tablespace_location(oid) FROM pg_tablespace \
                   WHERE pg_tablespace_location(oid) <> '' ORDER BY oid";
        let places = sqlx::query_as(sql).fetch_all(&mut connection).await?;
        // It has answered; how the connection ends does not matter.
        let _ = connection.close().await;
        Ok(places)
    };
    match tokio::time::timeout(within, ask).await {
        Ok(answer) => answer.map_err(|cause| SqlError::Query { what, cause }),
        Err(_) => Err(SqlError::Timeout { what, limit: within }),
    }
}

/// The content of a file in the data directory of `upstream`, `None` when it has none. A link is
/// followed over there.
pub(crate) async fn read_file(
    upstream: &Upstream,
    name: &str,
    within: Duration,
) -> Result<Option<Vec<u8>>, SqlError> {
    let what = "reading a file of the primary";
    let ask = async {
        let mut connection = PgConnection::connect_with(&options(upstream)).await?;
        // One that is not there is NULL.
        let sql = "SELECT pg_read_binary_file($1, 0, 4194304, true)";
        let bytes = sqlx::query_scalar(sql).bind(name).fetch_one(&mut connection).await?;
        // It has answered; how the connection ends does not matter.
        let _ = connection.close().await;
        Ok(bytes)
    };
    match tokio::time::timeout(within, ask).await {
        Ok(answer) => answer.map_err(|cause| SqlError::Query { what, cause }),
        Err(_) => Err(SqlError::Timeout { what, limit: within }),
    }
}

/// Whether `upstream` has a replication slot of this name.
pub(crate) async fn has_slot(
    upstream: &Upstream,
    slot: &str,
    within: Duration,
) -> Result<bool, SqlError> {
    let what = "asking the primary for its replication slots";
    let ask = async {
        let mut connection = PgConnection::connect_with(&options(upstream)).await?;
        let sql = "SELECT count(*) > 0 FROM pg_replication_slots WHERE slot_name = $1";
        let found = sqlx::query_scalar(sql).bind(slot).fetch_one(&mut connection).await?;
        // It has answered; how the connection ends does not matter.
        let _ = connection.close().await;
        Ok(found)
    };
    match tokio::time::timeout(within, ask).await {
        Ok(answer) => answer.map_err(|cause| SqlError::Query { what, cause }),
        Err(_) => Err(SqlError::Timeout { what, limit: within }),
    }
}

fn options(upstream: &Upstream) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass()
        .host(&upstream.host)
        .port(upstream.port)
        .username(&upstream.user)
        .database("postgres")
        // Whatever our environment says; this program can do no other.
        .ssl_mode(PgSslMode::Disable)
        .application_name(&upstream.application_name)
        .options(pinned::settings(upstream.major))
        .disable_statement_logging();
    match &upstream.password {
        Some(password) => options.password(password),
        None => options,
    }
}
