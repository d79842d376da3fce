//! Clients, as an application would be one: told success, a warning, or nothing.

use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;
use tokio_postgres::{AsyncMessage, Config, NoTls, SimpleQueryMessage};

use super::server::{LONG, Server};
use crate::subject::Answer;

/// A connection. It ends when this is dropped.
pub(super) struct Client {
    session: Arc<tokio_postgres::Client>,
    warned: Arc<AtomicBool>,
    connection: JoinHandle<()>,
    statement: Option<JoinHandle<bool>>,
    told: Arc<Mutex<Option<bool>>>,
}

impl Client {
    pub(super) async fn open(server: &Server) -> Self {
        let mut config = Config::new();
        config.host_path(&server.target.socket_dir).port(server.target.port);
        config.user(&server.target.user).dbname(&server.target.database);
        let connected = tokio::time::timeout(LONG, config.connect(NoTls)).await;
        let (client, mut connection) = connected.expect("in time").expect("a connection");
        let warned = Arc::new(AtomicBool::new(false));
        let warns = warned.clone();
        let connection = tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message
                    && notice.severity() == "WARNING"
                {
                    warns.store(true, Ordering::SeqCst);
                }
            }
        });
        Client {
            session: Arc::new(client),
            warned,
            connection,
            statement: None,
            told: Arc::default(),
        }
    }

    /// The first value that a statement gives, empty if it gives none.
    pub(super) async fn value(&self, sql: &str) -> String {
        let answer = tokio::time::timeout(LONG, self.session.simple_query(sql)).await;
        let messages = answer.expect("in time").unwrap_or_else(|e| panic!("{sql}: {e:?}"));
        let value = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        value.unwrap_or_default()
    }

    /// Sends a statement and does not wait for its end.
    pub(super) fn send(&mut self, sql: String) {
        let (client, told) = (self.session.clone(), self.told.clone());
        self.statement = Some(tokio::spawn(async move {
            let success = client.simple_query(&sql).await.is_ok();
            *told.lock().expect("nobody panics") = Some(success);
            success
        }));
    }

    /// What the statement's client was told by now.
    pub(super) fn answer(&self) -> Answer {
        match *self.told.lock().expect("nobody panics") {
            None => Answer::Waits,
            Some(false) => Answer::Unknown,
            Some(true) if self.warned.load(Ordering::SeqCst) => Answer::Warned,
            Some(true) => Answer::Acknowledged,
        }
    }

    /// The message that Ctrl-C and a driver's query timeout send.
    pub(super) async fn cancel(&self) {
        self.session.cancel_token().cancel_query(NoTls).await.expect("it can be cancelled");
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(statement) = &self.statement {
            statement.abort();
        }
        self.connection.abort();
    }
}

/// A client that commits one number after the other until its session ends.
pub(super) struct Writer {
    acknowledged: Arc<Mutex<Vec<u32>>>,
    task: JoinHandle<()>,
}

impl Writer {
    pub(super) async fn start(server: &Server, table: &'static str, first: u32) -> Self {
        let client = Client::open(server).await;
        let acknowledged = Arc::<Mutex<Vec<u32>>>::default();
        let log = acknowledged.clone();
        let task = tokio::spawn(async move {
            for number in first.. {
                let sql = format!("INSERT INTO {table} VALUES ({number})");
                if client.session.simple_query(&sql).await.is_err()
                    || client.warned.load(Ordering::SeqCst)
                {
                    return;
                }
                log.lock().expect("nobody panics").push(number);
            }
        });
        Writer { acknowledged, task }
    }

    pub(super) fn acknowledged(&self) -> Vec<u32> {
        self.acknowledged.lock().expect("nobody panics").clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
