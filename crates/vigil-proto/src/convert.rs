//! The messages of the types of `vigil-core`.

mod command;
mod enums;
mod goal;
mod message;
mod view;
