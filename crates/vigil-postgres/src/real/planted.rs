//! What others have planted in a cluster gains them nothing, and what they have set does not change
//! what our sessions do.

use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions};

use crate::sql::Refusal;
use crate::standby::{self, OldData};
use crate::testing::{LONG, Server, eventually, installation};
use crate::{Session, Target};

/// A client like any other, with what it finds in its way.
async fn client(server: &Server, user: &str, database: &str) -> PgConnection {
    let target = &server.target;
    let options = PgConnectOptions::new_without_pgpass()
        .socket(&target.socket_dir)
        .port(target.port)
        .username(user)
        .database(database)
        .ssl_mode(PgSslMode::Disable);
    tokio::time::timeout(LONG, options.connect()).await.unwrap().unwrap()
}

async fn run(client: &mut PgConnection, sql: impl Into<String>) {
    sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(client).await.unwrap();
}

/// All that our sessions do on a primary, as a keeper does it.
async fn housekeeping(server: &Server) {
    let mut session = server.session().await;
    session.status(LONG).await.unwrap();
    session.in_recovery(LONG).await.unwrap();
    session.emit_probe(LONG).await.unwrap();
    session.insert_lsn(LONG).await.unwrap();
    session.show("synchronous_standby_names", LONG).await.unwrap();
    session.synchronous_senders(LONG).await.unwrap();
    session.waits_for_sync(1, LONG).await.unwrap();
    session.terminate_replay_blockers(LONG).await.unwrap();
    session.ensure_role("repl", "secret", LONG).await.unwrap();
    session.role_state("repl", LONG).await.unwrap().unwrap();
    session.set_password("repl", "secret", LONG).await.unwrap();
    session.ensure_slot("pgvigil_7", LONG).await.unwrap();
    let lsn = session.insert_lsn(LONG).await.unwrap();
    session.advance_slot("pgvigil_7", lsn, LONG).await.unwrap();
    session.drop_slot("pgvigil_7", LONG).await.unwrap();
    session.ensure_database("postgres", LONG).await.unwrap();
    session.reset_system_setting("work_mem", LONG).await.unwrap();
    session.checkpoint(LONG).await.unwrap();
}

