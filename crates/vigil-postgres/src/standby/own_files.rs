//! The files in a data directory that are the node's own and not the cluster's: configuration, access
//! rules, certificates, whatever its user has put there. A rewind and a copy bring the source's.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::durable;
use crate::error::{At, FileError};
use crate::place;

/// Of one entry of the data directory with all that is in it, bytes: more is no configuration.
const SIZE_MAX: u64 = 4 << 20;
/// Of directories in each other.
const DEPTH_MAX: u32 = 8;

/// The server's, or about this one run of it.
const SERVERS: [&str; 17] = [
    "PG_VERSION",
    "backup_label",
    "backup_label.old",
    "backup_manifest",
    "base",
    "current_logfiles",
    "global",
    "log",
    "logrotate",
    "lost+found",
    "postmaster.opts",
    "postmaster.pid",
    "promote",
    "recovery.signal",
    "standby.signal",
    "tablespace_map",
    "tablespace_map.old",
];

/// Copies the own files of `from` into `into`, where they replace what has their names. Links stay
/// links. Returns the names that were left out because there is too much in them. Durable when it
/// returns.
pub fn copy_own_files(from: &Path, into: &Path) -> Result<Vec<String>, FileError> {
    let mut left_out = Vec::new();
    for name in own_names(from)? {
        let source = from.join(&name);
        if size(&source, DEPTH_MAX).is_none_or(|bytes| bytes > SIZE_MAX) {
            left_out.push(name.to_string_lossy().into_owned());
            continue;
        }
        let target = into.join(&name);
        place::remove_tree(&target)?;
        copy(&source, &target)?;
    }
    durable::sync_dir(into)?;
    Ok(left_out)
}

/// Puts the own files of `pgdata` aside into the new directory `aside`, whole or not at all, and
/// takes links among them away, which pg_rewind does not get over. Where there is an `aside`
/// already it is left alone: an attempt was broken off, and what `pgdata` has now may be the
/// source's.
pub fn put_own_files_aside(pgdata: &Path, aside: &Path) -> Result<Vec<String>, FileError> {
    let mut left_out = Vec::new();
    if !aside.exists() {
        let new = aside.with_extension("new");
        place::remove_tree(&new)?;
        fs::create_dir_all(&new).at("create", &new)?;
        durable::give_to_owner_of_dir(&new)?;
        left_out = copy_own_files(pgdata, &new)?;
        fs::rename(&new, aside).at("rename", &new)?;
        durable::sync_dir(durable::parent(aside))?;
    }
    for name in own_names(pgdata)? {
        if !left_out.iter().any(|left| name == OsStr::new(left)) {
            remove_links(&pgdata.join(name), DEPTH_MAX)?;
        }
    }
    Ok(left_out)
}

fn own_names(dir: &Path) -> Result<Vec<OsString>, FileError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e).at("list", dir),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.at("list", dir)?;
        let kind = entry.file_type().at("look at", &entry.path())?;
        let name = entry.file_name();
        if !is_servers(&name, kind.is_file())
            && (kind.is_file() || kind.is_dir() || kind.is_symlink())
        {
            names.push(name);
        }
    }
    Ok(names)
}

fn is_servers(name: &OsStr, is_file: bool) -> bool {
    let text = name.to_string_lossy();
    // Of ours, and a link or directory of the server's; `pg_hba.conf` and `pg_ident.conf` are files,
    // and may be links.
    let is_conf = text == "pg_hba.conf" || text == "pg_ident.conf";
    place::is_ours(name)
        || text.starts_with("pgvigil.")
        || SERVERS.contains(&text.as_ref())
        || text.starts_with("pg_") && !is_conf && !is_file
        || is_file && (text.ends_with(".log") || text.ends_with(".tmp") || text.starts_with("core"))
}

/// In bytes; `None` if it cannot be told or is nested too deep.
fn size(path: &Path, depth: u32) -> Option<u64> {
    let meta = fs::symlink_metadata(path).ok()?;
    if !meta.is_dir() {
        return Some(meta.len());
    }
    let mut sum = 0;
    for entry in fs::read_dir(path).ok()? {
        sum += size(&entry.ok()?.path(), depth.checked_sub(1)?)?;
        if sum > SIZE_MAX {
            return None;
        }
    }
    Some(sum)
}

