//! The monitor's own database. What do we store? Decisions (one record per group), settings of
//! formations, events, and for people how the nodes looked a moment ago. Not heartbeats: those
//! live in memory.
//!
//! The decision path is one statement, hence one round trip and one flush, over the Unix socket.
//! Events that come without a decision are not flushed at once: a crash may take the last ones.
//! Every query has a deadline: a connection that missed one is closed, not used again.

mod change;
mod error;
mod status;

use std::collections::HashMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions, PgSslMode};
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgPool, Row};
use tokio::sync::Semaphore;
use vigil_core::event::{Event, EventKind, Phase};
use vigil_core::group::{Group, Settings};
use vigil_core::ids::{Epoch, GroupKey, NodeId};
use vigil_core::view::EventView;
use vigil_postgres::sql::superuser_settings;

pub use change::Change;
pub use error::StoreError;

/// The names that users know.
pub const DATABASE: &str = "pg_auto_failover";
/// The role that reads the views.
pub const READER: &str = "autoctl_node";

/// Nothing that the decision path asks takes longer, or it has failed.
const DEADLINE: Duration = Duration::from_secs(2);
/// So many decisions are on their way at once. They share flushes: on the same disk four times as many
/// get through as with four.
const DECISIONS_AT_ONCE: u32 = 16;
/// A decision waits so long for its turn. Longer than any queue of decisions that get through: to wait is
/// better than to come again, which makes the queue longer.
const QUEUE_DEADLINE: Duration = Duration::from_secs(15);
/// Long enough for a server that starts again after a crash.
const CONNECT_DEADLINE: Duration = Duration::from_millis(700);
/// Migrations may take long.
const MIGRATION_DEADLINE: Duration = Duration::from_mins(5);
/// Events that are shown when no number is asked for.
const EVENTS_SHOWN: i64 = 100;
const EVENTS_SHOWN_MAX: i64 = 10_000;

/// What a group's task needs of the store.
pub trait Decisions: Send + Sync + 'static {
    /// Makes a change durable, all of it or nothing. After [`StoreError::Unavailable`] it is not
    /// known whether it was.
    fn commit(&self, change: Change<'_>) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The record as the store has it.
    fn load(
        &self,
        key: &GroupKey,
    ) -> impl Future<Output = Result<Option<Group>, StoreError>> + Send;

    /// A node id that was never given out before.
    fn next_node_id(&self) -> impl Future<Output = Result<NodeId, StoreError>> + Send;
}

/// The store in the embedded Postgres. Cheap to clone.
#[derive(Clone, Debug)]
pub struct PgStore {
    /// For decisions alone, so that nothing else is in front of them.
    decisions: PgPool,
    /// As many as there are connections: who has one waits for nobody but the server.
    turns: Arc<Semaphore>,
    /// For what people see; its commits are not waited for.
    others: PgPool,
    /// To see whether the server answers, and to leave signs of life: behind nobody.
    watch: PgPool,
}

impl PgStore {
    /// Connects to a server (of version `major`) that is ready; makes the database and its tables where they are
    /// missing.
    pub async fn open(socket_dir: &Path, port: u16, major: u32) -> Result<Self, StoreError> {
        create_database(socket_dir, port, major).await?;
        migrate(socket_dir, port, major).await?;
        let options = options(socket_dir, port, major, DATABASE);
        let decisions = PgPoolOptions::new()
            .max_connections(DECISIONS_AT_ONCE)
            .min_connections(1)
            .acquire_timeout(CONNECT_DEADLINE)
            .max_lifetime(None)
            .idle_timeout(None)
            .after_connect(|connection, _| Box::pin(change::prepare(connection)))
            .connect_lazy_with(options.clone());
        let others = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(DEADLINE)
            .connect_lazy_with(options.clone().options([("synchronous_commit", "off")]));
        let watch = PgPoolOptions::new()
            .max_connections(2)
            .max_lifetime(None)
            .acquire_timeout(DEADLINE)
            .connect_lazy_with(options.options([("synchronous_commit", "off")]));
        // The first decision should not wait for it.
        drop(decisions.acquire().await?);
        let turns = Arc::new(Semaphore::new(DECISIONS_AT_ONCE as usize));
        Ok(PgStore { decisions, turns, others, watch })
    }

