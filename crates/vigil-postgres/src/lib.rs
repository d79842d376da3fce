//! One local Postgres: its processes, data directory, configuration and SQL. Mechanism only: what
//! to do when is decided elsewhere. Everything that waits is bounded by the time its caller gives.
//!
//! Linux only (`/proc`, pidfds). PostgreSQL 13 to 18.
//!
//! | module | what it does |
//! |---|---|
//! | [`install`], [`user`] | which binaries, as which user |
//! | [`pgdata`], [`control`] | the directory, `pg_control`, timelines, markers |
//! | [`conf`], [`hba`] | the managed settings and access rules |
//! | [`broken_conf`] | lines for which Postgres refuses its whole configuration |
//! | [`process`] | start, adopt, stop, kill, watch |
//! | [`sql`] | status, probes, roles, slots over the Unix socket |
//! | [`receiver`], [`in_force`] | the pledge's and the sync rule's half that Postgres has to do |
//! | [`takeover`] | what stands against using a directory that is not ours |
//! | [`server_log`] | what the server says |
//! | [`standby`] | clone, rewind, keeping WAL |

mod auto_conf;
pub mod broken_conf;
mod children;
pub mod conf;
pub mod control;
mod crc32c;
pub mod durable;
mod error;
mod guc;
pub mod hba;
mod history;
pub mod in_force;
pub mod install;
mod mounts;
pub mod pgdata;
mod pidfile;
mod place;
pub mod process;
mod procfs;
#[cfg(test)]
mod real;
pub mod receiver;
pub mod server_log;
pub mod sql;
pub mod standby;
mod stop;
pub mod takeover;
#[cfg(test)]
mod testing;
mod tool;
pub mod user;
mod user_conf;
mod wal_tail;

pub use durable::Written;
pub use error::FileError;
pub use install::{Installation, RunAs};
pub use process::{Pid, Postmaster, Stop};
pub use sql::{Session, SqlStatus, Target};
pub use tool::{ToolError, kill_strays};
pub use wal_tail::WalTail;
