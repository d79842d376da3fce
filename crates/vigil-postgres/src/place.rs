//! Where a new data directory is built, and how it takes the place of the old one.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

use crate::durable;
use crate::error::{At, FileError};
use crate::mounts;

/// The mode of a data directory that a group may read; but for 0700 no other is allowed.
const GROUP_MODE: u32 = 0o750;
/// Where the WAL of a copy is made when it belongs on another volume: a directory in the old one.
pub(crate) const WAL: &str = ".pgvigil-wal";
/// Directories that may be mount points inside of a data directory and hold nothing of the cluster:
/// they stay as they are.
const NO_DATA: [&str; 4] = ["log", "pg_log", "pg_stat_tmp", "lost+found"];

/// A directory under construction for `pgdata`.
pub(crate) enum Place {
    /// `<pgdata>.<suffix>`, to be renamed.
    Beside { dir: PathBuf, pgdata: PathBuf },
    /// `<pgdata>/.pgvigil-<suffix>`, its entries to be moved up: `pgdata` is a mount point, or we
    /// may not write beside it.
    Inside { dir: PathBuf, pgdata: PathBuf },
}

impl Place {
    pub(crate) fn choose(pgdata: &Path, suffix: &str) -> Result<Self, FileError> {
        let mut name = pgdata.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{suffix}"));
        let beside = pgdata.with_file_name(name);
        let pgdata = pgdata.to_owned();
        // A link is kept: what it names may be another file system.
        let is_link = fs::symlink_metadata(&pgdata).is_ok_and(|m| m.file_type().is_symlink());
        let parent = durable::parent(&pgdata);
        let is_other_device = match (fs::metadata(&pgdata), fs::metadata(parent)) {
            (Ok(own), Ok(above)) => own.dev() != above.dev(),
            _ => false,
        };
        // What is mounted inside would go with the old directory.
        let inside = mounts::mounts_below(&pgdata);
        let may_be_mounted = |name: &Path| NO_DATA.iter().any(|n| name.starts_with(n));
        if let Some(name) = inside
            .iter()
            .find(|name| *name != Path::new("pg_wal") && is_servers(name) && !may_be_mounted(name))
        {
            let busy = io::Error::from(io::ErrorKind::ResourceBusy);
            return Err(busy).at("replace the mount point", &pgdata.join(name));
        }
        let is_mount = is_other_device || mounts::is_mount_point(&pgdata) || !inside.is_empty();
        let may_write = rustix::fs::access(parent, rustix::fs::Access::WRITE_OK).is_ok();
        if is_link || is_mount || (!may_write && pgdata.exists()) {
            return Ok(Place::Inside { dir: pgdata.join(format!(".pgvigil-{suffix}")), pgdata });
        }
        fs::create_dir_all(parent).at("create", parent)?;
        Ok(Place::Beside { dir: beside, pgdata })
    }

    pub(crate) fn dir(&self) -> &Path {
        match self {
            Place::Beside { dir, .. } | Place::Inside { dir, .. } => dir,
        }
    }

    /// Makes the directory new and empty, 0700.
    pub(crate) fn clear(&self) -> Result<(), FileError> {
        use std::os::unix::fs::DirBuilderExt;
        remove_tree(self.dir())?;
        fs::DirBuilder::new().mode(0o700).create(self.dir()).at("create", self.dir())?;
        durable::give_to_owner_of_dir(self.dir())
    }

    /// Puts the finished directory in the place of `pgdata`. What was there is moved to `keep_at`
    /// or removed. A crash leaves the old one, the new one, or something that is no cluster.
    pub(crate) fn move_in(self, keep_at: Option<&Path>) -> Result<(), FileError> {
        match self {
            Place::Beside { dir, pgdata } => move_in_beside(&dir, &pgdata, keep_at),
            Place::Inside { dir, pgdata } => move_in_inside(&dir, &pgdata, keep_at),
        }
    }
}

