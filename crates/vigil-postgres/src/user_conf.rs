//! The user's own settings: `postgresql.conf` with what it includes, and a configuration that is
//! kept outside of the data directory, as Debian does.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::error::{At, FileError};
use crate::guc;

const CONF: &str = "postgresql.conf";
/// Of files that include each other.
const DEPTH_MAX: u32 = 10;
/// Settings that name the places of files. A copy has its files where it is itself.
const PLACES: [&str; 4] = ["data_directory", "hba_file", "ident_file", "external_pid_file"];

/// Names and values as the server would read them, without the managed file.
pub(crate) fn settings(pgdata: &Path) -> Result<BTreeMap<String, String>, FileError> {
    let mut found = BTreeMap::new();
    collect(&pgdata.join(CONF), DEPTH_MAX, &mut found)?;
    Ok(found)
}

/// As [`settings`], from outside where the data directory has none, and what `ALTER SYSTEM` or a tool
/// has set.
pub(crate) fn all(pgdata: &Path, major: u32) -> Result<BTreeMap<String, String>, FileError> {
    let own = pgdata.join(CONF);
    let outside = if own.exists() { None } else { find_outside(pgdata, major) };
    let mut found = BTreeMap::new();
    collect(&outside.unwrap_or(own), DEPTH_MAX, &mut found)?;
    collect(&pgdata.join("postgresql.auto.conf"), 0, &mut found)?;
    Ok(found)
}

fn collect(file: &Path, depth: u32, into: &mut BTreeMap<String, String>) -> Result<(), FileError> {
    let text = durable::read_text_opt(file)?.unwrap_or_default();
    for line in text.lines() {
        if let Some((name, value)) = guc::parse_line(line) {
            into.insert(name, value);
        } else if let Some(include) = Include::parse(line)
            && depth > 0
        {
            for file in include.files(durable::parent(file)) {
                if !file.ends_with(crate::conf::FILE) {
                    collect(&file, depth - 1, into)?;
                }
            }
        }
    }
    Ok(())
}

/// `include`, `include_if_exists` or `include_dir`.
struct Include {
    is_dir: bool,
    path: String,
}

impl Include {
    fn parse(line: &str) -> Option<Self> {
        let line = line.trim_start();
        let rest = line.strip_prefix("include")?;
        let (is_dir, rest) = if let Some(rest) = rest.strip_prefix("_dir") {
            (true, rest)
        } else {
            (false, rest.strip_prefix("_if_exists").unwrap_or(rest))
        };
        let path = guc::parse_value(rest.trim_start().trim_start_matches('=').trim_start());
        (!path.is_empty()).then_some(Include { is_dir, path })
    }

    /// The files that are meant, seen from `dir`, in the order in which the server reads them.
    fn files(&self, dir: &Path) -> Vec<PathBuf> {
        let path = dir.join(&self.path);
        if !self.is_dir {
            return vec![path];
        }
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let is_conf = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            name.ends_with(b".conf") && !name.starts_with(b".")
        };
        let mut files: Vec<PathBuf> = entries.map(|e| e.path()).filter(is_conf).collect();
        files.sort();
        files
    }
}

/// Copies a configuration that is kept outside of `pgdata` into it, so that it goes with the data:
/// clones get it, and one server on the machine is like another. What is outside stays as it is.
/// Returns where it came from; `None` when the data directory has its own, or none is found.
pub fn bring_in(pgdata: &Path, major: u32) -> Result<Option<PathBuf>, FileError> {
    if pgdata.join(CONF).exists() {
        return Ok(None);
    }
    let Some(outside) = find_outside(pgdata, major) else { return Ok(None) };
    let mut settings = BTreeMap::new();
    collect(&outside, DEPTH_MAX, &mut settings)?;
    for (setting, name) in [("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")] {
        let from =
            settings.get(setting).map_or_else(|| outside.with_file_name(name), PathBuf::from);
        if let Some(bytes) = durable::read_opt(&from)? {
            durable::write(&pgdata.join(name), &bytes)?;
        }
    }
    let mut text = format!("# Copied from {} by pgvigil.\n", outside.display()).into_bytes();
    flatten(&outside, DEPTH_MAX, &mut text)?;
    // Last: with it the copy is complete.
    durable::write(&pgdata.join(CONF), &text)?;
    Ok(Some(outside))
}

