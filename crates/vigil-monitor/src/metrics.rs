//! What Prometheus reads. Counters and histograms are kept; everything about the present is
//! written anew at each scrape, so that series of nodes that are gone are gone.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use metrics::{
    Label, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    with_local_recorder,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusRecorder};
use vigil_core::event::{Cause, Event, EventKind, Phase};
use vigil_core::ids::{Epoch, GroupKey};
use vigil_core::view::{EventView, NodeView};

use crate::group_task::Published;

const COMMIT_BUCKETS: [f64; 10] = [0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 25.0, 100.0, 500.0, 2000.0];
const PHASE_BUCKETS: [f64; 12] =
    [5.0, 10.0, 25.0, 50.0, 100.0, 200.0, 350.0, 500.0, 1000.0, 3000.0, 10_000.0, 60_000.0];

/// Changes of a primary that are shown one by one.
const HISTORY: usize = 20;

const CAUSES: [Cause; 9] = [
    Cause::PostgresDown,
    Cause::PostgresHung,
    Cause::NotPrimary,
    Cause::Unreachable,
    Cause::ConnectionsClosed,
    Cause::Operator,
    Cause::Leaving,
    Cause::WinnerFailed,
    Cause::Recovery,
];

/// A recorder of its own, not the process's: several monitors can run in one test.
pub struct Metrics {
    kept: PrometheusRecorder,
    /// The last changes of a primary, oldest first.
    history: Mutex<VecDeque<PrimaryChange>>,
}

/// A failover, switchover or promotion that is over.
#[derive(Clone, PartialEq, Eq, Debug)]
struct PrimaryChange {
    key: GroupKey,
    epoch: Epoch,
    kind: EventKind,
    cause: String,
    /// Who leads since.
    nodename: String,
    /// Milliseconds since 1970.
    at_ms: i64,
    phases: Vec<Phase>,
}

impl PrimaryChange {
    /// `None`: another kind of event.
    fn of_event(key: &GroupKey, event: &Event, at_ms: i64) -> Option<Self> {
        let changes = [EventKind::Failover, EventKind::Switchover, EventKind::Promotion];
        changes.contains(&event.kind).then(|| PrimaryChange {
            key: key.clone(),
            epoch: event.epoch,
            kind: event.kind,
            cause: event.cause.clone().unwrap_or_else(|| "unknown".to_owned()),
            nodename: event.nodename.clone().unwrap_or_default(),
            at_ms,
            phases: event.phases.clone(),
        })
    }

    fn labels(&self) -> Vec<Label> {
        vec![
            Label::new("formation", self.key.formation.clone()),
            Label::new("group", self.key.group.to_string()),
            Label::new("epoch", self.epoch.0.to_string()),
            Label::new("kind", self.kind.as_str()),
            Label::new("cause", self.cause.clone()),
            Label::new("nodename", self.nodename.clone()),
        ]
    }
}

impl Metrics {
    pub fn new() -> Result<Self, metrics_exporter_prometheus::BuildError> {
        let kept = PrometheusBuilder::new()
            .set_buckets_for_metric(
                Matcher::Full("pgvigil_store_commit_ms".to_owned()),
                &COMMIT_BUCKETS,
            )?
            .set_buckets_for_metric(
                Matcher::Full("pgvigil_failover_phase_ms".to_owned()),
                &PHASE_BUCKETS,
            )?
            .build_recorder();
        with_local_recorder(&kept, || {
            describe_histogram!("pgvigil_store_commit_ms", "Time to make a decision durable");
            describe_counter!(
                "pgvigil_store_errors_total",
                "Decisions that the monitor's Postgres did not take"
            );
            counter!("pgvigil_store_errors_total").increment(0);
            describe_counter!("pgvigil_failovers_total", "Unplanned changes of a primary");
            for cause in CAUSES {
                counter!("pgvigil_failovers_total", "cause" => cause.as_str()).increment(0);
            }
            describe_counter!(
                "pgvigil_switchovers_total",
                "Planned changes of a primary: switchovers and promotions"
            );
            for kind in [EventKind::Switchover, EventKind::Promotion] {
                counter!("pgvigil_switchovers_total", "kind" => kind.as_str()).increment(0);
            }
            describe_counter!("pgvigil_events_total", "Events written, by kind");
            describe_histogram!(
                "pgvigil_failover_phase_ms",
                "Durations of the phases of failovers and switchovers"
            );
        });
        Ok(Metrics { kept, history: Mutex::default() })
    }

    /// What happened before this monitor started, for the history; it is not counted again.
    pub fn recall(&self, events: &[EventView]) {
        for event in events {
            let key = GroupKey { formation: event.formationid.clone(), group: event.groupid };
            let at_ms =
                event.eventtime.parse::<jiff::Timestamp>().map(jiff::Timestamp::as_millisecond);
            let event = Event {
                kind: event.kind,
                node: event.nodeid,
                nodename: event.nodename.clone(),
                epoch: event.epoch,
                cause: event.cause.clone(),
                evidence: Vec::new(),
                phases: event.phases.clone(),
                reported: None,
                goal: None,
                description: String::new(),
            };
            self.remember(&key, &event, at_ms.unwrap_or_default());
        }
    }

