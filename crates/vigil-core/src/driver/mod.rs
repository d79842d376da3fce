//! The two loops, free of I/O: inputs in, outputs out. The binaries connect them to sockets,
//! disks and Postgres; the simulator runs the very same code.

mod command;
pub mod group;
pub mod node;
