//! What a seed means: who is there, how they are set up, and what goes wrong when. All of it is
//! drawn before the run, so that a shorter schedule is the same schedule with parts left out.

use vigil_core::limits::Limits;

use crate::rng::Rng;

/// A node as its keeper introduces it.
#[derive(Clone, Copy, Debug)]
pub struct NodePlan {
    pub priority: u32,
    pub quorum: bool,
    /// `max_connections` of its `postgresql.conf`.
    pub connections: u32,
    /// Whether its promotions end. Something of its own keeps them from it otherwise, until an
    /// operator mends that: a command at the end of recovery, a setting.
    pub promotes: bool,
}

/// One group at its birth.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    pub nodes: Vec<NodePlan>,
    pub number_sync_standbys: u32,
}

/// What goes wrong, or what an operator does meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    KillNode,
    KillPostgres,
    KillPostmaster,
    KillKeeper,
    KeeperDiesActing,
    CutNode,
    CutPair,
    CutOneWay,
    Flap,
    FreezeNode,
    FreezeKeeper,
    HangPostgres,
    StickReplay,
    WipeNode,
    RecycleWal,
    SlowDisk,
    FullDisk,
    SlowLink,
    LossyNet,
    RepeatOrders,
    ClockJump,
    KillMonitor,
    MonitorAsleep,
    MonitorCutOff,
    StoreFails,
    SlowStore,
    StarveKeeper,
    StarveMonitor,
    LateMail,
    RestoreStore,
    LoseStore,
    SecondMonitor,
    Leave,
    Switchover,
    Failover,
    AcceptLoss,
    SetPriority,
    SetQuorum,
    SetSync,
    SetHeartbeat,
    Maintenance,
    Drop,
    Join,
}

impl Kind {
    /// Every kind, with its weight in the draw.
    pub const ALL: &[(Kind, u64)] = &[
        (Kind::KillNode, 10),
        (Kind::KillPostgres, 10),
        (Kind::KillPostmaster, 5),
        (Kind::KillKeeper, 5),
        (Kind::KeeperDiesActing, 5),
        (Kind::CutNode, 8),
        (Kind::CutPair, 5),
        (Kind::CutOneWay, 5),
        (Kind::Flap, 3),
        (Kind::FreezeNode, 5),
        (Kind::FreezeKeeper, 5),
        (Kind::HangPostgres, 6),
        (Kind::StickReplay, 6),
        (Kind::WipeNode, 3),
        (Kind::RecycleWal, 1),
        (Kind::SlowDisk, 3),
        (Kind::FullDisk, 4),
        (Kind::SlowLink, 8),
        (Kind::LossyNet, 3),
        (Kind::RepeatOrders, 4),
        (Kind::ClockJump, 1),
        (Kind::KillMonitor, 4),
        (Kind::MonitorAsleep, 3),
        (Kind::MonitorCutOff, 3),
        (Kind::StoreFails, 3),
        (Kind::SlowStore, 5),
        (Kind::StarveKeeper, 4),
        (Kind::StarveMonitor, 3),
        (Kind::LateMail, 3),
        (Kind::RestoreStore, 2),
        (Kind::LoseStore, 2),
        (Kind::SecondMonitor, 2),
        (Kind::Leave, 4),
        (Kind::Switchover, 7),
        (Kind::Failover, 3),
        (Kind::AcceptLoss, 2),
        (Kind::SetPriority, 3),
        (Kind::SetQuorum, 3),
        (Kind::SetSync, 4),
        (Kind::SetHeartbeat, 3),
        (Kind::Maintenance, 3),
        (Kind::Drop, 2),
        (Kind::Join, 3),
    ];

    /// What an operator types: it disturbs neither a process nor a link.
    pub(crate) fn is_command(self) -> bool {
        matches!(
            self,
            Kind::Switchover
                | Kind::Failover
                | Kind::AcceptLoss
                | Kind::SetPriority
                | Kind::SetQuorum
                | Kind::SetSync
                | Kind::SetHeartbeat
                | Kind::Maintenance
                | Kind::Drop
        )
    }

    /// What keeps a keeper or the monitor from its work, and disturbs no Postgres and no link between
    /// two of them.
    pub(crate) fn only_delays(self) -> bool {
        matches!(
            self,
            Kind::FreezeKeeper
                | Kind::StarveKeeper
                | Kind::StarveMonitor
                | Kind::LateMail
                | Kind::SlowStore
                | Kind::StoreFails
                | Kind::KillMonitor
                | Kind::MonitorAsleep
                | Kind::MonitorCutOff
        )
    }

    fn draw(rng: &mut Rng) -> Kind {
        let sum: u64 = Kind::ALL.iter().map(|k| k.1).sum();
        let mut at = rng.range(0, sum - 1);
        for (kind, weight) in Kind::ALL {
            if at < *weight {
                return *kind;
            }
            at -= weight;
        }
        Kind::KillNode
    }
}

/// Whom it hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Whoever takes writes then.
    Primary,
    /// The so-and-so-many-th node.
    Node(usize),
}

/// One entry of a schedule.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// After the one before, in milliseconds.
    pub after_ms: u64,
    pub kind: Kind,
    pub group: usize,
    pub target: Target,
    /// A second node, a value: whatever the kind needs.
    pub detail: u64,
    /// Until it is taken back, in milliseconds.
    pub lasts_ms: u64,
    /// It waits for the next change of the primary, to come in its midst.
    pub amid: bool,
}

