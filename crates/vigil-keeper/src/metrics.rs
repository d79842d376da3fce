//! `pgvigil_keeper_*`.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use vigil_core::node::observed::ServerView;

use crate::machine::Machine;
use crate::status::Status;

/// Renders the metrics of this process.
#[derive(Clone)]
pub struct Metrics {
    handle: PrometheusHandle,
}

impl Metrics {
    /// Installs the recorder of this process, once.
    pub fn install() -> Self {
        static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
        let handle = HANDLE.get_or_init(|| {
            let builder = PrometheusBuilder::new()
                .set_buckets(&[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0]);
            let recorder = match builder {
                Ok(builder) => builder.build_recorder(),
                // Only an empty list of buckets is refused.
                Err(_) => PrometheusBuilder::new().build_recorder(),
            };
            let handle = recorder.handle();
            // Another recorder was installed first (a test): ours is then empty, not wrong.
            let _ = metrics::set_global_recorder(recorder);
            describe();
            handle
        });
        Metrics { handle: handle.clone() }
    }

    /// Histograms pile up unless somebody does this every few seconds.
    pub async fn upkeep(self) {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.handle.run_upkeep();
        }
    }

    /// The text for a scrape.
    pub fn render(&self, status: &Status, machine: &Machine) -> String {
        // Made anew each time, so that the series of who has gone go too.
        let present = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&present, || {
            describe_present();
            set_gauges(status);
            machine.put();
        });
        present.handle().render() + &self.handle.render()
    }
}

/// Counts a finished step.
pub fn step_ended(step: &'static str, took: Duration, ok: bool) {
    let result = if ok { "ok" } else { "failed" };
    counter!("pgvigil_keeper_steps_total", "step" => step, "result" => result).increment(1);
    histogram!("pgvigil_keeper_step_seconds", "step" => step).record(took.as_secs_f64());
}

fn describe_present() {
    let gauges = [
        ("pgvigil_keeper_info", "1; the labels tell who this keeper is."),
        ("pgvigil_keeper_epoch", "The highest epoch that this node has promised to."),
        ("pgvigil_keeper_postgres_up", "1 if Postgres answers."),
        ("pgvigil_keeper_postgres_hung", "1 if Postgres runs but a probe did not end in time."),
        ("pgvigil_keeper_primary", "1 if writes are accepted here under this node's epoch."),
        ("pgvigil_keeper_streaming", "1 if this standby streams."),
        ("pgvigil_keeper_fenced", "1 if this former primary is stopped and cut off."),
        ("pgvigil_keeper_monitor_connected", "1 if the stream to the monitor is up."),
        ("pgvigil_keeper_timeline", "Timeline of the end of WAL."),
        ("pgvigil_keeper_lsn_bytes", "End of WAL, in bytes."),
        ("pgvigil_keeper_sync_expected", "Acknowledgements that a commit needs by the own rule."),
        ("pgvigil_keeper_sync_observed", "Standbys that stream from this node."),
        ("pgvigil_keeper_not_let_in", "1 if Postgres runs and refuses to be looked at."),
        ("pgvigil_keeper_look_age_seconds", "Seconds since Postgres was last looked at."),
        ("pgvigil_keeper_slot_retained_bytes", "WAL that a replication slot holds back."),
        (
            "pg_stat_replication_replay_lag_bytes",
            "Bytes between the end of WAL here and what a standby of this node has replayed.",
        ),
    ];
    for (name, help) in gauges {
        describe_gauge!(name, help);
    }
}

/// What is kept between scrapes.
fn describe() {
    describe_gauge!("pgvigil_keeper_logins_ok", "1 if new connections to Postgres work.");
    describe_counter!("pgvigil_keeper_steps_total", "Steps carried out, by result.");
    describe_histogram!("pgvigil_keeper_step_seconds", "How long steps took.");
}

#[allow(clippy::cast_precision_loss)]
fn set_gauges(status: &Status) {
    let record = &status.record;
    let flag = |on: bool| if on { 1.0 } else { 0.0 };
    gauge!("pgvigil_keeper_info", "nodename" => record.name.clone(),
           "formation" => record.formation.clone(), "group" => record.group.to_string(),
           "version" => env!("CARGO_PKG_VERSION"))
    .set(1.0);
    gauge!("pgvigil_keeper_epoch").set(record.promise.0 as f64);
    gauge!("pgvigil_keeper_postgres_up").set(flag(status.is_healthy()));
    gauge!("pgvigil_keeper_postgres_hung").set(flag(status.is_hung()));
    gauge!("pgvigil_keeper_primary").set(flag(status.is_primary()));
    gauge!("pgvigil_keeper_fenced").set(flag(status.is_fenced()));
    gauge!("pgvigil_keeper_monitor_connected").set(flag(status.monitor_connected));
    gauge!("pgvigil_keeper_not_let_in").set(flag(status.not_let_in.is_some()));
    let age = status.looked_at.map_or(f64::INFINITY, |at| at.elapsed().as_secs_f64());
    gauge!("pgvigil_keeper_look_age_seconds").set(age);
    let expected = record.own_rule.as_ref().map_or(0, |rule| rule.acks);
    let server = status.seen.as_ref().map(|seen| &seen.server);
    if let Some(ServerView::Up(up)) = server {
        let observed = up.senders.iter().filter(|s| s.streaming).count();
        let primary = !up.in_recovery;
        gauge!("pgvigil_keeper_sync_expected").set(if primary { f64::from(expected) } else { 0.0 });
        gauge!("pgvigil_keeper_sync_observed").set(observed as f64);
        let end = up.received.unwrap_or_default();
        for sender in &up.senders {
            let lag = end.bytes_since(sender.replay) as f64;
            let name = sender.name.clone();
            gauge!("pg_stat_replication_replay_lag_bytes", "application_name" => name).set(lag);
        }
        for (slot, bytes) in &status.slots {
            gauge!("pgvigil_keeper_slot_retained_bytes", "slot" => slot.clone()).set(*bytes as f64);
        }
        gauge!("pgvigil_keeper_streaming").set(flag(up.streaming));
        gauge!("pgvigil_keeper_timeline").set(f64::from(up.tli.0));
        gauge!("pgvigil_keeper_lsn_bytes")
            .set(up.received.unwrap_or_default().max(up.replayed).0 as f64);
    } else {
        gauge!("pgvigil_keeper_sync_expected").set(0.0);
        gauge!("pgvigil_keeper_sync_observed").set(0.0);
        gauge!("pgvigil_keeper_streaming").set(0.0);
    }
}
