//! What goes wrong, its end, and what operators do meanwhile.

use vigil_core::command::Command;
use vigil_core::group::Plan;

use super::host::blank_disk;
use super::net::MONITOR;
use super::steps::Effect;
use super::{Event, Host, World};
use crate::postgres::{Postgres, Run};
use crate::scenario::{Fault, Kind, NodePlan, Target};

/// What takes a fault back.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Undo {
    Power(usize),
    Keeper(usize),
    Cut(usize),
    Way(usize, usize),
    Flap {
        host: usize,
        left: u64,
    },
    Thaw {
        host: usize,
        pg_life: u64,
        keeper: bool,
    },
    Unstick(usize),
    FastDisk(usize),
    Room(usize),
    FastLink(usize),
    Calm,
    Monitor(usize),
    Wake(usize),
    MonitorWay(usize),
    Store(usize),
    FastStore(usize),
    /// A process gets no CPU but for moments.
    Starve {
        host: Option<usize>,
        left: u64,
        stands: bool,
    },
    Maintenance(usize),
    Rejoin(usize),
}

impl Undo {
    /// See [`Kind::only_delays`].
    fn only_delayed(self) -> bool {
        match self {
            Undo::Thaw { pg_life, keeper, .. } => pg_life == 0 && keeper,
            Undo::Monitor(_)
            | Undo::Wake(_)
            | Undo::MonitorWay(_)
            | Undo::Store(_)
            | Undo::FastStore(_)
            | Undo::Starve { .. } => true,
            _ => false,
        }
    }
}

impl World {
    pub(super) fn fault(&mut self, number: usize) {
        let Fault { group, amid, .. } = self.scenario.schedule[number];
        if amid && matches!(self.stores[group].record.plan, Plan::Serving { .. }) {
            self.armed.push(number);
        } else {
            self.strike(number);
        }
    }

    /// A change of the primary has begun, or got on: what waited for that comes soon.
    pub(super) fn strike_amid(&mut self, group: usize) {
        let waits = |n: &usize| self.scenario.schedule[*n].group == group;
        if let Some(at) = self.armed.iter().position(waits) {
            let number = self.armed.remove(at);
            let wait_ms = self.rng.range(0, 60) * self.rng.range(1, 6);
            self.after(wait_ms, Event::Strike(number));
        }
    }

    pub(super) fn strike(&mut self, number: usize) {
        if self.healed {
            return;
        }
        let Fault { kind, group, target, detail, lasts_ms, .. } = self.scenario.schedule[number];
        let Some(victim) = self.victim(group, target) else { return };
        let plan = self.stores[group].record.plan.name();
        self.coverage.fault(kind, plan, self.stores[group].record.is_covered());
        self.note_host(victim, "FAULT", || format!("[{number}] {kind:?} for {lasts_ms} ms"));
        self.inject(kind, group, victim, detail, lasts_ms);
    }

    fn victim(&self, group: usize, target: Target) -> Option<usize> {
        let hosts: Vec<usize> = self.of_group(group).map(|(i, _)| i).collect();
        let primary = hosts.iter().copied().find(|h| self.hosts[*h].pg.is_primary());
        match target {
            Target::Primary => primary.or(hosts.first().copied()),
            Target::Node(number) => hosts.get(number % hosts.len().max(1)).copied(),
        }
    }

