//! What is wrong at this node although it serves, or why it does not: looked for now and then,
//! beside the looks, and told with every report.

use std::path::Path;
use std::time::{Duration, Instant};

use vigil_core::message::{Trouble, TroubleKind};
use vigil_core::node::observed::ServerView;
use vigil_postgres::{Session, SqlStatus, server_log};

use crate::local::Local;

const EVERY: Duration = Duration::from_secs(3);
const QUERY: Duration = Duration::from_secs(1);
/// So many exits within so long that nobody asked for are a loop.
const CRASHES: usize = 3;
const CRASHES_WITHIN: Duration = Duration::from_mins(1);

/// What was found when it was last looked for.
#[derive(Default)]
pub(crate) struct Troubles {
    looked: Option<Instant>,
    found: Vec<Trouble>,
}

impl Troubles {
    pub(crate) fn found(&self) -> Vec<Trouble> {
        self.found.clone()
    }

    /// Looks at a server that answers, if it is time.
    pub(crate) async fn look(&mut self, local: &Local, session: &mut Session, status: &SqlStatus) {
        if self.looked.is_some_and(|at| at.elapsed() < EVERY) {
            return;
        }
        self.looked = Some(Instant::now());
        self.found.clear();
        match session.unusable_lines(QUERY).await {
            Ok(lines) => self.found.extend(lines.into_iter().map(|line| Trouble {
                kind: TroubleKind::BrokenConfiguration,
                place: Some(line.place),
                text: line.error,
            })),
            Err(error) => tracing::debug!(%error, "cannot check the configuration files"),
        }
        if status.replay_paused {
            let text = "replay is paused".to_owned();
            self.found.push(Trouble { kind: TroubleKind::ReplayPaused, place: None, text });
        }
        if session.is_makeshift() {
            let text = "there is no database postgres".to_owned();
            self.found.push(Trouble { kind: TroubleKind::NoDatabase, place: None, text });
        }
        let streams = status.receiver.as_ref().is_some_and(|r| r.status == "streaming");
        if status.in_recovery && !status.primary_conninfo.is_empty() && !streams {
            self.found.extend(receivers_words(local));
        }
    }
}

/// The last that a receiver of this server had to say.
fn receivers_words(local: &Local) -> Option<Trouble> {
    let log = server_log::newest(&local.pgdata, &local.log);
    let of_receiver = |error: &str| {
        ["the primary server", "WAL stream", "replication slot", "timeline", "No space left"]
            .iter()
            .any(|words| error.contains(words))
    };
    let text = server_log::last_error(&log, of_receiver)?;
    Some(Trouble { kind: TroubleKind::Receiver, place: Some(shown(&log)), text })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Exits of the server that nobody here asked for.
#[derive(Default)]
pub(crate) struct Exits {
    runs: bool,
    at: Vec<Instant>,
}

impl Exits {
    /// It was started.
    pub(crate) fn starts(&mut self) {
        self.runs = true;
    }

    /// It is about to be stopped.
    pub(crate) fn is_ended(&mut self) {
        self.runs = false;
    }

    pub(crate) fn look(&mut self, server: &ServerView) {
        match server {
            ServerView::Up(_) => self.runs = true,
            ServerView::Down | ServerView::Orphans if self.runs => {
                self.runs = false;
                self.at.push(Instant::now());
            }
            _ => {}
        }
    }

    pub(crate) fn trouble(&mut self, local: &Local) -> Option<Trouble> {
        self.at.retain(|at| at.elapsed() < CRASHES_WITHIN);
        if self.at.len() < CRASHES {
            return None;
        }
        let log = server_log::newest(&local.pgdata, &local.log);
        let died = |error: &str| !error.starts_with("the database system is");
        let text = server_log::last_error(&log, died)
            .unwrap_or_else(|| "its log has no reason".to_owned());
        Some(Trouble { kind: TroubleKind::CrashLoop, place: Some(shown(&log)), text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_exits_that_nobody_asked_for_count() {
        let mut exits = Exits::default();
        exits.look(&ServerView::Down);
        exits.starts();
        exits.is_ended();
        exits.look(&ServerView::Down);
        assert_eq!(exits.at.len(), 0);
        for seen in 1..=3 {
            exits.starts();
            exits.look(&ServerView::Starting);
            exits.look(&ServerView::Orphans);
            exits.look(&ServerView::Down);
            assert_eq!(exits.at.len(), seen);
        }
    }
}
