//! All that a heartbeat reports, by one prepared query.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use vigil_core::limits::Limits;
use vigil_core::wal::{Lsn, Tli};

use super::session::{Session, SqlError};

/// The server's own view of itself. `None` where it cannot or does not say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts, told one by one")]
pub struct SqlStatus {
    pub in_recovery: bool,
    /// On a primary: the timeline that it writes. On a standby: the highest that the receiver, the
    /// recovery and the last checkpoint tell; may be too low once the receiver is gone (then ask
    /// [`crate::pgdata::timeline_of_wal`]).
    pub timeline: Tli,
    /// Primary: end of WAL, and how much of it is on disk.
    pub insert_lsn: Option<Lsn>,
    pub flush_lsn: Option<Lsn>,
    /// Standby: flushed by the receiver; `None` until it has streamed since the start. Too low
    /// while the receiver lives.
    pub receive_lsn: Option<Lsn>,
    /// Standby: replayed.
    pub replay_lsn: Option<Lsn>,
    /// Standby: what the startup process waits for. `RecoveryRetrieveRetryInterval` without a
    /// receiver: all local WAL is replayed. `RecoveryWalStream`: caught up. `None`: it replays.
    pub startup_wait: Option<String>,
    pub replay_paused: bool,
    /// `None` also while a receiver connects: no proof that none exists.
    pub receiver: Option<Receiver>,
    pub senders: Vec<Sender>,
    pub slots: Vec<Slot>,
    /// Of this session: for a proof use a fresh one.
    pub synchronous_standby_names: String,
    /// The password taken out.
    pub primary_conninfo: String,
    /// Settings that wait for a restart.
    #[serde(default)]
    pub pending_restart: Vec<String>,
    /// Sessions whose commit waits for a standby.
    pub sync_waiters: u32,
    /// Sessions of clients, ours not counted.
    pub clients: u32,
    /// Microseconds since 1970 (UTC) at which the postmaster started.
    pub started_at_us: i64,
    /// `recovery_min_apply_delay` is set.
    pub delayed: bool,
    /// A standby that was started with a recovery target (`recovery_target_lsn`, …).
    #[serde(default)]
    pub recovery_target: bool,
    /// Where it reads its configuration.
    pub config_file: String,
    pub limits: Limits,
}

/// `pg_stat_wal_receiver`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receiver {
    pub pid: i32,
    /// `starting`, `streaming`, `waiting`, `restarting`, `stopping`. It says `streaming` as soon as
    /// it is connected, before it has got history files or any WAL.
    pub status: String,
    pub sender_host: Option<String>,
    pub sender_port: Option<u16>,
    pub slot_name: Option<String>,
    pub received_tli: Option<Tli>,
    pub flushed_lsn: Option<Lsn>,
    /// Milliseconds since the last message of the upstream.
    pub last_msg_age_ms: Option<u64>,
}

/// A row of `pg_stat_replication`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    pub pid: i32,
    pub application_name: String,
    pub client_addr: Option<String>,
    /// `startup`, `catchup`, `streaming`, `backup`, `stopping`.
    pub state: String,
    pub sent_lsn: Option<Lsn>,
    pub flush_lsn: Option<Lsn>,
    pub replay_lsn: Option<Lsn>,
    /// Milliseconds since the standby's last reply: its sign of life. (Lags are NULL when idle.)
    pub reply_age_ms: Option<u64>,
    /// 0 is proof that this walsender has seen that the standby is not synchronous.
    pub sync_priority: i32,
    /// Computed by the asking session from its own copy of the rule: no proof of anything.
    pub sync_state: String,
}

/// A row of `pg_replication_slots`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    pub name: String,
    pub physical: bool,
    pub active: bool,
    pub restart_lsn: Option<Lsn>,
    /// Bytes of WAL that it keeps.
    pub retained_bytes: Option<u64>,
    /// `reserved`, `extended`, `unreserved`, `lost`.
    pub wal_status: Option<String>,
}