    pub(super) fn inject(
        &mut self,
        kind: Kind,
        group: usize,
        host: usize,
        detail: u64,
        lasts_ms: u64,
    ) {
        let undo = |undo| Event::Undo(undo);
        if !kind.is_command() {
            self.calm_since_ms = self.now_ms;
        }
        if !kind.is_command() && !kind.only_delays() {
            self.whole_since_ms = self.now_ms;
        }
        match kind {
            Kind::KillNode => {
                self.power_off(host);
                self.after(lasts_ms, undo(Undo::Power(host)));
            }
            Kind::KillPostgres => self.end_postgres(host, false),
            Kind::KillPostmaster => self.kill_postmaster(host),
            Kind::KillKeeper => {
                self.kill_keeper(host, false);
                self.after(lasts_ms, undo(Undo::Keeper(host)));
            }
            Kind::KeeperDiesActing => self.hosts[host].dies_after = Some(detail % 12),
            Kind::CutNode => {
                self.net.set_all(host, true);
                self.after(lasts_ms, undo(Undo::Cut(host)));
            }
            Kind::CutPair | Kind::CutOneWay => self.cut_ways(kind, host, detail, lasts_ms),
            Kind::Flap => self.undo(Undo::Flap { host, left: 4 + detail % 8 }),
            Kind::FreezeNode | Kind::HangPostgres => {
                let keeper = kind == Kind::FreezeNode || detail.is_multiple_of(3);
                self.freeze(host, keeper, detail.is_multiple_of(2), lasts_ms);
            }
            Kind::FreezeKeeper => {
                self.hosts[host].keeper_frozen = self.hosts[host].driver.is_some();
                self.after(lasts_ms, undo(Undo::Thaw { host, pg_life: 0, keeper: true }));
            }
            Kind::StickReplay => {
                let now_ms = self.now_ms;
                let pg = &mut self.hosts[host].pg;
                let len = pg.wal.len();
                if let Some(standby) = pg.standby_mut() {
                    standby.stuck = Some(standby.replayed(len, now_ms));
                    self.after(lasts_ms, undo(Undo::Unstick(host)));
                }
            }
            Kind::WipeNode => self.wipe(host),
            Kind::RecycleWal => {
                let pg = &mut self.hosts[host].pg;
                pg.floor = pg.wal.len();
            }
            Kind::SlowDisk => {
                self.hosts[host].slow_disk = true;
                self.after(lasts_ms, undo(Undo::FastDisk(host)));
            }
            Kind::FullDisk => {
                self.hosts[host].full_disk = true;
                self.after(lasts_ms, undo(Undo::Room(host)));
            }
            Kind::SlowLink => {
                self.hosts[host].lag_ms = 50 + detail % 700;
                self.after(lasts_ms, undo(Undo::FastLink(host)));
            }
            Kind::LossyNet => {
                self.net.lossy = true;
                self.after(lasts_ms, undo(Undo::Calm));
            }
            Kind::RepeatOrders => {
                self.net.repeats = true;
                self.after(lasts_ms * 2, undo(Undo::Calm));
            }
            Kind::ClockJump => {
                self.hosts[host].wall_jump_ms += (detail % 7_200_000).cast_signed() - 3_600_000;
            }
            Kind::KillMonitor => {
                self.kill_monitor(0);
                self.kill_monitor(1);
                self.after(lasts_ms / 2, undo(Undo::Monitor(0)));
            }
            Kind::MonitorAsleep => {
                self.monitors[0].asleep = self.monitors[0].up;
                self.after(lasts_ms, undo(Undo::Wake(0)));
            }
            Kind::MonitorCutOff => {
                self.net.set_all(MONITOR, true);
                self.after(lasts_ms, undo(Undo::MonitorWay(0)));
            }
            Kind::StoreFails => {
                self.stores[group].fails = true;
                self.after(lasts_ms, undo(Undo::Store(group)));
            }
            Kind::SlowStore => {
                self.stores[group].slow_ms = 20 + detail % 1500;
                self.after(lasts_ms, undo(Undo::FastStore(group)));
            }
            Kind::StarveKeeper => {
                self.undo(Undo::Starve { host: Some(host), left: 1 + detail % 4, stands: false });
            }
            Kind::StarveMonitor => {
                self.undo(Undo::Starve { host: None, left: 2 + detail % 8, stands: false });
            }
            Kind::LateMail => self.delay_mail(group, 100 + detail % 4000),
            Kind::RestoreStore | Kind::LoseStore => self.restore(kind, group, lasts_ms),
            Kind::SecondMonitor => {
                let life = self.monitors[1].life;
                self.start_monitor(1, life);
                self.after(lasts_ms * 2, undo(Undo::Monitor(1)));
            }
            Kind::Leave => self.feed(host, vigil_core::driver::node::NodeInput::Leave),
            _ => self.operate(kind, group, host, detail, lasts_ms),
        }
    }

