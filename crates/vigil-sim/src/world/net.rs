//! Links, and the streams between keepers and monitors.
//!
//! A stream is TCP: in order, and what is lost ends it. Orders may in addition come twice and late
//! (a stray); the keepers' sequence numbers have to stand that.

use std::collections::VecDeque;

use vigil_core::driver::group::GroupInput;
use vigil_core::driver::node::NodeInput;
use vigil_core::ids::NodeId;
use vigil_core::message::{Hello, Order, Report};

use super::monitor::Mail;
use super::{Event, World};

/// Hosts and monitors have at most so many addresses.
const ADDRESSES: usize = 16;
/// The monitors' addresses come behind those of the hosts.
pub(crate) const MONITOR: usize = 14;
/// A stream through which nothing gets is given up after so long, in milliseconds.
const KEEPALIVE_MS: u64 = 4000;

/// Which ways are closed, and how often.
#[derive(Default)]
pub(crate) struct Net {
    closed: [[u8; ADDRESSES]; ADDRESSES],
    /// Packets get lost: streams break.
    pub(crate) lossy: bool,
    /// Orders come twice, and late.
    pub(crate) repeats: bool,
}

impl Net {
    pub(crate) fn open(&self, from: usize, to: usize) -> bool {
        self.closed[from][to] == 0
    }

    /// Closes one way, or opens it again.
    pub(crate) fn set(&mut self, from: usize, to: usize, closed: bool) {
        let count = &mut self.closed[from][to];
        *count = if closed { *count + 1 } else { count.saturating_sub(1) };
    }

    /// Closes every way from and to an address, or opens them again.
    pub(crate) fn set_all(&mut self, address: usize, closed: bool) {
        for other in (0..ADDRESSES).filter(|other| *other != address) {
            self.set(address, other, closed);
            self.set(other, address, closed);
        }
    }

    pub(crate) fn heal(&mut self) {
        *self = Net::default();
    }
}

#[derive(Clone)]
pub(crate) enum ToMonitor {
    Hello(Box<Hello>),
    Report(Box<Report>),
}

#[derive(Clone)]
pub(crate) enum ToKeeper {
    Welcome(NodeId),
    Order(Box<Order>),
    Heard,
}

/// A keeper's connection.
pub(crate) struct Stream {
    pub(crate) host: usize,
    pub(crate) monitor: usize,
    pub(crate) opened_ms: u64,
    /// The end at the keeper is open; the same for the monitor.
    pub(crate) at_keeper: bool,
    pub(crate) at_monitor: bool,
    pub(crate) node: Option<NodeId>,
    up: Pipe<ToMonitor>,
    down: Pipe<ToKeeper>,
}

/// One direction of a stream: what is on its way, in order, with the times when it was sent and
/// when it is there at the earliest.
struct Pipe<M> {
    messages: VecDeque<(u64, u64, M)>,
    last_due_ms: u64,
    /// When it is tried again, after it was found closed.
    again_ms: u64,
    /// The link held it up, not the receiver.
    cut: bool,
}

impl<M> Default for Pipe<M> {
    fn default() -> Self {
        Pipe { messages: VecDeque::new(), last_due_ms: 0, again_ms: 0, cut: false }
    }
}

impl<M> Pipe<M> {
    /// Returns when it is due.
    fn push(&mut self, sent_ms: u64, due_ms: u64, message: M) -> u64 {
        self.last_due_ms = self.last_due_ms.max(due_ms);
        self.messages.push_back((sent_ms, self.last_due_ms, message));
        self.last_due_ms
    }

    fn pop(&mut self, now_ms: u64) -> Option<M> {
        let due = self.messages.front().is_some_and(|m| m.1 <= now_ms);
        self.cut &= !due;
        due.then(|| self.messages.pop_front()).flatten().map(|m| m.2)
    }

    fn waits_since(&self) -> Option<u64> {
        self.messages.front().map(|m| m.0)
    }

    /// Whether somebody has to try again later, and is not about to.
    fn try_again(&mut self, now_ms: u64, pause_ms: u64) -> bool {
        let new = self.again_ms <= now_ms;
        if new {
            self.again_ms = now_ms + pause_ms;
        }
        new
    }
}

/// What keeps a message from getting on.
enum Held {
    /// TCP holds what a cut link cannot carry, for a while.
    Cut,
    /// The receiving process stands still; the kernel keeps it.
    Still,
}

impl World {
    fn way_up(&self, stream: &Stream) -> bool {
        self.hosts[stream.host].powered && self.net.open(stream.host, MONITOR + stream.monitor)
    }

    fn way_down(&self, stream: &Stream) -> bool {
        self.hosts[stream.host].powered && self.net.open(MONITOR + stream.monitor, stream.host)
    }

