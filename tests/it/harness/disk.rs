//! File systems so small that a test can fill them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FallocateFlags, fallocate};

use super::{run, secs};

/// A file system of its own below the directory of a lab, which unmounts it at its end. For root
/// only.
#[derive(Clone)]
pub(crate) struct Disk {
    pub(crate) at: PathBuf,
}

impl Disk {
    /// Over a directory that is there, with the same owner.
    pub(crate) fn mount(at: &Path, megabytes: u32) -> Self {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(at).unwrap();
        let options =
            format!("size={megabytes}m,mode=755,uid={},gid={}", metadata.uid(), metadata.gid());
        run(
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "pgvigil-it"]).arg(at),
            secs(10),
        )
        .expect_code(0);
        Self { at: at.to_owned() }
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }

    /// Not a byte is left. Whoever frees some of it, or truncates a file, may write as much again.
    pub(crate) fn fill(&self) {
        let file = File::create(self.ballast()).unwrap();
        let mut length = 0;
        let mut piece = 1 << 30;
        while piece >= 4096 {
            match fallocate(&file, FallocateFlags::empty(), length, piece) {
                Ok(()) => length += piece,
                Err(_) => piece /= 2,
            }
        }
    }

    pub(crate) fn free(&self) {
        let _ = fs::remove_file(self.ballast());
    }
}

/// Unmounts what is mounted below a directory, the innermost first, also while it is in use.
pub(super) fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
    for point in points.filter(|point| Path::new(point).starts_with(dir)) {
        run(Command::new("umount").args(["--lazy", point]), secs(10));
    }
}