fn move_in_beside(dir: &Path, pgdata: &Path, keep_at: Option<&Path>) -> Result<(), FileError> {
    if pgdata.exists() {
        use rustix::io::Errno;
        let swapped = rustix::fs::renameat_with(CWD, dir, CWD, pgdata, RenameFlags::EXCHANGE);
        if let Err(e) = swapped
            && !matches!(e, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
        {
            // Nothing was touched. The other way would fail too, half-way.
            return Err(e).at("replace", pgdata);
        }
        if swapped.is_ok() {
            durable::sync_dir(durable::parent(pgdata))?;
            // Now `dir` is the old one.
            return match keep_at {
                Some(old) => fs::rename(dir, old).at("move the old data directory to", old),
                None => remove_tree(dir),
            }
            .and_then(|()| durable::sync_dir(durable::parent(pgdata)));
        }
        // Not every file system can exchange two names.
        match keep_at {
            Some(old) => fs::rename(pgdata, old).at("move the old data directory to", old)?,
            None => remove_tree(pgdata)?,
        }
    }
    fs::rename(dir, pgdata).at("move the new data directory to", pgdata)?;
    durable::sync_dir(durable::parent(pgdata))
}

fn move_in_inside(dir: &Path, pgdata: &Path, keep_at: Option<&Path>) -> Result<(), FileError> {
    // First and last what makes it a cluster: half of the way there is no PG_VERSION.
    let is_identity = |name: &std::ffi::OsStr| name == "PG_VERSION";
    let skip = |name: &std::ffi::OsStr| {
        // `.pgvigil…`: what is under construction, and old data directories that were kept.
        name == "lost+found" || is_ours(name) || is_identity(name)
    };
    let mounted = mounts::mounts_below(pgdata);
    let mounted = |name: &std::ffi::OsStr| mounted.iter().any(|mount| mount.starts_with(name));
    let retire = |name: &std::ffi::OsStr| -> Result<(), FileError> {
        let path = pgdata.join(name);
        if mounted(name) {
            return if name == "pg_wal" { retire_wal(&path, keep_at) } else { Ok(()) };
        }
        match keep_at {
            Some(old) => fs::rename(&path, old.join(name)).at("move aside", &path),
            None => remove_tree(&path),
        }
    };
    if let Some(old) = keep_at {
        fs::create_dir_all(old).at("create", old)?;
    }
    if pgdata.join("PG_VERSION").exists() {
        retire("PG_VERSION".as_ref())?;
        durable::sync_dir(pgdata)?;
    }
    for name in names(pgdata)? {
        if !skip(&name) {
            retire(&name)?;
        }
    }
    for name in names(dir)?.iter().filter(|name| !is_identity(name)) {
        if mounted(name) {
            if name == "pg_wal" {
                move_up_wal(&pgdata.join(name))?;
            }
            continue;
        }
        fs::rename(dir.join(name), pgdata.join(name)).at("move up", &dir.join(name))?;
    }
    // A mount point has often been made by somebody who did not know that.
    let mode = fs::metadata(pgdata).at("look at", pgdata)?.permissions().mode() & 0o777;
    if mode != 0o700 && mode != GROUP_MODE {
        let only_ours = fs::Permissions::from_mode(0o700);
        fs::set_permissions(pgdata, only_ours).at("change mode of", pgdata)?;
    }
    durable::sync_dir(pgdata)?;
    let version = dir.join("PG_VERSION");
    fs::rename(&version, pgdata.join("PG_VERSION")).at("move up", &version)?;
    durable::sync_dir(pgdata)?;
    remove_tree(dir)
}

/// The old WAL below a mount point, but not the new one that waits there.
fn retire_wal(dir: &Path, keep_at: Option<&Path>) -> Result<(), FileError> {
    for name in names(dir)? {
        if is_ours(&name) || name == "lost+found" {
            continue;
        }
        let path = dir.join(&name);
        match keep_at {
            // Another file system, so it stays in a directory of its own here.
            Some(old) => {
                let mut aside = std::ffi::OsString::from(".pgvigil-");
                aside.push(old.file_name().unwrap_or_default());
                let aside = dir.join(aside);
                fs::create_dir_all(&aside).at("create", &aside)?;
                fs::rename(&path, aside.join(&name)).at("move aside", &path)?;
            }
            None => remove_tree(&path)?,
        }
    }
    Ok(())
}

fn move_up_wal(dir: &Path) -> Result<(), FileError> {
    let new = dir.join(WAL);
    for name in names(&new)? {
        fs::rename(new.join(&name), dir.join(&name)).at("move up", &new.join(&name))?;
    }
    durable::sync_dir(dir)?;
    remove_tree(&new)
}

/// Whether a name in a data directory is one of the server's own directories.
fn is_servers(name: &Path) -> bool {
    let text = name.to_string_lossy();
    text.starts_with("pg_") || text.starts_with("base") || text.starts_with("global")
}

/// Gives a new data directory the mode that the old one has: 0700, or 0750 with all files readable
/// for the group.
pub(crate) fn take_mode(dir: &Path, old: &Path) -> Result<(), FileError> {
    let Ok(meta) = fs::metadata(old) else { return Ok(()) };
    let mode = meta.permissions().mode();
    if mode & 0o777 == GROUP_MODE { open_to_group(dir) } else { Ok(()) }
}

fn open_to_group(path: &Path) -> Result<(), FileError> {
    let meta = fs::symlink_metadata(path).at("look at", path)?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mode = meta.permissions().mode() & 0o7777;
    let wanted = mode | if meta.is_dir() { 0o050 } else { 0o040 };
    if wanted != mode {
        let wanted = fs::Permissions::from_mode(wanted);
        fs::set_permissions(path, wanted).at("change mode of", path)?;
    }
    if meta.is_dir() {
        for name in names(path)? {
            open_to_group(&path.join(name))?;
        }
    }
    Ok(())
}

/// A path beside (or, on a mount point, inside) `pgdata` that is free: `<pgdata>.old-1`, `-2`, ….
pub(crate) fn free_old_name(place: &Place) -> PathBuf {
    let (base, pgdata, inside) = match place {
        Place::Beside { pgdata, .. } => (pgdata.file_name().unwrap_or_default(), pgdata, false),
        Place::Inside { pgdata, .. } => (".pgvigil".as_ref(), pgdata, true),
    };
    let named = |n: u32| {
        let mut name = base.to_owned();
        name.push(format!(".old-{n}"));
        if inside { pgdata.join(name) } else { pgdata.with_file_name(name) }
    };
    let mut n = 1;
    while named(n).exists() {
        n += 1;
    }
    named(n)
}

/// Whether a name in a data directory is of our making and no part of the cluster.
pub(crate) fn is_ours(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".pgvigil")
}

fn names(dir: &Path) -> Result<Vec<std::ffi::OsString>, FileError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).at("list", dir)? {
        names.push(entry.at("list", dir)?.file_name());
    }
    Ok(names)
}

/// Removes a file or a directory with all that is in it; nothing there is fine.
pub(crate) fn remove_tree(path: &Path) -> Result<(), FileError> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.at("remove", path),
    }
}
