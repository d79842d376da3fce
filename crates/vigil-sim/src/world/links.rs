//! One tick of hosts, links and the monitor: the shells around the two drivers.

use std::collections::BTreeMap;

use vigil_core::driver::group::{GroupInput, GroupOutput};
use vigil_core::driver::node::{NodeDriver, NodeInput, NodeOutput};
use vigil_core::group::Plan;
use vigil_core::ids::NodeId;
use vigil_core::message::Hello;
use vigil_core::node::step::Step;

use super::{TICK_MS, ToKeeper, ToMonitor, World};

impl World {
    pub(super) fn tick(&mut self) {
        self.now_ms += TICK_MS;
        for i in 0..self.hosts.len() {
            self.replicate(i);
        }
        for i in 0..self.hosts.len() {
            if self.alive(i) {
                self.host_tick(i);
            }
        }
        self.deliver();
        if self.now_ms >= self.next_monitor_tick_ms {
            self.monitor_input(GroupInput::Tick);
            let wait = self.monitor.as_ref().map_or(50, |m| m.wake_in_ms(self.now()));
            self.next_monitor_tick_ms = self.now_ms + wait;
        }
        self.clients();
    }

    pub(super) fn host_tick(&mut self, i: usize) {
        if self.hosts[i].driver.is_none() && self.now_ms >= self.hosts[i].next_connect_ms {
            let record = self.hosts[i].disk.clone();
            self.hosts[i].driver = Some(NodeDriver::new(record, self.now()));
            self.note_host(i, "keeper starts");
        }
        if self.hosts[i].driver.is_none() {
            return;
        }
        if self.hosts[i].stream.is_none() && self.now_ms >= self.hosts[i].next_connect_ms {
            self.connect(i);
        }
        if let Some((id, step, _)) = self.hosts[i].step.take_if(|s| s.2 <= self.now_ms) {
            let result = self.execute(i, &step);
            self.note(|| format!("step ended {step} of host {} {:?}", i + 1, result.is_ok()));
            self.feed(i, NodeInput::StepEnded { id, result });
        }
        if self.now_ms >= self.hosts[i].next_look_ms {
            self.look(i);
        }
        if self.now_ms % 50 < TICK_MS {
            self.feed(i, NodeInput::Tick);
        }
    }

    pub(super) fn note_host(&mut self, i: usize, what: &str) {
        let name = self.hosts[i].name.clone();
        self.note(|| format!("{name} {what}"));
    }

    pub(super) fn look(&mut self, i: usize) {
        let names: BTreeMap<NodeId, String> =
            self.hosts.iter().filter_map(|h| Some((h.id?, h.name.clone()))).collect();
        let name = |id: NodeId| names.get(&id).cloned().unwrap_or_default();
        let seen = self.hosts[i].pg.observe(&name, self.now_ms);
        self.feed(i, NodeInput::Observed(seen));
        let wait = self.hosts[i].driver.as_ref().map_or(100, NodeDriver::look_in_ms);
        self.hosts[i].next_look_ms = self.now_ms + wait;
    }

    pub(super) fn connect(&mut self, i: usize) {
        if !self.hears_monitor(i) || self.monitor.is_none() {
            self.hosts[i].next_connect_ms = self.now_ms + 200;
            return;
        }
        self.note_host(i, "connects");
        let stream = self.next_stream;
        self.next_stream += 1;
        self.hosts[i].stream = Some(stream);
        self.streams.insert(stream, i);
        let host = &self.hosts[i];
        let Some(driver) = &host.driver else { return };
        let record = driver.record();
        let hello = Hello {
            formation: "default".into(),
            group: 0,
            name: host.name.clone(),
            host: host.name.clone(),
            port: 5432,
            candidate_priority: 100 - 10 * u32::try_from(i).unwrap_or(0),
            replication_quorum: true,
            node_id: record.node_id,
            system_id: host.pg.exists.then_some(1),
            promise: record.promise,
            rules_held: record.rules_held.clone(),
            settings: Some(record.settings),
            peers: record.peers.clone(),
            postgres_major: 17,
        };
        self.send_up(stream, i, ToMonitor::Hello(Box::new(hello)));
    }

    pub(super) fn send_up(&mut self, stream: u64, i: usize, message: ToMonitor) {
        let at = self.now_ms + self.rng.range(0, 8);
        let at = self.up.iter().rev().find(|m| m.1 == stream).map_or(at, |m| m.0.max(at));
        self.up.push_back((at, stream, i, message));
    }

    pub(super) fn send_down(&mut self, stream: u64, i: usize, message: ToKeeper) {
        let at = self.now_ms + self.rng.range(0, 8);
        let at = self.down.iter().rev().find(|m| m.1 == stream).map_or(at, |m| m.0.max(at));
        self.down.push_back((at, stream, i, message));
    }

