//! The pure core of pgvigil: plain data in, plain data out. No async, no I/O, no clock, no
//! randomness. Monitor, keeper, `pgctl explain` and the simulator run the same functions.
//!
//! Reading order: [`wal`], [`rule`] and [`group`] are the nouns; [`message`] what is said;
//! Then the monitor's mind and the keeper's.
pub mod command;
pub mod decide;
pub mod detect;
pub mod driver;
pub mod election;
pub mod event;
pub mod explain;
pub mod facts;
pub mod goals;
pub mod group;
pub mod ids;
pub mod limits;
pub mod message;
pub mod mutation;
pub mod node;
pub mod room;
pub mod rule;
pub mod state;
pub mod sync;
pub mod view;
pub mod wal;
pub mod winner;
pub mod words;