    fn remember(&self, key: &GroupKey, event: &Event, at_ms: i64) {
        let Some(change) = PrimaryChange::of_event(key, event, at_ms) else { return };
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.push_back(change);
        if history.len() > HISTORY {
            history.pop_front();
        }
    }

    /// A decision was committed, or not.
    pub fn commit(&self, took: Duration, done: bool) {
        with_local_recorder(&self.kept, || {
            if done {
                histogram!("pgvigil_store_commit_ms").record(took.as_secs_f64() * 1000.0);
            } else {
                counter!("pgvigil_store_errors_total").increment(1);
            }
        });
    }

    /// An event of a group was written, at this wall clock (milliseconds since 1970).
    pub fn event(&self, key: &GroupKey, event: &Event, at_ms: i64) {
        self.remember(key, event, at_ms);
        with_local_recorder(&self.kept, || {
            let kind = event.kind.as_str();
            counter!("pgvigil_events_total", "kind" => kind).increment(1);
            match event.kind {
                EventKind::Failover => {
                    let cause = event.cause.clone().unwrap_or_else(|| "unknown".to_owned());
                    counter!("pgvigil_failovers_total", "cause" => cause).increment(1);
                }
                EventKind::Switchover | EventKind::Promotion => {
                    counter!("pgvigil_switchovers_total", "kind" => kind).increment(1);
                }
                _ => {}
            }
            for phase in &event.phases {
                #[expect(clippy::cast_precision_loss, reason = "milliseconds")]
                histogram!("pgvigil_failover_phase_ms", "phase" => phase.name.clone())
                    .record(phase.ms as f64);
            }
        });
    }

    /// Moves samples to where they take no more memory. Every few seconds.
    pub fn upkeep(&self) {
        self.kept.handle().run_upkeep();
    }

    /// The text for a scrape.
    pub fn render(&self, groups: &[Published], store_up: bool) -> String {
        let present = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&present, || {
            describe_present();
            gauge!("pgvigil_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
            gauge!("pgvigil_store_up").set(i32::from(store_up));
            for group in groups {
                put_group(group);
            }
            let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            let is_there = |change: &&PrimaryChange| {
                let GroupKey { formation, group } = &change.key;
                groups.iter().any(|g| g.view.formation == *formation && g.view.group == *group)
            };
            put_history(&history.iter().filter(is_there).collect::<Vec<_>>());
        });
        self.kept.handle().render() + &present.handle().render()
    }
}

fn describe_present() {
    describe_gauge!("pgvigil_build_info", "The version of the monitor; always 1");
    describe_gauge!("pgvigil_store_up", "Whether the monitor's Postgres answers");
    describe_gauge!(
        "pg_auto_failover_node_state_health_code",
        "Whether a node is well: 1 good, 0 bad, -1 unknown"
    );
    describe_gauge!(
        "pg_auto_failover_node_state_reported_state_code",
        "The state that a node reports: -1 unknown, 0 draining, 1 wait_standby, 2 secondary, \
         3 primary, 4 single, 5 init, 6 wait_primary, 7 apply_settings, 8 demote_timeout, \
         9 demoted, 10 catchingup, 11 prepare_promotion, 12 stop_replication, 13 report_lsn, \
         14 fast_forward, 15 join_secondary, 16 prepare_maintenance, 17 wait_maintenance, \
         18 maintenance, 19 dropped"
    );
    describe_gauge!(
        "pg_stat_replication_replay_lag_bytes",
        "Bytes of WAL that a standby is behind its primary"
    );
    describe_gauge!("pgvigil_keeper_stream_up", "Whether a keeper is connected");
    describe_counter!("pgvigil_heartbeats_total", "Reports of a keeper");
    describe_gauge!("pgvigil_node_candidate_priority", "Who is preferred as the next primary");
    describe_gauge!("pgvigil_epoch", "The fencing number of a group");
    describe_gauge!("pgvigil_nodes", "Registered nodes of a group");
    describe_gauge!("pgvigil_writable", "Whether a group has a primary that may accept writes");
    describe_gauge!("pgvigil_sync_expected", "Standbys that the sync rule counts");
    describe_gauge!("pgvigil_sync_observed", "Counted standbys that stream");
    describe_gauge!(
        "pgvigil_promotable_standbys",
        "Standbys that could take over now without losing a commit"
    );
    describe_gauge!("pgvigil_waiting_on", "Things that a group waits for");
    describe_gauge!("pgvigil_alerts", "Things that are wrong or soon may be, by code");
    describe_gauge!("pgvigil_active_alerts", "How many things are wrong or soon may be");
    describe_gauge!(
        "pgvigil_node_writable",
        "1 if a node may accept writes now; the labels tell how to reach it"
    );
    describe_gauge!(
        "pgvigil_last_failover_timestamp_seconds",
        "When the last unplanned change of the primary was over"
    );
    describe_gauge!(
        "pgvigil_primary_change_timestamp_seconds",
        "When each of the last changes of a primary was over; epoch tells them apart"
    );
    describe_gauge!(
        "pgvigil_primary_change_phase_seconds",
        "How long each phase of the last changes of a primary took"
    );
    describe_gauge!(
        "pgvigil_primary_change_seconds",
        "How long the last changes of a primary took, from the decision to the confirmed sync rule"
    );
}

