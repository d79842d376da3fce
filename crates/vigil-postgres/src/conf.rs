//! The settings that pgvigil manages: one file in the data directory, included last.

use std::path::Path;

use serde::{Deserialize, Serialize};
use vigil_core::limits::Limits;

use crate::durable::{self, Written};
use crate::error::{At, FileError};
use crate::guc;
use crate::user_conf;

pub use crate::auto_conf::{auto_conf_overrides, strip_auto_conf};
pub use crate::guc::{conninfo, quote};
pub use crate::user_conf::bring_in;

/// The managed file, in the data directory. Mode 0600: it may hold a password.
pub const FILE: &str = "pgvigil.conf";

const INCLUDE: &str = "include_if_exists = 'pgvigil.conf'";

/// What the managed file says. Plain data: [`ManagedConf::render`] adds our baseline.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagedConf {
    /// Of the server that will read it: some settings came later than 13.
    pub major: u32,
    /// `listen_addresses`.
    pub listen: String,
    pub port: u16,
    /// `unix_socket_directories`.
    pub socket_dir: String,
    /// Never empty on a node that should be synchronous: empty → non-empty takes effect only when
    /// the checkpointer gets to it.
    pub synchronous_standby_names: String,
    /// Empty: no receiver.
    pub primary_conninfo: String,
    pub primary_slot_name: Option<String>,
    /// At least; what `postgresql.conf` says wins when it is more (see [`ManagedConf::respect`]).
    pub max_wal_senders: u32,
    pub max_replication_slots: u32,
    /// More settings, or others than the baseline's: the last one wins.
    pub extra: Vec<(String, String)>,
}

/// Without the password that `primary_conninfo` may hold.
impl std::fmt::Debug for ManagedConf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ManagedConf")
            .field("major", &self.major)
            .field("listen", &self.listen)
            .field("port", &self.port)
            .field("socket_dir", &self.socket_dir)
            .field("synchronous_standby_names", &self.synchronous_standby_names)
            .field("has_primary_conninfo", &!self.primary_conninfo.is_empty())
            .field("primary_slot_name", &self.primary_slot_name)
            .field("extra", &self.extra)
            .finish_non_exhaustive()
    }
}

impl ManagedConf {
    pub fn new(major: u32, port: u16, socket_dir: &str) -> Self {
        ManagedConf {
            major,
            listen: "*".to_owned(),
            port,
            socket_dir: socket_dir.to_owned(),
            synchronous_standby_names: String::new(),
            primary_conninfo: String::new(),
            primary_slot_name: None,
            max_wal_senders: 16,
            max_replication_slots: 16,
            extra: Vec::new(),
        }
    }

    /// Takes over from `postgresql.conf` what is the user's to say: larger limits, and how much WAL
    /// may be kept. Limits that are below those of the primary, whose WAL this directory has, are
    /// raised: with them a standby would stop replaying, or not start at all. So are those below
    /// `room`, which another node of the group has.
    pub fn respect(&mut self, pgdata: &Path, room: Option<Limits>) -> Result<(), FileError> {
        let theirs = user_conf::settings(pgdata)?;
        let number = |name: &str| theirs.get(name).and_then(|v| v.parse::<u32>().ok());
        let senders = number("max_wal_senders").unwrap_or(0);
        let slots = number("max_replication_slots").unwrap_or(0);
        self.max_wal_senders = self.max_wal_senders.max(senders);
        self.max_replication_slots = self.max_replication_slots.max(slots);
        if theirs.get("wal_level").is_some_and(|level| level == "minimal") {
            self.extra.push(("wal_level".to_owned(), "replica".to_owned()));
        }
        for name in ["max_slot_wal_keep_size", "wal_keep_size"] {
            if let Some(value) = theirs.get(name).filter(|value| *value != "-1") {
                self.extra.push((name.to_owned(), value.clone()));
            }
        }
        // Below the number of all connections a server does not start.
        let connections = number("max_connections").unwrap_or(Limits::DEFAULT.max_connections);
        let others = number("reserved_connections").unwrap_or(0);
        let wanted = number("superuser_reserved_connections").unwrap_or(0).max(RESERVED);
        let reserved = wanted.min(connections.saturating_sub(others + 1));
        if reserved != RESERVED {
            let name = "superuser_reserved_connections".to_owned();
            self.extra.push((name, reserved.to_string()));
        }
        // No control file: nothing to replay yet.
        let replayed = crate::control::read(pgdata).ok().map(|control| control.limits);
        let Some(needed) = replayed.into_iter().chain(room).reduce(Limits::max) else {
            return Ok(());
        };
        self.max_wal_senders = self.max_wal_senders.max(needed.max_wal_senders);
        let mut own = Limits::DEFAULT;
        for (name, needed) in needed.settings() {
            let Some(own) = own.get_mut(name) else { continue };
            *own = number(name).unwrap_or(*own);
            if *own < needed && name != "max_wal_senders" {
                self.extra.push((name.to_owned(), needed.to_string()));
            }
        }
        Ok(())
    }

