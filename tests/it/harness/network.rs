//! Hosts made of network namespaces, on one bridge that lies in a namespace of its own. Nothing is
//! routed to or from the machine, so no packet leaves.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::process::{self, Process};
use super::{run, secs};

const PREFIX: &str = "pgvigil-it";

/// The host that the writers and `pgctl` run on.
pub(crate) const CLIENT: &str = "client";

#[derive(Clone)]
pub(crate) struct Network {
    prefix: String,
    hosts: Vec<String>,
}

fn ip(args: &[&str]) -> process::Output {
    run(Command::new("ip").args(args), secs(10))
}

fn must_ip(args: &[&str]) {
    ip(args).expect_code(0);
}

fn namespaces() -> Vec<String> {
    ip(&["netns", "list"])
        .stdout
        .lines()
        .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
        .collect()
}

fn path_of(namespace: &str) -> PathBuf {
    PathBuf::from(format!("/run/netns/{namespace}"))
}

fn remove(namespace: &str) {
    if let Ok(metadata) = fs::metadata(path_of(namespace)) {
        let inode = metadata.ino();
        process::kill_all(|| process::in_network_namespace(inode));
        ip(&["netns", "del", namespace]);
    }
}

/// Removes what a killed test run left.
fn remove_leftovers() {
    for namespace in namespaces() {
        let owner =
            namespace.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse().ok());
        if owner.is_some_and(|pid: i32| Process::of(pid).is_none()) {
            remove(&namespace);
        }
    }
}

impl Network {
    /// Why there cannot be one here, if so.
    pub(crate) fn missing() -> Option<&'static str> {
        if !super::is_root() {
            return Some("needs root");
        }
        let works = std::path::Path::new("/usr/sbin/ip").exists()
            || std::path::Path::new("/sbin/ip").exists()
            || std::path::Path::new("/bin/ip").exists();
        (!works).then_some("needs the program ip (iproute2)")
    }

    pub(crate) fn create(hosts: &[&str]) -> Self {
        remove_leftovers();
        let net = Self {
            prefix: format!("{PREFIX}{}", std::process::id()),
            hosts: hosts.iter().map(|&h| h.to_owned()).collect(),
        };
        net.remove();
        let bridge = net.namespace("bridge");
        must_ip(&["netns", "add", &bridge]);
        must_ip(&["-n", &bridge, "link", "add", "br0", "type", "bridge"]);
        must_ip(&["-n", &bridge, "link", "set", "br0", "up"]);
        for host in hosts {
            let ns = net.namespace(host);
            let port = format!("p-{host}");
            must_ip(&["netns", "add", &ns]);
            must_ip(&["-n", &ns, "link", "set", "lo", "up"]);
            must_ip(&[
                "-n", &bridge, "link", "add", &port, "type", "veth", "peer", "name", "eth0",
                "netns", &ns,
            ]);
            must_ip(&["-n", &bridge, "link", "set", &port, "master", "br0", "up"]);
            let address = format!("{}/24", net.address(host));
            must_ip(&["-n", &ns, "addr", "add", &address, "dev", "eth0"]);
            must_ip(&["-n", &ns, "link", "set", "eth0", "up"]);
        }
        net
    }

    pub(crate) fn remove(&self) {
        for host in self.hosts.iter().map(String::as_str).chain(["bridge"]) {
            remove(&self.namespace(host));
        }
    }

    pub(crate) const CIDR: &str = "10.77.0.0/24";

    pub(crate) fn address(&self, host: &str) -> IpAddr {
        let n = self.hosts.iter().position(|h| h == host).unwrap();
        Ipv4Addr::new(10, 77, 0, u8::try_from(n + 1).unwrap()).into()
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Moves the calling thread, for good: only for a thread that was made for it. What it starts
    /// lives there as well.
    pub(crate) fn move_this_thread_to(&self, host: &str) {
        let file = File::open(path_of(&self.namespace(host))).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Does something on one of the hosts.
    pub(crate) fn on<T: Send>(&self, host: &str, work: impl FnOnce() -> T + Send) -> T {
        let result = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.move_this_thread_to(host);
                    work()
                })
                .join()
        });
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Pulls the cable of a host, or plugs it in again. No process notices anything but silence.
    pub(crate) fn cable(&self, host: &str, up: bool) {
        let port = format!("p-{host}");
        let state = if up { "up" } else { "down" };
        must_ip(&["-n", &self.namespace("bridge"), "link", "set", &port, state]);
    }

    /// Packets from one host to another are lost on the way, those in the other direction arrive:
    /// they are sent to a hardware address that nobody has. Needs no packet filter in the kernel.
    pub(crate) fn cut_one_way(&self, from: &str, to: &str) {
        let to = self.address(to).to_string();
        must_ip(&[
            "-n",
            &self.namespace(from),
            "neigh",
            "replace",
            &to,
            "lladdr",
            "02:00:00:00:de:ad",
            "dev",
            "eth0",
            "nud",
            "permanent",
        ]);
    }

    pub(crate) fn cut(&self, one: &str, other: &str) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Takes back every cut and plugs every cable in.
    pub(crate) fn mend(&self) {
        for host in &self.hosts {
            for other in self.hosts.iter().filter(|h| *h != host) {
                let to = self.address(other).to_string();
                // There need not be one.
                ip(&["-n", &self.namespace(host), "neigh", "del", &to, "dev", "eth0"]);
            }
            self.cable(host, true);
        }
    }
}