fn copy(source: &Path, target: &Path) -> Result<(), FileError> {
    let meta = fs::symlink_metadata(source).at("look at", source)?;
    let mode = fs::Permissions::from_mode(meta.permissions().mode() & 0o7777);
    if meta.is_symlink() {
        let names = fs::read_link(source).at("read", source)?;
        std::os::unix::fs::symlink(names, target).at("create", target)?;
        return durable::give_to_owner_of_dir(target);
    }
    if meta.is_dir() {
        fs::create_dir(target).at("create", target)?;
        durable::give_to_owner_of_dir(target)?;
        for entry in fs::read_dir(source).at("list", source)? {
            let name = entry.at("list", source)?.file_name();
            copy(&source.join(&name), &target.join(&name))?;
        }
        fs::set_permissions(target, mode).at("change mode of", target)?;
        return durable::sync_dir(target);
    }
    if meta.is_file() {
        durable::write(target, &fs::read(source).at("read", source)?)?;
        fs::set_permissions(target, mode).at("change mode of", target)?;
    }
    Ok(())
}

fn remove_links(path: &Path, depth: u32) -> Result<(), FileError> {
    let meta = fs::symlink_metadata(path).at("look at", path)?;
    if meta.is_symlink() {
        return fs::remove_file(path).at("remove", path);
    }
    if meta.is_dir() && depth > 0 {
        for entry in fs::read_dir(path).at("list", path)? {
            remove_links(&entry.at("list", path)?.path(), depth - 1)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_users_files_go_with_the_node_and_the_servers_do_not() {
        let dir = TempDir::new();
        let at = |name: &str| dir.path().join(name);
        for name in ["data/conf.d", "data/base", "data/pg_wal", "data/big", "copy/conf.d"] {
            fs::create_dir_all(at(name)).unwrap();
        }
        let mine = ["postgresql.conf", "postgresql.auto.conf", "pg_ident.conf", "server.key"];
        for name in mine {
            fs::write(at("data").join(name), "mine \u{e9}").unwrap();
            fs::write(at("copy").join(name), "the source's").unwrap();
        }
        fs::set_permissions(at("data/server.key"), PermissionsExt::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("/etc/postgresql/pg_hba.conf", at("data/pg_hba.conf")).unwrap();
        fs::write(at("copy/pg_hba.conf"), "the source's").unwrap();
        fs::write(at("data/conf.d/a.conf"), "a").unwrap();
        fs::write(at("copy/conf.d/b.conf"), "b").unwrap();
        for name in ["PG_VERSION", "pgvigil.conf", "pgvigil.node", "backup_label", "base/1"] {
            fs::write(at("data").join(name), "the server's").unwrap();
        }
        fs::write(at("data/big/file"), vec![0; 5 << 20]).unwrap();

        assert_eq!(copy_own_files(&at("data"), &at("copy")).unwrap(), ["big"]);
        for name in mine {
            assert_eq!(fs::read_to_string(at("copy").join(name)).unwrap(), "mine \u{e9}");
        }
        let mode = fs::metadata(at("copy/server.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(
            fs::read_link(at("copy/pg_hba.conf")).unwrap(),
            Path::new("/etc/postgresql/pg_hba.conf")
        );
        assert!(at("copy/conf.d/a.conf").exists() && !at("copy/conf.d/b.conf").exists());
        for name in ["PG_VERSION", "pgvigil.conf", "pgvigil.node", "backup_label", "base", "pg_wal"]
        {
            assert!(!at("copy").join(name).exists(), "{name}");
        }
        assert_eq!(copy_own_files(&at("nowhere"), &at("copy")).unwrap(), [""; 0]);
    }

    #[test]
    fn what_was_put_aside_is_not_replaced_by_a_sources() {
        let dir = TempDir::new();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("data")).unwrap();
        std::os::unix::fs::symlink("/etc/x.conf", at("data/postgresql.conf")).unwrap();
        put_own_files_aside(&at("data"), &at("aside")).unwrap();
        assert!(!at("data/postgresql.conf").is_symlink(), "pg_rewind would stop there");
        fs::write(at("data/postgresql.conf"), "the source's").unwrap();
        put_own_files_aside(&at("data"), &at("aside")).unwrap();
        copy_own_files(&at("aside"), &at("data")).unwrap();
        assert!(at("data/postgresql.conf").is_symlink());
    }
}