/// Everything that a seed stands for.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub groups: Vec<GroupPlan>,
    pub heartbeat_ms: u64,
    pub misses: u32,
    /// Clients of a group write about so often, in milliseconds. With the longest of them WAL moves
    /// for minutes only because of the primary's probe.
    pub client_ms: u64,
    /// How far each host's clock runs wrong at most, in parts per million.
    pub drift_ppm: u64,
    pub schedule: Vec<Fault>,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn of(seed: u64) -> Scenario {
        let mut rng = Rng::new(seed ^ 0x005E_ED0F_5CE7_A210);
        let count = if rng.chance(5) { 2 } else { 1 };
        let mut groups: Vec<GroupPlan> = (0..count).map(|_| group(&mut rng, count)).collect();
        differ(&mut Rng::new(seed ^ 0x00C0_77EC_7105), &mut groups);
        spoil(&mut Rng::new(seed ^ 0x0005_B011_ED00), &mut groups);
        let (heartbeat_ms, misses) =
            [(1000, 3), (1000, 3), (1000, 3), (500, 3), (250, 3), (1000, 2)][rng.below(6)];
        let client_ms = [20, 40, 40, 80, 200][rng.below(5)];
        let idle = Rng::new(seed ^ 0x001D_1E00_C11E).chance(10);
        let client_ms = if idle { 30_000 } else { client_ms };
        let drift_ppm = if rng.chance(20) { 20_000 } else { 100 };
        let length = rng.range(4, 9);
        // A third of the seeds is fast: one fault into the next.
        let gap_ms = [300, 1200, 3000][rng.below(3)];
        let mut schedule: Vec<Fault> =
            (0..length).map(|_| fault(&mut rng, &groups, gap_ms)).collect();
        starve(&mut Rng::new(seed ^ 0x0005_7A4B_ED00), &mut schedule);
        Scenario { seed, groups, heartbeat_ms, misses, client_ms, drift_ppm, schedule }
    }

    /// The same, with only these entries of the schedule.
    #[must_use]
    pub fn keeping(&self, entries: &[usize]) -> Scenario {
        let mut schedule = Vec::with_capacity(entries.len());
        let mut waited_ms = 0;
        for (i, fault) in self.schedule.iter().enumerate() {
            waited_ms += fault.after_ms;
            if entries.contains(&i) {
                schedule.push(Fault { after_ms: waited_ms, ..*fault });
                waited_ms = 0;
            }
        }
        Scenario { schedule, ..self.clone() }
    }
}

/// Now and then some nodes have larger limits than others.
fn differ(rng: &mut Rng, groups: &mut [GroupPlan]) {
    if !rng.chance(15) {
        return;
    }
    for node in groups.iter_mut().flat_map(|group| &mut group.nodes) {
        node.connections += 100 * u32::from(rng.chance(50));
    }
}

/// Now and then a node cannot become the primary, and nobody knows before it is to.
fn spoil(rng: &mut Rng, groups: &mut [GroupPlan]) {
    if !rng.chance(12) {
        return;
    }
    for group in groups {
        let node = rng.below(group.nodes.len());
        group.nodes[node].promotes = false;
    }
}

/// Now and then nothing breaks, and everybody is late.
fn starve(rng: &mut Rng, schedule: &mut [Fault]) {
    if !rng.chance(20) {
        return;
    }
    let mut delays: Vec<Kind> =
        Kind::ALL.iter().map(|kind| kind.0).filter(|kind| kind.only_delays()).collect();
    // Who comes back first, after all were away for longer than the deadline?
    delays.extend([Kind::MonitorCutOff; 6]);
    for fault in schedule {
        fault.kind = delays[rng.below(delays.len())];
        fault.amid = false;
        if fault.kind == Kind::MonitorCutOff {
            fault.lasts_ms = fault.lasts_ms.max(3500);
        }
    }
}

fn group(rng: &mut Rng, count: usize) -> GroupPlan {
    let sizes: &[usize] =
        if count > 1 { &[2, 3] } else { &[1, 2, 2, 3, 3, 3, 3, 3, 3, 4, 4, 5, 7] };
    let size = sizes[rng.below(sizes.len())];
    let odd = rng.chance(25);
    let nodes = (0..size)
        .map(|i| NodePlan {
            priority: match () {
                () if odd && rng.chance(30) => 0,
                () if rng.chance(50) => 50,
                () => 100 - 10 * u32::try_from(i).unwrap_or(0),
            },
            quorum: !(odd && rng.chance(30)),
            connections: Limits::DEFAULT.max_connections,
            promotes: true,
        })
        .collect::<Vec<_>>();
    let counted = nodes.iter().filter(|n: &&NodePlan| n.quorum).count();
    let most = u64::try_from(counted.saturating_sub(1).min(3)).unwrap_or(0);
    let number_sync_standbys =
        if rng.chance(35) { u32::try_from(rng.range(0, most)).unwrap_or(0) } else { 0 };
    GroupPlan { nodes, number_sync_standbys }
}

fn fault(rng: &mut Rng, groups: &[GroupPlan], gap_ms: u64) -> Fault {
    let group = rng.below(groups.len());
    let kind = Kind::draw(rng);
    let target = match kind {
        Kind::StickReplay | Kind::Drop => Target::Node(rng.below(7)),
        _ if rng.chance(60) => Target::Primary,
        _ => Target::Node(rng.below(7)),
    };
    let lasts_ms = match rng.below(3) {
        0 => rng.range(50, 1500),
        1 => rng.range(1500, 6000),
        _ => rng.range(4000, 15_000),
    };
    let (after_ms, detail, amid) = (rng.range(0, gap_ms), rng.draw(), rng.chance(35));
    Fault { after_ms, kind, group, target, detail, lasts_ms, amid }
}
