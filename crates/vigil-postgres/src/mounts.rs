//! Which directories are mount points. Two directories of one file system can be mounted over each
//! other (`mount --bind`, a container's volume), so device numbers do not tell.

use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// All mount points that this process sees; none where that cannot be told.
pub(crate) fn all() -> Vec<PathBuf> {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    // Field 5 is the mount point.
    let lines = text.split(|byte| *byte == b'\n');
    lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape).collect()
}

/// Whether something is mounted at `path` itself.
pub(crate) fn is_mount_point(path: &Path) -> bool {
    let Ok(real) = fs::canonicalize(path) else { return false };
    all().contains(&real)
}

/// The names in `dir` at which, or below which, something is mounted.
pub(crate) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let Ok(real) = fs::canonicalize(dir) else { return Vec::new() };
    let mut below: Vec<PathBuf> = all()
        .iter()
        .filter_map(|mount| mount.strip_prefix(&real).ok())
        .filter(|rest| !rest.as_os_str().is_empty())
        .map(Path::to_owned)
        .collect();
    below.sort();
    below.dedup();
    below
}

/// The kernel writes white space and backslashes as `\040`.
fn unescape(text: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let octal = text.get(at + 1..at + 4).filter(|_| text[at] == b'\\');
        let code = octal.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        bytes.push(code.unwrap_or(text[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found() {
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/self")));
        assert_eq!(unescape(br"/a\040b\134c"), Path::new(r"/a b\c"));
        assert!(mounts_below(Path::new("/")).contains(&PathBuf::from("proc")));
    }
}
