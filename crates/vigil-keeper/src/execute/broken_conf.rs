//! One broken line in `postgresql.conf`, and a server obeys no reload and does not start again. While
//! the user's settings alone wait for it, that is theirs to see; but a sync rule, a pledge, a new
//! upstream and a start cannot wait.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep, timeout};
use vigil_core::event::EventKind;
use vigil_postgres::broken_conf::{self, BrokenLine};

use super::{Executor, QUERY};

/// A reload is seen after 1-10 ms; longer on a busy machine. Only then the files are looked at.
const SEEN_WITHIN: Duration = Duration::from_millis(300);
/// `postgres -C` takes 10 ms.
const CHECK_WITHIN: Duration = Duration::from_secs(5);
/// Unknown names are told only when the syntax is right.
const ROUNDS: usize = 4;

impl Executor {
    /// Whether the server does not show a setting that it was given with the last reload. `false`
    /// also when that cannot be told.
    pub(super) async fn ignores(&self, name: &str, wanted: &str) -> bool {
        let end = Instant::now() + SEEN_WITHIN;
        let shown = async {
            let mut session = self.local.work().await?;
            loop {
                if session.show(name, QUERY).await? == wanted {
                    return anyhow::Ok(false);
                }
                if Instant::now() >= end {
                    return Ok(true);
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        match timeout(2 * SEEN_WITHIN, shown).await {
            Ok(Ok(ignores)) => ignores,
            Ok(Err(error)) => {
                tracing::debug!("whether {name} was seen: {error:#}");
                false
            }
            Err(_) => false,
        }
    }

    /// Comments out what keeps every setting from having effect; `true` when there was something.
    ///
    /// # Errors
    /// A file that cannot be written: it names the line.
    pub(super) async fn mend_conf(&self) -> Result<bool> {
        let mut mended = false;
        for _ in 0..ROUNDS {
            let lines = async {
                let mut session = self.local.work().await?;
                anyhow::Ok(session.broken_lines(QUERY).await?)
            };
            match lines.await {
                Ok(lines) if lines.is_empty() => break,
                Ok(lines) => mended |= self.comment_out(&lines)?,
                Err(error) => {
                    tracing::debug!("looking for broken lines: {error:#}");
                    break;
                }
            }
        }
        Ok(mended)
    }

    /// The same while no server runs.
    pub(super) async fn mend_conf_at_rest(&self) -> Result<bool> {
        let local = &self.local;
        let mut mended = false;
        for _ in 0..ROUNDS {
            let (install, pgdata) = (&local.install, &local.pgdata);
            let lines = broken_conf::broken_lines_at_rest(install, pgdata, CHECK_WITHIN).await?;
            if lines.is_empty() {
                break;
            }
            mended |= self.comment_out(&lines)?;
        }
        Ok(mended)
    }

    fn comment_out(&self, lines: &[BrokenLine]) -> Result<bool> {
        let mut any = false;
        for line in lines {
            let done = broken_conf::comment_out(line).with_context(|| {
                format!("no setting has effect until this is corrected: {line}")
            })?;
            if done {
                let text = format!(
                    "{line}: no setting had effect because of it, so it was commented out; correct it \
                     there and reload"
                );
                self.local.notice(EventKind::Setting, text);
            }
            any |= done;
        }
        match lines.first() {
            Some(first) if !any => bail!("no setting has effect until this is corrected: {first}"),
            _ => Ok(any),
        }
    }
}