/// What an application may do that owns a schema on the path, the database even: operators and
/// functions that fit better than the catalog's, casts, views, a view of the catalog's name, event
/// triggers of a careless superuser, settings of roles and databases.
#[tokio::test]
async fn nothing_planted_is_run_with_our_rights() {
    let Some(install) = installation() else { return };
    let mut server = Server::new(&install, "n1").await;
    server.start().await;
    let mut admin = client(&server, "postgres", "postgres").await;
    run(&mut admin, "CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app").await;
    run(&mut admin, "CREATE ROLE owner LOGIN; ALTER DATABASE postgres OWNER TO owner").await;
    // As it was up to 14, and is wherever somebody wants it so.
    run(&mut admin, "ALTER ROLE postgres SET search_path = public, pg_catalog").await;

    let mut app = client(&server, "app", "postgres").await;
    let sprung = "BEGIN EXECUTE 'ALTER ROLE app SUPERUSER'; RETURN NULL; END";
    let plant = |signature: &str, returns: &str| {
        format!(
            "CREATE FUNCTION public.{signature} RETURNS {returns} LANGUAGE plpgsql AS $$ {sprung} $$;"
        )
    };
    let functions = [
        ("current_setting(unknown)", "text"),
        ("current_setting(text)", "text"),
        ("set_config(text, text, boolean)", "text"),
        ("coalesce_json(json)", "json"),
        ("pg_logical_emit_message(boolean, text, text)", "pg_lsn"),
        ("pg_logical_emit_message(boolean, varchar, varchar)", "pg_lsn"),
        ("pg_is_in_recovery()", "boolean"),
        ("has_function_privilege(text, text, text)", "boolean"),
        ("concat_ws(text, boolean, boolean, integer)", "text"),
        ("pg_terminate_backend(integer)", "boolean"),
        ("pg_wal_lsn_diff(pg_lsn, pg_lsn)", "numeric"),
        ("json_build_object(text, boolean)", "json"),
        ("greatest(bigint, bigint)", "bigint"),
    ];
    for (signature, returns) in functions.into_iter().filter(|(s, _)| !s.contains("unknown")) {
        // Some cannot be made at all: that is well.
        let sql = AssertSqlSafe(plant(signature, returns));
        let _ = sqlx::raw_sql(sql).execute(&mut app).await;
    }
    // `extract(epoch …) * 1000000` is one of numeric and integer, which no operator of the catalog
    // takes as they are.
    for (operator, left, right, result) in [
        ("*", "numeric", "integer", "numeric"),
        ("*", "double precision", "integer", "double precision"),
        ("=", "name", "unknown_text", "boolean"),
        ("=", "text", "varchar", "boolean"),
        ("=", "name", "varchar", "boolean"),
        ("<>", "bigint", "bigint", "boolean"),
        ("||", "text", "varchar", "text"),
        (">", "integer", "bigint", "boolean"),
    ] {
        let function = format!("op_{}", left.len() * 100 + right.len() * 10 + operator.len());
        let sql = format!(
            "{} CREATE OPERATOR public.{operator} (LEFTARG = {left}, RIGHTARG = {right}, \
             FUNCTION = public.{function});",
            plant(&format!("{function}(a {left}, b {right})"), result)
        );
        let _ = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut app).await;
    }
    run(&mut app, "CREATE TYPE public.trap AS (a int)").await;
    run(&mut app, plant("trap_text(public.trap)", "text")).await;
    run(&mut app, "CREATE CAST (public.trap AS text) WITH FUNCTION public.trap_text(public.trap)")
        .await;
    run(&mut app, plant("spring()", "text")).await;
    no_rights_gained(&server, "functions, operators, casts").await;
    for view in ["pg_stat_activity", "pg_roles", "pg_authid", "pg_stat_replication", "pg_settings"]
    {
        for kind in ["VIEW public.", "TEMP VIEW "] {
            let sql = format!("CREATE {kind}{view} AS SELECT public.spring() AS rolname");
            run(&mut app, sql).await;
        }
    }
    no_rights_gained(&server, "views").await;
    // A superuser's event trigger whose function is somebody else's.
    let watch = "CREATE FUNCTION public.watch() RETURNS event_trigger LANGUAGE plpgsql AS \
                 $$ BEGIN EXECUTE 'ALTER ROLE app SUPERUSER'; END $$";
    run(&mut app, watch).await;
    let trigger = "CREATE EVENT TRIGGER watch ON ddl_command_start EXECUTE FUNCTION public.watch()";
    // Rights on functions are granted anew.
    run(&mut admin, "DROP OWNED BY repl; DROP ROLE repl").await;
    run(&mut admin, trigger).await;
    no_rights_gained(&server, "event triggers").await;
    // What an owner may set for a database.
    let mut owner = client(&server, "owner", "postgres").await;
    for (name, value) in [("search_path", "public, pg_catalog"), ("role", "owner")] {
        run(&mut owner, format!("ALTER DATABASE postgres SET {name} = {value}")).await;
    }
    no_rights_gained(&server, "settings").await;
}

async fn no_rights_gained(server: &Server, by: &str) {
    housekeeping(server).await;
    // Where none of it is.
    let mut admin = client(server, "postgres", "template1").await;
    let sql = "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolsuper";
    let superusers: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut admin).await.unwrap();
    assert_eq!(superusers, ["postgres"], "by {by}");
}

