//! How the nodes look, for the SQL view. Never on the way of a decision: its commits are not
//! waited for, and nobody minds when one is lost.

use sqlx::types::Json;
use vigil_core::ids::NodeId;
use vigil_core::view::NodeView;

use super::{PgStore, StoreError};

const PUT: &str = "
with seen as (
    select * from jsonb_to_recordset($1) as n(
        formationid text, groupid integer, nodeid bigint, nodename text, nodehost text, nodeport integer, reportedstate text,
        goalstate text, health integer, reportedlsn pg_lsn, reportedtli integer, since text,
        candidatepriority integer, replicationquorum boolean)
), gone as (
    delete from pgautofailover.node_status where nodeid = any($2)
)
insert into pgautofailover.node_status as old
    (formationid, groupid, nodeid, nodename, nodehost, nodeport, reportedstate, goalstate, health,
     reportedlsn, reportedtli, statechangetime, candidatepriority, replicationquorum)
select formationid, groupid, nodeid, nodename, nodehost, nodeport, reportedstate, goalstate, health,
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

const FORGET: &str = "
delete from pgautofailover.node_status s
 where not exists (select from unnest($1::bigint[]) k(nodeid) where k.nodeid = s.nodeid)";

impl PgStore {
    /// Shows these nodes, of whatever groups, and no longer those that are gone.
    pub async fn put_nodes(&self, nodes: &[NodeView], gone: &[NodeId]) -> Result<(), StoreError> {
        let gone: Vec<i64> = gone.iter().map(|id| id.0).collect();
        self.on(&self.others, async |connection| {
            sqlx::query(PUT).bind(Json(nodes)).bind(gone).execute(connection).await
        })
        .await?;
        Ok(())
    }

    /// Shows no nodes but these.
    pub async fn keep_nodes(&self, known: &[NodeId]) -> Result<(), StoreError> {
        let known: Vec<i64> = known.iter().map(|id| id.0).collect();
        self.on(&self.others, async |connection| {
            sqlx::query(FORGET).bind(known).execute(connection).await
        })
        .await?;
        Ok(())
    }
}
