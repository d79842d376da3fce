//! The few questions that are asked of another node's server.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};

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
        Ok(answer) => answer.map_err(|source| SqlError::Query { what, source }),
        Err(_) => Err(SqlError::Timeout { what, limit: within }),
    }
}

fn options(upstream: &Upstream) -> PgConnectOptions {
    let options = PgConnectOptions::new_without_pgpass()
        .host(&upstream.host)
        .port(upstream.port)
        .username(&upstream.user)
        .database("postgres")
        .application_name(&upstream.application_name)
        .disable_statement_logging();
    match &upstream.password {
        Some(password) => options.password(password),
        None => options,
    }
}