/// What the query says beside the status.
#[derive(Deserialize)]
struct Answer {
    #[serde(flatten)]
    status: SqlStatus,
    conf_loaded_at_us: i64,
    /// Only when the configuration was loaded at another time than we said: `pg_settings` is six
    /// times as expensive (0.85 ms) as all the rest.
    new_pending_restart: Option<Vec<String>>,
}

/// Settings that wait for a restart, and the configuration (load time, microseconds) they are of.
#[derive(Debug, Default)]
pub(super) struct PendingRestart {
    conf_loaded_at_us: i64,
    names: Vec<String>,
}

/// Works on 13 to 18, primary and standby. `CASE` keeps functions from being called on a server
/// that refuses them.
const SQL: &str = r"
WITH base AS MATERIALIZED (
    SELECT pg_is_in_recovery() AS standby,
           (extract(epoch FROM pg_conf_load_time()) * 1000000)::int8 AS conf_loaded_at_us
), activity AS MATERIALIZED (
    SELECT backend_type, wait_event, application_name FROM pg_stat_activity
), here AS MATERIALIZED (
    SELECT CASE WHEN standby
                THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
                ELSE pg_current_wal_insert_lsn() END AS lsn
    FROM base
), receiver AS MATERIALIZED (
    SELECT pid, status, sender_host, sender_port, slot_name, received_tli,
           flushed_lsn, last_msg_receipt_time
    FROM pg_stat_wal_receiver WHERE pid IS NOT NULL
)
SELECT json_build_object(
    'in_recovery', standby,
    'timeline', CASE WHEN standby
        THEN greatest((SELECT received_tli FROM receiver),
                      (SELECT timeline_id FROM pg_control_checkpoint()),
                      (SELECT min_recovery_end_timeline FROM pg_control_recovery()))
        ELSE ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
        END,
    'insert_lsn', CASE WHEN NOT standby THEN here.lsn END,
    'flush_lsn', CASE WHEN NOT standby THEN pg_current_wal_flush_lsn() END,
    'receive_lsn', CASE WHEN standby THEN pg_last_wal_receive_lsn() END,
    'replay_lsn', CASE WHEN standby THEN pg_last_wal_replay_lsn() END,
    'startup_wait', (SELECT wait_event FROM activity WHERE backend_type = 'startup' LIMIT 1),
    'replay_paused', CASE WHEN standby THEN pg_is_wal_replay_paused() ELSE false END,
    'receiver', (SELECT json_build_object(
            'pid', pid, 'status', status, 'sender_host', sender_host,
            'sender_port', sender_port, 'slot_name', slot_name,
            'received_tli', nullif(received_tli, 0), 'flushed_lsn', flushed_lsn,
            'last_msg_age_ms', greatest(0, (extract(epoch FROM
                clock_timestamp() - last_msg_receipt_time) * 1000)::int8))
        FROM receiver),
    'senders', (SELECT coalesce(json_agg(json_build_object(
            'pid', pid, 'application_name', coalesce(application_name, ''),
            'client_addr', host(client_addr), 'state', coalesce(state, ''),
            'sent_lsn', sent_lsn, 'flush_lsn', flush_lsn, 'replay_lsn', replay_lsn,
            'reply_age_ms', greatest(0, (extract(epoch FROM
                clock_timestamp() - reply_time) * 1000)::int8),
            'sync_priority', coalesce(sync_priority, 0),
            'sync_state', coalesce(sync_state, ''))), '[]')
        FROM pg_stat_replication),
    'slots', (SELECT coalesce(json_agg(json_build_object(
            'name', slot_name, 'physical', slot_type = 'physical', 'active', active,
            'restart_lsn', restart_lsn, 'wal_status', wal_status,
            'retained_bytes',
                greatest(0, pg_wal_lsn_diff(here.lsn, restart_lsn))::int8)), '[]')
        FROM pg_replication_slots),
    'synchronous_standby_names', current_setting('synchronous_standby_names'),
    'primary_conninfo', current_setting('primary_conninfo'),
    'conf_loaded_at_us', conf_loaded_at_us,
    'new_pending_restart', CASE WHEN conf_loaded_at_us <> $1 THEN
        (SELECT coalesce(json_agg(name), '[]') FROM pg_settings WHERE pending_restart) END,
    'sync_waiters', (SELECT count(*) FROM activity WHERE wait_event = 'SyncRep'),
    'clients', (SELECT count(*) FROM activity
        WHERE backend_type = 'client backend' AND application_name <> 'pgvigil'),
    'started_at_us', (extract(epoch FROM pg_postmaster_start_time()) * 1000000)::int8,
    'config_file', current_setting('config_file'),
    'delayed', current_setting('recovery_min_apply_delay') <> '0',
    'recovery_target', standby AND current_setting('recovery_target')
        || current_setting('recovery_target_lsn') || current_setting('recovery_target_name')
        || current_setting('recovery_target_time') || current_setting('recovery_target_xid') <> '',
    'limits', json_build_object(
        'max_connections', current_setting('max_connections')::int,
        'max_worker_processes', current_setting('max_worker_processes')::int,
        'max_wal_senders', current_setting('max_wal_senders')::int,
        'max_prepared_transactions', current_setting('max_prepared_transactions')::int,
        'max_locks_per_transaction', current_setting('max_locks_per_transaction')::int)
)::text
FROM base, here";

