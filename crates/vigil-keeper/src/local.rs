//! The one local Postgres that this keeper is for: where it is, how to reach it, and the files in
//! its data directory that are ours.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use vigil_core::event::EventKind;
use vigil_core::ids::{Epoch, NodeId};
use vigil_core::message::Peer;
use vigil_core::node::record::NodeRecord;
use vigil_core::rule::{NOBODY, SyncRule};
use vigil_postgres::conf::{self, ManagedConf};
use vigil_postgres::hba::HbaPlan;
use vigil_postgres::process::{Postmaster, ProcessError};
use vigil_postgres::sql::{Refusal, RoleState};
use vigil_postgres::standby::Upstream;
use vigil_postgres::{Installation, Session, Target, process};

use crate::claim::Claim;
use crate::identity::{self, Mark};
use crate::passfile;
use crate::state_file::StateDir;

/// The role that standbys and rewinds log in as.
pub const REPLICATION_ROLE: &str = "pgvigil_replicator";

/// A connection over the Unix socket takes 5 ms; on a busy machine it may take a while.
const CONNECT: Duration = Duration::from_secs(2);

/// What is fixed for the life of this process.
#[derive(Debug)]
pub struct Place {
    pub pgdata: PathBuf,
    pub install: Installation,
    pub listen: String,
    pub port: u16,
    pub socket_dir: PathBuf,
    pub hba_auth: String,
    pub hba_cidrs: Vec<String>,
    pub os_user: String,
    /// Output of the server.
    pub log: PathBuf,
    pub state: StateDir,
    pub claim: Claim,
}

/// [`Place`], and what is known of the server that runs there.
#[derive(Debug)]
pub struct Local {
    place: Place,
    known: Mutex<Known>,
    /// A connection for the work of steps and chores, kept open.
    work: tokio::sync::Mutex<Option<Session>>,
}

#[derive(Debug, Default)]
struct Known {
    postmaster: Option<Postmaster>,
    /// What this keeper last made the server follow, and by which epoch's order.
    upstream: Option<(NodeId, Epoch)>,
    /// Where that node was then.
    upstream_at: Option<(String, u16)>,
    /// The process in which this keeper has proved that its sync rule is obeyed.
    proved: Option<process::Pid>,
    /// Not handed to the driver yet.
    notices: Vec<(EventKind, String)>,
    slots: Vec<(String, u64)>,
    /// The replication role as this keeper left it.
    role: Option<RoleState>,
}

/// What the managed settings depend on.
#[derive(Clone, Copy, Debug)]
pub enum Role<'a> {
    Primary(&'a SyncRule),
    /// Receives from nobody.
    Detached,
    Follower(NodeId),
}

impl std::ops::Deref for Local {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

/// The slot that keeps WAL for `node`.
pub fn slot_of(node: NodeId) -> String {
    format!("pgvigil_{node}")
}

impl Local {
    pub fn new(place: Place) -> Arc<Self> {
        Arc::new(Local { place, known: Mutex::default(), work: tokio::sync::Mutex::new(None) })
    }

