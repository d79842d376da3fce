//! Fail points: named places where a test stops or kills a program, to see what comes of it.
//!
//! Only builds with debug assertions have them: in what is shipped, [`hit`] does nothing. There,
//! `PGVIGIL_FAILPOINT` names one, with what is to happen when it is reached:
//!
//! | value | at the fail point `NAME` |
//! |---|---|
//! | `NAME:kill` | the program ends as by SIGKILL |
//! | `NAME:pause` | what has reached it waits for five seconds |
//! | `@FILE` | as the file says (`NAME:kill` or `NAME:pause`), which is read at each fail point, so that a test can arm one while the program runs. Whoever reaches it first takes the file away and leaves `FILE.hit.PID`; a pause ends when that is removed |
//!
//! The keeper has `step_STEP` (it is about to begin) and `step_STEP_done` (done, nobody has heard of
//! it) for each step, the monitor has `plan_PLAN` (recorded, nobody has been told) for each plan.

/// Does what a test wants at the fail point `kind`_`name``moment`.
#[cfg(debug_assertions)]
pub async fn hit(kind: &str, name: &str, moment: &str) {
    armed::hit(&format!("{kind}_{name}{moment}")).await;
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[expect(clippy::unused_async, reason = "as the one of test builds")]
pub async fn hit(_kind: &str, _name: &str, _moment: &str) {}

#[cfg(debug_assertions)]
mod armed {
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, Instant};

    use rustix::process::{Signal, getpid, kill_process};

    const VARIABLE: &str = "PGVIGIL_FAILPOINT";
    /// A pause ends by itself after so long.
    const PAUSE: Duration = Duration::from_secs(5);
    const PAUSE_MAX: Duration = Duration::from_secs(20);

    pub(super) async fn hit(name: &str) {
        let Ok(armed) = std::env::var(VARIABLE) else { return };
        let Some(file) = armed.strip_prefix('@').map(PathBuf::from) else {
            match armed.strip_prefix(name) {
                Some(":kill") => kill(),
                Some(":pause") => tokio::time::sleep(PAUSE).await,
                _ => {}
            }
            return;
        };
        // Usually there is none.
        let text = fs::read_to_string(&file).unwrap_or_default();
        let Some(action) = text.trim().strip_prefix(name) else { return };
        let taken = taken_by_us(&file);
        if !matches!(action, ":kill" | ":pause") || fs::rename(&file, &taken).is_err() {
            return;
        }
        if action == ":kill" {
            kill();
        }
        let end = Instant::now() + PAUSE_MAX;
        while taken.exists() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn taken_by_us(file: &Path) -> PathBuf {
        let mut name = file.as_os_str().to_owned();
        name.push(format!(".hit.{}", getpid().as_raw_pid()));
        PathBuf::from(name)
    }

    fn kill() {
        // It does not return.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}
