//! Whether a directory has changed.

use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Names, owners, modes and contents of everything below a directory.
pub(crate) fn fingerprint(dir: &Path) -> u64 {
    fn add(path: &Path, hash: &mut DefaultHasher) {
        let Ok(metadata) = fs::symlink_metadata(path) else {
            "nothing".hash(hash);
            return;
        };
        path.hash(hash);
        (metadata.mode(), metadata.uid(), metadata.gid()).hash(hash);
        if metadata.is_dir() {
            let mut entries: Vec<PathBuf> =
                fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
            entries.sort();
            for entry in &entries {
                add(entry, hash);
            }
        } else if metadata.is_file() {
            let mut bytes = Vec::new();
            fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
            bytes.hash(hash);
        }
    }
    let mut hash = DefaultHasher::new();
    add(dir, &mut hash);
    hash.finish()
}