impl Session {
    /// Everything at once: 0.15 ms on an idle server.
    pub async fn status(&mut self, within: Duration) -> Result<SqlStatus, SqlError> {
        let what = "the status query";
        let mut result = self.status_text(what, within).await;
        if result.as_ref().is_err_and(|e| e.sqlstate().as_deref() == Some("55000")) {
            // "recovery is not in progress": promoted in the middle of the query.
            result = self.status_text(what, within).await;
        }
        let Answer { mut status, conf_loaded_at_us, new_pending_restart } =
            serde_json::from_str(&result?)
                .map_err(|e| SqlError::Unexpected { what, reason: e.to_string() })?;
        if let Some(names) = new_pending_restart {
            self.pending_restart = PendingRestart { conf_loaded_at_us, names };
        }
        status.pending_restart.clone_from(&self.pending_restart.names);
        status.primary_conninfo = without_password(&status.primary_conninfo);
        Ok(status)
    }

    async fn status_text(
        &mut self,
        what: &'static str,
        within: Duration,
    ) -> Result<String, SqlError> {
        let known = self.pending_restart.conf_loaded_at_us;
        self.run(what, within, async |conn| {
            sqlx::query_scalar(SQL).bind(known).fetch_one(conn).await
        })
        .await
    }
}

/// A connection string is shown and reported: without its password.
fn without_password(conninfo: &str) -> String {
    let Some(at) = conninfo.find("password=") else { return conninfo.to_owned() };
    let (before, value) = (&conninfo[..at], &conninfo[at + "password=".len()..]);
    let end = match value.strip_prefix('\'') {
        None => value.find(' ').unwrap_or(value.len()),
        Some(quoted) => {
            let mut escaped = false;
            let closing = quoted.char_indices().find(|(_, c)| {
                let closes = *c == '\'' && !escaped;
                escaped = *c == '\\' && !escaped;
                closes
            });
            closing.map_or(value.len(), |(at, _)| at + 2)
        }
    };
    format!("{before}{}", value[end..].trim_start()).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::without_password;
    use crate::guc::conninfo;

    #[test]
    fn no_password_is_shown() {
        for secret in ["plain", "it's", r"back\", r"\'", "with space", ""] {
            let text = conninfo([("host", "n1"), ("password", secret), ("user", "u v")]);
            assert_eq!(without_password(&text), "host=n1 user='u v'", "{text}");
        }
        assert_eq!(without_password("host=n1"), "host=n1");
        assert_eq!(without_password("password='open"), "");
    }
}
