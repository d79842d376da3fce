//! WAL that is kept elsewhere: `pg_wal` as a link to another volume, or as a mount point. A copy's WAL
//! goes to the same volume from the beginning, into a directory inside of the old one, and moves up
//! once the copy has taken its place. Each state in between is a whole data directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::durable;
use crate::error::{At, FileError};
use crate::mounts;
use crate::place::{self, WAL};

#[derive(Debug)]
pub(super) struct WalDir {
    /// Where the WAL belongs.
    dir: PathBuf,
    /// Where the copy's WAL is made: inside of it.
    pub(super) new: PathBuf,
    /// What the link says; `None`: a mount point.
    link: Option<PathBuf>,
}

impl WalDir {
    /// `None`: it is a part of the data directory like any other.
    pub(super) fn of(pgdata: &Path) -> Option<Self> {
        let at = pgdata.join("pg_wal");
        let Ok(link) = fs::read_link(&at) else {
            let mounted = mounts::is_mount_point(&at);
            return mounted.then(|| WalDir { new: at.join(WAL), dir: at, link: None });
        };
        // A copy that has not moved up yet.
        let is_inner =
            link.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(WAL.as_bytes()));
        let outer = if is_inner { durable::parent(&link).to_owned() } else { link.clone() };
        let dir = pgdata.join(&outer);
        let first = dir.join(WAL);
        let in_use = is_inner && pgdata.join(&link) == first;
        let new = if in_use { dir.join(format!("{WAL}-2")) } else { first };
        Some(WalDir { dir, new, link: Some(outer) })
    }

    /// For `pg_basebackup`, which makes the directory and a link to it.
    pub(super) fn option(&self) -> String {
        format!("--waldir={}", self.new.display())
    }

    /// Removes what an attempt has left.
    pub(super) fn clear(&self) -> Result<(), FileError> {
        fs::create_dir_all(&self.dir).at("create", &self.dir)?;
        durable::give_to_owner_of_dir(&self.dir)?;
        place::remove_tree(&self.new)
    }

    /// The copy is in its place and links to [`WalDir::new`]: moves its WAL up and removes the old
    /// one's. A mount point was seen to when the copy was moved in.
    pub(super) fn move_up(&self, pgdata: &Path) -> Result<(), FileError> {
        let Some(link) = &self.link else { return Ok(()) };
        for entry in fs::read_dir(&self.dir).at("list", &self.dir)? {
            let entry = entry.at("list", &self.dir)?;
            if entry.path() != self.new && entry.file_name() != "lost+found" {
                place::remove_tree(&entry.path())?;
            }
        }
        // Both names are good until the link is replaced.
        link_all(&self.new, &self.dir)?;
        durable::sync_dir(&self.dir)?;
        let (at, temporary) = (pgdata.join("pg_wal"), pgdata.join("pgvigil.pg_wal"));
        place::remove_tree(&temporary)?;
        std::os::unix::fs::symlink(link, &temporary).at("create", &temporary)?;
        durable::give_to_owner_of_dir(&temporary)?;
        fs::rename(&temporary, &at).at("replace", &at)?;
        durable::sync_dir(pgdata)?;
        place::remove_tree(&self.new)
    }
}

fn link_all(from: &Path, into: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(from).at("list", from)? {
        let entry = entry.at("list", from)?;
        let (source, target) = (entry.path(), into.join(entry.file_name()));
        if entry.file_type().at("look at", &source)?.is_dir() {
            match fs::create_dir(&target) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(e).at("create", &target);
                }
                _ => {}
            }
            let mode = fs::metadata(&source).at("look at", &source)?.permissions();
            fs::set_permissions(&target, mode).at("change mode of", &target)?;
            durable::give_to_owner_of_dir(&target)?;
            link_all(&source, &target)?;
            durable::sync_dir(&target)?;
        } else {
            fs::hard_link(&source, &target).at("link", &target)?;
        }
    }
    Ok(())
}
