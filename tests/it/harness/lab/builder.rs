//! How a lab is set up.

use std::cell::{Cell, RefCell};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::host::Host;
use super::{Lab, MONITOR};
use crate::harness::network::{CLIENT, Network};
use crate::harness::workdir::{Workdir, free_address, free_port, postgres_bin};
use crate::harness::{Disk, process, secs};

/// Room for a new server, a copy beside an old one, and the WAL of a scenario.
const DATA_DISK_MB: u32 = 1024;
const STATE_DISK_MB: u32 = 256;

pub(crate) struct Builder {
    nodes: usize,
    heartbeat: Duration,
    number_sync_standbys: u32,
    network: bool,
    limit: Duration,
    stubs: bool,
    programs: Option<PathBuf>,
    disks: bool,
}

impl Builder {
    pub(super) fn new() -> Self {
        Builder {
            nodes: 3,
            heartbeat: secs(1),
            number_sync_standbys: 0,
            network: false,
            limit: secs(180),
            stubs: false,
            programs: None,
            disks: false,
        }
    }

    pub(crate) fn nodes(mut self, nodes: usize) -> Self {
        self.nodes = nodes;
        self
    }

    /// For scenarios whose point is not the time that detection takes.
    pub(crate) fn heartbeat(mut self, interval: Duration) -> Self {
        self.heartbeat = interval;
        self
    }

    pub(crate) fn number_sync_standbys(mut self, number: u32) -> Self {
        self.number_sync_standbys = number;
        self
    }

    /// Every host in a network namespace of its own. Needs [`Network::missing`] to be nothing.
    pub(crate) fn network(mut self, network: bool) -> Self {
        self.network = network;
        self
    }

    /// The data of each node and the state of its keeper on small disks of their own. For root only.
    pub(crate) fn disks(mut self, disks: bool) -> Self {
        self.disks = disks;
        self
    }

    /// How long the scenario may take in all.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The programs will be put in place by the caller: for tests of the harness itself.
    pub(crate) fn stubs(mut self) -> Self {
        self.stubs = true;
        self
    }

    /// The programs in this directory, not the usual ones.
    pub(crate) fn programs(mut self, dir: PathBuf) -> Self {
        self.programs = Some(dir);
        self
    }

    /// All up: one primary, the others secondary, a table for the writers.
    pub(crate) fn start(self) -> Lab {
        let mut lab = self.prepare();
        lab.start_all();
        lab
    }

    /// The hosts with their directories, nothing started yet.
    pub(crate) fn prepare(self) -> Lab {
        let dir = Workdir::create();
        if !self.stubs {
            match &self.programs {
                Some(programs) => dir.add_programs_of(programs),
                None => dir.add_programs(),
            }
        }
        let node_names: Vec<String> = (1..=self.nodes).map(|n| format!("node{n}")).collect();
        let network = self.network.then(|| {
            let nodes = node_names.iter().map(String::as_str);
            Network::create(&nodes.chain([MONITOR, CLIENT]).collect::<Vec<_>>())
        });
        let ip = |host: &str| match &network {
            Some(network) => network.address(host),
            None => Ipv4Addr::LOCALHOST.into(),
        };
        let bin = postgres_bin().display().to_string();
        let sockets = dir.sockets().display().to_string();
        let grpc = free_address(ip(MONITOR));
        let mut hosts = Vec::new();
        let mut add = |name: &str, program, data: &str| {
            let home = dir.make_home(name);
            let disks = (self.disks && name != MONITOR).then(|| {
                let disk = |of: &str, megabytes| {
                    Disk::mount(&dir.make_home(&format!("{name}/{of}")), megabytes)
                };
                (disk("data", DATA_DISK_MB), disk("state", STATE_DISK_MB))
            });
            let under = disks.as_ref().map_or(&home, |(data, _)| &data.at);
            hosts.push(Host {
                name: name.to_owned(),
                data: under.join(data),
                disks,
                home,
                pg_port: free_port(),
                http: free_address(ip(name)),
                ip: ip(name),
                program,
                args: Vec::new(),
                daemon: None,
                frozen: Vec::new(),
                mounts: Vec::new(),
                env: Vec::new(),
            });
        };
        add(MONITOR, "vigil-monitor", "data");
        for name in &node_names {
            add(name, "vigil-keeper", "pg");
        }
        for (n, host) in hosts.iter_mut().enumerate() {
            let data = host.data.display().to_string();
            let mut args: Vec<(&str, String)> = vec![
                ("--pg-port", host.pg_port.to_string()),
                ("--pg-bin", bin.clone()),
                ("--http-listen", host.http.to_string()),
            ];
            if host.name == MONITOR {
                args.push(("--data-dir", data));
                args.push(("--listen", grpc.to_string()));
                args.push(("--pg-socket-dir", sockets.clone()));
                let heartbeat = format!("{}ms", self.heartbeat.as_millis());
                args.push(("--heartbeat-interval", heartbeat));
                let number = self.number_sync_standbys.to_string();
                args.push(("--number-sync-standbys", number));
            } else {
                args.push(("--pgdata", data));
                if let Some((_, state)) = &host.disks {
                    args.push(("--state-dir", state.at.join("keeper").display().to_string()));
                }
                args.push(("--name", host.name.clone()));
                args.push(("--host", host.ip.to_string()));
                args.push(("--monitor", format!("http://{grpc}")));
                args.push(("--candidate-priority", (110 - 10 * n).to_string()));
                args.push(("--pg-socket-dir", sockets.clone()));
                args.push(("--pg-hba-auth", "trust".to_owned()));
                let cidr = if self.network {
                    Network::CIDR
                } else {
                    args.push(("--pg-listen", "127.0.0.1".to_owned()));
                    "127.0.0.1/32"
                };
                args.push(("--pg-hba-cidr", cidr.to_owned()));
            }
            host.args = args
                .into_iter()
                .flat_map(|(name, value)| [name.to_owned(), value])
                .chain(["--insecure".to_owned()])
                .collect();
        }
        let name = thread::current().name().unwrap_or("a test").to_owned();
        let watchdog = Watchdog::start(&name, self.limit, &dir);
        println!("{name}: in {}", dir.path.display());
        Lab {
            hosts,
            grpc,
            network,
            announced: RefCell::default(),
            until: Instant::now() + self.limit,
            told: Cell::new(false),
            _watchdog: watchdog,
            dir,
        }
    }
}

/// Ends the whole test program when a scenario hangs where no deadline is looked at.
pub(super) struct Watchdog(#[expect(dead_code, reason = "its end is what counts")] Sender<()>);

impl Watchdog {
    fn start(name: &str, limit: Duration, dir: &Workdir) -> Self {
        let (tell, told) = channel::<()>();
        let (name, path) = (name.to_owned(), dir.path.clone());
        thread::spawn(move || {
            if told.recv_timeout(limit + secs(60)) == Err(RecvTimeoutError::Timeout) {
                eprintln!("{name}: hangs; its files stay in {}", path.display());
                process::kill_all(|| process::under(&path));
                std::process::exit(101);
            }
        });
        Self(tell)
    }
}
