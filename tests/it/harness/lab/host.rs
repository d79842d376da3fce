//! One machine of the lab: the monitor or a node.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::harness::Disk;
use crate::harness::process::{self, Owned, Process};

/// What of a node a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The keeper (or the monitor's program), Postgres, and whatever they have started.
    All,
    /// The keeper (or the monitor's program) alone.
    Keeper,
    /// Every process of the data directory.
    Postgres,
    /// The postmaster alone: its backends go on for a while.
    Postmaster,
}

pub(super) struct Host {
    pub(super) name: String,
    pub(super) home: PathBuf,
    pub(super) data: PathBuf,
    pub(super) pg_port: u16,
    pub(super) http: SocketAddr,
    pub(super) ip: IpAddr,
    pub(super) program: &'static str,
    pub(super) args: Vec<String>,
    pub(super) daemon: Option<Owned>,
    pub(super) frozen: Vec<Process>,
    /// (a directory of its own, where this host sees it): what is on a path differs by host.
    pub(super) mounts: Vec<(PathBuf, PathBuf)>,
    pub(super) env: Vec<(String, String)>,
    /// Where its data is and where its keeper's state is, if these are disks of their own.
    pub(super) disks: Option<(Disk, Disk)>,
}

impl Host {
    pub(super) fn postgres(&self) -> Vec<Process> {
        let mut found = process::under(&self.data);
        if let Some(daemon) = &self.daemon {
            found.retain(|p| *p != daemon.process);
        }
        found
    }

    pub(super) fn postmaster(&self) -> Option<Process> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let process = Process::of(text.lines().next()?.trim().parse().ok()?)?;
        self.postgres().contains(&process).then_some(process)
    }

    pub(super) fn keeper(&self) -> Vec<Process> {
        let daemon = self.daemon.as_ref().map(|d| d.process);
        daemon.filter(|d| d.is_alive()).into_iter().collect()
    }

    /// The processes of a part, as they are now.
    pub(super) fn find(&self, part: Part) -> Vec<Process> {
        match part {
            Part::Keeper => self.keeper(),
            Part::Postgres => self.postgres(),
            Part::Postmaster => self.postmaster().into_iter().collect(),
            Part::All => {
                let mut found: Vec<Process> =
                    self.keeper().into_iter().flat_map(Process::tree).collect();
                found.extend(process::under(&self.home));
                found.sort_unstable_by_key(|p| p.pid);
                found.dedup();
                found
            }
        }
    }
}