/// Each of them breaks something for a session that takes what it finds.
const SETTINGS: [(&str, &str); 27] = [
    ("default_transaction_isolation", "serializable"),
    ("default_transaction_read_only", "on"),
    ("default_transaction_deferrable", "on"),
    ("statement_timeout", "1"),
    ("lock_timeout", "1"),
    ("idle_in_transaction_session_timeout", "1"),
    ("idle_session_timeout", "20"),
    ("search_path", "nowhere"),
    ("row_security", "off"),
    ("password_encryption", "md5"),
    ("synchronous_commit", "remote_apply"),
    ("standard_conforming_strings", "off"),
    ("backslash_quote", "off"),
    ("escape_string_warning", "off"),
    ("transform_null_equals", "on"),
    ("exit_on_error", "on"),
    ("client_min_messages", "debug5"),
    ("bytea_output", "escape"),
    ("DateStyle", "SQL, DMY"),
    ("IntervalStyle", "sql_standard"),
    ("TimeZone", "Asia/Kathmandu"),
    ("extra_float_digits", "-15"),
    ("client_encoding", "LATIN1"),
    ("jit_above_cost", "0"),
    ("force_parallel_mode", "on"),
    ("track_activities", "off"),
    ("local_preload_libraries", "not_there"),
];

/// The settings of a role, of all roles, of the database, or of the files hold for clients; our
/// sessions do their work, and standbys are made and fed.
#[tokio::test]
async fn no_setting_of_the_users_changes_what_our_sessions_do() {
    let Some(install) = installation() else { return };
    let known = |name: &str| match name {
        "idle_session_timeout" => install.major >= 14,
        "force_parallel_mode" => install.major <= 15,
        _ => true,
    };
    let settings = || SETTINGS.into_iter().filter(|(name, _)| known(name));
    let mut server = Server::new(&install, "n1").await;
    server.start().await;
    let mut admin = client(&server, "postgres", "template1").await;
    for level in ["ROLE postgres", "ROLE ALL", "DATABASE postgres"] {
        for (name, value) in settings() {
            let value = value.replace(", ", "', '");
            run(&mut admin, format!("ALTER {level} SET {name} = '{value}'")).await;
        }
        all_is_well(&server, level).await;
        run(&mut admin, format!("ALTER {level} RESET ALL")).await;
    }
    let mut server = Server::new(&install, "n1").await;
    server.conf.extra.extend(settings().map(|(n, v)| (n.to_owned(), v.to_owned())));
    server.start().await;
    all_is_well(&server, "file").await;
    let standby = Server::standby_of(&server, "n2").await;
    let status = standby.session().await.status(LONG).await.unwrap();
    assert!(status.in_recovery && status.limits == server_limits(&server).await);
}

async fn all_is_well(server: &Server, level: &str) {
    housekeeping(server).await;
    let mut session = server.session().await;
    // Longer than the shortest of the limits.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    let hash = async |conn: &mut PgConnection| {
        let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'repl'";
        sqlx::query_scalar::<_, String>(sql).fetch_one(conn).await
    };
    let hash = session.run("the hash", LONG, hash).await.unwrap();
    assert!(hash.starts_with("SCRAM-SHA-256$"), "{level}: {hash}");
}

async fn server_limits(server: &Server) -> vigil_core::limits::Limits {
    server.session().await.status(LONG).await.unwrap().limits
}

