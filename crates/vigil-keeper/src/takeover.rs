//! What must be true of a data directory with which a keeper begins, checked before anything in it
//! is changed: it may be a backup that waits for its recovery, or a server that works in a way in
//! which no keeper can work with it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use vigil_daemon::Failure;
use vigil_postgres::pgdata::{self, DataDir};
use vigil_postgres::sql::SqlError;
use vigil_postgres::takeover::{self, Obstacle};
use vigil_postgres::{Session, Target, process};

/// A server that starts, or is busy, gets this long to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// # Errors
/// A restored backup's recovery is not finished. `known`: this keeper has worked here before, so
/// that its server's state is no surprise.
pub fn recovery(pgdata: &Path, data: &DataDir, known: bool) -> Result<(), Failure> {
    let DataDir::Cluster { major, .. } = data else { return Ok(()) };
    let runs = matches!(process::adopt(pgdata), Ok(Some(_)));
    if known {
        if !runs && pgdata::has_recovery_signal(pgdata) {
            let found = takeover::unfinished_recovery(pgdata, *major, runs);
            return refuse(pgdata, found.map_err(Failure::prerequisite)?);
        }
        return Ok(());
    }
    let found = takeover::unfinished_recovery(pgdata, *major, runs);
    refuse(pgdata, found.map_err(Failure::prerequisite)?)?;
    if pgdata.join("postgresql.conf").exists() {
        refuse(pgdata, takeover::files_elsewhere(pgdata).map_err(Failure::prerequisite)?)?;
    }
    Ok(())
}

fn refuse(pgdata: &Path, found: Option<Obstacle>) -> Result<(), Failure> {
    let Some(Obstacle { reason, remedy }) = found else { return Ok(()) };
    let text = format!("PGDATA {} cannot be taken over: {reason}", pgdata.display());
    Err(Failure::prerequisite(text).hint(remedy))
}

/// Whether a running server that is to be taken over lets its keeper in. One that does not answer at
/// present, because it starts or is full, says nothing about that.
///
/// # Errors
/// It does not, or its socket is elsewhere.
pub async fn running(
    pgdata: &Path,
    socket_dir: &Path,
    port: u16,
    major: u32,
) -> Result<(), Failure> {
    if !matches!(process::adopt(pgdata), Ok(Some(_))) {
        return Ok(());
    }
    let shown = pgdata.display();
    if let Some(actual) = socket_dir_of(pgdata)
        && !is_same(&actual, socket_dir)
    {
        let (text, hint) = if actual.as_os_str().is_empty() {
            ("has no Unix socket".to_owned(), "stop it first: it is started with one".to_owned())
        } else {
            (
                format!(
                    "has its Unix socket in {}, not in {}",
                    actual.display(),
                    socket_dir.display()
                ),
                format!("stop it first, or give --pg-socket-dir {}", actual.display()),
            )
        };
        return Err(Failure::prerequisite(format!("the Postgres in {shown} {text}")).hint(hint));
    }
    let refused = |reason: &str| {
        let text = format!("the Postgres in {shown} does not let its keeper in: {reason}");
        let user = vigil_postgres::user::current_user();
        Err(Failure::prerequisite(text).hint(format!(
            "its keeper logs in as superuser postgres to database postgres over the Unix socket; put \
             `local all postgres peer` first into pg_hba.conf if it runs as user postgres (it runs as \
             {user}), or stop the server first"
        )))
    };
    let target = Target::postgres(socket_dir, port, major);
    let asked = async {
        let mut session = Session::connect(&target, ANSWER_WITHIN).await?;
        session.show("is_superuser", ANSWER_WITHIN).await
    };
    match asked.await {
        Ok(superuser) if superuser == "on" => Ok(()),
        Ok(_) => refused("role postgres is no superuser"),
        Err(error) if is_refusal(&error) => refused(&plain(&error)),
        Err(error) => {
            tracing::info!(%error, "whether it lets its keeper in cannot be told yet");
            Ok(())
        }
    }
}

/// Invalid authorization, no such database, no privilege. A password that is asked for is refused
/// by the client, which has none.
fn is_refusal(error: &SqlError) -> bool {
    match error.sqlstate() {
        Some(state) => state.starts_with("28") || state == "3D000" || state == "42501",
        None => error.to_string().contains("password"),
    }
}

fn plain(error: &SqlError) -> String {
    match error {
        SqlError::Connect { cause, .. } => match cause.as_database_error() {
            Some(said) => said.message().to_owned(),
            None => cause.to_string(),
        },
        other => other.to_string(),
    }
}

/// Line 5 of `postmaster.pid`; empty if it has none.
fn socket_dir_of(pgdata: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(pgdata.join("postmaster.pid")).ok()?;
    text.lines().nth(4).map(|line| PathBuf::from(line.trim()))
}

fn is_same(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}
