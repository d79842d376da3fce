//! What is kept in order in the background: slots for the peers, access for them, and our settings
//! against ALTER SYSTEM. Never while a step runs.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use vigil_core::event::EventKind;
use vigil_core::ids::NodeId;
use vigil_core::node::record::NodeRecord;
use vigil_core::wal::Lsn;
use vigil_postgres::{Session, SqlStatus, conf};

use crate::local::{Local, REPLICATION_ROLE, Role, slot_of};

const QUERY: Duration = Duration::from_secs(1);
const MAKE_DATABASE: Duration = Duration::from_secs(10);
/// On a standby nobody reads from the slots, and their peers' positions are not known here. So
/// they keep this much behind its own position: what a peer may still need after a promotion.
const KEEP_BEHIND: u64 = 128 << 20;

/// One round. Dropping the future breaks it off.
pub async fn round(local: Arc<Local>, record: Arc<NodeRecord>) {
    if let Err(error) = try_round(&local, &record).await {
        // The next round is a second away; what lasts is seen by its consequences.
        tracing::debug!("chores: {error:#}");
    }
}

async fn try_round(local: &Local, record: &NodeRecord) -> Result<()> {
    let own = record.node_id.context("no node id yet")?;
    let postmaster = local.running()?;
    if local.hba(record).write(&local.pgdata)?.changed() {
        tracing::info!("access rules for the peers changed");
        postmaster.reload()?;
    }
    let mut session = local.work().await?;
    let status = session.status(QUERY).await?;
    let held = slots(&mut session, record, own, &status).await?;
    local.note_slots(held);
    if !status.in_recovery {
        access(local, record, &mut session).await?;
    }

    let names = local.conf(record, Role::Detached)?.names();
    let overridden = conf::auto_conf_overrides(&local.pgdata, &names)?;
    for name in &overridden {
        session.reset_system_setting(name, QUERY).await?;
    }
    if !overridden.is_empty() {
        postmaster.reload()?;
        local.notice_reset(&overridden);
    }
    Ok(())
}

/// On a primary: standbys come and go, so what lets them in is looked at all the time, not when one
/// of them is already kept out.
async fn access(local: &Local, record: &NodeRecord, session: &mut Session) -> Result<()> {
    let database = &local.target().database;
    if session.is_makeshift() {
        if session.ensure_database(database, MAKE_DATABASE).await? {
            let text = format!("database {database} was missing: made anew, pgvigil needs it");
            local.notice(EventKind::Setting, text);
        }
        // The next round goes on from there: rights on functions belong to one database.
        return Ok(());
    }
    // Before the first time it is not ours to look after.
    let Some(left) = local.role_state() else { return Ok(()) };
    if session.role_state(REPLICATION_ROLE, QUERY).await?.as_ref() == Some(&left) {
        return Ok(());
    }
    local.ensure_role(record, session).await?;
    let text = format!("role {REPLICATION_ROLE} was changed or lacked rights: put in order again");
    local.notice(EventKind::Setting, text);
    Ok(())
}

async fn slots(
    session: &mut Session,
    record: &NodeRecord,
    own: NodeId,
    status: &SqlStatus,
) -> Result<Vec<(String, u64)>> {
    let peers = || record.peers.iter().map(|p| p.id).filter(|id| *id != own);
    for peer in peers() {
        let name = slot_of(peer);
        let healthy =
            status.slots.iter().any(|s| s.name == name && s.wal_status.as_deref() != Some("lost"));
        if !healthy {
            let made = session.ensure_slot(&name, QUERY).await?;
            tracing::info!(slot = name, ?made, "slot for a peer");
        } else if status.in_recovery {
            let end = status.replay_lsn.unwrap_or(Lsn::ZERO);
            session.advance_slot(&name, Lsn(end.0.saturating_sub(KEEP_BEHIND)), QUERY).await?;
        }
    }
    let mut held = Vec::new();
    for slot in status.slots.iter().filter(|s| s.physical) {
        let Some(id) = node_of(&slot.name) else { continue };
        if peers().any(|peer| peer == id) {
            held.push((slot.name.clone(), slot.retained_bytes.unwrap_or(0)));
        } else if !slot.active {
            session.drop_slot(&slot.name, QUERY).await?;
            tracing::info!(slot = slot.name, "dropped: its node has left the group");
        }
    }
    Ok(held)
}

/// The node that a slot of ours is for; `None` for everybody else's slots.
fn node_of(slot: &str) -> Option<NodeId> {
    let id: i64 = slot.strip_prefix("pgvigil_")?.parse().ok()?;
    (slot == slot_of(NodeId(id))).then_some(NodeId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_slots_are_not_ours() {
        assert_eq!(node_of("pgvigil_12"), Some(NodeId(12)));
        for foreign in ["pgvigil_", "pgvigil_a", "pgvigil_+1", "pgvigil_01", "my_slot", "12"] {
            assert_eq!(node_of(foreign), None, "{foreign}");
        }
    }
}
