//! The stock exporter, `postgres_exporter` 0.17 or later, as a child process on a port of its own.
//! It is asked by its `/probe`, which takes the server to look at from the request.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use vigil_daemon::Failure;

use crate::client::{self, GetError};
use crate::config::Config;
use crate::monitor::Node;

/// As the package of Debian and the image of its authors call it.
const NAMES: [&str; 3] =
    ["postgres_exporter", "prometheus-postgres-exporter", "/bin/postgres_exporter"];
/// How long it is left alone after it ended.
const PAUSE: Duration = Duration::from_secs(1);
/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(2);
/// The login of the nodes, in its configuration.
const MODULE: &str = "node";
/// What is asked for beside its defaults, and what of those is left out: one series per table.
const COLLECTORS: [&str; 4] = [
    "--collector.long_running_transactions",
    "--collector.stat_checkpointer",
    "--no-collector.stat_user_tables",
    "--no-collector.statio_user_tables",
];

/// The running stock exporter; it is started again when it ends.
#[derive(Debug)]
pub struct Stock {
    port: Arc<AtomicU16>,
    database: String,
    supervisor: Mutex<Option<JoinHandle<()>>>,
}

impl Stock {
    /// Starts it; `None` when it is not wanted.
    ///
    /// # Errors
    /// It is not on this machine.
    pub fn start(config: &Config) -> Result<Option<Self>, Failure> {
        if config.stock_exporter.as_deref() == Some(Path::new("none")) {
            return Ok(None);
        }
        let program = find(config.stock_exporter.as_deref())?;
        let port = Arc::new(AtomicU16::new(0));
        let supervisor = tokio::spawn(supervise(program, login(config), Arc::clone(&port)));
        let supervisor = Mutex::new(Some(supervisor));
        Ok(Some(Stock { port, database: config.pg_database.clone(), supervisor }))
    }

    /// Its series of `node`, within `within`.
    ///
    /// # Errors
    /// It does not answer in time, most likely because the node does not.
    pub async fn probe(&self, node: &Node, within: Duration) -> Result<String, GetError> {
        let address = format!("127.0.0.1:{}", self.port.load(Ordering::Relaxed));
        let path =
            format!("/probe?auth_module={MODULE}&target={}/{}", node.address(), self.database);
        client::get(&address, &path, within).await
    }

    /// Ends it.
    pub async fn stop(&self) {
        let supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(supervisor) = supervisor {
            // The child is killed when its supervisor is dropped.
            supervisor.abort();
            let _ = tokio::time::timeout(PATIENCE, supervisor).await;
        }
    }
}

fn find(given: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = |name: &Path| {
        let mut places = std::env::split_paths(&path).map(|dir| dir.join(name));
        places.find(|place| place.is_file())
    };
    let names = given.map_or_else(|| NAMES.iter().map(Path::new).collect(), |name| vec![name]);
    let found = names.iter().find_map(|name| on_path(name));
    found.ok_or_else(|| {
        let missing = names[0].display();
        Failure::prerequisite(format!("there is no stock exporter `{missing}`"))
            .hint("name it with --stock-exporter, or do without it: --stock-exporter none")
    })
}

/// Its configuration. JSON is YAML, and quotes whatever a password has in it.
fn login(config: &Config) -> String {
    let (user, password) = (&config.pg_user, &config.pg_password);
    json!({ "auth_modules": { MODULE: {
        "type": "userpass",
        "userpass": { "username": user, "password": password },
        "options": { "sslmode": "disable", "connect_timeout": "1", "application_name": "exporter" },
    }}})
    .to_string()
}

async fn supervise(program: PathBuf, login: String, port: Arc<AtomicU16>) {
    loop {
        match launch(&program, &login, &port).await {
            Ok(mut child) => match child.wait().await {
                Ok(status) => tracing::warn!(%status, "the stock exporter has ended"),
                Err(error) => tracing::warn!(%error, "the stock exporter is lost"),
            },
            Err(error) => tracing::warn!(%error, "the stock exporter cannot be started"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The configuration goes through a pipe: the password is on no disk and in no process list.
async fn launch(program: &Path, login: &str, port: &AtomicU16) -> std::io::Result<Child> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut child = Command::new(program)
        .arg("--config.file=/dev/stdin")
        .arg(format!("--web.listen-address=127.0.0.1:{free}"))
        .arg("--log.level=warn")
        .args(COLLECTORS)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        // It says at every probe of a node that is down what the page says as well.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(login.as_bytes()).await?;
    }
    port.store(free, Ordering::Relaxed);
    Ok(child)
}
