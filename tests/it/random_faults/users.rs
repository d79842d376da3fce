//! Users who change settings of their own while all else goes on. Whatever they set stays.

use std::fs::OpenOptions;
use std::io::Write;

use rustix::process::Signal;

use crate::harness::{Lab, Random};

/// What a user may set for sessions that are not ours. Not among them is what makes the test's own
/// writers fail, or acknowledges commits that nobody has.
const SETTINGS: [(&str, &str); 26] = [
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_deferrable", "on"),
    ("statement_timeout", "20s"),
    ("lock_timeout", "15s"),
    ("idle_in_transaction_session_timeout", "1ms"),
    ("tcp_user_timeout", "30s"),
    ("password_encryption", "md5"),
    ("search_path", "public, pg_catalog"),
    ("row_security", "off"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("escape_string_warning", "off"),
    ("bytea_output", "escape"),
    ("datestyle", "German, DMY"),
    ("intervalstyle", "sql_standard"),
    ("timezone", "Asia/Kathmandu"),
    ("extra_float_digits", "-15"),
    ("client_min_messages", "error"),
    ("check_function_bodies", "off"),
    ("quote_all_identifiers", "on"),
    ("transform_null_equals", "on"),
    ("array_nulls", "off"),
    ("work_mem", "64kB"),
    ("enable_seqscan", "off"),
    ("xmlbinary", "hex"),
    ("default_toast_compression", "pglz"),
];

/// Sets one of them somewhere, and says what.
pub(crate) fn change_a_setting(lab: &Lab, random: &mut Random, primary: &str) -> String {
    let (name, value) = SETTINGS[random.index(SETTINGS.len())];
    let quoted = if name == "search_path" || name == "datestyle" {
        value.to_owned()
    } else {
        format!("'{value}'")
    };
    let statement = match random.index(5) {
        0 => format!("alter role postgres set {name} to {quoted}"),
        1 => format!("alter role all set {name} to {quoted}"),
        2 => format!("alter database postgres set {name} to {quoted}"),
        3 => format!("alter system set {name} to {quoted}"),
        _ => {
            let nodes = lab.node_names();
            let node = &nodes[random.index(nodes.len())];
            into_the_file(lab, node, name, value);
            return format!("{name} = '{value}' in the file of {node}");
        }
    };
    // Refused while the primary is changing: users try again another day.
    match lab.sql(primary, &statement).and_then(|_| lab.sql(primary, "select pg_reload_conf()")) {
        Ok(_) => statement,
        Err(why) => format!("nothing ({why})"),
    }
}

fn into_the_file(lab: &Lab, node: &str, name: &str, value: &str) {
    let path = lab.data_dir(node).join("postgresql.conf");
    // At its end, behind our include: the user's word is the last.
    if let Ok(mut file) = OpenOptions::new().append(true).open(path) {
        writeln!(file, "{name} = '{value}'").unwrap();
    }
    if let Some(postmaster) = lab.postmaster(node) {
        postmaster.signal(Signal::HUP);
    }
}
