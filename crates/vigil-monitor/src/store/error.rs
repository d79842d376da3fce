//! What can go wrong with the store, by what follows from it.

use std::fmt;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reached, too slow, or the connection broke. Whether a change was made is not known.
    #[error("the monitor's Postgres does not answer: {0}")]
    Unavailable(String),
    /// The record in the store is not the one that the change was made from.
    #[error("the record in the store is not the expected one")]
    Stale,
    /// The server refused, or what is stored cannot be read. Nothing was changed.
    #[error("the monitor's database: {0}")]
    Broken(String),
}

impl StoreError {
    pub(crate) fn unavailable(why: impl fmt::Display) -> Self {
        StoreError::Unavailable(why.to_string())
    }

    pub(crate) fn broken(why: impl fmt::Display) -> Self {
        StoreError::Broken(why.to_string())
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let Some(refused) = error.as_database_error() else {
            return StoreError::unavailable(error);
        };
        // 57: ended by an operator or a timeout, 53: out of something, 08 and 58: connection and
        // system; all pass.
        match refused.code().as_deref().map(|code| &code[..code.len().min(2)]) {
            Some("57" | "53" | "08" | "58" | "55") => StoreError::unavailable(refused.message()),
            _ => StoreError::broken(refused.message()),
        }
    }
}
