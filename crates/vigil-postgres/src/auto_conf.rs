//! `postgresql.auto.conf` (ALTER SYSTEM, `pg_basebackup -R`): it silently wins over our file.

use std::path::Path;

use crate::durable;
use crate::error::FileError;
use crate::guc;

const FILE: &str = "postgresql.auto.conf";

/// Which of `names` are set in `postgresql.auto.conf`, so that ours has no effect.
pub fn auto_conf_overrides(pgdata: &Path, names: &[String]) -> Result<Vec<String>, FileError> {
    let text = durable::read_text_opt(&pgdata.join(FILE))?.unwrap_or_default();
    let mut found: Vec<String> =
        text.lines().filter_map(guc::parse_line).map(|(name, _)| name).collect();
    found.retain(|name| names.iter().any(|n| n.eq_ignore_ascii_case(name)));
    found.sort();
    found.dedup();
    Ok(found)
}

/// Takes `names` out of `postgresql.auto.conf` and returns those that were there. For a stopped
/// server; a running one may write the file at any time: use `ALTER SYSTEM RESET` there
/// ([`crate::sql::Session::reset_system_setting`]).
pub fn strip_auto_conf(pgdata: &Path, names: &[String]) -> Result<Vec<String>, FileError> {
    let found = auto_conf_overrides(pgdata, names)?;
    if found.is_empty() {
        return Ok(found);
    }
    let path = pgdata.join(FILE);
    let old = durable::read_opt(&path)?.unwrap_or_default();
    let is_ours = |line: &str| guc::parse_line(line).is_some_and(|(name, _)| found.contains(&name));
    let mut kept = Vec::with_capacity(old.len());
    for (raw, _) in durable::lines(&old).filter(|(_, line)| !is_ours(line)) {
        durable::push_line(&mut kept, raw);
    }
    durable::write(&path, &kept)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn overrides_are_found_and_taken_out() {
        let dir = TempDir::new();
        let text =
            b"# Do not edit\nPort = '1'\nwork_mem = '1MB' # \xe9\nprimary_conninfo = 'x'\nport = '2'\n";
        std::fs::write(dir.path().join(FILE), text).unwrap();
        let names = ["port", "primary_conninfo", "hot_standby"].map(str::to_owned);
        assert_eq!(strip_auto_conf(dir.path(), &names).unwrap(), ["port", "primary_conninfo"]);
        assert_eq!(auto_conf_overrides(dir.path(), &names).unwrap(), [""; 0]);
        let text = std::fs::read(dir.path().join(FILE)).unwrap();
        assert_eq!(text, b"# Do not edit\nwork_mem = '1MB' # \xe9\n");
    }
}