    pub fn target(&self) -> Target {
        Target::postgres(&self.socket_dir, self.port, self.install.major)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing is left half-done under this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The running server's first process, found again if this keeper did not start it.
    ///
    /// # Errors
    /// It cannot be told whether there is one.
    pub fn postmaster(&self) -> Result<Option<Postmaster>, ProcessError> {
        let known = self.known().postmaster.clone();
        if let Some(postmaster) = known.filter(|p| !p.has_exited()) {
            return Ok(Some(postmaster));
        }
        let found = process::adopt(&self.pgdata)?;
        if let Some(postmaster) = &found {
            tracing::info!(pid = postmaster.pid.as_raw_pid(), "taking over the running Postgres");
            self.known().upstream = None;
        }
        self.known().postmaster.clone_from(&found);
        Ok(found)
    }

    /// # Errors
    /// No server runs.
    pub fn running(&self) -> Result<Postmaster> {
        self.postmaster()?.context("Postgres does not run")
    }

    pub fn set_postmaster(&self, postmaster: Option<Postmaster>) {
        self.known().postmaster = postmaster;
        self.forget_role();
    }

    /// Whom the server follows by our order; `None` also when that node has moved since: then it
    /// has to be pointed there anew.
    pub fn upstream(&self, record: &NodeRecord) -> Option<(NodeId, Epoch)> {
        let known = self.known();
        let at = |(id, _): &(NodeId, Epoch)| record.peer(*id).map(|p| (p.host.clone(), p.port));
        known.upstream.filter(|upstream| at(upstream) == known.upstream_at)
    }

    pub fn set_upstream(&self, upstream: Option<(NodeId, Epoch)>) {
        self.known().upstream = upstream;
    }

    /// Something that the group's events should hold; also logged.
    pub fn notice(&self, kind: EventKind, text: String) {
        tracing::warn!("{text}");
        self.known().notices.push((kind, text));
    }

    /// Settings that would have won over ours were taken out of `postgresql.auto.conf`.
    pub fn notice_reset(&self, names: &[String]) {
        let text = format!(
            "reset {}: set by ALTER SYSTEM or pg_basebackup -R, but managed by pgvigil",
            names.join(", ")
        );
        self.notice(EventKind::Setting, text);
    }

    /// Bytes of WAL that each slot for a peer holds back, as the last round of chores saw it.
    pub fn slots(&self) -> Vec<(String, u64)> {
        self.known().slots.clone()
    }

    pub fn note_slots(&self, slots: Vec<(String, u64)>) {
        self.known().slots = slots;
    }

    /// How this keeper last left the replication role.
    pub fn role_state(&self) -> Option<RoleState> {
        self.known().role.clone()
    }

    /// Another primary may have changed it meanwhile.
    pub fn forget_role(&self) {
        self.known().role = None;
    }

    /// Makes the replication role what the standbys need.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn ensure_role(&self, record: &NodeRecord, session: &mut Session) -> Result<()> {
        let password = record.replication_password.reveal();
        let state = session.ensure_role(REPLICATION_ROLE, password, CONNECT).await?;
        self.known().role = Some(state);
        Ok(())
    }

    /// What was noticed since the last call.
    pub fn take_notices(&self) -> Vec<(EventKind, String)> {
        std::mem::take(&mut self.known().notices)
    }

    /// Whether this keeper has seen this very server obey a sync rule.
    pub fn has_proved(&self, postmaster: &Postmaster) -> bool {
        self.known().proved == Some(postmaster.pid)
    }

    pub fn set_proved(&self, postmaster: &Postmaster) {
        self.known().proved = Some(postmaster.pid);
    }

    /// The kept connection, opened again if it is gone.
    ///
    /// # Errors
    /// The server does not take connections.
    pub async fn work(&self) -> Result<tokio::sync::MappedMutexGuard<'_, Session>> {
        let mut guard = self.work.lock().await;
        if let Some(session) = guard.as_mut()
            && (!session.is_usable()
                || session.is_makeshift()
                || session.in_recovery(CONNECT).await.is_err())
        {
            *guard = None;
        }
        if guard.is_none() {
            *guard = Some(Session::connect(&self.target(), CONNECT).await?);
        }
        tokio::sync::MutexGuard::try_map(guard, Option::as_mut)
            .map_err(|_| anyhow!("no connection"))
    }

