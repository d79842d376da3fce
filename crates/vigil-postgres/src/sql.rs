//! SQL to the local server, over the Unix socket.

mod admin;
pub mod remote;
mod session;
mod slots;
mod status;

pub use admin::REWIND_FUNCTIONS;
pub use session::{Session, SqlError, Target};
pub use slots::SlotMade;
pub use status::{Receiver, Sender, Slot, SqlStatus};