    /// Names and values in the order of the file.
    pub fn settings(&self) -> Vec<(String, String)> {
        let mut all: Vec<(String, String)> = Vec::new();
        let mut set = |name: &str, value: &str| {
            all.retain(|(n, _)| n != name);
            all.push((name.to_owned(), value.to_owned()));
        };
        set("listen_addresses", &self.listen);
        set("port", &self.port.to_string());
        set("unix_socket_directories", &self.socket_dir);
        set("synchronous_standby_names", &self.synchronous_standby_names);
        set("primary_conninfo", &self.primary_conninfo);
        set("primary_slot_name", self.primary_slot_name.as_deref().unwrap_or(""));
        for (name, value, since) in BASELINE {
            if self.major >= *since {
                set(name, value);
            }
        }
        for (name, _) in NEVER_IN_A_GROUP.iter().filter(|(_, gone)| self.major < *gone) {
            set(name, "");
        }
        set("max_wal_senders", &self.max_wal_senders.to_string());
        set("max_replication_slots", &self.max_replication_slots.to_string());
        for (name, value) in &self.extra {
            set(&name.to_ascii_lowercase(), value);
        }
        all
    }

    /// The names of [`ManagedConf::settings`]: what must not be overridden elsewhere.
    pub fn names(&self) -> Vec<String> {
        self.settings().into_iter().map(|(name, _)| name).collect()
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let head = "# Written by pgvigil at each change of role: edit postgresql.conf instead.\n";
        let line = |(name, value): &(String, String)| format!("{name} = {}\n", guc::quote(value));
        let lines: String = self.settings().iter().map(line).collect();
        format!("{head}{lines}")
    }

    /// Writes the file, atomically and durably, when it differs. The server sees it at the next
    /// start or reload.
    pub fn write(&self, pgdata: &Path) -> Result<Written, FileError> {
        durable::write_if_changed(&pgdata.join(FILE), self.render().as_bytes())
    }
}

/// Connections that are kept for superusers: a keeper's own.
const RESERVED: u32 = 5;

/// Settings that fast and safe failovers need: name, value, first major version that has it.
/// `wal_level` and `synchronous_commit` are the user's.
const BASELINE: &[(&str, &str, u32)] = &[
    ("hot_standby", "on", 13),
    // pg_rewind needs it where there are no checksums.
    ("wal_log_hints", "on", 13),
    // After a crash the keeper decides what comes next, not the postmaster.
    ("restart_after_crash", "off", 13),
    ("recovery_target_timeline", "latest", 13),
    // The price of one failed attempt to stream; 5 s by default.
    ("wal_retrieve_retry_interval", "100ms", 13),
    ("wal_sender_timeout", "2s", 13),
    ("wal_receiver_timeout", "2s", 13),
    ("wal_receiver_status_interval", "1s", 13),
    // Otherwise a start after a crash opens and syncs each file.
    ("recovery_init_sync_method", "syncfs", 14),
    // Filling new segments with zeros is half of a promotion.
    ("wal_init_zero", "off", 13),
    // RESERVED
    ("superuser_reserved_connections", "5", 13),
    ("wal_keep_size", "256MB", 13),
    // Slots of a node that is gone must not fill the disk.
    ("max_slot_wal_keep_size", "4GB", 13),
    // Seconds, seconds, attempts, milliseconds.
    ("tcp_keepalives_idle", "1", 13),
    ("tcp_keepalives_interval", "1", 13),
    ("tcp_keepalives_count", "3", 13),
    ("tcp_user_timeout", "3000", 13),
    ("log_recovery_conflict_waits", "on", 14),
    ("log_line_prefix", "%m [%p] %q%u@%d/%a ", 13),
];

/// Settings that must be empty, whoever sets them, and the first major version that has them no
/// more. A standby with a recovery target goes on receiving and acknowledging WAL that its promotion
/// would throw away: promoted, it ends at the target.
const NEVER_IN_A_GROUP: &[(&str, u32)] = &[
    ("recovery_target", u32::MAX),
    ("recovery_target_lsn", u32::MAX),
    ("recovery_target_name", u32::MAX),
    ("recovery_target_time", u32::MAX),
    ("recovery_target_xid", u32::MAX),
    // Whoever may make this file promotes behind the monitor's back.
    ("promote_trigger_file", 16),
    // It is called several times in each promotion: 15-250 ms.
    ("restore_command", u32::MAX),
    // Both are of a recovery from an archive, which a member of a group does not do. The one would
    // remove from the archive what a restore needs, the other holds a promotion up.
    ("archive_cleanup_command", u32::MAX),
    ("recovery_end_command", u32::MAX),
];

