//! The store on a real Postgres.

use std::time::Instant;

use sqlx::{Connection, Row};
use vigil_core::event::{Event, EventKind, Phase};
use vigil_core::group::{Group, Member, Settings};
use vigil_core::ids::{Epoch, GroupKey, NodeId};
use vigil_core::state::NodeState;
use vigil_core::view::NodeView;
use vigil_core::wal::{Lsn, Tli};
use vigil_monitor::store::{Change, Decisions, PgStore, StoreError};

use crate::harness::{Database, LONG, eventually, has_postgres};

fn key() -> GroupKey {
    GroupKey { formation: "default".to_owned(), group: 0 }
}

fn group(version: u64) -> Group {
    let mut group = Group::new(key(), Settings::default(), "pass'word".to_owned());
    group.version = version;
    group.system_id = Some(u64::MAX);
    let member = Member {
        id: NodeId(7),
        name: "n\"7".to_owned(),
        host: "h".to_owned(),
        port: 5432,
        candidate_priority: 50,
        replication_quorum: true,
        maintenance: false,
        quarantine: None,
        noticed: 0,
        dropped: false,
    };
    group.members.insert(NodeId(7), member);
    group.record_rule(Epoch(3), NodeId(7), [NodeId(8)].into(), 1);
    group
}

fn event(text: &str) -> Event {
    Event {
        kind: EventKind::Failover,
        node: Some(NodeId(7)),
        nodename: Some("n7".to_owned()),
        epoch: Epoch(3),
        cause: Some("postgres_down".to_owned()),
        evidence: vec!["it said so".to_owned()],
        phases: vec![Phase { name: "election".to_owned(), ms: 12 }],
        reported: Some(NodeState::Demoted),
        goal: None,
        description: text.to_owned(),
    }
}

async fn commit(
    store: &PgStore,
    from_version: u64,
    record: Option<&Group>,
    events: &[Event],
) -> Result<(), StoreError> {
    store.commit(Change { key: &key(), from_version, record, events }).await
}

async fn descriptions(store: &PgStore) -> Vec<String> {
    let events = store.events(None, None, 0).await.unwrap();
    events.into_iter().map(|e| e.description).collect()
}

#[tokio::test]
async fn decisions_last_and_stale_writers_are_refused() {
    if !has_postgres() {
        return;
    }
    let mut database = Database::start().await;
    let store = database.store().await;
    store.put_formation("default", Settings::default()).await.unwrap();
    assert_eq!(store.load(&key()).await.unwrap(), None);

    commit(&store, 0, Some(&group(1)), &[event("a"), event("b")]).await.unwrap();
    assert_eq!(store.load(&key()).await.unwrap(), Some(group(1)));
    let again = commit(&store, 0, Some(&group(1)), &[event("no")]).await;
    assert_eq!(again, Err(StoreError::Stale), "the group is there already");
    commit(&store, 1, Some(&group(2)), &[]).await.unwrap();
    let stale = commit(&store, 1, Some(&group(2)), &[event("no")]).await;
    assert_eq!(stale, Err(StoreError::Stale));
    commit(&store, 2, None, &[event("c")]).await.unwrap();
    assert!(matches!(commit(&store, 2, Some(&group(2)), &[]).await, Err(StoreError::Broken(_))));
    assert_eq!(descriptions(&store).await, ["a", "b", "c"], "no event of a refused decision");

    let events = store.events(Some("default"), Some(0), 2).await.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!(events[1].evidence, ["it said so"]);
    assert_eq!(events[1].phases[0].ms, 12);
    assert!(events[1].eventtime.parse::<jiff::Timestamp>().is_ok());
    assert!(store.events(Some("other"), None, 0).await.unwrap().is_empty());

    let (first, second) =
        (store.next_node_id().await.unwrap(), store.next_node_id().await.unwrap());
    assert!(first < second);

    // The monitor killed, a polite restart, then a loss of power; the migrations run each time.
    let postmaster = database.postmaster();
    database.abandon_and_return().await;
    assert_eq!(database.postmaster(), postmaster, "it is adopted");
    commit(&store, 2, None, &[]).await.unwrap();
    store.close().await;
    database.restart().await;
    let store = database.store().await;
    assert_eq!(store.load_all().await.unwrap(), [group(2)]);
    database.kill();
    eventually("the store is back", async || commit(&store, 2, Some(&group(3)), &[]).await.is_ok())
        .await;
    let again = database.store().await;
    assert_eq!(again.load_all().await.unwrap(), [group(3)]);
    assert!(store.next_node_id().await.unwrap() > second, "ids are never used twice");

    let mut times = Vec::new();
    for version in 4..104 {
        let started = Instant::now();
        commit(&store, version - 1, Some(&group(version)), &[event("timed")]).await.unwrap();
        times.push(started.elapsed());
    }
    times.sort();
    eprintln!("commit: median {:?}, 90 % {:?}", times[50], times[90]);

    again.close().await;
    store.close().await;
    database.stop().await;
}

