//! How the nodes look, for the SQL view. Never on the way of a decision: its commits are not
//! waited for, and nobody minds when one is lost.

use sqlx::types::Json;
use vigil_core::ids::GroupKey;
use vigil_core::view::NodeView;

use super::{PgStore, StoreError};

const PUT: &str = "
with seen as (
    select * from jsonb_to_recordset($3) as n(
        nodeid bigint, nodename text, nodehost text, nodeport integer, reportedstate text,
        goalstate text, health integer, reportedlsn pg_lsn, reportedtli integer, since text,
        candidatepriority integer, replicationquorum boolean)
), gone as (
    delete from pgautofailover.node_status
     where formationid = $1 and groupid = $2 and nodeid not in (select nodeid from seen)
)
insert into pgautofailover.node_status as old
    (formationid, groupid, nodeid, nodename, nodehost, nodeport, reportedstate, goalstate, health,
     reportedlsn, reportedtli, statechangetime, candidatepriority, replicationquorum)
select $1, $2, nodeid, nodename, nodehost, nodeport, reportedstate, goalstate, health,
       reportedlsn, reportedtli, nullif(since, '')::timestamptz, candidatepriority,
       replicationquorum
  from seen
on conflict (nodeid) do update set
    formationid = excluded.formationid, groupid = excluded.groupid, nodename = excluded.nodename,
    nodehost = excluded.nodehost, nodeport = excluded.nodeport,
    reportedstate = excluded.reportedstate, goalstate = excluded.goalstate,
    health = excluded.health, reportedlsn = excluded.reportedlsn,
    reportedtli = excluded.reportedtli, statechangetime = excluded.statechangetime,
    candidatepriority = excluded.candidatepriority,
    replicationquorum = excluded.replicationquorum";

impl PgStore {
    /// Replaces what is shown of one group.
    pub async fn put_nodes(&self, key: &GroupKey, nodes: &[NodeView]) -> Result<(), StoreError> {
        self.on(&self.others, async |connection| {
            sqlx::query(PUT)
                .bind(&key.formation)
                .bind(key.group.cast_signed())
                .bind(Json(nodes))
                .execute(connection)
                .await
        })
        .await?;
        Ok(())
    }
}