    /// Whether a keeper's stream to this monitor was opened before `since_ms`, is open at both ends,
    /// and carries.
    pub(crate) fn is_connected(&self, host: usize, monitor: usize, since_ms: u64) -> bool {
        let stream = self.hosts[host].stream.and_then(|id| self.streams.get(&id));
        stream.is_some_and(|s| {
            let whole = s.at_keeper && s.at_monitor && self.way_up(s) && self.way_down(s);
            s.monitor == monitor && s.opened_ms < since_ms && whole
        })
    }

    /// When a keeper's last word came to this monitor's machine, read or not.
    pub(crate) fn word_came(&self, host: usize, monitor: usize) -> Option<u64> {
        let here = |s: &&Stream| s.host == host && s.monitor == monitor && s.at_monitor;
        let carried = self.streams.values().filter(here).filter(|s| self.way_up(s) && !s.up.cut);
        let due = carried.flat_map(|s| &s.up.messages).map(|m| m.1);
        let waiting = due.filter(|at| *at < self.now_ms).max();
        waiting.max(self.monitors[monitor].came(self.hosts[host].group, host))
    }

    /// A new stream to a monitor that can be reached, if there is one.
    pub(super) fn open_stream(&mut self, host: usize) -> Option<u64> {
        let both = |m: &usize| {
            self.monitors[*m].up
                && !self.monitors[*m].asleep
                && self.net.open(host, MONITOR + m)
                && self.net.open(MONITOR + m, host)
        };
        let reachable: Vec<usize> = (0..self.monitors.len()).filter(both).collect();
        let monitor = *reachable.get(self.rng.below(reachable.len()))?;
        let stream = self.next_stream;
        self.next_stream += 1;
        self.streams.insert(
            stream,
            Stream {
                host,
                monitor,
                opened_ms: self.now_ms,
                at_keeper: true,
                at_monitor: true,
                node: None,
                up: Pipe::default(),
                down: Pipe::default(),
            },
        );
        Some(stream)
    }

    pub(super) fn send_up(&mut self, stream: u64, message: ToMonitor) {
        let due_ms = self.now_ms + self.latency();
        if self.is_lost(stream) {
            return;
        }
        let now_ms = self.now_ms;
        let Some(s) = self.streams.get_mut(&stream) else { return };
        let due_ms = s.up.push(now_ms, due_ms, message);
        self.at(due_ms, Event::Up { stream });
    }

    pub(super) fn send_down(&mut self, stream: u64, message: ToKeeper) {
        let due_ms = self.now_ms + self.latency();
        if self.is_lost(stream) {
            return;
        }
        if self.net.repeats && matches!(message, ToKeeper::Order(_)) && self.rng.chance(40) {
            let later_ms = due_ms + self.rng.range(5, 4000);
            self.at(later_ms, Event::Stray { stream, message: message.clone() });
        }
        let now_ms = self.now_ms;
        let Some(s) = self.streams.get_mut(&stream) else { return };
        let due_ms = s.down.push(now_ms, due_ms, message);
        self.at(due_ms, Event::Down { stream });
    }

    fn is_lost(&mut self, stream: u64) -> bool {
        let lost = self.net.lossy && self.rng.chance(8);
        if lost {
            self.break_stream(stream);
        }
        lost
    }

    /// Each end notices in its own time.
    fn break_stream(&mut self, stream: u64) {
        let (soon, later) = (self.rng.range(0, 500), self.rng.range(0, 2000));
        self.after(soon, Event::LostAtKeeper { stream });
        self.after(later, Event::ClosedAtMonitor { stream });
    }

    /// The keeper's process ends or gives the stream up; the monitor hears of it if it can.
    pub(super) fn close_at_keeper(&mut self, host: usize) {
        let Some(stream) = self.hosts[host].stream.take() else { return };
        let Some(s) = self.streams.get_mut(&stream) else { return };
        s.at_keeper = false;
        let open = self.streams.get(&stream).is_some_and(|s| self.way_up(s));
        let wait_ms = if open { self.latency() } else { KEEPALIVE_MS };
        // Behind what was sent before.
        let at_ms = self.streams.get(&stream).map_or(0, |s| s.up.last_due_ms);
        self.at(at_ms.max(self.now_ms + wait_ms), Event::ClosedAtMonitor { stream });
    }

    /// The monitor ends a stream; the keeper hears of it if it can.
    pub(super) fn close_at_monitor(&mut self, stream: u64) {
        let Some(s) = self.streams.get_mut(&stream) else { return };
        s.at_monitor = false;
        let at_ms = s.down.last_due_ms;
        let open = self.streams.get(&stream).is_some_and(|s| self.way_down(s));
        let wait_ms = if open { self.latency() } else { KEEPALIVE_MS };
        self.at(at_ms.max(self.now_ms + wait_ms), Event::LostAtKeeper { stream });
    }