fn put_group(group: &Published) {
    let view = &group.view;
    let labels = || {
        vec![
            Label::new("formation", view.formation.clone()),
            Label::new("group", view.group.to_string()),
        ]
    };
    #[expect(clippy::cast_precision_loss, reason = "an epoch counts failovers")]
    gauge!("pgvigil_epoch", labels()).set(view.epoch.0 as f64);
    gauge!("pgvigil_nodes", labels()).set(count(view.nodes.len()));
    gauge!("pgvigil_writable", labels()).set(i32::from(view.writable.is_some()));
    gauge!("pgvigil_sync_expected", labels()).set(view.sync_expected);
    gauge!("pgvigil_sync_observed", labels()).set(view.sync_observed);
    gauge!("pgvigil_promotable_standbys", labels()).set(view.promotable_standbys);
    gauge!("pgvigil_waiting_on", labels()).set(count(view.waiting_on.len()));
    gauge!("pgvigil_active_alerts", labels()).set(count(view.alerts.len()));
    for alert in &view.alerts {
        let mut labels = labels();
        labels.push(Label::new("code", alert.code.clone()));
        gauge!("pgvigil_alerts", labels).increment(1);
    }
    for node in &view.nodes {
        put_node(group, node);
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact for 285 000 years")]
fn put_history(history: &[&PrimaryChange]) {
    for change in history {
        let seconds = change.at_ms as f64 / 1000.0;
        gauge!("pgvigil_primary_change_timestamp_seconds", change.labels()).set(seconds);
        let took: u64 = change.phases.iter().map(|phase| phase.ms).sum();
        gauge!("pgvigil_primary_change_seconds", change.labels()).set(took as f64 / 1000.0);
        for phase in &change.phases {
            let mut labels = change.labels();
            labels.push(Label::new("phase", phase.name.clone()));
            gauge!("pgvigil_primary_change_phase_seconds", labels).set(phase.ms as f64 / 1000.0);
        }
    }
    let mut groups: Vec<&GroupKey> = Vec::new();
    for change in history.iter().rev().filter(|change| change.kind == EventKind::Failover) {
        // The newest of each group only.
        if groups.contains(&&change.key) {
            continue;
        }
        groups.push(&change.key);
        let labels: Vec<Label> =
            change.labels().into_iter().filter(|label| label.key() != "epoch").collect();
        gauge!("pgvigil_last_failover_timestamp_seconds", labels).set(change.at_ms as f64 / 1000.0);
    }
}

/// Nodes of different groups may have the same name.
fn put_node(group: &Published, node: &NodeView) {
    let of_group = |more: &[(&'static str, &str)]| -> Vec<Label> {
        let number = node.groupid.to_string();
        let own = [("formation", node.formationid.as_str()), ("group", number.as_str())];
        own.iter().chain(more).map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
    };
    let name = ("nodename", node.nodename.as_str());
    let host = ("nodehost", node.nodehost.as_str());
    gauge!("pg_auto_failover_node_state_health_code", of_group(&[name, host])).set(node.health);
    let is_known = node.health >= 0;
    #[expect(clippy::cast_precision_loss, reason = "a small code")]
    let state = if is_known { node.reportedstate.metric_code() as f64 } else { -1.0 };
    gauge!("pg_auto_failover_node_state_reported_state_code", of_group(&[name])).set(state);
    let leads = group.view.writable == Some(node.nodeid);
    let port = node.nodeport.to_string();
    gauge!("pgvigil_node_writable", of_group(&[name, host, ("nodeport", &port)]))
        .set(i32::from(leads));
    if let Some(lag) = node.lag_bytes.filter(|_| !leads) {
        let labels = of_group(&[("application_name", &node.nodename)]);
        #[expect(clippy::cast_precision_loss, reason = "exact up to petabytes")]
        gauge!("pg_stat_replication_replay_lag_bytes", labels).set(lag as f64);
    }
    let up = group.connected.contains(&node.nodeid);
    gauge!("pgvigil_keeper_stream_up", of_group(&[name])).set(i32::from(up));
    let heartbeats = group.heartbeats.get(&node.nodeid).copied().unwrap_or(0);
    counter!("pgvigil_heartbeats_total", of_group(&[name])).absolute(heartbeats);
    gauge!("pgvigil_node_candidate_priority", of_group(&[name])).set(node.candidatepriority);
}

fn count(n: usize) -> f64 {
    u32::try_from(n).unwrap_or(u32::MAX).into()
}