/// Makes our include the last setting of `postgresql.conf`, so that it wins; makes the file where
/// there is none (a clone of a cluster that keeps its configuration elsewhere).
pub fn ensure_included(pgdata: &Path) -> Result<Written, FileError> {
    let path = pgdata.join("postgresql.conf");
    let old = durable::read_opt(&path)?.unwrap_or_default();
    let is_ours = |line: &str| line.trim().starts_with(INCLUDE);
    let is_content = |line: &str| !line.trim().is_empty() && !line.trim().starts_with('#');
    let mut last = durable::lines(&old).rev().filter(|(_, line)| is_content(line));
    let is_last = last.next().is_some_and(|(_, line)| is_ours(&line));
    if is_last && durable::lines(&old).filter(|(_, line)| is_ours(line)).count() == 1 {
        return Ok(Written::Unchanged);
    }
    let mut new = Vec::with_capacity(old.len() + 100);
    for (raw, _) in durable::lines(&old).filter(|(_, line)| !is_ours(line)) {
        durable::push_line(&mut new, raw);
    }
    new.extend_from_slice(INCLUDE.as_bytes());
    new.extend_from_slice(b"\t# pgvigil: keep this line last\n");
    durable::write_if_changed(&path, &new)
}

/// The text of the managed file as it is; after a rewind or a clone it is the source's.
pub fn read_raw(pgdata: &Path) -> Result<String, FileError> {
    let path = pgdata.join(FILE);
    std::fs::read_to_string(&path).at("read", &path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn rendering_and_idempotence() {
        let dir = TempDir::new();
        let mut conf = ManagedConf::new(15, 5499, "/tmp");
        conf.synchronous_standby_names = r#"ANY 1 ("node 2", "it's")"#.to_owned();
        conf.primary_conninfo = guc::conninfo([("host", "n1"), ("password", "a'b\\c")]);
        conf.extra.push(("wal_keep_size".to_owned(), "1GB".to_owned()));
        std::fs::write(dir.path().join("postgresql.conf"), "max_wal_senders = 40 # many").unwrap();
        conf.respect(dir.path(), None).unwrap();
        let text = conf.render();
        for line in [
            "port = '5499'",
            r#"synchronous_standby_names = 'ANY 1 ("node 2", "it''s")'"#,
            r"primary_conninfo = 'host=n1 password=''a\\''b\\\\c'''",
            "primary_slot_name = ''",
            "wal_keep_size = '1GB'",
            "max_wal_senders = '40'",
            "recovery_init_sync_method = 'syncfs'",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(!text.contains("256MB") && !text.contains("wal_level"));
        assert!(!ManagedConf::new(13, 1, "/").render().contains("recovery_init_sync_method"));
        assert!(text.contains("promote_trigger_file = ''"));
        assert!(!ManagedConf::new(16, 1, "/").render().contains("promote_trigger_file"));
        assert_eq!(conf.write(dir.path()).unwrap(), Written::Changed);
        assert_eq!(conf.write(dir.path()).unwrap(), Written::Unchanged);
        assert!(!format!("{conf:?}").contains("a'b"), "no password in debug output");
    }

    #[test]
    fn the_include_stays_last() {
        let dir = TempDir::new();
        let path = dir.path().join("postgresql.conf");
        assert_eq!(ensure_included(dir.path()).unwrap(), Written::Changed);
        assert_eq!(ensure_included(dir.path()).unwrap(), Written::Unchanged);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}# a comment may follow\n")).unwrap();
        assert_eq!(ensure_included(dir.path()).unwrap(), Written::Unchanged);
        std::fs::write(&path, format!("{text}port = 1")).unwrap();
        assert_eq!(ensure_included(dir.path()).unwrap(), Written::Changed);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("port = 1\ninclude_if_exists = 'pgvigil.conf'"), "{text}");
        assert_eq!(text.matches("include_if_exists").count(), 1);
        std::fs::write(&path, b"cluster_name = 'caf\xe9'\r\n").unwrap();
        ensure_included(dir.path()).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes.starts_with(b"cluster_name = 'caf\xe9'\r\ninclude"), "in its own encoding");
    }
}
