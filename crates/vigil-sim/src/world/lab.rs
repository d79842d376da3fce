//! Modelled servers without keepers and monitor, moved by hand: for what compares the model with
//! real ones.

use std::cmp::Reverse;

use vigil_core::ids::{Epoch, NodeId};
use vigil_core::node::observed::Observed;
use vigil_core::node::step::Step;
use vigil_core::rule::SyncRule;
use vigil_core::wal::Tli;

use super::World;
use super::faults::Undo;
use crate::postgres::{Run, Standby};
use crate::scenario::{GroupPlan, Kind, NodePlan, Scenario};
use crate::wal::Wal;

/// Longer than anybody waits, in milliseconds.
const AGES_MS: u64 = 1_000_000_000;

/// A group of modelled servers. Host `n` is node `n + 1`.
pub struct Lab {
    world: World,
    versions: u64,
    steps: u64,
}

impl Lab {
    /// `hosts` machines without data; the seed says how long everything takes.
    pub fn new(seed: u64, hosts: usize) -> Self {
        let node = NodePlan { priority: 50, quorum: true, connections: 100, promotes: true };
        let plan = GroupPlan { nodes: vec![node; hosts], number_sync_standbys: 0 };
        let scenario = Scenario {
            seed,
            groups: vec![plan],
            heartbeat_ms: 1000,
            misses: 3,
            client_ms: 40,
            drift_ppm: 0,
            schedule: Vec::new(),
        };
        let mut world = World::new(scenario, false);
        // Those are the keepers that would start.
        world.queue.clear();
        for (host, id) in world.hosts.iter_mut().zip(1..) {
            host.disk.node_id = Some(NodeId(id));
        }
        Lab { world, versions: 0, steps: 0 }
    }

    /// The node that a host is.
    pub fn id(&self, host: usize) -> NodeId {
        self.world.hosts[host].disk.node_id.unwrap_or(NodeId(0))
    }

    /// A rule by which one of `members` must acknowledge; `None`: nobody has to.
    pub fn rule(&mut self, primary: usize, members: Option<&[usize]>) -> SyncRule {
        self.versions += 1;
        SyncRule {
            epoch: Epoch(1),
            version: self.versions,
            primary: self.id(primary),
            members: members.unwrap_or_default().iter().map(|m| self.id(*m)).collect(),
            acks: u32::from(members.is_some()),
        }
    }

    pub fn now_ms(&self) -> u64 {
        self.world.now_ms
    }

    /// Lets time pass. What invariants say of keepers and monitors has no meaning here.
    pub fn pass(&mut self, ms: u64) {
        let end_ms = self.world.now_ms + ms;
        while let Some(Reverse(entry)) = self.world.queue.peek()
            && entry.at_ms <= end_ms
        {
            let Some(Reverse(entry)) = self.world.queue.pop() else { break };
            self.world.now_ms = entry.at_ms;
            self.world.happen(entry.event);
        }
        self.world.now_ms = end_ms;
    }

    /// Carries out a keeper's step at once; `Err` says why that is not possible.
    pub fn step(&mut self, host: usize, step: &Step) -> Result<(), String> {
        self.world.execute(host, step, Some(Epoch(1))).map(|_| ()).map_err(|e| e.text)
    }

    /// Begins a keeper's step; what it sets going in Postgres comes later.
    pub fn begin(&mut self, host: usize, step: Step) {
        self.steps += 1;
        self.world.begin_step(host, self.steps, step);
    }

    /// Starts a standby of nobody; `held`: it gets to replaying the last records on its disk only
    /// when [`Lab::release`] is called.
    pub fn start_standby(&mut self, host: usize, held: bool) -> Result<(), String> {
        if !held {
            return self.step(host, &Step::StartStandby);
        }
        let (len, now_ms) = (self.wal(host).len(), self.now_ms());
        let standby = Standby::started(len, 3, now_ms, now_ms + AGES_MS);
        self.world.start(host, Run::Standby(standby)).map(|_| ()).map_err(|e| e.text)
    }

    pub fn release(&mut self, host: usize) {
        let now_ms = self.now_ms();
        if let Some(standby) = self.world.hosts[host].pg.standby_mut() {
            standby.replay.3 = now_ms;
        }
    }

    /// A client commits: the record's timeline and number, if somebody takes it.
    pub fn commit(&mut self, host: usize) -> Option<(u32, u64)> {
        let pg = &self.world.hosts[host].pg;
        if pg.frozen || pg.sessions_frozen || pg.writer().is_none_or(|w| w.stopping) {
            return None;
        }
        self.world.write(host, 1);
        Some((self.wal(host).tli(), self.wal(host).len()))
    }

    /// Whether a record's client was told that it is safe.
    pub fn is_acknowledged(&self, (tli, number): (u32, u64)) -> bool {
        self.world.ghost.acknowledged(0).any(|(t, last)| t == tli && number <= last)
    }

    /// Whether the server that took the record still has its sessions.
    pub fn has_sessions(&self, host: usize, life: u64) -> bool {
        let pg = &self.world.hosts[host].pg;
        pg.life == life && pg.writer().is_some()
    }

    /// Which start of the server this is.
    pub fn life(&self, host: usize) -> u64 {
        self.world.hosts[host].pg.life
    }

    /// What a keeper would see.
    pub fn observe(&self, host: usize) -> Observed {
        let name = |h: usize| self.world.hosts[h].name.clone();
        self.world.hosts[host].pg.observe(self.now_ms(), name)
    }

    pub fn wal(&self, host: usize) -> &Wal {
        &self.world.hosts[host].pg.wal
    }

    /// The receiver's other end: a host, and which start of its server.
    pub fn receiver(&self, host: usize) -> Option<(usize, u64)> {
        self.world.hosts[host].pg.standby().and_then(|s| s.receiver)
    }

    /// Points the receiver at another host by reload, or at nobody.
    pub fn follow(&mut self, host: usize, upstream: Option<usize>) -> Result<(), String> {
        let Some(upstream) = upstream else {
            self.world.detach(host);
            return Ok(());
        };
        let primary = self.id(upstream);
        self.step(host, &Step::Follow { primary })
    }

    /// SIGTERM for the receiver.
    pub fn end_receiver(&mut self, host: usize) {
        self.world.lose_receiver(host);
        self.world.pump_in(host, 5);
    }

    pub fn stick(&mut self, host: usize) {
        self.world.inject(Kind::StickReplay, 0, host, 0, AGES_MS);
    }

    pub fn unstick(&mut self, host: usize) {
        self.world.undo(Undo::Unstick(host));
    }

    /// A fast stop that nothing delays.
    pub fn stop_fast(&mut self, host: usize) {
        if let Some(primary) = self.world.hosts[host].pg.writer_mut() {
            primary.stopping = true;
        }
        let clean = self.world.hosts[host].pg.is_primary();
        self.world.stopped(host, clean);
    }

    /// SIGSTOP for all of Postgres.
    pub fn freeze(&mut self, host: usize) {
        self.world.freeze(host, false, false, AGES_MS);
    }

    pub fn thaw(&mut self, host: usize) {
        let pg_life = self.life(host);
        self.world.undo(Undo::Thaw { host, pg_life, keeper: false });
    }

    pub fn kill_postmaster(&mut self, host: usize) {
        self.world.inject(Kind::KillPostmaster, 0, host, 0, 0);
    }

    /// Triggers a promotion and does not wait.
    pub fn promote(&mut self, host: usize, rule: SyncRule, tli: u32) {
        self.begin(host, Step::Promote { rule, tli: Tli(tli) });
    }
}