    pub async fn close(&self) {
        // Bounded: a server that hangs must not keep us.
        let pools = [&self.decisions, &self.others, &self.watch].map(PgPool::close);
        let all = async {
            for pool in pools {
                pool.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(500), all).await;
    }

    /// Whether the store answers within `within`.
    pub async fn is_up(&self, within: Duration) -> bool {
        let asked = self.on(&self.watch, async |connection| {
            sqlx::query("select 1").execute(connection).await.map(|_| ())
        });
        matches!(tokio::time::timeout(within, asked).await, Ok(Ok(())))
    }

    /// Leaves a sign of life.
    pub async fn note_alive(&self) -> Result<(), StoreError> {
        self.on(&self.watch, async |connection| {
            sqlx::query(
                "insert into pgautofailover.alive (at) values (now())
                 on conflict (one) do update set at = excluded.at",
            )
            .execute(connection)
            .await
        })
        .await?;
        Ok(())
    }

    /// How long ago a monitor last left a sign of life, in milliseconds; `None` = never. A clock that
    /// was set back counts as no time.
    pub async fn unattended_ms(&self) -> Result<Option<u64>, StoreError> {
        let row = self
            .on(&self.others, async |connection| {
                sqlx::query(
                    "select (extract(epoch from now() - at) * 1000)::bigint as ms
                       from pgautofailover.alive",
                )
                .fetch_optional(connection)
                .await
            })
            .await?;
        let Some(row) = row else { return Ok(None) };
        let ms: i64 = row.try_get("ms").map_err(StoreError::broken)?;
        Ok(Some(u64::try_from(ms).unwrap_or(0)))
    }

    /// The version of each group's record.
    pub async fn versions(&self) -> Result<HashMap<GroupKey, u64>, StoreError> {
        let rows: Vec<(String, i32, i64)> = self
            .on(&self.others, async |connection| {
                sqlx::query_as("select formationid, groupid, version from pgautofailover.groups")
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let version = |(formation, group, version): (String, i32, i64)| {
            let key = GroupKey { formation, group: group.cast_unsigned() };
            (key, version.cast_unsigned())
        };
        Ok(rows.into_iter().map(version).collect())
    }

    /// Raises the version of every group, so that orders of this process are numbered above those of
    /// the one before, and returns all groups. One statement, one flush, however many they are.
    pub async fn begin(&self) -> Result<Vec<Group>, StoreError> {
        let rows = self
            .on(&self.decisions, async |connection| {
                sqlx::query(
                    "with begun as (
                         update pgautofailover.groups
                            set version = version + 1, changed = now(),
                                record = jsonb_set(record, '{version}', to_jsonb(version + 1))
                         returning formationid, groupid, record)
                     select record from begun order by formationid, groupid",
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        rows.iter().map(record_of).collect()
    }

    /// All groups.
    pub async fn load_all(&self) -> Result<Vec<Group>, StoreError> {
        let rows = self
            .on(&self.others, async |connection| {
                sqlx::query(
                    "select record from pgautofailover.groups order by formationid, groupid",
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        rows.iter().map(record_of).collect()
    }

    /// All formations with the settings that their next groups start with.
    pub async fn formations(&self) -> Result<Vec<(String, Settings)>, StoreError> {
        let rows = self
            .on(&self.others, async |connection| {
                sqlx::query(
                    "select formationid, settings from pgautofailover.formations order by 1",
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        rows.iter()
            .map(|row| {
                let Json(settings) = row.try_get("settings").map_err(StoreError::broken)?;
                Ok((row.try_get("formationid").map_err(StoreError::broken)?, settings))
            })
            .collect()
    }

    /// Makes a formation, or changes its settings.
    pub async fn put_formation(&self, name: &str, settings: Settings) -> Result<(), StoreError> {
        self.on(&self.decisions, async |connection| {
            sqlx::query(
                "insert into pgautofailover.formations (formationid, settings) values ($1, $2)
                 on conflict (formationid) do update set settings = excluded.settings",
            )
            .bind(name)
            .bind(Json(settings))
            .execute(connection)
            .await
        })
        .await?;
        Ok(())
    }

    /// Removes a formation and the records of its groups. Its events stay.
    pub async fn drop_formation(&self, name: &str) -> Result<(), StoreError> {
        self.on(&self.decisions, async |connection| {
            let mut transaction = connection.begin().await?;
            for statement in [
                "delete from pgautofailover.node_status where formationid = $1",
                "delete from pgautofailover.groups where formationid = $1",
                "delete from pgautofailover.formations where formationid = $1",
            ] {
                sqlx::query(statement).bind(name).execute(&mut *transaction).await?;
            }
            transaction.commit().await
        })
        .await
    }

    /// Removes the record of a group. Its events stay.
    pub async fn drop_group(&self, key: &GroupKey) -> Result<(), StoreError> {
        self.on(&self.decisions, async |connection| {
            let mut transaction = connection.begin().await?;
            for statement in [
                "delete from pgautofailover.node_status where formationid = $1 and groupid = $2",
                "delete from pgautofailover.groups where formationid = $1 and groupid = $2",
            ] {
                let query = sqlx::query(statement).bind(&key.formation);
                query.bind(key.group.cast_signed()).execute(&mut *transaction).await?;
            }
            transaction.commit().await
        })
        .await
    }

    /// The newest events, oldest of them first.
    pub async fn events(
        &self,
        formation: Option<&str>,
        group: Option<u32>,
        limit: u32,
    ) -> Result<Vec<EventView>, StoreError> {
        let limit = match i64::from(limit) {
            0 => EVENTS_SHOWN,
            limit => limit.min(EVENTS_SHOWN_MAX),
        };
        let rows = self
            .on(&self.others, async |connection| {
                sqlx::query(
                    "select eventid, (extract(epoch from eventtime) * 1000)::bigint as at_ms,
                            formationid, groupid, nodeid, nodename, kind, epoch, cause, evidence,
                            phases, description
                       from pgautofailover.event
                      where ($1::text is null or formationid = $1)
                        and ($2::integer is null or groupid = $2)
                      order by eventid desc limit $3",
                )
                .bind(formation)
                .bind(group.map(u32::cast_signed))
                .bind(limit)
                .fetch_all(connection)
                .await
            })
            .await?;
        rows.iter().rev().map(|row| event_of(row).map_err(StoreError::broken)).collect()
    }

    /// Runs one piece of work on a connection of `pool`, under the deadline.
    async fn on<T>(
        &self,
        pool: &PgPool,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, StoreError> {
        let mut connection = pool.acquire().await?;
        match tokio::time::timeout(DEADLINE, work(&mut connection)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                // What the server refused leaves the connection good; anything else does not.
                if error.as_database_error().is_none() {
                    connection.close_on_drop();
                }
                Err(error.into())
            }
            Err(_) => {
                connection.close_on_drop();
                Err(StoreError::unavailable(format!("no answer within {DEADLINE:?}")))
            }
        }
    }
}

impl Decisions for PgStore {
    async fn commit(&self, change: Change<'_>) -> Result<(), StoreError> {
        let query = change.query()?;
        let turn = tokio::time::timeout(QUEUE_DEADLINE, self.turns.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(StoreError::unavailable(format!("no turn within {QUEUE_DEADLINE:?}")));
        };
        let written: i64 =
            self.on(&self.decisions, async |connection| query.fetch_one(connection).await).await?;
        if written == 1 { Ok(()) } else { Err(StoreError::Stale) }
    }

    async fn load(&self, key: &GroupKey) -> Result<Option<Group>, StoreError> {
        let row = self
            .on(&self.others, async |connection| {
                sqlx::query(
                    "select record from pgautofailover.groups
                      where formationid = $1 and groupid = $2",
                )
                .bind(&key.formation)
                .bind(key.group.cast_signed())
                .fetch_optional(connection)
                .await
            })
            .await?;
        row.as_ref().map(record_of).transpose()
    }

    async fn next_node_id(&self) -> Result<NodeId, StoreError> {
        self.on(&self.others, async |connection| {
            sqlx::query_scalar("select nextval('pgautofailover.node_id_seq')")
                .fetch_one(connection)
                .await
        })
        .await
        .map(NodeId)
    }
}

/// The settings of its sessions are ours, whatever is set for the server, the role or the database.
fn options(socket_dir: &Path, port: u16, major: u32, database: &str) -> PgConnectOptions {
    let limits = format!("{}ms", DEADLINE.as_millis());
    PgConnectOptions::new_without_pgpass()
        .socket(PathBuf::from(socket_dir))
        .port(port)
        .username("postgres")
        .database(database)
        .application_name("vigil-monitor")
        .ssl_mode(PgSslMode::Disable)
        .options(superuser_settings(major))
        // The last one wins.
        .options([
            ("synchronous_commit", "on"),
            // Its foreign keys are triggers.
            ("session_replication_role", "origin"),
            ("statement_timeout", limits.as_str()),
            ("lock_timeout", "1s"),
            ("idle_in_transaction_session_timeout", "5s"),
        ])
        .disable_statement_logging()
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    match tokio::time::timeout(DEADLINE, options.connect()).await {
        Ok(connected) => Ok(connected?),
        Err(_) => Err(StoreError::unavailable(format!("no connection within {DEADLINE:?}"))),
    }
}

async fn create_database(socket_dir: &Path, port: u16, major: u32) -> Result<(), StoreError> {
    let options =
        options(socket_dir, port, major, "postgres").options([("statement_timeout", "60s")]);
    let mut connection = connect(&options).await?;
    let there: bool =
        sqlx::query_scalar("select exists (select from pg_database where datname = $1)")
            .bind(DATABASE)
            .fetch_one(&mut connection)
            .await?;
    if !there {
        // The name is a constant without anything to quote.
        sqlx::query(AssertSqlSafe(format!("create database {DATABASE}")))
            .execute(&mut connection)
            .await?;
    }
    connection.close().await?;
    Ok(())
}

async fn migrate(socket_dir: &Path, port: u16, major: u32) -> Result<(), StoreError> {
    let options = options(socket_dir, port, major, DATABASE).options([
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        // Where the migrator keeps its own table; nobody else may create anything there.
        ("search_path", "public,pg_temp"),
    ]);
    let mut connection = connect(&options).await?;
    let migrator = sqlx::migrate!("../../sql/monitor");
    match tokio::time::timeout(
        MIGRATION_DEADLINE,
        migrator.run_direct(None, &mut connection, false),
    )
    .await
    {
        Ok(result) => result.map_err(StoreError::broken)?,
        Err(_) => return Err(StoreError::unavailable("the migrations do not end")),
    }
    connection.close().await?;
    Ok(())
}

fn record_of(row: &sqlx::postgres::PgRow) -> Result<Group, StoreError> {
    let Json(group) = row.try_get("record").map_err(StoreError::broken)?;
    Ok(group)
}

fn event_of(row: &sqlx::postgres::PgRow) -> Result<EventView, sqlx::Error> {
    let Json(evidence): Json<Vec<String>> = row.try_get("evidence")?;
    let Json(phases): Json<Vec<Phase>> = row.try_get("phases")?;
    let kind: String = row.try_get("kind")?;
    let kind = serde_json::from_value::<EventKind>(kind.into())
        .map_err(|e| sqlx::Error::Decode(e.into()))?;
    let at = jiff::Timestamp::from_millisecond(row.try_get("at_ms")?)
        .map_err(|e| sqlx::Error::Decode(e.into()))?;
    Ok(EventView {
        eventid: row.try_get("eventid")?,
        eventtime: at.to_string(),
        formationid: row.try_get("formationid")?,
        groupid: row.try_get::<i32, _>("groupid")?.cast_unsigned(),
        nodeid: row.try_get::<Option<i64>, _>("nodeid")?.map(NodeId),
        nodename: row.try_get("nodename")?,
        kind,
        epoch: Epoch(row.try_get::<i64, _>("epoch")?.cast_unsigned()),
        cause: row.try_get("cause")?,
        evidence,
        phases,
        description: row.try_get("description")?,
    })
}
