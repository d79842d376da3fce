//! The simulator's model as a subject.

use vigil_core::node::observed::{Data, ServerView, UpView};
use vigil_core::node::step::Step;
use vigil_core::wal::{Lsn, Tli};
use vigil_sim::wal::Wal;
use vigil_sim::world::Lab;

use crate::subject::{Answer, Commit, Node, Stopped, Subject, View};

/// What a client of the model sent: where, in which start of the server, which record.
struct Sent {
    node: Node,
    life: u64,
    record: (u32, u64),
    cancelled: bool,
}

pub(crate) struct Model {
    lab: Lab,
    sent: Vec<Sent>,
    /// By the names that were set for when it takes writes.
    names: [Option<Vec<Node>>; 3],
    writes: Option<Node>,
    /// The first record that was written without a postmaster.
    late: Option<(u32, u64)>,
}

impl Model {
    pub(crate) fn new(seed: u64) -> Self {
        Model {
            lab: Lab::new(seed, 3),
            sent: Vec::new(),
            names: [None, None, None],
            writes: None,
            late: None,
        }
    }

    fn rule(&mut self, node: Node) -> vigil_core::rule::SyncRule {
        self.lab.rule(node, self.names[node].as_deref())
    }

    fn up(&self, node: Node) -> UpView {
        match self.lab.observe(node).server {
            ServerView::Up(view) => view,
            other => panic!("node {node}: {other:?}"),
        }
    }

    fn do_now(&mut self, node: Node, step: &Step) {
        self.lab.step(node, step).expect("the step can be done");
    }

    fn until(&mut self, what: &str, is_so: impl Fn(&Model) -> bool) {
        for _ in 0..3000 {
            if is_so(self) {
                return;
            }
            self.pass();
        }
        panic!("not so in time: {what}");
    }

    fn send(&mut self, node: Node) -> Commit {
        let life = self.lab.life(node);
        let record = self.lab.commit(node).expect("somebody takes it");
        self.sent.push(Sent { node, life, record, cancelled: false });
        Commit(self.sent.len() - 1)
    }
}

impl Subject for Model {
    fn form(&mut self, standbys: usize) {
        self.do_now(0, &Step::Initdb);
        let rule = self.rule(0);
        self.do_now(0, &Step::StartPrimary { rule });
        for standby in 1..=standbys {
            let primary = self.lab.id(0);
            self.do_now(standby, &Step::Clone { primary, keep: None });
            self.do_now(standby, &Step::StartFollowing { primary });
            self.until("a standby streams", |m| m.lab.receiver(standby).is_some());
        }
    }

    fn pass(&mut self) {
        if let Some(node) = self.writes
            && self.lab.has_sessions(node, self.lab.life(node))
        {
            self.send(node);
        }
        self.lab.pass(10);
    }

    fn now_ms(&self) -> u64 {
        self.lab.now_ms()
    }

    fn obey(&mut self, node: Node, members: Option<&[Node]>) {
        self.names[node] = members.map(<[Node]>::to_vec);
        if self.up(node).in_recovery {
            return;
        }
        let rule = self.rule(node);
        self.lab.begin(node, Step::PutRule { rule: rule.clone() });
        let obeys = Step::PutRule { rule };
        for _ in 0..1000 {
            self.lab.pass(5);
            if self.lab.step(node, &obeys).is_ok() {
                return;
            }
        }
        panic!("the names do not come in force");
    }

    fn ask(&mut self, node: Node, members: &[Node]) {
        self.names[node] = Some(members.to_vec());
        let rule = self.rule(node);
        self.lab.begin(node, Step::PutRule { rule });
    }

    fn commit(&mut self, node: Node) -> Commit {
        self.send(node)
    }

    fn answer(&mut self, commit: Commit) -> Answer {
        let sent = &self.sent[commit.0];
        match () {
            () if self.lab.is_acknowledged(sent.record) => Answer::Acknowledged,
            () if sent.cancelled => Answer::Warned,
            () if self.lab.has_sessions(sent.node, sent.life) => Answer::Waits,
            () => Answer::Unknown,
        }
    }

    fn end_of(&self, commit: Commit) -> Lsn {
        Wal::lsn(self.sent[commit.0].record.1)
    }

    fn cancel(&mut self, commit: Commit) {
        self.sent[commit.0].cancelled = true;
    }