    /// A connection of its own, for what takes long; `None`: clients hold all of them, and the kept
    /// one has to do.
    ///
    /// # Errors
    /// The server does not take connections.
    pub async fn fresh_unless_full(&self) -> Result<Option<Session>> {
        match Session::connect(&self.target(), CONNECT).await {
            Ok(session) => Ok(Some(session)),
            Err(error) if error.refusal() == Some(Refusal::Full) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The one place where our settings come from.
    ///
    /// # Errors
    /// The peer to follow is not known; the disk.
    pub fn conf(&self, record: &NodeRecord, role: Role<'_>) -> Result<ManagedConf> {
        let socket_dir = self.socket_dir.to_string_lossy();
        let mut conf = ManagedConf::new(self.install.major, self.port, &socket_dir);
        conf.listen.clone_from(&self.listen);
        conf.respect(&self.pgdata, record.room)?;
        let name_of = |id| record.peer(id).map(|p| p.name.clone());
        conf.synchronous_standby_names = match role {
            Role::Primary(sync) => sync.standby_names(name_of),
            // Never empty on a node that may become primary: from empty to something takes effect
            // only when the checkpointer gets to it.
            Role::Detached | Role::Follower(_) => format!("ANY 1 ({NOBODY})"),
        };
        if let Role::Follower(primary) = role {
            let upstream = Upstream { password: None, ..self.upstream_of(record, primary)? };
            self.known().upstream_at = Some((upstream.host.clone(), upstream.port));
            let passfile =
                passfile::write(self.state.path(), record.replication_password.reveal())?;
            let passfile = passfile.to_string_lossy();
            let passfile = conf::conninfo([("passfile", passfile.as_ref())]);
            conf.primary_conninfo = format!("{} {passfile}", upstream.primary_conninfo());
            conf.primary_slot_name = upstream.slot;
        }
        Ok(conf)
    }

    /// How to reach `primary` for replication.
    ///
    /// # Errors
    /// It is no peer that this node was told of.
    pub fn upstream_of(&self, record: &NodeRecord, primary: NodeId) -> Result<Upstream> {
        let Peer { host, port, .. } = record.peer(primary).with_context(|| {
            format!("node #{primary} is not among the peers told by the monitor")
        })?;
        Ok(Upstream {
            host: host.clone(),
            port: *port,
            user: REPLICATION_ROLE.to_owned(),
            password: Some(record.replication_password.reveal().to_owned())
                .filter(|p| !p.is_empty()),
            application_name: record.name.clone(),
            slot: record.node_id.map(slot_of),
            major: self.install.major,
        })
    }

    pub fn hba(&self, record: &NodeRecord) -> HbaPlan {
        HbaPlan {
            auth: self.hba_auth.clone(),
            cidrs: self.hba_cidrs.clone(),
            peer_hosts: record.peers.iter().map(|p| p.host.clone()).collect(),
            os_user: self.os_user.clone(),
            replication_user: REPLICATION_ROLE.to_owned(),
        }
    }

    /// Writes everything of ours before a start. A rewind and a clone bring the source's files,
    /// and ALTER SYSTEM wins over ours silently.
    ///
    /// # Errors
    /// The disk.
    pub fn write_before_start(&self, record: &NodeRecord, role: Role<'_>) -> Result<()> {
        if let Some(outside) = conf::bring_in(&self.pgdata, self.install.major)? {
            let text = format!(
                "the configuration in {} was copied into {}, which is read from now on",
                outside.display(),
                self.pgdata.display()
            );
            self.notice(EventKind::Setting, text);
        }
        let conf = self.conf(record, role)?;
        conf::ensure_included(&self.pgdata)?;
        conf.write(&self.pgdata)?;
        self.hba(record).write(&self.pgdata)?;
        let stripped = conf::strip_auto_conf(&self.pgdata, &conf.names())?;
        if !stripped.is_empty() {
            self.notice_reset(&stripped);
        }
        self.mark(record)
    }

    /// Marks the data directory as this node's.
    ///
    /// # Errors
    /// The disk.
    pub fn mark(&self, record: &NodeRecord) -> Result<()> {
        let node_id = record.node_id.context("the monitor has not given this node an id yet")?;
        let system_id = vigil_postgres::control::read(&self.pgdata)?.system_id;
        let mark = Mark { node_id, name: record.name.clone(), system_id };
        identity::mark(&self.state, &self.pgdata, &mark)
    }

    /// Writes the settings of a running server; they have effect at the next reload. Not fsynced:
    /// everything is written again, durably, before each start, and a failover waits for this.
    ///
    /// # Errors
    /// As [`Local::conf`].
    pub fn write_conf(&self, record: &NodeRecord, role: Role<'_>) -> Result<ManagedConf> {
        conf::ensure_included(&self.pgdata)?;
        let conf = self.conf(record, role)?;
        let path = self.pgdata.join(conf::FILE);
        let temporary = self.pgdata.join(format!("{}.new", conf::FILE));
        let mut options = fs::OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(conf.render().as_bytes()))
            .and_then(|()| fs::rename(&temporary, &path))
            .with_context(|| format!("writing {}", path.display()))?;
        Ok(conf)
    }

    /// Whether the managed file tells the server to receive from nobody.
    pub fn is_conf_detached(&self) -> bool {
        let text = conf::read_raw(&self.pgdata).unwrap_or_default();
        text.lines().any(|line| line.trim() == "primary_conninfo = ''")
    }
}