    pub(super) fn lost_at_keeper(&mut self, stream: u64) {
        let Some(host) = self.streams.get(&stream).map(|s| s.host) else { return };
        if self.hosts[host].keeper_stands_still() {
            return self.after(20, Event::LostAtKeeper { stream });
        }
        self.streams.entry(stream).and_modify(|s| s.at_keeper = false);
        if self.hosts[host].stream == Some(stream) {
            self.hosts[host].stream = None;
            self.note_host(host, "stream lost", String::new);
            self.feed(host, NodeInput::StreamLost);
            let life = self.hosts[host].keeper_life;
            let pause_ms = self.rng.range(50, 400);
            self.after(pause_ms, Event::Connect { host, life });
        }
    }

    pub(super) fn closed_at_monitor(&mut self, stream: u64) {
        let Some(s) = self.streams.get_mut(&stream) else { return };
        let (monitor, open) = (s.monitor, s.at_monitor);
        if self.monitors[monitor].asleep {
            return self.after(20, Event::ClosedAtMonitor { stream });
        }
        s.at_monitor = false;
        let group = self.hosts[s.host].group;
        if open {
            self.mail(monitor, group, Mail::Closed(stream));
        }
    }

    /// Delivers what is due to the monitor.
    pub(super) fn up(&mut self, stream: u64) {
        loop {
            let Some(s) = self.streams.get(&stream).filter(|s| s.at_monitor) else { return };
            let held = match () {
                () if !self.way_up(s) => Some(Held::Cut),
                () if self.monitors[s.monitor].asleep => Some(Held::Still),
                () => None,
            };
            let now_ms = self.now_ms;
            let Some(s) = self.streams.get_mut(&stream) else { return };
            if let Some(held) = held {
                let since_ms = s.up.waits_since();
                return self.hold(stream, &held, since_ms, true);
            }
            let Some(message) = s.up.pop(now_ms) else { return };
            let (monitor, host, node) = (s.monitor, s.host, s.node);
            self.reach_monitor(monitor, stream, host, node, message);
        }
    }

    /// Delivers what is due to the keeper.
    pub(super) fn down(&mut self, stream: u64) {
        loop {
            let Some(s) = self.streams.get(&stream).filter(|s| s.at_keeper) else { return };
            let host = s.host;
            let held = match () {
                () if self.hosts[host].stream != Some(stream) => return,
                () if !self.way_down(s) => Some(Held::Cut),
                // What a frozen keeper reads first is old.
                () if self.hosts[host].keeper_stands_still() => Some(Held::Still),
                () => None,
            };
            let now_ms = self.now_ms;
            let Some(s) = self.streams.get_mut(&stream) else { return };
            if let Some(held) = held {
                let since_ms = s.down.waits_since();
                return self.hold(stream, &held, since_ms, false);
            }
            let Some(message) = s.down.pop(now_ms) else { return };
            self.reach_keeper(host, message);
        }
    }

    fn hold(&mut self, stream: u64, held: &Held, since_ms: Option<u64>, up: bool) {
        let now_ms = self.now_ms;
        let Some(since_ms) = since_ms else { return };
        if matches!(held, Held::Cut) && now_ms - since_ms > KEEPALIVE_MS {
            return self.break_stream(stream);
        }
        let cut = matches!(held, Held::Cut);
        let pause_ms = if cut { 100 } else { 20 };
        let Some(s) = self.streams.get_mut(&stream) else { return };
        if up {
            s.up.cut = cut;
        }
        let (again, event) = if up {
            (s.up.try_again(now_ms, pause_ms), Event::Up { stream })
        } else {
            (s.down.try_again(now_ms, pause_ms), Event::Down { stream })
        };
        if again {
            self.after(pause_ms, event);
        }
    }

    fn reach_monitor(
        &mut self,
        monitor: usize,
        stream: u64,
        host: usize,
        node: Option<NodeId>,
        message: ToMonitor,
    ) {
        let group = self.hosts[host].group;
        let now_ms = self.now_ms;
        self.monitors[monitor].note_came(group, host, now_ms);
        match message {
            ToMonitor::Hello(hello) => {
                let fresh_id = NodeId(self.next_id);
                self.next_id += 1;
                let hello = *hello;
                self.monitor_input(monitor, group, GroupInput::Hello { stream, hello, fresh_id });
            }
            ToMonitor::Report(report) => {
                let Some(node) = node else { return };
                self.monitor_input(monitor, group, GroupInput::Report { stream, node, report });
                self.send_down(stream, ToKeeper::Heard);
            }
        }
    }

    fn reach_keeper(&mut self, host: usize, message: ToKeeper) {
        match message {
            ToKeeper::Welcome(node_id) => self.welcomed(host, node_id),
            ToKeeper::Order(order) => self.ordered(host, *order),
            ToKeeper::Heard => self.feed(host, NodeInput::Heard),
        }
    }

    /// An order that comes once more, late, and possibly to a keeper that has started since.
    pub(super) fn stray(&mut self, stream: u64, message: ToKeeper) {
        let Some(host) = self.streams.get(&stream).map(|s| s.host) else { return };
        if self.hosts[host].driver.is_some() && !self.hosts[host].keeper_frozen {
            self.reach_keeper(host, message);
        }
    }
}
