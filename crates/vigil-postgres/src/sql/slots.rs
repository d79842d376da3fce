//! Physical replication slots: one for every peer, on every node, before it is needed.

use std::time::Duration;

use vigil_core::wal::Lsn;

use super::session::{Session, SqlError};

/// What [`Session::ensure_slot`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotMade {
    Existed,
    Created,
    /// It had lost the WAL that it should keep.
    Replaced,
}

impl Session {
    /// Makes the physical slot `name` and lets it keep WAL from now on; also on a standby.
    pub async fn ensure_slot(
        &mut self,
        name: &str,
        within: Duration,
    ) -> Result<SlotMade, SqlError> {
        let lost: Option<Option<bool>> = self
            .run("looking for a slot", within, async |conn| {
                let sql = "SELECT wal_status = 'lost' AND NOT active \
                           FROM pg_replication_slots WHERE slot_name = $1";
                sqlx::query_scalar(sql).bind(name).fetch_optional(conn).await
            })
            .await?;
        let made = match lost {
            Some(Some(true)) => {
                self.drop_slot(name, within).await?;
                SlotMade::Replaced
            }
            Some(_) => return Ok(SlotMade::Existed),
            None => SlotMade::Created,
        };
        self.run("creating a slot", within, async |conn| {
            let sql = "SELECT slot_name::text FROM pg_create_physical_replication_slot($1, true)";
            sqlx::query(sql).bind(name).execute(conn).await.map(|_| ())
        })
        .await?;
        Ok(made)
    }

    /// Drops a slot; `false` when there was none. An active one is refused by the server (55006).
    pub async fn drop_slot(&mut self, name: &str, within: Duration) -> Result<bool, SqlError> {
        self.run("dropping a slot", within, async |conn| {
            let sql = "SELECT pg_drop_replication_slot(slot_name)::text \
                       FROM pg_replication_slots WHERE slot_name = $1";
            sqlx::query(sql).bind(name).fetch_all(conn).await.map(|rows| !rows.is_empty())
        })
        .await
    }

    /// Lets an idle slot keep WAL from `lsn` on only: on a standby nobody else moves it. Does
    /// nothing when it is in use or already there.
    pub async fn advance_slot(
        &mut self,
        name: &str,
        lsn: Lsn,
        within: Duration,
    ) -> Result<bool, SqlError> {
        self.run("advancing a slot", within, async |conn| {
            // The server refuses to go beyond what it has; `least` makes that no error.
            let sql = "SELECT pg_replication_slot_advance(slot_name, least($2::pg_lsn, \
                              CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                                   ELSE pg_current_wal_flush_lsn() END))::text \
                       FROM pg_replication_slots \
                       WHERE slot_name = $1 AND slot_type = 'physical' AND NOT active \
                         AND restart_lsn < least($2::pg_lsn, \
                              CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() \
                                   ELSE pg_current_wal_flush_lsn() END)";
            let query = sqlx::query(sql).bind(name).bind(lsn.to_string());
            query.fetch_all(conn).await.map(|rows| !rows.is_empty())
        })
        .await
    }
}
