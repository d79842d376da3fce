//! The kinds of fault, and how a run of them is drawn.

use crate::harness::Random;

/// `tests/faults.json` lists them for whoever asks; a test below holds the two together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    NodeKilled,
    PostgresKilled,
    PostmasterKilled,
    BackendKilled,
    KeeperKilled,
    NodeFrozen,
    PostgresFrozen,
    PostgresStopped,
    KeeperStopped,
    NodeCutOff,
    Switchover,
    DataDiskFull,
    StateDiskFull,
    NodeStarved,
    KeeperStarved,
    KeeperWithoutFiles,
    MonitorKilled,
    MonitorFrozen,
    MonitorStarved,
    StandbysKilled,
    ClusterKilled,
}

use Fault::{
    BackendKilled, ClusterKilled, DataDiskFull, KeeperKilled, KeeperStarved, KeeperStopped,
    KeeperWithoutFiles, MonitorFrozen, MonitorKilled, MonitorStarved, NodeCutOff, NodeFrozen,
    NodeKilled, NodeStarved, PostgresFrozen, PostgresKilled, PostgresStopped, PostmasterKilled,
    StandbysKilled, StateDiskFull, Switchover,
};

/// What this machine offers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Means {
    pub(crate) network: bool,
    pub(crate) disks: bool,
    pub(crate) throttle: bool,
}

impl Fault {
    pub(crate) const ALL: [Self; 21] = [
        NodeKilled,
        PostgresKilled,
        PostmasterKilled,
        BackendKilled,
        KeeperKilled,
        NodeFrozen,
        PostgresFrozen,
        PostgresStopped,
        KeeperStopped,
        NodeCutOff,
        Switchover,
        DataDiskFull,
        StateDiskFull,
        NodeStarved,
        KeeperStarved,
        KeeperWithoutFiles,
        MonitorKilled,
        MonitorFrozen,
        MonitorStarved,
        StandbysKilled,
        ClusterKilled,
    ];

    pub(crate) const fn kind(self) -> &'static str {
        match self {
            NodeKilled => "node_killed",
            PostgresKilled => "postgres_killed",
            PostmasterKilled => "postmaster_killed",
            BackendKilled => "backend_killed",
            KeeperKilled => "keeper_killed",
            NodeFrozen => "node_frozen",
            PostgresFrozen => "postgres_frozen",
            PostgresStopped => "postgres_stopped",
            KeeperStopped => "keeper_stopped",
            NodeCutOff => "node_cut_off",
            Switchover => "switchover",
            DataDiskFull => "data_disk_full",
            StateDiskFull => "state_disk_full",
            NodeStarved => "node_starved",
            KeeperStarved => "keeper_starved",
            KeeperWithoutFiles => "keeper_without_files",
            MonitorKilled => "monitor_killed",
            MonitorFrozen => "monitor_frozen",
            MonitorStarved => "monitor_starved",
            StandbysKilled => "standbys_killed",
            ClusterKilled => "cluster_killed",
        }
    }

    /// Hits one node, and the primary as well as a standby.
    pub(crate) const fn hits_one_node(self) -> bool {
        !matches!(
            self,
            MonitorKilled | MonitorFrozen | MonitorStarved | StandbysKilled | ClusterKilled
        )
    }

    /// The primary can work all the while, and that can be seen: a change would be needless.
    pub(crate) const fn leaves_the_primary_at_work(self) -> bool {
        matches!(
            self,
            KeeperStarved
                | KeeperWithoutFiles
                | StateDiskFull
                | MonitorKilled
                | MonitorFrozen
                | MonitorStarved
        )
    }

    const fn is_possible(self, means: Means) -> bool {
        match self {
            NodeCutOff => means.network,
            DataDiskFull | StateDiskFull => means.disks,
            NodeStarved | KeeperStarved | MonitorStarved => means.throttle,
            _ => true,
        }
    }
}

/// Faults without end, each with whether the primary is hit: three of four do. Every kind comes
/// once before any comes again.
pub(crate) struct Deck {
    means: Means,
    nodes: Vec<Fault>,
    others: Vec<Fault>,
    drawn: usize,
}

impl Deck {
    pub(crate) fn new(means: Means) -> Self {
        Self { means, nodes: Vec::new(), others: Vec::new(), drawn: 0 }
    }

    fn shuffled(&self, random: &mut Random, one_node: bool, more: &[Fault]) -> Vec<Fault> {
        let all = Fault::ALL.into_iter().filter(|f| f.hits_one_node() == one_node);
        let mut deck: Vec<Fault> =
            all.chain(more.iter().copied()).filter(|f| f.is_possible(self.means)).collect();
        random.shuffle(&mut deck);
        deck
    }

    pub(crate) fn draw(&mut self, random: &mut Random) -> (Fault, bool) {
        self.drawn += 1;
        let on_primary = !self.drawn.is_multiple_of(4);
        if on_primary {
            if self.nodes.is_empty() {
                self.nodes = self.shuffled(random, true, &[]);
            }
            (self.nodes.pop().unwrap(), true)
        } else {
            if self.others.is_empty() {
                // And some that hit a standby.
                let more = [NodeKilled, PostgresFrozen, DataDiskFull, StateDiskFull, NodeStarved];
                self.others = self.shuffled(random, false, &more);
            }
            (self.others.pop().unwrap(), false)
        }
    }
}

#[test]
fn the_list_of_faults_names_every_kind() {
    let list: serde_json::Value = serde_json::from_str(include_str!("../../faults.json")).unwrap();
    let listed: Vec<&str> =
        list.as_array().unwrap().iter().map(|f| f["kind"].as_str().unwrap()).collect();
    let mut known: Vec<&str> = Fault::ALL.iter().map(|f| f.kind()).collect();
    known.push("setting_changed");
    assert_eq!(listed, known);
}

#[test]
fn at_least_half_of_the_faults_hit_the_primary_and_eight_kinds_occur() {
    for seed in 0..200 {
        for all in [false, true] {
            let means = Means { network: all, disks: all, throttle: all };
            let (mut random, mut deck) = (Random::new(seed), Deck::new(means));
            let plan: Vec<(Fault, bool)> = (0..20).map(|_| deck.draw(&mut random)).collect();
            let on_primary = plan.iter().filter(|(_, primary)| *primary).count();
            assert!(on_primary * 2 >= plan.len(), "{plan:?}");
            let mut kinds: Vec<&str> = plan.iter().map(|(f, _)| f.kind()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            assert!(kinds.len() >= 8, "{plan:?}");
        }
    }
}
