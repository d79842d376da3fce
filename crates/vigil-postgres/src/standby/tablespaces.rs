//! Where the tablespaces of a copy go. Their places are the same on every node, and the ones of an
//! older copy may still be there: `pg_basebackup` refuses a place that is not empty, and until the
//! new copy is whole the old one must stay.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{StandbyError, Upstream};
use crate::crc32c::crc32c;
use crate::error::FileError;
use crate::place;
use crate::sql::remote;

/// What the names of places of our making have after the name of the place that they stand for (a
/// directory beside it), or begin with (inside of it, where we may not write beside it). After it
/// comes whose it is, and a number. Postgres does not mind: it knows a tablespace by its link only.
const OURS: &str = ".pgvigil-";
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
    let own = Own::of(pgdata);
    let mut mappings = Vec::new();
    for (_, there) in remote::tablespaces(upstream, ASK_WITHIN).await? {
        let there = PathBuf::from(there);
        let here = own.place_for(&there)?;
        mappings.push(Mapping { there, here });
    }
    Ok(mappings)
}

/// A rewind removes what the source does not have, also below the links of tablespaces, and makes
/// the links that are missing as the source has them. On a machine with several nodes either may
/// be the place of another one; a copy ([`choose`]) keeps away from those.
pub(super) async fn check_rewind(upstream: &Upstream, pgdata: &Path) -> Result<(), StandbyError> {
    let own = Own::of(pgdata);
    for place in &own.in_use {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        if entries.map(|e| e.path()).any(|path| name_of(&path).starts_with(OURS)) {
            return Err(StandbyError::SharedPlace(place.clone()));
        }
    }
    for (oid, there) in remote::tablespaces(upstream, ASK_WITHIN).await? {
        let there = PathBuf::from(there);
        let is_known = pgdata.join("pg_tblspc").join(oid.to_string()).exists();
        if !is_known && !is_free(&there) {
            return Err(StandbyError::SharedPlace(there));
        }
    }
    Ok(())
}

/// The places that the tablespaces of a data directory have.
pub(super) fn targets(pgdata: &Path) -> BTreeSet<PathBuf> {
    let links = fs::read_dir(pgdata.join("pg_tblspc")).into_iter().flatten().flatten();
    links.filter_map(|link| fs::read_link(link.path()).ok()).collect()
}

/// Empties the places of a copy that has been replaced, those of its successor excepted.
pub(super) fn clear(old: &BTreeSet<PathBuf>, new: &BTreeSet<PathBuf>) -> Result<(), FileError> {
    for place in old.difference(new) {
        if is_ours(place) {
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

/// The data directory that a copy is for.
struct Own {
    /// The places of its tablespaces.
    in_use: BTreeSet<PathBuf>,
    /// Begins the numbers of places that were made for it, so that no other node's on this machine
    /// are taken for what a broken-off copy has left.
    tag: String,
}

impl Own {
    fn of(pgdata: &Path) -> Self {
        let path = fs::canonicalize(pgdata).unwrap_or_else(|_| pgdata.to_owned());
        let tag = format!("{:08x}-", crc32c(path.as_os_str().as_encoded_bytes()));
        Own { in_use: targets(pgdata), tag }
    }

    fn place_for(&self, there: &Path) -> Result<PathBuf, FileError> {
        let base = base_of(there);
        if is_free(&base) && !self.in_use.contains(&base) {
            return Ok(base);
        }
        self.remove_leftovers(&base)?;
        let dir = crate::durable::parent(&base);
        let beside = rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok();
        let numbered = |n: u32| {
            let suffix = format!("{OURS}{}{n}", self.tag);
            if beside {
                base.with_file_name(format!("{}{suffix}", name_of(&base)))
            } else {
                base.join(suffix)
            }
        };
        let mut n = 1;
        while numbered(n).exists() {
            n += 1;
        }
        Ok(numbered(n))
    }

    /// Of copies for this very directory that came to nothing.
    fn remove_leftovers(&self, base: &Path) -> Result<(), FileError> {
        let inside = fs::read_dir(base).into_iter().flatten().flatten();
        let beside = fs::read_dir(crate::durable::parent(base)).into_iter().flatten().flatten();
        let (inner, outer) =
            (format!("{OURS}{}", self.tag), format!("{}{OURS}{}", name_of(base), self.tag));
        for path in inside.chain(beside).map(|entry| entry.path()) {
            let name = name_of(&path);
            let ours = name.starts_with(&inner) || name.starts_with(&outer);
            if ours && !self.in_use.contains(&path) {
                place::remove_tree(&path)?;
            }
        }
        Ok(())
    }
}

/// The place that one of our making stands for.
fn base_of(place: &Path) -> PathBuf {
    let name = name_of(place);
    match name.find(OURS) {
        Some(0) => crate::durable::parent(place).to_owned(),
        Some(at) => place.with_file_name(&name[..at]),
        None => place.to_owned(),
    }
}

fn is_free(path: &Path) -> bool {
    !path.exists() || fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none())
}

fn is_ours(place: &Path) -> bool {
    base_of(place) != place
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
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
        let (mut one, mut other) = (Own::of(Path::new("/data/n1")), Own::of(Path::new("/data/n2")));
        assert_eq!(one.place_for(&base).unwrap(), base, "it will be made");
        fs::create_dir(&base).unwrap();
        assert_eq!(one.place_for(&base).unwrap(), base);
        fs::create_dir(base.join("PG_15_1")).unwrap();
        one.in_use.insert(base.clone());
        let first = other.place_for(&base).unwrap();
        assert_eq!(first.parent(), base.parent(), "not in the other node's: a rewind empties that");
        fs::create_dir_all(first.join("PG_15_1")).unwrap();
        other.in_use.insert(first.clone());
        // The same whichever of both the upstream has.
        let second = other.place_for(&first).unwrap();
        assert_eq!(base_of(&second), base);
        assert_ne!(second, first);
        fs::create_dir_all(&second).unwrap();
        let again = other.place_for(&first).unwrap();
        assert_eq!(again, second, "what was broken off is made anew");
        assert!(!second.exists());
        let third = one.place_for(&first).unwrap();
        assert!(third != first && first.exists(), "not ours to remove");
        fs::create_dir_all(&second).unwrap();
        clear(&other.in_use, &BTreeSet::from([second.clone()])).unwrap();
        assert!(base.join("PG_15_1").exists() && !first.exists() && second.exists());
        clear(&one.in_use, &BTreeSet::from([third])).unwrap();
        assert!(!base.join("PG_15_1").exists() && base.exists());
    }

    #[test]
    fn a_place_inside_of_another_is_known_too() {
        assert_eq!(base_of(Path::new("/x/ts/.pgvigil-1")), Path::new("/x/ts"));
        assert_eq!(base_of(Path::new("/x/ts.pgvigil-00ff00ff-1")), Path::new("/x/ts"));
        assert_eq!(base_of(Path::new("/x/ts")), Path::new("/x/ts"));
    }

    #[test]
    fn the_option_is_quoted() {
        let mapping = Mapping { there: "/a=b".into(), here: "/c".into() };
        assert_eq!(mapping.option(), "--tablespace-mapping=/a\\=b=/c");
    }
}