    fn operate(&mut self, kind: Kind, group: usize, host: usize, detail: u64, lasts_ms: u64) {
        let node = self.hosts[host].name.clone();
        let small = u32::try_from(detail % 101).unwrap_or(0);
        let command = match kind {
            Kind::Switchover => {
                Command::Switchover { to: detail.is_multiple_of(2).then_some(node) }
            }
            Kind::AcceptLoss => {
                let waits = matches!(
                    self.stores[group].record.plan,
                    Plan::Electing { handover: None, .. } | Plan::Recovering
                );
                // Nobody types that while everything is well.
                Command::Failover { allow_data_loss: waits }
            }
            Kind::SetPriority => {
                let priority = [0, 0, 50, 100, small][usize::from(detail.to_le_bytes()[0]) % 5];
                Command::SetNode {
                    node,
                    candidate_priority: Some(priority),
                    replication_quorum: None,
                }
            }
            Kind::SetQuorum => Command::SetNode {
                node,
                candidate_priority: None,
                replication_quorum: Some(detail.is_multiple_of(2)),
            },
            Kind::SetSync => Command::SetSettings {
                number_sync_standbys: Some(small % 4),
                heartbeat_interval_ms: None,
                heartbeat_misses: None,
            },
            Kind::SetHeartbeat => {
                let interval =
                    [250, 500, 1000, 2000, 5000][usize::from(detail.to_le_bytes()[0]) % 5];
                Command::SetSettings {
                    number_sync_standbys: None,
                    heartbeat_interval_ms: Some(interval),
                    heartbeat_misses: Some(if detail.is_multiple_of(3) { 2 } else { 3 }),
                }
            }
            Kind::Maintenance => {
                self.after(lasts_ms, Event::Undo(Undo::Maintenance(host)));
                Command::EnableMaintenance { node, allow_failover: detail.is_multiple_of(2) }
            }
            // Nobody removes nodes from a group that has no primary, and with its last node a group
            // ends.
            Kind::Drop if !self.serves(group) || self.stores[group].record.members.len() < 2 => {
                return;
            }
            Kind::Drop => {
                self.after(lasts_ms, Event::Undo(Undo::Rejoin(host)));
                let (force, allow_failover) = (detail.is_multiple_of(4), detail.is_multiple_of(3));
                Command::DropNode { node, force, allow_failover }
            }
            Kind::Join => {
                if self.hosts.len() < 9 && !self.stores[group].doubtful {
                    let quorum = !detail.is_multiple_of(5);
                    self.add_host(
                        group,
                        NodePlan { priority: small, quorum, connections: 100, promotes: true },
                    );
                }
                return;
            }
            _ => Command::Failover { allow_data_loss: false },
        };
        self.command(group, command);
    }

    pub(super) fn undo(&mut self, undo: Undo) {
        if self.quiet {
            return; // of a fault that was healed long ago
        }
        self.calm_since_ms = self.now_ms;
        if !undo.only_delayed() {
            self.whole_since_ms = self.now_ms;
        }
        match undo {
            Undo::Power(host) => {
                self.hosts[host].powered = true;
                self.restart_keeper_later(host);
            }
            Undo::Keeper(host) => {
                let life = self.hosts[host].keeper_life;
                self.start_keeper(host, life);
            }
            Undo::Cut(host) => self.net.set_all(host, false),
            Undo::Way(from, to) => self.net.set(from, to, false),
            Undo::MonitorWay(monitor) => self.net.set_all(MONITOR + monitor, false),
            Undo::Flap { host, left } if !self.healed => {
                self.net.set_all(host, left.is_multiple_of(2) && left > 0);
                if left > 0 {
                    let pause_ms = self.rng.range(100, 1500);
                    self.after(pause_ms, Event::Undo(Undo::Flap { host, left: left - 1 }));
                }
            }
            Undo::Flap { .. } => {}
            Undo::Thaw { host, pg_life, keeper } => self.thaw(host, pg_life, keeper),
            Undo::Unstick(host) => {
                if let Some(standby) = self.hosts[host].pg.standby_mut() {
                    standby.stuck = None;
                    self.look_soon(host);
                    self.pump_in(host, 5);
                }
            }
            Undo::FastLink(host) => self.hosts[host].lag_ms = 0,
            Undo::Room(host) => self.hosts[host].full_disk = false,
            Undo::FastDisk(host) => self.hosts[host].slow_disk = false,
            Undo::Calm => (self.net.lossy, self.net.repeats) = (false, false),
            Undo::Monitor(0) => {
                let life = self.monitors[0].life;
                self.start_monitor(0, life);
            }
            Undo::Monitor(monitor) => self.kill_monitor(monitor),
            Undo::Wake(monitor) => self.monitors[monitor].asleep = false,
            Undo::Store(group) => self.stores[group].fails = false,
            Undo::FastStore(group) => self.stores[group].slow_ms = 0,
            Undo::Starve { host, left, stands } => self.starve(host, left, stands),
            Undo::Maintenance(host) => {
                let (group, node) = (self.hosts[host].group, self.hosts[host].name.clone());
                self.command(group, Command::DisableMaintenance { node });
            }
            Undo::Rejoin(host) => self.rejoin(host),
        }
    }

