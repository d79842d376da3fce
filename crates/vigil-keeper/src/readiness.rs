//! What a server writes about itself into `postmaster.pid`. A connection to one that is starting
//! or stopping is refused, and every refusal costs it a process.

use std::path::Path;

use vigil_postgres::process::Pid;

/// Whether it is of no use to connect now.
pub(crate) fn would_refuse(pgdata: &Path, postmaster: Pid) -> bool {
    let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).unwrap_or_default();
    // Without the file nothing is known: connecting tells.
    matches!(status(&text, postmaster), Some("starting" | "stopping"))
}

/// Line 8, if the file is of this process.
fn status(text: &str, postmaster: Pid) -> Option<&str> {
    let mut lines = text.lines();
    let pid: i32 = lines.next()?.trim().parse().ok()?;
    (pid == postmaster.as_raw_pid()).then_some(())?;
    lines.nth(6).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts_if_it_is_of_this_server() {
        let text = "4711\n/data\n1700000000\n5432\n/tmp\nlocalhost\n  5432001  65537\nstopping\n";
        let pid = |n| Pid::from_raw(n).unwrap();
        assert_eq!(status(text, pid(4711)), Some("stopping"));
        assert_eq!(status(text, pid(4712)), None);
        assert_eq!(status("4711\n/data\n", pid(4711)), None);
    }
}
