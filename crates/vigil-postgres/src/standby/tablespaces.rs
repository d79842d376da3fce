//! Where the tablespaces of a copy go. Their places are the same on every node, and the ones of an
//! older copy may still be there: `pg_basebackup` refuses a place that is not empty, and until the
//! new copy is whole the old one must stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{StandbyError, Upstream};
use crate::error::FileError;
use crate::place;
use crate::sql::remote;

/// A copy beside an older one is made in a directory of this name, with a number, inside of the
/// place. Postgres does not mind: it knows a tablespace by its link only.
const BESIDE: &str = ".pgvigil-";
const ASK_WITHIN: Duration = Duration::from_secs(5);

/// One tablespace of the upstream: where it is there, and where its copy goes here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) there: PathBuf,
    pub(super) here: PathBuf,
}

impl Mapping {
    /// For `pg_basebackup --tablespace-mapping`.
    pub(super) fn option(&self) -> String {
        let escape = |path: &Path| path.to_string_lossy().replace('=', "\\=");
        format!("--tablespace-mapping={}={}", escape(&self.there), escape(&self.here))
    }
}

/// Chooses a place for each tablespace of `upstream`; `pgdata` is what the copy will replace.
pub(super) async fn choose(
    upstream: &Upstream,
    pgdata: &Path,
) -> Result<Vec<Mapping>, StandbyError> {
    let in_use = targets(pgdata);
    let mut mappings = Vec::new();
    for there in remote::tablespaces(upstream, ASK_WITHIN).await? {
        let there = PathBuf::from(there);
        let here = place_for(&there, &in_use)?;
        mappings.push(Mapping { there, here });
    }
    Ok(mappings)
}

/// The places that the tablespaces of a data directory have.
pub(super) fn targets(pgdata: &Path) -> BTreeSet<PathBuf> {
    let links = fs::read_dir(pgdata.join("pg_tblspc")).into_iter().flatten().flatten();
    links.filter_map(|link| fs::read_link(link.path()).ok()).collect()
}

/// Empties the places of a copy that has been replaced, those of its successor excepted.
pub(super) fn clear(old: &BTreeSet<PathBuf>, new: &BTreeSet<PathBuf>) -> Result<(), FileError> {
    for place in old.difference(new) {
        if is_beside(place) {
            place::remove_tree(place)?;
            continue;
        }
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        for entry in entries.filter(|e| is_versioned(&e.file_name())) {
            place::remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

fn place_for(there: &Path, in_use: &BTreeSet<PathBuf>) -> Result<PathBuf, FileError> {
    let base = if is_beside(there) { crate::durable::parent(there) } else { there };
    let is_free = |path: &Path| fs::read_dir(path).is_ok_and(|mut d| d.next().is_none());
    if !base.exists() || is_free(base) && !in_use.contains(base) {
        return Ok(base.to_owned());
    }
    // What a copy that was broken off has left.
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        if is_beside(&entry.path()) && !in_use.contains(&entry.path()) {
            place::remove_tree(&entry.path())?;
        }
    }
    let numbered = |n: u32| base.join(format!("{BESIDE}{n}"));
    let mut n = 1;
    while numbered(n).exists() {
        n += 1;
    }
    Ok(numbered(n))
}

fn is_beside(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(BESIDE.as_bytes()))
}

/// `PG_15_202209061`: what a server makes in a tablespace's place.
fn is_versioned(name: &std::ffi::OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"PG_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_copy_never_goes_where_another_one_is() {
        let dir = TempDir::new();
        let base = dir.path().join("ts");
        let none = BTreeSet::new();
        assert_eq!(place_for(&base, &none).unwrap(), base, "it will be made");
        fs::create_dir(&base).unwrap();
        assert_eq!(place_for(&base, &none).unwrap(), base);
        fs::create_dir(base.join("PG_15_1")).unwrap();
        let first = place_for(&base, &none).unwrap();
        assert_eq!(first, base.join(".pgvigil-1"));
        fs::create_dir(&first).unwrap();
        let used = BTreeSet::from([first.clone()]);
        // The same whichever of both the upstream has.
        let second = place_for(&first, &used).unwrap();
        assert_eq!(second, base.join(".pgvigil-2"));
        assert_eq!(place_for(&base, &none).unwrap(), first, "nobody's: made anew");
        fs::create_dir_all(&first).unwrap();
        fs::create_dir_all(&second).unwrap();
        clear(&BTreeSet::from([base.clone(), first.clone()]), &BTreeSet::from([second.clone()]))
            .unwrap();
        assert!(!base.join("PG_15_1").exists() && !first.exists() && second.exists());
    }

    #[test]
    fn the_option_is_quoted() {
        let mapping = Mapping { there: "/a=b".into(), here: "/c".into() };
        assert_eq!(mapping.option(), "--tablespace-mapping=/a\\=b=/c");
    }
}
