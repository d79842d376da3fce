//! Settings that users have, for good reasons or by an old habit, while all that a group does goes
//! on: clients feel them, the keepers' own sessions do not.

use std::fs;

use crate::harness::{Lab, Part, Writers, all_of_it, millis, secs};

/// Each of them keeps a session that takes what it finds from some of its work.
const SETTINGS: [(&str, &str); 27] = [
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("statement_timeout", "1"),
    ("lock_timeout", "1"),
    ("idle_in_transaction_session_timeout", "1"),
    ("search_path", "app"),
    ("row_security", "off"),
    ("password_encryption", "md5"),
    ("synchronous_commit", "remote_apply"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("transform_null_equals", "on"),
    ("exit_on_error", "on"),
    ("client_min_messages", "debug5"),
    ("bytea_output", "escape"),
    ("datestyle", "German"),
    ("intervalstyle", "sql_standard"),
    ("timezone", "Asia/Kathmandu"),
    ("extra_float_digits", "-15"),
    ("client_encoding", "LATIN1"),
    ("jit_above_cost", "0"),
    ("log_statement", "all"),
    ("track_activities", "off"),
    ("update_process_title", "on"),
    ("local_preload_libraries", "not_there"),
    ("wal_sender_timeout", "1h"),
];

/// Where a setting can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Role,
    AllRoles,
    Database,
    AlterSystem,
    File,
}

const LEVELS: [Level; 5] =
    [Level::Role, Level::AllRoles, Level::Database, Level::AlterSystem, Level::File];

impl Level {
    /// Sets everything there, on every node that it concerns.
    fn set(self, lab: &Lab) {
        match self {
            Level::File => {
                for node in lab.node_names() {
                    let file = lab.data_dir(&node).join("postgresql.conf");
                    let text = fs::read_to_string(&file).unwrap();
                    let lines: String =
                        SETTINGS.iter().flat_map(|(n, v)| [n, " = '", v, "'\n"]).collect();
                    // In place: the file stays postgres'.
                    fs::write(&file, lines + &text).unwrap();
                }
            }
            Level::AlterSystem => {
                for node in lab.node_names() {
                    self.each(lab, &node, "alter system set");
                }
            }
            Level::Role => self.each(lab, &lab.primary(), "alter role postgres set"),
            Level::AllRoles => self.each(lab, &lab.primary(), "alter role all set"),
            Level::Database => self.each(lab, &lab.primary(), "alter database postgres set"),
        }
        if matches!(self, Level::File | Level::AlterSystem) {
            for node in lab.node_names() {
                lab.sql(&node, "select pg_reload_conf()").unwrap();
            }
        }
    }

    fn each(self, lab: &Lab, node: &str, command: &str) {
        for (name, value) in SETTINGS {
            // Managed by the keeper where files are concerned.
            if self == Level::AlterSystem && name == "wal_sender_timeout" {
                continue;
            }
            lab.sql(node, &format!("{command} {name} = '{value}'")).unwrap();
        }
    }
}

/// What guides for hardening say, and what an application that may create something tries.
const HARDENING: [&str; 5] = [
    "revoke connect on database postgres from public",
    "revoke execute on function pg_is_in_recovery(), pg_tablespace_location(oid) from public",
    "create role app login; create schema app authorization app; grant create on schema public to app",
    "set role app; create function public.mul(numeric, integer) returns numeric language plpgsql as \
     $$ begin execute 'alter role app superuser'; return 0; end $$; \
     create operator public.* (leftarg = numeric, rightarg = integer, function = public.mul); \
     create operator app.* (leftarg = numeric, rightarg = integer, function = public.mul)",
    "alter role pgvigil_replicator nologin password null valid until '2001-01-01'",
];

fn is_in_order(lab: &Lab) -> bool {
    let sql = "select rolcanlogin and rolpassword like 'SCRAM-SHA-256$%' \
                      and has_database_privilege(oid, 'postgres', 'connect') \
                 from pg_authid where rolname = 'pgvigil_replicator'";
    lab.value(&lab.primary(), sql).as_deref() == Some("t")
}

/// Everything that changes who is who: planned, not planned, back again, a node more.
fn everything_goes_on(lab: &mut Lab, writers: &Writers) {
    lab.wait_until("the role of the standbys is in order", secs(20), || is_in_order(lab));
    lab.wait_until_whole(secs(30));
    let to = lab.others(&[&lab.primary()]).remove(0);
    lab.change(&["perform-switchover", "--to", &to]);
    lab.wait_until_whole(secs(40));
    assert!(is_in_order(lab) && lab.primary() == to);
    writers.wait_until_steady();

    lab.kill(&to, Part::All);
    lab.wait_for("another one takes over", secs(20), |s| s.primary().is_some_and(|p| p != to));
    writers.wait_for_writes(secs(20));
    lab.start(&to);
    lab.wait_until_whole(secs(60));
    lab.wait_until("the role of the standbys is in order", secs(20), || is_in_order(lab));
    // One after the other, so that only the primary's own rule lets commits go on.
    for standby in lab.others(&[&lab.primary()]) {
        lab.kill(&standby, Part::Postgres);
        lab.wait_until_whole(secs(40));
    }
    writers.wait_until_steady();
}

fn goes_on_with(levels: &[Level]) {
    let mut lab = Lab::builder().heartbeat(millis(250)).limit(secs(300)).start();
    let writers = lab.writers(2);
    writers.wait_until_steady();
    for statement in HARDENING {
        lab.sql("node1", statement).unwrap();
    }
    for level in levels {
        level.set(&lab);
    }
    everything_goes_on(&mut lab, &writers);
    let primary = lab.primary();
    lab.add_node("node4");
    lab.start("node4");
    lab.wait_until_whole(secs(60));
    let app = "select rolsuper from pg_roles where rolname = 'app'";
    assert_eq!(lab.value(&primary, app).as_deref(), Some("f"), "no rights were gained");
    writers.wait_until_steady();
    writers.verify_everywhere(&lab);
}

/// All of them at once, wherever they can be: what a setting breaks, it breaks also in company.
#[test]
fn whatever_users_set_a_group_goes_on() {
    goes_on_with(&LEVELS);
}

/// Each place alone: there one does not hide another.
#[test]
fn whatever_users_set_in_one_place_a_group_goes_on() {
    if !all_of_it() {
        return;
    }
    for level in LEVELS {
        println!("{level:?}");
        goes_on_with(&[level]);
    }
}
