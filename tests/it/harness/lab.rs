//! A monitor and its nodes, as processes of this machine.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::log::{last_lines, surprises};
use super::network::{CLIENT, Network};
use super::pg::{self, Address, Rows};
use super::process::{self, Output, Owned, Process, own, run};
use super::state::State;
use super::workdir::{Workdir, free_address, free_port, postgres_bin, quietly};
use super::writers::Writers;
use super::{millis, secs};

pub(crate) const MONITOR: &str = "monitor";

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

struct Host {
    name: String,
    home: PathBuf,
    data: PathBuf,
    pg_port: u16,
    http: SocketAddr,
    ip: IpAddr,
    program: &'static str,
    args: Vec<String>,
    daemon: Option<Owned>,
    frozen: Vec<Process>,
    /// (a directory of its own, where this host sees it): what is on a path differs by host.
    mounts: Vec<(PathBuf, PathBuf)>,
    env: Vec<(String, String)>,
}

impl Host {
    fn postgres(&self) -> Vec<Process> {
        let mut found = process::under(&self.data);
        if let Some(daemon) = &self.daemon {
            found.retain(|p| *p != daemon.process);
        }
        found
    }

    fn postmaster(&self) -> Option<Process> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        let process = Process::of(text.lines().next()?.trim().parse().ok()?)?;
        self.postgres().contains(&process).then_some(process)
    }

    fn keeper(&self) -> Vec<Process> {
        let daemon = self.daemon.as_ref().map(|d| d.process);
        daemon.filter(|d| d.is_alive()).into_iter().collect()
    }

    /// The processes of a part, as they are now.
    fn find(&self, part: Part) -> Vec<Process> {
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

pub(crate) struct Builder {
    nodes: usize,
    heartbeat: Duration,
    number_sync_standbys: u32,
    network: bool,
    limit: Duration,
    stubs: bool,
    programs: Option<PathBuf>,
}

impl Builder {
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
            hosts.push(Host {
                name: name.to_owned(),
                data: home.join(data),
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
struct Watchdog(#[expect(dead_code, reason = "its end is what counts")] Sender<()>);

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

pub(crate) struct Lab {
    hosts: Vec<Host>,
    grpc: SocketAddr,
    network: Option<Network>,
    announced: RefCell<Vec<String>>,
    until: Instant,
    told: Cell<bool>,
    _watchdog: Watchdog,
    // Last: dropping it ends what is still running.
    dir: Workdir,
}

impl Lab {
    pub(crate) fn builder() -> Builder {
        Builder {
            nodes: 3,
            heartbeat: secs(1),
            number_sync_standbys: 0,
            network: false,
            limit: secs(180),
            stubs: false,
            programs: None,
        }
    }

    // -- hosts

    fn host(&self, name: &str) -> &Host {
        let mut hosts = self.hosts.iter();
        hosts.find(|h| h.name == name).unwrap_or_else(|| panic!("no host {name}"))
    }

    fn host_mut(&mut self, name: &str) -> &mut Host {
        self.hosts.iter_mut().find(|h| h.name == name).unwrap()
    }

    pub(crate) fn node_names(&self) -> Vec<String> {
        let nodes = self.hosts.iter().filter(|h| h.name != MONITOR);
        nodes.map(|h| h.name.clone()).collect()
    }

    /// All nodes but the named ones.
    pub(crate) fn others(&self, than: &[&str]) -> Vec<String> {
        let mut names = self.node_names();
        names.retain(|n| !than.contains(&n.as_str()));
        names
    }

    pub(crate) fn network(&self) -> &Network {
        self.network.as_ref().expect("this lab has no network")
    }

    pub(crate) fn has_network(&self) -> bool {
        self.network.is_some()
    }

    pub(crate) fn workdir(&self) -> &Workdir {
        &self.dir
    }

    pub(crate) fn monitor_url(&self) -> String {
        format!("http://{}", self.grpc)
    }

    pub(crate) fn http(&self, host: &str) -> SocketAddr {
        self.host(host).http
    }

    pub(crate) fn tcp(&self, host: &str) -> SocketAddr {
        let host = self.host(host);
        SocketAddr::new(host.ip, host.pg_port)
    }

    /// By the file system, whatever the network does.
    pub(crate) fn socket(&self, host: &str) -> Address {
        Address::Socket(self.dir.sockets(), self.host(host).pg_port)
    }

    /// As a client of this test reaches it.
    pub(crate) fn address(&self, host: &str) -> Address {
        if self.has_network() { self.socket(host) } else { Address::Tcp(self.tcp(host)) }
    }

    pub(crate) fn writers(&self, count: usize) -> Writers {
        let targets = self
            .node_names()
            .into_iter()
            .map(|name| {
                let address = Address::Tcp(self.tcp(&name));
                (name, address)
            })
            .collect();
        Writers::start(targets, count, self.network.clone())
    }

    // -- faults

    fn on_host<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        match &self.network {
            Some(network) => network.on(host, work),
            None => work(),
        }
    }

    /// Starts a new cluster: one primary, the others secondary, a table for the writers.
    pub(crate) fn start_all(&mut self) {
        self.start_daemon(MONITOR);
        let names = self.node_names();
        for name in &names {
            self.start_daemon(name);
            if name == "node1" {
                self.wait_for("node1 accepts writes", secs(60), |state| {
                    state.primary() == Some("node1")
                });
                let table = "create table acks (writer int, seq bigint, primary key (writer, seq))";
                self.sql("node1", table).unwrap();
            }
        }
        let nodes = names.len();
        self.wait_for("the new cluster is whole", secs(90), |s| s.is_whole(nodes));
    }

    /// Starts the daemon of a host as a service manager would at boot.
    pub(crate) fn start_daemon(&mut self, name: &str) {
        let host = self.host(name);
        assert!(host.keeper().is_empty(), "{name} is running");
        let log = File::options().create(true).append(true).open(self.dir.log(name)).unwrap();
        let program = self.dir.bin(host.program);
        let mut command = if host.mounts.is_empty() {
            self.dir.command(program, &host.home)
        } else {
            self.dir.command_with_mounts(program, &host.home, &host.mounts)
        };
        command.envs(host.env.iter().map(|(k, v)| (k, v)));
        command.args(&host.args).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let daemon = self.on_host(name, || own(&mut command));
        self.host_mut(name).daemon = Some(daemon);
    }

    /// One more node, not started yet: as the others, the least wanted of them.
    pub(crate) fn add_node(&mut self, name: &str) {
        let home = self.dir.make_home(name);
        let (data, pg_port, ip) =
            (home.join("pg"), free_port(), self.host(&self.node_names()[0]).ip);
        assert!(!self.has_network(), "a network is made for its hosts at the start");
        let http = free_address(ip);
        let args = self.args(&self.node_names()[0]);
        self.hosts.push(Host {
            name: name.to_owned(),
            data: data.clone(),
            home,
            pg_port,
            http,
            ip,
            program: "vigil-keeper",
            args,
            daemon: None,
            frozen: Vec::new(),
            mounts: Vec::new(),
            env: Vec::new(),
        });
        for (option, value) in [
            ("--pgdata", data.display().to_string()),
            ("--name", name.to_owned()),
            ("--pg-port", pg_port.to_string()),
            ("--http-listen", http.to_string()),
            ("--candidate-priority", "50".to_owned()),
        ] {
            self.set_option(name, option, &value);
        }
    }

    /// Changes an option of a daemon, from its next start on.
    pub(crate) fn set_option(&mut self, name: &str, option: &str, value: &str) {
        let args = &mut self.host_mut(name).args;
        match args.iter().position(|a| a == option) {
            Some(at) => value.clone_into(&mut args[at + 1]),
            None => args.extend([option.to_owned(), value.to_owned()]),
        }
    }

    /// Gives a host a directory of its own at a path that all hosts have, from its daemon's next
    /// start on. For root only.
    pub(crate) fn mount(&mut self, name: &str, at: &Path) -> PathBuf {
        let own = self.dir.make_home(&format!("{name}/{}", at.file_name().unwrap().display()));
        self.host_mut(name).mounts.push((own.clone(), at.to_owned()));
        own
    }

    /// A variable in the environment of a daemon, from its next start on.
    pub(crate) fn set_env(&mut self, name: &str, variable: &str, value: &str) {
        self.host_mut(name).env.push((variable.to_owned(), value.to_owned()));
    }

    /// Whose daemon has this process id.
    pub(crate) fn host_of(&self, pid: i32) -> Option<String> {
        let of = |h: &&Host| h.daemon.as_ref().is_some_and(|d| d.process.pid == pid);
        self.hosts.iter().find(of).map(|h| h.name.clone())
    }

    /// A host that is no part of the cluster any more.
    pub(crate) fn remove_host(&mut self, name: &str) {
        assert!(self.host(name).find(Part::All).is_empty(), "{name} is running");
        self.hosts.retain(|h| h.name != name);
    }

    pub(crate) fn data_dir(&self, name: &str) -> PathBuf {
        self.host(name).data.clone()
    }

    /// Waits until the daemon of a host has ended by itself; its exit code.
    pub(crate) fn wait_for_exit(&mut self, name: &str, within: Duration) -> Option<i32> {
        let mut daemon = self.host_mut(name).daemon.take().expect("the daemon was started");
        let Some(status) = daemon.wait(within) else {
            self.host_mut(name).daemon = Some(daemon);
            self.fail(&format!("{name} does not end by itself within {within:?}"));
        };
        status.code()
    }

    /// The options that a host's daemon is started with.
    pub(crate) fn args(&self, name: &str) -> Vec<String> {
        self.host(name).args.clone()
    }

    /// SIGKILL: of everything at once it is the loss of power.
    pub(crate) fn kill(&mut self, name: &str, part: Part) {
        self.kill_together(&[(name, part)]);
    }

    /// SIGKILL to several at the same moment.
    pub(crate) fn kill_together(&mut self, targets: &[(&str, Part)]) {
        let find = || -> Vec<Process> {
            let parts = targets.iter();
            parts.flat_map(|(n, part)| self.host(n).find(*part)).collect()
        };
        let once = |part| matches!(part, Part::Postgres | Part::Postmaster);
        if targets.iter().any(|(_, part)| once(*part)) {
            // The keeper lives and may start Postgres again at once: that one is left alone.
            let mut found = find();
            for process in &found {
                process.signal(Signal::KILL);
            }
            if targets.iter().all(|(_, part)| *part == Part::Postgres) {
                // Forked between looking and killing.
                let late = find();
                for process in &late {
                    process.signal(Signal::KILL);
                }
                found.extend(late);
            }
            process::kill_all(|| found.iter().copied().filter(|p| p.is_alive()).collect());
        } else {
            process::kill_all(find);
        }
        for (name, part) in targets {
            if matches!(part, Part::All | Part::Keeper) {
                let host = self.host_mut(name);
                host.daemon = None;
                host.frozen.clear();
            }
        }
    }

    /// Polite: SIGTERM to the daemon, or a fast stop of Postgres behind the keeper's back.
    pub(crate) fn stop(&mut self, name: &str, part: Part) {
        let host = self.host_mut(name);
        if matches!(part, Part::Postgres | Part::Postmaster) {
            host.postmaster()
                .unwrap_or_else(|| panic!("Postgres of {name} is not running"))
                .signal(Signal::INT);
            return;
        }
        let daemon = host.daemon.as_ref().expect("the daemon is running");
        daemon.process.signal(Signal::TERM);
        self.wait_for_end(name);
    }

    /// SIGTERM to several daemons at once.
    pub(crate) fn stop_together(&mut self, names: &[&str]) {
        for name in names {
            let daemon = self.host(name).daemon.as_ref().expect("the daemon is running");
            daemon.process.signal(Signal::TERM);
        }
        for name in names {
            self.wait_for_end(name);
        }
    }

    fn wait_for_end(&mut self, name: &str) {
        let mut daemon = self.host_mut(name).daemon.take().expect("the daemon is running");
        let Some(status) = daemon.wait(secs(30)) else {
            self.host_mut(name).daemon = Some(daemon);
            self.fail(&format!("{name} does not end within 30 s of SIGTERM"));
        };
        assert_eq!(status.code(), Some(0), "{name} after SIGTERM");
    }

    /// Starts the daemon of a host that was killed or stopped.
    pub(crate) fn start(&mut self, name: &str) {
        self.start_daemon(name);
    }

    /// SIGSTOP.
    pub(crate) fn freeze(&mut self, name: &str, part: Part) {
        let frozen = process::freeze_all(|| self.host(name).find(part));
        assert!(!frozen.is_empty(), "nothing of {name} is running");
        self.host_mut(name).frozen.extend(frozen);
    }

    /// SIGCONT to what is left of the frozen.
    pub(crate) fn thaw(&mut self, name: &str) {
        let frozen = std::mem::take(&mut self.host_mut(name).frozen);
        for process in frozen {
            process.signal(Signal::CONT);
        }
    }

    pub(crate) fn postmaster(&self, name: &str) -> Option<Process> {
        self.host(name).postmaster()
    }

    pub(crate) fn is_running(&self, name: &str) -> bool {
        !self.host(name).keeper().is_empty()
    }

    pub(crate) fn postgres_processes(&self, name: &str) -> Vec<Process> {
        self.host(name).postgres()
    }

    // -- questions

    pub(crate) fn pgctl_command(&self, args: &[&str]) -> Command {
        let home = &self.host(MONITOR).home;
        let mut command = self.dir.command(self.dir.bin("pgctl"), home);
        command.arg("--monitor").arg(self.monitor_url()).args(args);
        command
    }

    /// Another program of ours, on the monitor's host, until it is dropped.
    pub(crate) fn beside(&self, program: &str, args: &[&str]) -> Owned {
        let log = File::create(self.dir.log(program)).unwrap();
        // A home of its own: what is in that of a host is the host's.
        let mut command = self.dir.command(self.dir.bin(program), &self.dir.make_home(program));
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.on_host(MONITOR, || own(&mut command))
    }

    pub(crate) fn pgctl(&self, args: &[&str]) -> Output {
        let mut command = self.pgctl_command(args);
        self.on_host(CLIENT, || run(&mut command, secs(90)))
    }

    pub(crate) fn state(&self) -> Result<State, String> {
        let mut command = self.pgctl_command(&["show-state", "--json", "--timeout", "3s"]);
        let output = self.on_host(CLIENT, || run(&mut command, secs(8)));
        if output.code != Some(0) {
            return Err(format!("{output:?}"));
        }
        State::parse(&output.stdout)
    }

    /// The events of a kind, or all of them.
    pub(crate) fn events(&self, kinds: &[&str]) -> Vec<serde_json::Value> {
        let json = self.pgctl(&["show-events", "--json"]).expect_code(0).json();
        let events = json["events"].as_array().expect("events").iter();
        events
            .filter(|e| kinds.is_empty() || kinds.iter().any(|kind| e["kind"] == *kind))
            .cloned()
            .collect()
    }

    /// Waits for an event of a kind whose description has these words.
    pub(crate) fn wait_for_event(&self, kind: &str, words: &str, within: Duration) {
        self.wait_until(&format!("a {kind} event with `{words}`"), within, || {
            let said = |e: &serde_json::Value| e["description"].to_string().contains(words);
            self.events(&[kind]).iter().any(said)
        });
    }

    /// A command that is done.
    pub(crate) fn ok(&self, args: &[&str]) -> Output {
        let output = self.pgctl(args);
        output.expect_code(0);
        output
    }

    /// What `explain` finds wrong with a node: (code, cause, remedy).
    pub(crate) fn findings(&self, node: &str) -> Vec<(String, String, String)> {
        let json = self.ok(&["explain", node, "--json"]).json();
        let findings = json["nodes"][0]["findings"].as_array().cloned().unwrap_or_default();
        let text = |f: &serde_json::Value, key: &str| f[key].as_str().unwrap_or("").to_owned();
        findings.iter().map(|f| (text(f, "code"), text(f, "cause"), text(f, "remedy"))).collect()
    }

    /// As superuser, on one node.
    pub(crate) fn sql(&self, node: &str, statement: &str) -> Result<Rows, String> {
        pg::query(&pg::config(&self.address(node)), statement, secs(10))
    }

    /// The first column of the first row.
    pub(crate) fn value(&self, node: &str, statement: &str) -> Option<String> {
        self.sql(node, statement).ok()?.first()?.first()?.clone()
    }

    /// Nothing when the server does not answer.
    pub(crate) fn is_in_recovery(&self, node: &str) -> Option<bool> {
        let statement = "select pg_is_in_recovery()";
        let config = pg::config(&self.address(node));
        let rows = pg::query(&config, statement, millis(500)).ok()?;
        Some(rows[0][0].as_deref() == Some("t"))
    }

    pub(crate) fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.log(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    // -- waiting

    /// Panics with all that helps to understand.
    pub(crate) fn fail(&self, what: &str) -> ! {
        let diagnosis = self.diagnosis();
        self.told.set(true);
        panic!("{what}\n{diagnosis}");
    }

    fn diagnosis(&self) -> String {
        let mut text = match self.state() {
            Ok(state) => format!("{state}"),
            Err(why) => format!("no state: {why}\n"),
        };
        let mut command = self.pgctl_command(&["explain", "--timeout", "3s"]);
        let explain = self.on_host(CLIENT, || run(&mut command, secs(8)));
        let _ = write!(text, "-- pgctl explain\n{}{}", explain.stdout, explain.stderr);
        for host in &self.hosts {
            let name = &host.name;
            let _ = writeln!(
                text,
                "-- {name}: daemon {:?}, postmaster {:?}\n{}",
                host.daemon.as_ref().map(|d| d.process.pid),
                host.postmaster().map(|p| p.pid),
                last_lines(&self.log(name), 30)
            );
        }
        text
    }

    /// Waits for a state of the cluster.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut(&State) -> bool,
    ) -> State {
        let begun = Instant::now();
        let until = (begun + within).min(self.until);
        loop {
            let state = self.state();
            if let Ok(state) = state
                && condition(&state)
            {
                return state;
            }
            if Instant::now() > until {
                let waited = begun.elapsed().as_secs_f64();
                self.fail(&format!("{what}: not within {waited:.1} s"));
            }
            thread::sleep(millis(80));
        }
    }

    /// Waits for something that is not in the state.
    pub(crate) fn wait_until(
        &self,
        what: &str,
        within: Duration,
        mut condition: impl FnMut() -> bool,
    ) {
        let begun = Instant::now();
        let until = (begun + within).min(self.until);
        while !condition() {
            if Instant::now() > until {
                let waited = begun.elapsed().as_secs_f64();
                self.fail(&format!("{what}: not within {waited:.1} s"));
            }
            thread::sleep(millis(10));
        }
    }

    /// Watches that something stays true for so long.
    pub(crate) fn holds(&self, what: &str, during: Duration, mut condition: impl FnMut() -> bool) {
        let begun = Instant::now();
        while begun.elapsed() < during {
            if !condition() {
                let after = begun.elapsed().as_secs_f64();
                self.fail(&format!("{what}: no longer after {after:.1} s"));
            }
            thread::sleep(millis(100));
        }
    }

    /// One primary, all others secondary.
    pub(crate) fn wait_until_whole(&self, within: Duration) -> State {
        let nodes = self.hosts.len() - 1;
        self.wait_for("the cluster is whole", within, |s| s.is_whole(nodes))
    }

    /// The primary, which must be there.
    pub(crate) fn primary(&self) -> String {
        match self.state().as_ref().map(State::primary) {
            Ok(Some(name)) => name.to_owned(),
            _ => self.fail("there is no primary"),
        }
    }

    /// Waits until every standby has replayed what the primary has.
    pub(crate) fn wait_for_replay(&self) {
        let primary = self.primary();
        let end = self
            .value(&primary, "select pg_current_wal_flush_lsn()")
            .unwrap_or_else(|| self.fail("the primary does not tell its WAL position"));
        for standby in self.others(&[&primary]) {
            let statement = format!("select pg_last_wal_replay_lsn() >= '{end}'");
            let what = format!("{standby} has replayed {end} of {primary}");
            self.wait_until(&what, secs(30), || {
                self.value(&standby, &statement).as_deref() == Some("t")
            });
        }
    }

    // -- logs

    /// An ERROR line that contains this is part of the scenario.
    pub(crate) fn expect_error(&self, part: &str) {
        self.announced.borrow_mut().push(part.to_owned());
    }

    fn unexpected(&self) -> Vec<String> {
        let announced = self.announced.borrow();
        let hosts = self.hosts.iter();
        hosts
            .flat_map(|host| {
                let found = surprises(&self.log(&host.name), &announced);
                found.into_iter().map(|l| format!("{}: {l}", host.name))
            })
            .collect()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let panicking = thread::panicking();
        if panicking && !self.told.get() {
            quietly(|| eprintln!("{}", self.diagnosis()));
        }
        for host in &mut self.hosts {
            quietly(|| process::kill_all(|| host.find(Part::All)));
            host.daemon = None;
        }
        if let Some(network) = &self.network {
            quietly(|| network.remove());
        }
        quietly(|| self.dir.kill_everything());
        let unexpected = self.unexpected();
        if !unexpected.is_empty() {
            let text = unexpected.join("\n");
            assert!(panicking, "lines in the logs that nobody announced:\n{text}");
            eprintln!("lines in the logs that nobody announced:\n{text}");
        }
    }
}
