//! What a data directory that pgvigil did not make may hold that is not for us to decide about.
//! Nothing is changed here.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::FileError;
use crate::pgdata::{has_recovery_signal, has_standby_signal};
use crate::user_conf;

/// Why a directory cannot be taken over as it is, and what to do about that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub reason: String,
    pub remedy: String,
}

/// Whether a restored backup waits here for its recovery, or is in the middle of it. Started as a
/// node it would not fetch what is in its archive, and then overwrite that. `runs`: a server does.
pub fn unfinished_recovery(
    pgdata: &Path,
    major: u32,
    runs: bool,
) -> Result<Option<Obstacle>, FileError> {
    let standby = has_standby_signal(pgdata);
    let backup = pgdata.join("backup_label").exists();
    let settings = user_conf::all(pgdata, major)?;
    let is_target = |name: &str| name.starts_with("recovery_target");
    let harmless = ["recovery_target_timeline", "recovery_target_action"];
    let harmless = |name: &str| harmless.contains(&name) || name == "recovery_target_inclusive";
    let target = settings.iter().find(|(n, v)| is_target(n) && !harmless(n) && !v.is_empty());
    let reason = if has_recovery_signal(pgdata) {
        "it has a recovery.signal: a restored backup whose recovery is not finished".to_owned()
    } else if backup && !standby && !runs {
        "it has a backup_label: a copy or a backup that was never started".to_owned()
    } else if let Some((name, value)) = target.filter(|_| standby || backup) {
        format!("its recovery is to end at {name} = '{value}'")
    } else {
        return Ok(None);
    };
    let remedy = "finish the recovery first: start the server without pgvigil, wait until it accepts \
                  writes, stop it; then start this keeper";
    Ok(Some(Obstacle { reason, remedy: remedy.to_owned() }))
}

/// Whether `postgresql.conf` in the data directory names files elsewhere that the server would read
/// instead of those beside it, which hold what we write.
pub fn files_elsewhere(pgdata: &Path) -> Result<Option<Obstacle>, FileError> {
    let settings = user_conf::settings(pgdata)?;
    Ok(elsewhere(pgdata, &settings).map(|(name, place, own)| Obstacle {
        reason: format!("its postgresql.conf says {name} = '{}'", place.display()),
        remedy: match own {
            Some(own) => format!("move that file to {} and take the setting out", own.display()),
            None => "name that directory with --pgdata, or take the setting out".to_owned(),
        },
    }))
}

type Elsewhere = (&'static str, PathBuf, Option<PathBuf>);

fn elsewhere(pgdata: &Path, settings: &BTreeMap<String, String>) -> Option<Elsewhere> {
    let own_files =
        [("data_directory", ""), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")];
    own_files.into_iter().find_map(|(name, file)| {
        let value = settings.get(name).filter(|value| !value.is_empty())?;
        let own = pgdata.join(file);
        let place = pgdata.join(value);
        let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let differs = real(&place) != real(&own);
        differs.then_some((name, place, (!file.is_empty()).then_some(own)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_recovery_that_is_to_be_finished_is_seen() {
        let dir = TempDir::new();
        let at = |name: &str| dir.path().join(name);
        let put = |name: &str, text: &str| fs::write(at(name), text).unwrap();
        let reason = |runs| {
            unfinished_recovery(dir.path(), 15, runs).unwrap().map(|o| o.reason).unwrap_or_default()
        };
        put("postgresql.conf", "recovery_target_timeline = latest\nrecovery_target_lsn = '0/9'\n");
        assert_eq!(reason(false), "", "no recovery is pending: the setting means nothing");
        put("standby.signal", "");
        assert!(reason(false).contains("recovery_target_lsn = '0/9'"));
        put("postgresql.conf", "");
        assert_eq!(reason(false), "", "a standby");
        put("backup_label", "START");
        assert_eq!(reason(false), "", "a standby that was never started");
        put("postgresql.auto.conf", "recovery_target_time = '2026-01-01'\n");
        assert!(reason(false).contains("recovery_target_time"));
        fs::remove_file(at("standby.signal")).unwrap();
        assert!(reason(false).contains("backup_label"));
        put("postgresql.auto.conf", "");
        assert_eq!(reason(true), "", "a primary during an exclusive backup");
        put("recovery.signal", "");
        assert!(reason(true).contains("recovery.signal"));
    }

    #[test]
    fn files_in_other_places_are_named() {
        let dir = TempDir::new();
        let conf = dir.path().join("postgresql.conf");
        fs::write(dir.path().join("pg_hba.conf"), "").unwrap();
        fs::write(&conf, "hba_file = 'pg_hba.conf'\n").unwrap();
        assert_eq!(files_elsewhere(dir.path()).unwrap(), None);
        let text = format!("data_directory = '{}'\n", dir.path().display());
        fs::write(&conf, text).unwrap();
        assert_eq!(files_elsewhere(dir.path()).unwrap(), None);
        fs::write(&conf, "ident_file = '/etc/postgresql/pg_ident.conf'\n").unwrap();
        let found = files_elsewhere(dir.path()).unwrap().unwrap();
        assert!(found.reason.contains("ident_file = '/etc/postgresql/pg_ident.conf'"), "{found:?}");
    }
}
