//! SQL to the local server, over the Unix socket.

mod admin;
mod files;
mod pinned;
pub mod remote;
mod session;
mod slots;
mod status;

pub use admin::RoleState;
pub use files::UnusableLine;
pub use pinned::superuser_settings;
pub(crate) use pinned::{replication_options, tool_options};
pub use session::{Refusal, Session, SqlError, Target};
pub use slots::SlotMade;
pub use status::{Receiver, Sender, Slot, SqlStatus};
