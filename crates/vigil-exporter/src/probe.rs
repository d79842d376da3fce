//! A client that commits all the time and measures when it cannot: the outage as applications see
//! it. It logs in as they should, by all nodes in one URI; what it commits is an empty message in
//! the WAL, so it needs no table and leaves nothing behind.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use metrics::{
    counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
    with_local_recorder,
};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusRecorder};
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, NoTls};

use crate::monitor::Monitor;

/// A commit or a login that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(1);
/// A client that lost its connection tries again so soon.
const RETRY: Duration = Duration::from_millis(50);
/// How often the monitor is asked where the nodes are.
const NODES_EVERY: Duration = Duration::from_secs(10);
/// Waits for the standbys like any commit: it has a transaction id.
const COMMIT: &str = "SELECT pg_catalog.pg_logical_emit_message(true, 'pgvigil_probe', '')::text";
/// What a role, a database or a configuration may say is not what is measured. Not pinned: whether
/// a commit waits for the standbys.
const OPTIONS: &str = "-c search_path=pg_catalog,pg_temp -c role=none \
    -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off \
    -c default_transaction_deferrable=off -c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c exit_on_error=off";
/// The same for settings that came later than 13.
const LATER: &str = "SELECT set_config(name, '0', false) FROM pg_settings \
    WHERE name IN ('idle_session_timeout', 'transaction_timeout')";
const BUCKETS: [f64; 11] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5];

/// How to log in to a node.
#[derive(Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
    pub database: String,
}

/// What was measured. Without [`Probe::run`] all of it is there and zero.
pub struct Probe {
    recorder: PrometheusRecorder,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    enabled: bool,
    acknowledged: Option<Instant>,
    /// An attempt has failed since.
    failing: bool,
}

impl Probe {
    /// # Errors
    /// None: the buckets are not empty.
    pub fn new() -> Result<Self, BuildError> {
        let recorder = PrometheusBuilder::new().set_buckets(&BUCKETS)?.build_recorder();
        with_local_recorder(&recorder, || {
            describe();
            for result in ["ok", "failed"] {
                counter!("pgvigil_probe_writes_total", "result" => result).increment(0);
            }
            counter!("pgvigil_probe_outages_total").increment(0);
            counter!("pgvigil_probe_outage_ms_total").increment(0);
            gauge!("pgvigil_probe_last_outage_seconds").set(0);
            gauge!("pgvigil_probe_last_outage_timestamp_seconds").set(0);
        });
        Ok(Probe { recorder, state: Mutex::default() })
    }

    /// Commits every `interval`, for ever.
    pub async fn run(self: Arc<Self>, monitor: Arc<Monitor>, login: Login, interval: Duration) {
        self.state().enabled = true;
        let mut client = None;
        let mut asked: Option<Instant> = None;
        loop {
            let began = Instant::now();
            if asked.is_none_or(|at| at.elapsed() > NODES_EVERY) || monitor.nodes().is_empty() {
                // While the monitor is away the nodes are where they were.
                let _ = monitor.page(DEADLINE).await;
                asked = Some(began);
            }
            let result = self.write(&mut client, &monitor, &login).await;
            self.ended(began, &result);
            let pause = match result {
                Ok(()) => interval.saturating_sub(began.elapsed()),
                Err(error) => {
                    tracing::debug!(%error, "the probe could not commit");
                    client = None;
                    RETRY
                }
            };
            self.recorder.handle().run_upkeep();
            tokio::time::sleep(pause).await;
        }
    }

    async fn write(
        &self,
        client: &mut Option<Client>,
        monitor: &Monitor,
        login: &Login,
    ) -> Result<(), String> {
        let connected = match client.take() {
            Some(connected) => connected,
            None => within(connect(monitor, login)).await?,
        };
        let began = Instant::now();
        within(async { connected.simple_query(COMMIT).await.map_err(|e| e.to_string()) }).await?;
        with_local_recorder(&self.recorder, || {
            histogram!("pgvigil_probe_commit_seconds").record(began.elapsed().as_secs_f64());
        });
        *client = Some(connected);
        Ok(())
    }

    fn ended(&self, began: Instant, result: &Result<(), String>) {
        let mut state = self.state();
        let outcome = if result.is_ok() { "ok" } else { "failed" };
        with_local_recorder(&self.recorder, || {
            counter!("pgvigil_probe_writes_total", "result" => outcome).increment(1);
        });
        if result.is_err() {
            // What never worked is no outage.
            state.failing = state.acknowledged.is_some();
            return;
        }
        let now = Instant::now();
        let before = state.acknowledged.replace(now);
        if std::mem::take(&mut state.failing)
            && let Some(before) = before
        {
            self.outage(now - before);
            tracing::info!(
                outage_ms = ms(now - before),
                last_try_ms = ms(began.elapsed()),
                "writes are acknowledged again"
            );
        }
    }

