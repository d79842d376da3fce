//! One decision on its way into the store.

use sqlx::postgres::PgArguments;
use sqlx::query::QueryScalar;
use sqlx::types::Json;
use sqlx::{Executor, PgConnection, Postgres, SqlSafeStr, query_scalar};
use vigil_core::group::Group;
use vigil_core::ids::GroupKey;

use super::{Event, StoreError};

/// What a decision changes.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub key: &'a GroupKey,
    /// Version of the record that it was made from; 0 = the group is not in the store.
    pub from_version: u64,
    pub record: Option<&'a Group>,
    pub events: &'a [Event],
}

// The record is written only over the version that the decision was made from, and the events
// only if the record was. One statement is one transaction.
macro_rules! with_events {
    ($record:literal) => {
        concat!(
            "with written as (", $record, "), noted as (
                insert into pgautofailover.event
                    (formationid, groupid, nodeid, nodename, reportedstate, goalstate, kind, epoch,
                     cause, evidence, phases, description)
                select $1, $2, e.node, e.nodename, e.reported, e.goal, e.kind, e.epoch,
                       e.cause, e.evidence, e.phases, e.description
                  from written,
                       jsonb_to_recordset($3) as e(
                           node bigint, nodename text, reported text, goal text, kind text,
                           epoch bigint, cause text, evidence jsonb, phases jsonb,
                           description text))
             select count(*) from written"
        )
    };
}

const NO_RECORD: &str = with_events!("select 1");
const NEW: &str = with_events!(
    "insert into pgautofailover.groups (formationid, groupid, version, record)
     values ($1, $2, $4, $5) on conflict do nothing returning 1"
);
const NEXT: &str = with_events!(
    "update pgautofailover.groups set version = $4, record = $5, changed = now()
      where formationid = $1 and groupid = $2 and version = $6 returning 1"
);

/// Has the server parse the statements before the first decision needs them.
pub(super) async fn prepare(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    for sql in [NEXT, NEW, NO_RECORD] {
        connection.prepare(sql.into_sql_str()).await?;
    }
    Ok(())
}

impl<'a> Change<'a> {
    pub(super) fn query(&self) -> Result<QueryScalar<'a, Postgres, i64, PgArguments>, StoreError> {
        let sql = match (self.record, self.from_version) {
            (None, _) => NO_RECORD,
            (Some(_), 0) => NEW,
            (Some(_), _) => NEXT,
        };
        let query = query_scalar(sql)
            .bind(&self.key.formation)
            .bind(self.key.group.cast_signed())
            .bind(Json(self.events));
        let Some(record) = self.record else { return Ok(query) };
        if record.version <= self.from_version {
            let text = format!("version {} after {}", record.version, self.from_version);
            return Err(StoreError::broken(text));
        }
        let query = query.bind(record.version.cast_signed()).bind(Json(record));
        Ok(match self.from_version {
            0 => query,
            from => query.bind(from.cast_signed()),
        })
    }
}
