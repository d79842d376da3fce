//! How the machine does, for dashboards: processor, memory, network, and the disk of the data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, gauge};
use tokio::sync::watch;

/// How often it is looked at. A scrape shows what was seen last: a disk that hangs holds up no page.
const EVERY: Duration = Duration::from_secs(1);
/// The kernel's unit of processor time towards programs, on every Linux.
const TICKS_PER_SECOND: u64 = 100;
const CPU_MODES: [&str; 8] =
    ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];

/// One look. What could not be read is missing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Machine {
    /// Milliseconds since boot, by mode, of all processors.
    cpu_ms: BTreeMap<&'static str, u64>,
    cpus: u64,
    load1: Option<f64>,
    memory_total: Option<u64>,
    memory_available: Option<u64>,
    disk_size: Option<u64>,
    disk_available: Option<u64>,
    received: u64,
    sent: u64,
}

/// Looks for ever, at a thread's pace: one look at a time, whatever it hangs in.
pub async fn watch(pgdata: PathBuf, seen: watch::Sender<Arc<Machine>>) {
    loop {
        let pgdata = pgdata.clone();
        if let Ok(machine) = tokio::task::spawn_blocking(move || Machine::look(&pgdata)).await {
            seen.send_replace(Arc::new(machine));
        }
        tokio::time::sleep(EVERY).await;
    }
}

impl Machine {
    fn look(pgdata: &Path) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let mut machine = Machine::default();
        machine.take_stat(&read("/proc/stat"));
        machine.load1 =
            read("/proc/loadavg").split_whitespace().next().and_then(|load| load.parse().ok());
        let meminfo = read("/proc/meminfo");
        machine.memory_total = kilobytes(&meminfo, "MemTotal:");
        machine.memory_available = kilobytes(&meminfo, "MemAvailable:");
        machine.take_network(&read("/proc/net/dev"));
        // Before the first clone there is no directory yet.
        let there = pgdata.ancestors().find(|dir| dir.exists());
        if let Some(disk) = there.and_then(|dir| rustix::fs::statvfs(dir).ok()) {
            // As `df` has it: what is kept back for root is nobody's.
            let used = disk.f_blocks.saturating_sub(disk.f_bfree);
            machine.disk_size = Some((used + disk.f_bavail) * disk.f_frsize);
            machine.disk_available = Some(disk.f_bavail * disk.f_frsize);
        }
        machine
    }

    fn take_stat(&mut self, stat: &str) {
        for line in stat.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("cpu") => {
                    let ticks = words.map_while(|word| word.parse::<u64>().ok());
                    self.cpu_ms = CPU_MODES
                        .into_iter()
                        .zip(ticks.map(|ticks| ticks * 1000 / TICKS_PER_SECOND))
                        .collect();
                }
                Some(word) if word.starts_with("cpu") => self.cpus += 1,
                _ => {}
            }
        }
    }

    fn take_network(&mut self, dev: &str) {
        for (name, rest) in dev.lines().filter_map(|line| line.split_once(':')) {
            let numbers: Vec<u64> =
                rest.split_whitespace().map_while(|word| word.parse().ok()).collect();
            // What goes over the loopback is no traffic.
            if name.trim() != "lo"
                && let (Some(received), Some(sent)) = (numbers.first(), numbers.get(8))
            {
                self.received += received;
                self.sent += sent;
            }
        }
    }

    /// Puts it into the recorder that is in force.
    pub fn put(&self) {
        describe();
        for (mode, ms) in &self.cpu_ms {
            counter!("pgvigil_machine_cpu_ms_total", "mode" => *mode).absolute(*ms);
        }
        #[expect(clippy::cast_precision_loss, reason = "exact up to petabytes")]
        let put = |name: &'static str, value: Option<u64>| {
            if let Some(value) = value {
                gauge!(name).set(value as f64);
            }
        };
        put("pgvigil_machine_cpus", Some(self.cpus).filter(|cpus| *cpus > 0));
        put("pgvigil_machine_memory_size_bytes", self.memory_total);
        put("pgvigil_machine_memory_available_bytes", self.memory_available);
        put("pgvigil_machine_disk_size_bytes", self.disk_size);
        put("pgvigil_machine_disk_available_bytes", self.disk_available);
        if let Some(load) = self.load1 {
            gauge!("pgvigil_machine_load1").set(load);
        }
        counter!("pgvigil_machine_network_received_bytes_total").absolute(self.received);
        counter!("pgvigil_machine_network_sent_bytes_total").absolute(self.sent);
    }
}

fn describe() {
    describe_counter!("pgvigil_machine_cpu_ms_total", "Time of all processors, by mode.");
    describe_gauge!("pgvigil_machine_cpus", "Processors.");
    describe_gauge!("pgvigil_machine_load1", "Load average over one minute.");
    describe_gauge!("pgvigil_machine_memory_size_bytes", "Memory of this machine.");
    describe_gauge!("pgvigil_machine_memory_available_bytes", "Memory that programs could get.");
    describe_gauge!(
        "pgvigil_machine_disk_size_bytes",
        "What the file system of the data directory holds."
    );
    describe_gauge!("pgvigil_machine_disk_available_bytes", "What is free there.");
    describe_counter!(
        "pgvigil_machine_network_received_bytes_total",
        "Bytes that came in, without the loopback."
    );
    describe_counter!(
        "pgvigil_machine_network_sent_bytes_total",
        "Bytes that went out, without the loopback."
    );
}

/// A line of `/proc/meminfo`, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_understood() {
        let mut machine = Machine::default();
        machine.take_stat("cpu  100 0 50 1000 7 0 3 0 0 0\ncpu0 1 2\ncpu1 1 2\nintr 5\n");
        assert_eq!((machine.cpus, machine.cpu_ms["user"], machine.cpu_ms["iowait"]), (2, 1000, 70));
        machine.take_network(
            "Inter-|   Receive\n face |bytes\n    lo: 9 1 0 0 0 0 0 0 9 1 0 0 0 0 0 0\n\
               eth0: 500 1 0 0 0 0 0 0 70 1 0 0 0 0 0 0\n eth1: 1 1 0 0 0 0 0 0 2 1 0 0 0 0 0 0\n",
        );
        assert_eq!((machine.received, machine.sent), (501, 72));
        assert_eq!(kilobytes("MemTotal:  4 kB\nMemFree: 1 kB\n", "MemFree:"), Some(1024));
        let here = Machine::look(Path::new("/no/such/directory"));
        assert!(here.disk_size > here.disk_available && here.cpus > 0, "{here:?}");
    }
}