/// What hardening takes from PUBLIC, and what somebody does to our role: all of it is given back.
#[tokio::test]
async fn the_role_gets_back_whatever_was_taken_from_it() {
    let Some(install) = installation() else { return };
    let mut server = Server::new(&install, "n1").await;
    server.start().await;
    let mut session = server.session().await;
    let first = session.ensure_role("repl", "secret", LONG).await.unwrap();
    assert_eq!(session.role_state("repl", LONG).await.unwrap().as_ref(), Some(&first));
    let mut admin = client(&server, "postgres", "postgres").await;
    for harm in [
        "REVOKE CONNECT ON DATABASE postgres FROM PUBLIC",
        "REVOKE EXECUTE ON FUNCTION pg_is_in_recovery(), pg_tablespace_location(oid), \
         pg_current_wal_insert_lsn(), set_config(text, text, boolean) FROM PUBLIC",
        "REVOKE EXECUTE ON FUNCTION pg_read_binary_file(text) FROM repl",
        "REVOKE SELECT ON pg_catalog.pg_tablespace FROM PUBLIC",
        // Its arguments differ by version.
        "DO $$ DECLARE f regprocedure; BEGIN FOR f IN SELECT oid FROM pg_proc \
         WHERE proname = 'pg_logical_emit_message' LOOP \
         EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', f); END LOOP; END $$",
        "SET password_encryption = md5; ALTER ROLE repl PASSWORD 'secret'",
        "ALTER ROLE repl PASSWORD 'another'",
        "ALTER ROLE repl PASSWORD NULL",
        "ALTER ROLE repl NOLOGIN",
        "ALTER ROLE repl NOREPLICATION",
        "ALTER ROLE repl CONNECTION LIMIT 0",
        "ALTER ROLE repl VALID UNTIL '2001-01-01'",
        "ALTER ROLE repl SET lc_messages = 'C.UTF-8'",
    ] {
        let before = session.role_state("repl", LONG).await.unwrap();
        run(&mut admin, harm).await;
        assert_ne!(session.role_state("repl", LONG).await.unwrap(), before, "seen: {harm}");
        let left = session.ensure_role("repl", "secret", LONG).await.unwrap();
        assert_eq!(session.role_state("repl", LONG).await.unwrap(), Some(left), "{harm}");
    }
    run(&mut admin, "DROP OWNED BY repl; DROP ROLE repl").await;
    assert_eq!(session.role_state("repl", LONG).await.unwrap(), None);
    session.ensure_role("repl", "secret", LONG).await.unwrap();

    let hba = crate::hba::HbaPlan {
        auth: "scram-sha-256".to_owned(),
        cidrs: Vec::new(),
        peer_hosts: vec!["127.0.0.1".to_owned()],
        os_user: crate::user::current_user(),
        replication_user: "repl".to_owned(),
    };
    hba.write(&server.pgdata).unwrap();
    server.postmaster().reload().unwrap();
    let upstream = standby::Upstream {
        user: "repl".to_owned(),
        password: Some("secret".to_owned()),
        ..server.as_upstream("n2")
    };
    eventually("the role can ask", async || crate::sql::remote::answers(&upstream, LONG).await)
        .await;
    let committer = crate::sql::remote::Committer::connect(&upstream, LONG).await.unwrap();
    let before = session.insert_lsn(LONG).await.unwrap();
    committer.commit(LONG).await.unwrap();
    assert!(session.insert_lsn(LONG).await.unwrap() > before, "it makes WAL move");
    let place = server.log.with_file_name("copy");
    standby::basebackup(&install, &upstream, &place, OldData::Remove, LONG).await.unwrap();
}

/// Without database `postgres` a keeper still sees and does what it must; an error says once what
/// was wrong.
#[tokio::test]
async fn without_its_database_a_session_makes_do() {
    let Some(install) = installation() else { return };
    let mut server = Server::new(&install, "n1").await;
    server.start().await;
    let mut admin = client(&server, "postgres", "template1").await;
    run(&mut admin, "DROP DATABASE postgres").await;
    // Nor does a library that is gone keep it out.
    run(&mut admin, "ALTER ROLE postgres SET session_preload_libraries = 'not_there'").await;
    let mut session = server.session().await;
    assert!(session.is_makeshift());
    session.status(LONG).await.unwrap();
    drop(admin);
    assert!(session.ensure_database("postgres", LONG).await.unwrap(), "beside our own session");
    assert!(!server.session().await.is_makeshift());

    let nobody = Target { user: "nobody".to_owned(), ..server.target.clone() };
    let error = Session::connect(&nobody, LONG).await.unwrap_err();
    assert_eq!(error.refusal(), Some(Refusal::Login));
    let text = error.to_string();
    assert_eq!(text.matches("does not exist").count(), 1, "{text}");
    assert!(!text.contains("at line") && std::error::Error::source(&error).is_none(), "{text}");
}
