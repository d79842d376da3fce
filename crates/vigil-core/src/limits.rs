//! Settings that a standby must have at least as large as its primary has them: with less it stops
//! replaying, and after that does not start (PostgreSQL manual, "Administrator's Overview" of hot
//! standby).

use serde::{Deserialize, Serialize};

/// The five of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(clippy::struct_field_names, reason = "they are the names of the settings")]
pub struct Limits {
    pub max_connections: u32,
    pub max_worker_processes: u32,
    pub max_wal_senders: u32,
    pub max_prepared_transactions: u32,
    pub max_locks_per_transaction: u32,
}

impl Limits {
    /// What a server has that is told nothing.
    pub const DEFAULT: Limits = Limits {
        max_connections: 100,
        max_worker_processes: 8,
        max_wal_senders: 10,
        max_prepared_transactions: 0,
        max_locks_per_transaction: 64,
    };

    /// Names and values.
    pub fn settings(self) -> [(&'static str, u32); 5] {
        [
            ("max_connections", self.max_connections),
            ("max_worker_processes", self.max_worker_processes),
            ("max_wal_senders", self.max_wal_senders),
            ("max_prepared_transactions", self.max_prepared_transactions),
            ("max_locks_per_transaction", self.max_locks_per_transaction),
        ]
    }

    /// The one called `name`.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut u32> {
        Some(match name {
            "max_connections" => &mut self.max_connections,
            "max_worker_processes" => &mut self.max_worker_processes,
            "max_wal_senders" => &mut self.max_wal_senders,
            "max_prepared_transactions" => &mut self.max_prepared_transactions,
            "max_locks_per_transaction" => &mut self.max_locks_per_transaction,
            _ => return None,
        })
    }

    /// The larger one of each.
    #[must_use]
    pub fn max(self, other: Limits) -> Limits {
        let mut most = self;
        for (name, value) in other.settings() {
            if let Some(own) = most.get_mut(name) {
                *own = value.max(*own);
            }
        }
        most
    }

    /// Whether a standby with these can replay what a primary with `needed` writes.
    pub fn suffice_for(self, needed: Limits) -> bool {
        self.settings().iter().zip(needed.settings()).all(|((_, own), (_, needed))| *own >= needed)
    }
}
