//! Clients of Postgres.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};

/// Where a server is. A socket in the file system is reached whatever the network does.
#[derive(Clone, Debug)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Socket(PathBuf, u16),
}

pub(crate) type Rows = Vec<Vec<Option<String>>>;

/// Alone on its thread; only what is waited for gets on.
pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// What scenarios may set for everybody does not concern those who look at the outcome.
const OPTIONS: &str = "-c search_path=public -c role=none \
    -c default_transaction_isolation=read\\ committed -c default_transaction_read_only=off \
    -c default_transaction_deferrable=off -c statement_timeout=0 -c lock_timeout=0 \
    -c idle_in_transaction_session_timeout=0 -c exit_on_error=off -c local_preload_libraries= \
    -c client_min_messages=notice";

pub(crate) fn config(address: &Address) -> Config {
    let mut config = Config::new();
    match address {
        Address::Tcp(address) => {
            config.hostaddr(address.ip()).port(address.port());
        }
        Address::Socket(dir, port) => {
            config.host_path(dir).port(*port);
        }
    }
    config.user("postgres").dbname("postgres").options(OPTIONS);
    config
}

fn says(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} {}", db.code().code(), db.message()),
        None => std::error::Error::source(error)
            .map_or_else(|| error.to_string(), |source| format!("{error}: {source}")),
    }
}

/// Connects; `notice` is called for every notice before the answer that it belongs to is seen.
pub(crate) async fn connect(
    config: &Config,
    mut notice: impl FnMut(&DbError) + Send + 'static,
) -> Result<Client, String> {
    let (client, mut connection) = config.connect(NoTls).await.map_err(|e| says(&e))?;
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
            if let AsyncMessage::Notice(said) = message {
                notice(&said);
            }
        }
    });
    Ok(client)
}

pub(crate) async fn rows(client: &Client, sql: &str) -> Result<Rows, String> {
    let messages = client.simple_query(sql).await.map_err(|e| says(&e))?;
    Ok(messages
        .into_iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect())
            }
            _ => None,
        })
        .collect())
}

/// One statement over a connection of its own.
pub(crate) fn query(config: &Config, sql: &str, within: Duration) -> Result<Rows, String> {
    runtime().block_on(async {
        timeout(within, async {
            let client = connect(config, |_| ()).await?;
            rows(&client, sql).await
        })
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
    })
}

/// A connection that stays open, for transactions that outlive a fault.
pub(crate) struct Session {
    runtime: Runtime,
    client: Client,
}

impl Session {
    pub(crate) fn open(address: &Address) -> Result<Self, String> {
        let runtime = runtime();
        let client = runtime.block_on(async {
            timeout(Duration::from_secs(3), connect(&config(address), |_| ()))
                .await
                .unwrap_or_else(|_| Err("no answer within 3 s".to_owned()))
        })?;
        Ok(Self { runtime, client })
    }

    pub(crate) fn query(&self, sql: &str, within: Duration) -> Result<Rows, String> {
        self.runtime.block_on(async {
            timeout(within, rows(&self.client, sql))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {within:?}")))
        })
    }
}

/// A statement that goes on until the server goes away, on a thread of its own; what it says in
/// notices is collected with the time.
pub(crate) struct Stream {
    thread: std::thread::JoinHandle<Result<Rows, String>>,
    said: std::sync::Arc<std::sync::Mutex<Vec<(std::time::Instant, String)>>>,
}

impl Stream {
    pub(crate) fn start(address: Address, sql: String) -> Self {
        let said = std::sync::Arc::<std::sync::Mutex<Vec<_>>>::default();
        let log = said.clone();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let client = connect(&config(&address), move |notice| {
                    let text = format!("{} {}", notice.severity(), notice.message());
                    log.lock().unwrap().push((std::time::Instant::now(), text));
                })
                .await?;
                timeout(Duration::from_mins(2), rows(&client, &sql))
                    .await
                    .unwrap_or_else(|_| Err("still going on after 120 s".to_owned()))
            })
        });
        Self { thread, said }
    }

    pub(crate) fn said(&self) -> Vec<(std::time::Instant, String)> {
        self.said.lock().unwrap().clone()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.thread.is_finished()
    }
}
