//! Small files that survive a power loss: temporary file, fsync, rename, fsync of the directory.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{At, FileError};

/// What a write did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Changed,
    Unchanged,
}

impl Written {
    pub fn changed(self) -> bool {
        self == Written::Changed
    }
}

/// Replaces `path` by `bytes`, atomically and durably. An existing file keeps its mode, a new one
/// gets 0600. A symlink is followed, so that the file it names is replaced and not the link.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    let path = &follow(path)?;
    let dir = parent(path);
    let temporary = temporary_name(path);
    let mode = fs::metadata(path).map_or(0o600, |m| m.permissions().mode() & 0o7777);
    let result = fill(&temporary, bytes, mode)
        .and_then(|()| fs::rename(&temporary, path).at("replace", path));
    if result.is_err() {
        // Best effort: the error that counts is the first one.
        let _ = fs::remove_file(&temporary);
    }
    result?;
    sync_dir(dir)
}

/// As [`write()`], but never replaces a file: `false` when there is one, also when it comes to be at
/// this very moment.
pub(crate) fn write_new(path: &Path, bytes: &[u8]) -> Result<bool, FileError> {
    let temporary = temporary_name(path);
    // A hard link is made only where no file is, and the content is complete by then.
    let result =
        fill(&temporary, bytes, 0o600).and_then(|()| match fs::hard_link(&temporary, path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(e) => Err(e).at("create", path),
        });
    // Best effort: a leftover has a name that nobody reads.
    let _ = fs::remove_file(&temporary);
    let written = result?;
    sync_dir(parent(path))?;
    Ok(written)
}

/// As [`write()`], but leaves the file alone when it holds `bytes` already.
pub fn write_if_changed(path: &Path, bytes: &[u8]) -> Result<Written, FileError> {
    match read_opt(path)? {
        Some(old) if old == bytes => Ok(Written::Unchanged),
        _ => write(path, bytes).map(|()| Written::Changed),
    }
}

/// Removes a file and makes the removal durable; `false` when there was none.
pub fn remove(path: &Path) -> Result<bool, FileError> {
    match fs::remove_file(path) {
        Ok(()) => sync_dir(parent(path)).map(|()| true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).at("remove", path),
    }
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir).and_then(|d| d.sync_all()).at("fsync directory", dir)
}

/// The content of a file, `None` when it does not exist.
pub(crate) fn read_opt(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).at("read", path),
    }
}

/// As [`read_opt`], as text; bytes that are no UTF-8 are kept out of sight, not an error. For what we
/// wrote, and for looking at what users wrote: what is written back is made of [`lines`].
pub(crate) fn read_text_opt(path: &Path) -> Result<Option<String>, FileError> {
    Ok(read_opt(path)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The lines of a user's file as they are, with their ends, and as text to look at. Users' files are
/// in whatever encoding they are in.
pub(crate) fn lines(bytes: &[u8]) -> impl DoubleEndedIterator<Item = (&[u8], Cow<'_, str>)> {
    let end = bytes.len();
    let starts = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1);
    let mut ends: Vec<usize> = starts.collect();
    if ends.last() != Some(&end) && end > 0 {
        ends.push(end);
    }
    let starts: Vec<usize> = std::iter::once(0).chain(ends.iter().copied()).collect();
    starts.into_iter().zip(ends).map(|(from, to)| {
        let raw = &bytes[from..to];
        (raw, String::from_utf8_lossy(raw))
    })
}

/// Appends a line as it is; only an end that is missing is added.
pub(crate) fn push_line(into: &mut Vec<u8>, raw: &[u8]) {
    into.extend_from_slice(raw);
    if raw.last() != Some(&b'\n') {
        into.push(b'\n');
    }
}

/// Gives a file that root made to the owner of its directory: Postgres runs as somebody else, and
/// a file that it cannot write makes `pg_rewind` fail half-way.
pub(crate) fn give_to_owner_of_dir(path: &Path) -> Result<(), FileError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let dir = fs::metadata(parent(path)).at("read", parent(path))?;
    std::os::unix::fs::lchown(path, Some(dir.uid()), Some(dir.gid())).at("change owner of", path)
}

pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir.as_os_str().is_empty() => Path::new("."),
        Some(dir) => dir,
        None => Path::new("/"),
    }
}

fn fill(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .at("create", path)?;
    file.set_permissions(fs::Permissions::from_mode(mode)).at("change mode of", path)?;
    give_to_owner_of_dir(path)?;
    file.write_all(bytes).at("write", path)?;
    file.sync_all().at("fsync", path)
}

fn follow(path: &Path) -> Result<PathBuf, FileError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_symlink() => fs::canonicalize(path).at("resolve", path),
        _ => Ok(path.to_owned()),
    }
}

/// A name beside `path` that no other writer uses: a leftover of a crash must not be in the way.
fn temporary_name(path: &Path) -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let nanos = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.subsec_nanos());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{count}-{nanos}.tmp", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_write_keeps_the_mode_and_follows_a_link() {
        let dir = TempDir::new();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        write(&file, b"one").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(write_if_changed(&link, b"two").unwrap(), Written::Changed);
        assert_eq!(write_if_changed(&link, b"two").unwrap(), Written::Unchanged);
        assert_eq!(fs::read(&file).unwrap(), b"two");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
        assert!(remove(&link).unwrap());
        assert!(!remove(&link).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }
}
