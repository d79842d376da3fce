//! What every daemon of ours does alike at its start and at its end.
//!
//! | module | what it does |
//! |---|---|
//! | [`options`] | the command line and the environment become a configuration |
//! | [`values`] | values that several programs take |
//! | [`log`] | the log, on stderr |
//! | [`signals`] | the requests to stop |
//! | [`descriptors`] | how many files and sockets may be open at once |
//! | [`failure`] | how a program ends: what it prints, its exit code |
//!
//! A `main` is `vigil_daemon::end(start())`, where `start` returns `Result<(), Stop>`.

pub mod descriptors;
pub mod failure;
pub mod log;
pub mod options;
pub mod signals;
pub mod values;

pub use failure::{Exit, Failure, Stop, end};