/// One file made of all that `file` includes.
fn flatten(file: &Path, depth: u32, into: &mut Vec<u8>) -> Result<(), FileError> {
    let bytes = fs::read(file).at("read", file)?;
    for (raw, line) in durable::lines(&bytes) {
        let named = guc::parse_line(&line).is_some_and(|(name, _)| PLACES.contains(&name.as_str()));
        match Include::parse(&line) {
            Some(include) if depth > 0 => {
                for file in include.files(durable::parent(file)).iter().filter(|f| f.exists()) {
                    into.extend(format!("# From {}:\n", file.display()).into_bytes());
                    flatten(file, depth - 1, into)?;
                }
            }
            _ if named => {
                into.push(b'#');
                durable::push_line(into, raw);
            }
            _ => durable::push_line(into, raw),
        }
    }
    Ok(())
}

/// Where the last server of `pgdata` had its configuration, or Debian's place for it.
fn find_outside(pgdata: &Path, major: u32) -> Option<PathBuf> {
    let opts = fs::read_to_string(pgdata.join("postmaster.opts")).unwrap_or_default();
    let named = opts.split('"').filter_map(|arg| arg.strip_prefix("config_file=")).next_back();
    if let Some(path) = named.map(PathBuf::from).filter(|path| path.exists()) {
        return Some(path);
    }
    let clusters = fs::read_dir(format!("/etc/postgresql/{major}")).into_iter().flatten().flatten();
    let canonical = |path: &Path| fs::canonicalize(path).ok();
    clusters.map(|cluster| cluster.path().join(CONF)).find(|conf| {
        let mut settings = BTreeMap::new();
        let read = collect(conf, DEPTH_MAX, &mut settings);
        let of = settings.get("data_directory").and_then(|dir| canonical(Path::new(dir)));
        read.is_ok() && of.is_some() && of == canonical(pgdata)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn includes_are_followed_and_the_last_setting_wins() {
        let dir = TempDir::new();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        write(
            CONF,
            "port = 1\nmax_connections = 50\ninclude_dir 'conf.d'\ninclude_if_exists = 'pgvigil.conf'\n",
        );
        write("conf.d/b.conf", "max_connections = 300\n");
        write("conf.d/a.conf", "max_connections = 200\ninclude = '../a.inc'\n");
        write("a.inc", "work_mem = '5MB'\n");
        write("pgvigil.conf", "port = 2\n");
        let found = settings(dir.path()).unwrap();
        assert_eq!(found.get("max_connections").map(String::as_str), Some("300"));
        assert_eq!(found.get("work_mem").map(String::as_str), Some("5MB"));
        assert_eq!(found.get("port").map(String::as_str), Some("1"));
    }

    #[test]
    fn a_configuration_outside_is_copied_whole() {
        let dir = TempDir::new();
        let (etc, data) = (dir.path().join("etc"), dir.path().join("data"));
        fs::create_dir_all(etc.join("conf.d")).unwrap();
        fs::create_dir(&data).unwrap();
        let conf = format!(
            "data_directory = '{}'\nhba_file = '{}'\nwork_mem = '5MB'\ninclude_dir = 'conf.d'\n",
            data.display(),
            etc.join("pg_hba.conf").display()
        );
        fs::write(etc.join(CONF), conf).unwrap();
        fs::write(etc.join("pg_hba.conf"), "local all all peer\n").unwrap();
        fs::write(etc.join("conf.d/one.conf"), "shared_buffers = '16MB'\n").unwrap();
        let opts =
            format!("postgres \"-D\" \"d\" \"-c\" \"config_file={}\"\n", etc.join(CONF).display());
        fs::write(data.join("postmaster.opts"), opts).unwrap();
        assert_eq!(bring_in(&data, 15).unwrap(), Some(etc.join(CONF)));
        let found = settings(&data).unwrap();
        assert_eq!(found.get("shared_buffers").map(String::as_str), Some("16MB"));
        assert!(!found.contains_key("data_directory") && !found.contains_key("hba_file"));
        let hba = fs::read_to_string(data.join("pg_hba.conf")).unwrap();
        assert_eq!(hba, "local all all peer\n");
        assert_eq!(bring_in(&data, 15).unwrap(), None, "only once");
    }
}