    fn is_visible(&mut self, node: Node, commit: Commit) -> bool {
        let (tli, number) = self.sent[commit.0].record;
        self.lab.wal(node).holds(tli, number) && self.up(node).replayed >= Wal::lsn(number)
    }

    fn keep_writing(&mut self, node: Node) {
        self.writes = Some(node);
        for _ in 0..20 {
            self.pass();
        }
    }

    fn wrote_after_the_kill(&mut self, node: Node) -> bool {
        self.late.is_some_and(|(tli, number)| self.lab.wal(node).holds(tli, number))
    }

    fn has_all_acknowledged(&mut self, node: Node) -> bool {
        let told: Vec<usize> = (0..self.sent.len())
            .filter(|i| self.answer(Commit(*i)) == Answer::Acknowledged)
            .collect();
        !told.is_empty() && told.into_iter().all(|i| self.is_visible(node, Commit(i)))
    }

    fn view(&mut self, node: Node) -> View {
        let up = self.up(node);
        View {
            in_recovery: up.in_recovery,
            timeline: up.tli.0,
            received: up.received,
            replayed: up.replayed,
            replay_idle: up.replay_idle && !up.receiver_alive,
        }
    }

    fn receiver(&mut self, node: Node) -> Option<u64> {
        // Which process it is shows in what it is connected to.
        self.lab.receiver(node).map(|(host, life)| life * 100 + host as u64)
    }

    fn streams(&mut self, node: Node) -> bool {
        self.up(node).streaming
    }

    fn left(&mut self, node: Node, timeline: u32) -> Option<Lsn> {
        self.lab.wal(node).history().switch_point(Tli(timeline))
    }

    fn stick(&mut self, node: Node) {
        self.lab.stick(node);
    }

    fn unstick(&mut self, node: Node) {
        self.lab.unstick(node);
    }

    fn follow(&mut self, node: Node, upstream: Option<Node>) {
        self.lab.follow(node, upstream).expect("a standby");
    }

    fn end_receiver(&mut self, node: Node) {
        self.lab.end_receiver(node);
    }

    fn promote(&mut self, node: Node) {
        // Some promotions of the model never end: then somebody asks again.
        for _ in 0..20 {
            let rule = self.rule(node);
            self.lab.promote(node, rule, 2);
            for _ in 0..1000 {
                self.lab.pass(10);
                if !self.up(node).in_recovery {
                    return;
                }
            }
        }
        panic!("it is never promoted");
    }

    fn freeze(&mut self, node: Node) {
        self.lab.freeze(node);
    }

    fn thaw(&mut self, node: Node) {
        self.lab.thaw(node);
    }

    fn kill(&mut self, node: Node) {
        self.writes = None;
        self.do_now(node, &Step::Kill);
    }

    fn kill_postmaster(&mut self, node: Node) {
        self.lab.kill_postmaster(node);
        let late = self.send(node);
        self.late = Some(self.sent[late.0].record);
        self.lab.pass(4);
    }

    fn stop_fast(&mut self, node: Node) -> Stopped {
        self.lab.stop_fast(node);
        match self.lab.observe(node).data {
            Data::Cluster(c) => Stopped { clean: c.shut_down, checkpoint: c.checkpoint.lsn },
            other => panic!("{other:?}"),
        }
    }

    fn lives(&mut self, node: Node) -> bool {
        self.lab.observe(node).server != ServerView::Down
    }

    fn start_is_refused(&mut self, node: Node) -> bool {
        let rule = self.rule(node);
        self.lab.step(node, &Step::StartPrimary { rule }).is_err()
    }

    fn start_primary(&mut self, node: Node) {
        let rule = self.rule(node);
        self.do_now(node, &Step::StartPrimary { rule });
    }

    fn start_standby(&mut self, node: Node, held: bool) {
        self.lab.start_standby(node, held).expect("it starts");
    }

    fn rewind(&mut self, node: Node, source: Node) {
        let primary = self.lab.id(source);
        let fork = self.lab.wal(source).up_to(self.lab.wal(node).common(self.lab.wal(source)));
        self.do_now(node, &Step::Rewind { primary, fork: fork.end() });
        self.do_now(node, &Step::StartFollowing { primary });
        self.until("it is consistent", |m| matches!(m.lab.observe(node).server, ServerView::Up(_)));
    }

    fn release(&mut self, node: Node) {
        self.lab.release(node);
    }
}
