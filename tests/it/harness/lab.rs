//! A monitor and its nodes, as processes of this machine.

mod builder;
mod faults;
mod host;
mod waiting;

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use builder::{Builder, Watchdog};
use host::Host;
pub(crate) use host::Part;

use super::disk::Disk;
use super::log::surprises;
use super::network::{CLIENT, Network};
use super::pg::{self, Address, Rows};
use super::process::{self, Output, Owned, own, run};
use super::state::State;
use super::workdir::{Workdir, free_address, free_port, quietly};
use super::writers::Writers;
use super::{millis, secs};

pub(crate) const MONITOR: &str = "monitor";

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
        Builder::new()
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
            disks: None,
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

    /// The disk of a node's data, in a lab with [`Builder::disks`].
    pub(crate) fn data_disk(&self, name: &str) -> &Disk {
        &self.host(name).disks.as_ref().expect("this lab has no disks").0
    }

    /// The disk of its keeper's state.
    pub(crate) fn state_disk(&self, name: &str) -> &Disk {
        &self.host(name).disks.as_ref().expect("this lab has no disks").1
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
        let json = self.pgctl(&["show-events", "--limit", "10000", "--json"]).expect_code(0).json();
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

    /// A change of the primary. A monitor that the machine has held up refuses it for a heartbeat.
    pub(crate) fn change(&self, args: &[&str]) -> Output {
        let begun = Instant::now();
        loop {
            let output = self.pgctl(args);
            if output.code != Some(5) || begun.elapsed() > secs(10) {
                output.expect_code(0);
                return output;
            }
            thread::sleep(millis(100));
        }
    }

    /// What `explain` finds wrong with a node: (code, cause, remedy).
    pub(crate) fn findings(&self, node: &str) -> Vec<(String, String, String)> {
        let json = self.ok(&["explain", node, "--json"]).json();
        let findings = json["nodes"][0]["findings"].as_array().cloned().unwrap_or_default();
        let text = |f: &serde_json::Value, key: &str| f[key].as_str().unwrap_or("").to_owned();
        findings.iter().map(|f| (text(f, "code"), text(f, "cause"), text(f, "remedy"))).collect()
    }

    pub(crate) fn has_finding(&self, node: &str, code: &str) -> bool {
        self.findings(node).iter().any(|(found, ..)| found == code)
    }

    /// Types the command that `explain` names as the remedy of a finding.
    pub(crate) fn do_as_told(&self, node: &str, code: &str) -> Output {
        let mut remedy = String::new();
        self.wait_until(&format!("explain says {code} of {node}"), secs(10), || {
            let found = self.findings(node).into_iter().find(|(found, ..)| found == code);
            found.map(|(.., it)| remedy = it).is_some()
        });
        let (_, command) = remedy.rsplit_once("pgctl ").unwrap_or_else(|| panic!("`{remedy}`"));
        self.ok(&command.split_whitespace().collect::<Vec<_>>())
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