    /// It stands for seconds, then runs for a moment, so many times.
    fn starve(&mut self, host: Option<usize>, left: u64, stands: bool) {
        if self.healed {
            return;
        }
        match host {
            Some(host) if stands => self.thaw(host, 0, true),
            Some(host) => self.hosts[host].keeper_frozen = self.hosts[host].driver.is_some(),
            None => self.monitors[0].asleep = !stands && self.monitors[0].up,
        }
        if stands && left == 0 {
            return;
        }
        let pause_ms = if stands { self.rng.range(1, 80) } else { self.rng.range(200, 4500) };
        let (left, stands) = (left.saturating_sub(u64::from(!stands)), !stands);
        self.after(pause_ms, Event::Undo(Undo::Starve { host, left, stands }));
    }

    /// SIGSTOP of Postgres, or of a primary's sessions alone, perhaps with the keeper.
    pub(super) fn freeze(&mut self, host: usize, keeper: bool, sessions: bool, lasts_ms: u64) {
        let keeper = keeper && self.hosts[host].driver.is_some();
        self.hosts[host].keeper_frozen |= keeper;
        let pg = &mut self.hosts[host].pg;
        if sessions && pg.is_primary() {
            pg.sessions_frozen = true;
        } else {
            pg.frozen = pg.run != Run::Off;
        }
        pg.ailing_ms = self.now_ms;
        let pg_life = pg.life;
        self.stirred = true;
        self.after(lasts_ms, Event::Undo(Undo::Thaw { host, pg_life, keeper }));
    }

    pub(super) fn power_off(&mut self, host: usize) {
        self.kill_keeper(host, true);
        self.end_postgres(host, false);
        self.hosts[host].powered = false;
    }

    /// Only the postmaster dies: its backends go on for a moment.
    fn kill_postmaster(&mut self, host: usize) {
        let pg = &mut self.hosts[host].pg;
        pg.ailing_ms = self.now_ms;
        let Run::Primary(primary) = pg.run.clone() else { return self.end_postgres(host, false) };
        pg.run = Run::Orphans(primary);
        let pg_life = pg.life;
        let lives_ms = self.rng.range(5, 400);
        self.after(lives_ms, Event::Effect { host, pg_life, effect: Effect::OrphansEnd });
        self.look_soon(host);
    }

    fn cut_ways(&mut self, kind: Kind, host: usize, detail: u64, lasts_ms: u64) {
        let others: Vec<usize> =
            (0..self.hosts.len()).filter(|h| *h != host).chain([MONITOR]).collect();
        let other = others[usize::try_from(detail % others.len() as u64).unwrap_or(0)];
        let mut ways = vec![(host, other), (other, host)];
        if kind == Kind::CutOneWay {
            ways.remove(usize::from(detail.is_multiple_of(3)));
        }
        for (from, to) in ways {
            self.net.set(from, to, true);
            self.after(lasts_ms, Event::Undo(Undo::Way(from, to)));
        }
    }

    pub(super) fn thaw(&mut self, host: usize, pg_life: u64, keeper: bool) {
        let h = &mut self.hosts[host];
        if keeper {
            h.keeper_frozen = false;
        }
        if h.pg.life == pg_life {
            if h.pg.frozen || h.pg.sessions_frozen {
                h.pg.ailing_ms = self.now_ms;
            }
            h.pg.frozen = false;
            h.pg.sessions_frozen = false;
        }
        self.stirred = true;
        self.look_soon(host);
        self.acknowledge(host);
    }

    /// A disk is lost, with the keeper's state. One copy fewer: what a sync rule promises holds
    /// against one such loss, so there is only one until the group was well again, and none of a
    /// copy that is the only one.
    fn wipe(&mut self, host: usize) {
        let group = self.hosts[host].group;
        let others = self.of_group(group).filter(|(i, h)| *i != host && self.is_copy(h)).count();
        // See `restore` for a store that is empty meanwhile.
        let alone = others == 0 || self.stores[group].doubtful;
        if !self.ghost.may_wipe(group) || alone || !self.elsewhere(host) {
            return;
        }
        self.ghost.wiped(group);
        self.forget_node(host);
    }

    fn forget_node(&mut self, host: usize) {
        self.kill_keeper(host, false);
        self.end_postgres(host, false);
        let (group, name) = (self.hosts[host].group, self.hosts[host].name.clone());
        let life = self.hosts[host].pg.life;
        let disk = blank_disk(group, &name);
        let h = &mut self.hosts[host];
        h.pg = Postgres { life: life + 1, ..Postgres::none() };
        h.disk = disk;
        (h.torn, h.kept_from) = (false, None);
        self.stirred = true;
        self.restart_keeper_later(host);
    }

    /// A member whose WAL an election can make use of.
    fn is_copy(&self, host: &Host) -> bool {
        let members = &self.stores[host.group].record.members;
        let member = host.disk.node_id.and_then(|id| members.get(&id));
        host.is_usable() && member.is_some_and(|m| !m.dropped)
    }