    fn outage(&self, took: Duration) {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        with_local_recorder(&self.recorder, || {
            counter!("pgvigil_probe_outages_total").increment(1);
            counter!("pgvigil_probe_outage_ms_total").increment(ms(took));
            gauge!("pgvigil_probe_last_outage_seconds").set(took.as_secs_f64());
            gauge!("pgvigil_probe_last_outage_timestamp_seconds")
                .set(since_1970.unwrap_or_default().as_secs_f64());
        });
    }

    /// The text for a scrape.
    pub fn render(&self) -> String {
        let state = self.state();
        let current = match state.acknowledged.filter(|_| state.failing) {
            Some(at) => at.elapsed().as_secs_f64(),
            None => 0.0,
        };
        let works = state.acknowledged.is_some() && !state.failing;
        with_local_recorder(&self.recorder, || {
            gauge!("pgvigil_probe_enabled").set(i32::from(state.enabled));
            gauge!("pgvigil_probe_writable").set(i32::from(works));
            gauge!("pgvigil_probe_current_outage_seconds").set(current);
        });
        self.recorder.handle().render()
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe() {
    describe_gauge!("pgvigil_probe_enabled", "1 if the probe writes");
    describe_gauge!("pgvigil_probe_writable", "1 if its last commit was acknowledged");
    describe_counter!("pgvigil_probe_writes_total", "Commits that it tried, by result");
    describe_histogram!("pgvigil_probe_commit_seconds", "How long acknowledged commits took");
    describe_counter!("pgvigil_probe_outages_total", "Outages that it has seen end");
    describe_counter!(
        "pgvigil_probe_outage_ms_total",
        "Their sum, each from the last commit acknowledged before to the first one after"
    );
    describe_gauge!("pgvigil_probe_last_outage_seconds", "How long the last one took");
    describe_gauge!("pgvigil_probe_last_outage_timestamp_seconds", "When it ended; 0: none yet");
    describe_gauge!("pgvigil_probe_current_outage_seconds", "How long the present one takes");
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn within<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    match tokio::time::timeout(DEADLINE, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {DEADLINE:?}")),
    }
}

async fn connect(monitor: &Monitor, login: &Login) -> Result<Client, String> {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&login.user)
        .password(&login.password)
        .dbname(&login.database)
        .application_name("pgvigil_probe")
        .options(OPTIONS)
        .connect_timeout(DEADLINE / 3)
        .ssl_mode(SslMode::Disable)
        .target_session_attrs(TargetSessionAttrs::ReadWrite);
    let mut nodes = monitor.nodes();
    if nodes.is_empty() {
        return Err("the monitor has not named any node yet".to_owned());
    }
    // Whom the monitor last named first; the others if that is no longer true.
    nodes.sort_by_key(|node| !node.writable);
    for node in &nodes {
        config.host(&node.host).port(node.port);
    }
    let (client, connection) = config.connect(NoTls).await.map_err(|e| e.to_string())?;
    // It ends with its client.
    tokio::spawn(connection);
    client.simple_query(LATER).await.map_err(|e| e.to_string())?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_what_lies_between_two_acknowledged_commits() {
        let probe = Probe::new().unwrap();
        let began = Instant::now();
        let failed = || Err("refused".to_owned());
        let value = |name: &str| -> f64 {
            let text = probe.render();
            let line = text.lines().find(|l| l.split(' ').next() == Some(name)).unwrap();
            line.rsplit_once(' ').unwrap().1.parse().unwrap()
        };
        probe.ended(began, &failed());
        probe.ended(began, &Ok(()));
        assert!(value("pgvigil_probe_outages_total") < 0.5, "it had never worked before");
        probe.ended(began, &failed());
        std::thread::sleep(Duration::from_millis(20));
        probe.ended(began, &failed());
        assert!(value("pgvigil_probe_current_outage_seconds") >= 0.02);
        probe.ended(began, &Ok(()));
        assert!(value("pgvigil_probe_outages_total") > 0.5);
        assert!(value("pgvigil_probe_last_outage_seconds") >= 0.02);
        assert!(value("pgvigil_probe_current_outage_seconds") < 0.001);
        probe.ended(began, &Ok(()));
        assert!(value("pgvigil_probe_outages_total") < 1.5);
    }
}
