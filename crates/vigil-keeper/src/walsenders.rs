//! Whether a postmaster still has walsenders, from the titles of its children.

use std::fs;

use vigil_postgres::process::Pid;

/// No walsender process lives.
pub(crate) fn none(postmaster: Pid) -> bool {
    let pid = postmaster.as_raw_pid();
    let path = format!("/proc/{pid}/task/{pid}/children");
    let Ok(children) = fs::read_to_string(path) else {
        // Exited, or a kernel without this file: then only the exit tells.
        return false;
    };
    !children.split_whitespace().any(|child| {
        let title = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        is_walsender(&String::from_utf8_lossy(&title))
    })
}

/// `postgres: walsender user host(port) streaming 0/5000000`, with `cluster_name: ` before it
/// where that is set.
fn is_walsender(title: &str) -> bool {
    title.starts_with("postgres: ") && title.contains(": walsender ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles() {
        assert!(is_walsender("postgres: walsender repl 10.0.0.1(5000) streaming 0/5000000"));
        assert!(is_walsender("postgres: main: walsender repl 10.0.0.1(5000) idle"));
        assert!(!is_walsender("postgres: walreceiver streaming 0/5000000"));
        assert!(!is_walsender("postgres: checkpointer"));
    }
}