    pub(super) fn deliver(&mut self) {
        for _ in 0..self.up.len() {
            let Some((at, stream, i, message)) = self.up.pop_front() else { break };
            if at > self.now_ms || !self.hears_monitor(i) {
                // TCP holds what a cut link cannot carry; a long cut ends the stream (below).
                if self.now_ms.saturating_sub(at) < 4000 {
                    self.up.push_back((at, stream, i, message));
                } else if self.hosts[i].stream == Some(stream) {
                    self.hosts[i].stream = None;
                    self.streams.remove(&stream);
                    self.feed(i, NodeInput::StreamLost);
                }
                continue;
            }
            if !self.streams.contains_key(&stream) {
                continue;
            }
            match message {
                ToMonitor::Hello(hello) => {
                    let fresh_id = NodeId(self.next_id);
                    self.next_id += 1;
                    self.monitor_input(GroupInput::Hello { stream, hello: *hello, fresh_id });
                }
                ToMonitor::Report(report) => {
                    let Some(node) = self.hosts[i].id else { continue };
                    self.monitor_input(GroupInput::Report { stream, node, report });
                    self.send_down(stream, i, ToKeeper::Heard);
                }
            }
        }
        for _ in 0..self.down.len() {
            let Some((at, stream, i, message)) = self.down.pop_front() else { break };
            if at > self.now_ms || !self.hears_monitor(i) || !self.alive(i) {
                if self.now_ms.saturating_sub(at) < 4000 {
                    self.down.push_back((at, stream, i, message));
                } else if self.hosts[i].stream == Some(stream) {
                    // Keepalives end the stream on both sides; nothing is lost within one.
                    self.hosts[i].stream = None;
                    self.streams.remove(&stream);
                    if let Some(node) = self.hosts[i].id {
                        self.monitor_input(GroupInput::Closed { stream, node });
                    }
                    self.feed(i, NodeInput::StreamLost);
                }
                continue;
            }
            if self.hosts[i].stream != Some(stream) || self.hosts[i].driver.is_none() {
                continue;
            }
            match message {
                ToKeeper::Welcome(node_id) => {
                    self.hosts[i].id = Some(node_id);
                    self.feed(i, NodeInput::Welcomed { node_id });
                }
                ToKeeper::Order(order) => {
                    self.note(|| {
                        format!(
                            "host {} gets {:?} e{} s{}",
                            i + 1,
                            order.goal,
                            order.epoch,
                            order.seq
                        )
                    });
                    self.feed(i, NodeInput::Order(*order));
                }
                ToKeeper::Heard => self.feed(i, NodeInput::Heard),
            }
        }
    }

    pub(super) fn monitor_input(&mut self, input: GroupInput) {
        let now = self.now();
        let hello = match &input {
            GroupInput::Hello { stream, .. } => Some(*stream),
            _ => None,
        };
        let Some(monitor) = &mut self.monitor else { return };
        let mut out = monitor.handle(input, now);
        if out.record.is_some() || !out.events.is_empty() {
            if self.rng.chance(1) {
                monitor.rollback();
                out = GroupOutput::default();
                self.note(|| "store: commit failed".into());
                if let Some(stream) = hello
                    && let Some(i) = self.streams.remove(&stream)
                {
                    self.hosts[i].stream = None;
                    self.hosts[i].next_connect_ms = now.mono_ms + 500;
                }
            } else {
                monitor.committed();
            }
        }
        if let Some(record) = out.record {
            if record.plan != self.store.plan {
                self.note(|| format!("plan {:?} rules {:?}", record.plan, record.rules));
                match record.plan {
                    Plan::Electing { .. } => self.stats.elections += 1,
                    Plan::Promoting { renewal: true, .. } => self.stats.renewals += 1,
                    _ => {}
                }
            }
            self.store = *record;
        }
        for event in &out.events {
            self.note(|| {
                format!("event {} {} {:?}", event.kind, event.description, event.evidence)
            });
        }
        for (stream, answer) in out.welcomes {
            let Some(i) = self.streams.get(&stream).copied() else { continue };
            match answer {
                Ok(welcome) => self.send_down(stream, i, ToKeeper::Welcome(welcome.node_id)),
                Err(refusal) => {
                    self.note(|| format!("refused host {}: {refusal}", i + 1));
                    self.streams.remove(&stream);
                    self.hosts[i].stream = None;
                    self.hosts[i].next_connect_ms = self.now_ms + 1000;
                }
            }
        }
        for (stream, _, order) in out.orders {
            if let Some(i) = self.streams.get(&stream).copied() {
                self.send_down(stream, i, ToKeeper::Order(Box::new(order)));
            }
        }
    }

    pub(super) fn feed(&mut self, i: usize, input: NodeInput) {
        let now = self.now();
        let Some(driver) = &mut self.hosts[i].driver else { return };
        for output in driver.handle(input, now) {
            match output {
                NodeOutput::Save(record) => self.hosts[i].disk = *record,
                NodeOutput::Run { id, step } => {
                    self.note(|| format!("host {} begins {step:?}", i + 1));
                    let took = self.duration(&step);
                    self.hosts[i].step = Some((id, step, self.now_ms + took));
                }
                NodeOutput::Cancel { id } => {
                    let due = self.now_ms + 5;
                    if let Some(step) = &mut self.hosts[i].step
                        && step.0 == id
                    {
                        step.2 = step.2.min(due);
                    }
                }
                NodeOutput::Send(report) => {
                    if let Some(stream) = self.hosts[i].stream {
                        self.send_up(stream, i, ToMonitor::Report(report));
                    }
                }
                NodeOutput::Look => self.hosts[i].next_look_ms = self.now_ms,
                NodeOutput::Exit => {}
            }
        }
    }

    pub(super) fn duration(&mut self, step: &Step) -> u64 {
        match step {
            Step::Clone { .. } | Step::Rewind { .. } => self.rng.range(200, 3000),
            Step::Initdb
            | Step::StartStandby
            | Step::StartFollowing { .. }
            | Step::StartPrimary { .. } => self.rng.range(50, 400),
            Step::Promote { .. } => self.rng.range(20, 300),
            Step::Checkpoint | Step::PrepareHandover => self.rng.range(20, 500),
            Step::Stop { .. } | Step::Kill => self.rng.range(10, 100),
            _ => self.rng.range(5, 40),
        }
    }
}
