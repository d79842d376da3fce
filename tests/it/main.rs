//! End-to-end scenarios: real daemons, real Postgres, real signals, real network cuts.
//!
//! Every scenario starts its own monitor and keepers ([`harness::Lab`]), lets outside writers keep
//! account of what was acknowledged ([`harness::Writers`]), does harm, and looks at the end for
//! every acknowledged row on every node. Every wait is a condition with a deadline.
//!
//! The scenarios run two at a time, whatever `--test-threads` says: they measure time, and more
//! clusters on two cores would measure each other.
//!
//! One of them: `cargo test -p vigil-tests --test it -- --nocapture a_frozen_primary`; the programs
//! must have been built. One theme: `… -- power_cuts::`.
//!
//! | variable | meaning |
//! |---|---|
//! | `PGVIGIL_BIN_DIR` | where the programs are; default `target/release`, then `target/debug` |
//! | `PGVIGIL_TEST_PG_BIN` | the PostgreSQL to use; default the newest below `/usr/lib/postgresql` |
//! | `PGVIGIL_TEST_ALL=1` | the long versions of the scenarios that repeat something |
//! | `PGVIGIL_TEST_KEEP=1` | keep the directory of a scenario that failed |
//! | `PGVIGIL_FAULT_SEED` | repeat a run of random faults |
//! | `PGVIGIL_NIGHT_MINUTES` | how long random faults go on in the long version; default 60 |

// A test may stop at once where a program may not.
#![allow(clippy::unwrap_used)]

mod harness;

mod harness_checks;

mod blind;
mod broken_conf;
mod busy;
mod command_line;
mod each_step;
mod effects;
mod endpoints;
mod explanations;
mod full_disks;
mod group_sizes;
mod idle_primary;
mod kept_from_harm;
mod lost_monitor;
mod lost_standbys;
mod maintenance;
mod membership;
mod node_faults;
mod operations;
mod partitions;
mod power_cuts;
mod random_faults;
mod settings;
mod start_errors;
mod take_over;
mod users_directory;
mod users_settings;
mod winners;
mod wrong_input;