fn node(id: i64, state: NodeState) -> NodeView {
    NodeView {
        nodeid: NodeId(id),
        nodename: format!("n{id}"),
        nodehost: "127.0.0.1".to_owned(),
        nodeport: 5432,
        formationid: "default".to_owned(),
        groupid: 0,
        reportedstate: state,
        goalstate: state,
        health: 1,
        reportedlsn: Some(Lsn(0x1_0000_0028)),
        reportedtli: Some(Tli(2)),
        candidatepriority: 50,
        replicationquorum: true,
        epoch: Epoch(1),
        lag_bytes: None,
        sync: "-".to_owned(),
        since: "2026-01-02T03:04:05Z".to_owned(),
    }
}

#[tokio::test]
async fn readers_see_the_views_and_nothing_else() {
    if !has_postgres() {
        return;
    }
    let mut database = Database::start().await;
    let store = database.store().await;
    store.put_formation("default", Settings::default()).await.unwrap();
    let nodes = [node(1, NodeState::Primary), node(2, NodeState::Secondary)];
    store.put_nodes(&nodes, &[]).await.unwrap();
    commit(&store, 0, Some(&group(1)), &[event("told")]).await.unwrap();

    let options = sqlx::postgres::PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(database.config.pg_port)
        .username("autoctl_node")
        .database("pg_auto_failover");
    let connect = sqlx::ConnectOptions::connect(&options);
    let mut reader = tokio::time::timeout(LONG, connect).await.unwrap().unwrap();
    let rows = sqlx::query(
        "select nodeid, nodename, nodehost, nodeport, groupid, formationid, reportedstate,
                goalstate, health, reportedlsn::text as lsn, reportedtli, statechangetime,
                candidatepriority, replicationquorum
           from pgautofailover.node order by nodeid",
    )
    .fetch_all(&mut reader)
    .await
    .unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].get::<i64, _>("nodeid"), 1);
    assert_eq!(rows[1].get::<String, _>("reportedstate"), "secondary");
    assert_eq!(rows[1].get::<String, _>("lsn"), "1/28");
    for (sql, expected) in [
        ("select count(*) from pgautofailover.formation where number_sync_standbys = 0", 1),
        ("select count(*) from pgautofailover.event where description = 'told'", 1),
    ] {
        let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut reader).await.unwrap();
        assert_eq!(count, expected, "{sql}");
    }
    for sql in [
        "select record from pgautofailover.groups",
        "select settings from pgautofailover.formations",
        "select nextval('pgautofailover.node_id_seq')",
        "delete from pgautofailover.event",
        "set default_transaction_read_only = off; delete from pgautofailover.event",
        "create table public.x ()",
    ] {
        let refused = sqlx::raw_sql(sql).execute(&mut reader).await;
        assert!(refused.is_err(), "{sql}");
    }

    store.put_nodes(&nodes[1..], &[NodeId(1)]).await.unwrap();
    let names: Vec<String> = sqlx::query_scalar("select nodename from pgautofailover.node")
        .fetch_all(&mut reader)
        .await
        .unwrap();
    assert_eq!(names, ["n2"], "a node that is gone is gone");
    store.drop_formation("default").await.unwrap();
    assert!(store.load_all().await.unwrap().is_empty());

    let superuser = options.username("postgres");
    assert!(sqlx::ConnectOptions::connect(&superuser).await.is_err(), "not over TCP");
    reader.close().await.unwrap();
    store.close().await;
    database.stop().await;
}