    /// Whether somebody else has all that was acknowledged and is on this host.
    pub(super) fn elsewhere(&self, host: usize) -> bool {
        let group = self.hosts[host].group;
        self.ghost.acknowledged(group).all(|(tli, len)| {
            !self.hosts[host].pg.wal.holds(tli, len)
                || self
                    .of_group(group)
                    .any(|(i, h)| i != host && self.is_copy(h) && h.pg.wal.holds(tli, len))
        })
    }

    fn restore(&mut self, kind: Kind, group: usize, lasts_ms: u64) {
        // An empty keeper that comes to an empty monitor first founds another cluster, and the
        // others are refused by its system identifier: an operator's matter, not the core's.
        if self.of_group(group).any(|(_, h)| !h.pg.exists) {
            return;
        }
        self.kill_monitor(0);
        self.kill_monitor(1);
        self.put_store_back(group, kind == Kind::LoseStore);
        self.after(lasts_ms / 2, Event::Undo(Undo::Monitor(0)));
    }

    fn serves(&self, group: usize) -> bool {
        let record = &self.stores[group].record;
        let primary = record.rule().and_then(|r| self.host_of(group, r.primary));
        let runs = primary.is_some_and(|p| self.hosts[p].pg.is_primary());
        matches!(record.plan, Plan::Serving { .. }) && record.is_covered() && runs
    }

    /// A dropped node comes again with an empty disk.
    fn rejoin(&mut self, host: usize) {
        if self.stores[self.hosts[host].group].doubtful {
            return self.after(500, Event::Undo(Undo::Rejoin(host)));
        }
        if self.hosts[host].left {
            self.hosts[host].left = false;
            self.forget_node(host);
        }
    }

    /// Everything that is broken is mended. What nobody mends by itself, an operator does.
    pub(super) fn heal(&mut self) {
        self.note("world", "HEAL", String::new);
        self.healed = true;
        self.net.heal();
        for group in 0..self.stores.len() {
            self.stores[group].fails = false;
            self.stores[group].slow_ms = 0;
        }
        self.kill_monitor(1);
        self.monitors[0].asleep = false;
        let life = self.monitors[0].life;
        self.start_monitor(0, life);
        for host in 0..self.hosts.len() {
            let life = self.hosts[host].pg.life;
            self.hosts[host].powered = true;
            self.hosts[host].slow_disk = false;
            self.hosts[host].full_disk = false;
            self.hosts[host].lag_ms = 0;
            self.hosts[host].dies_after = None;
            self.thaw(host, life, true);
            self.undo(Undo::Unstick(host));
            let life = self.hosts[host].keeper_life;
            self.start_keeper(host, life);
        }
    }

    /// What an operator does in the quiet after: ends maintenance, lets somebody be elected.
    pub(super) fn tidy_up(&mut self, group: usize) {
        let members: Vec<_> = self.stores[group].record.members.values().cloned().collect();
        for member in members.iter().filter(|m| m.maintenance) {
            let node = member.name.clone();
            self.command(group, Command::DisableMaintenance { node });
        }
        let gone = |id| self.host_of(group, id).is_none_or(|host| self.hosts[host].left);
        let gone: Vec<_> = members.iter().filter(|m| m.dropped || gone(m.id)).collect();
        for member in gone {
            let node = member.name.clone();
            self.command(group, Command::DropNode { node, force: true, allow_failover: false });
        }
        // Forced out, so that fewer are left than must acknowledge.
        let record = &self.stores[group].record;
        let counted = members.iter().filter(|m| vigil_core::election::counts(m)).count();
        if record.settings.number_sync_standbys as usize >= counted.max(1) {
            self.command(
                group,
                Command::SetSettings {
                    number_sync_standbys: Some(0),
                    heartbeat_interval_ms: None,
                    heartbeat_misses: None,
                },
            );
        }
        let waits = matches!(self.stores[group].record.plan, Plan::Electing { .. });
        if waits {
            for member in members.iter().filter(|m| !m.dropped && m.candidate_priority == 0) {
                self.command(
                    group,
                    Command::SetNode {
                        node: member.name.clone(),
                        candidate_priority: Some(50),
                        replication_quorum: None,
                    },
                );
            }
        }
    }

    /// A node that the record names will never come back (its disk was lost, it was dropped): the
    /// last resort.
    pub(super) fn accept_loss(&mut self, group: usize) {
        self.command(group, Command::Failover { allow_data_loss: true });
    }
}
