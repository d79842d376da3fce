//! Which Postgres binaries to run, and as whom.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory with the server and its tools.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installation {
    pub bin_dir: PathBuf,
    /// 15 for 15.18.
    pub major: u32,
    /// Runs the programs as another user than ours; only root can. `None`: as ourselves.
    pub run_as: Option<RunAs>,
}

/// Ids for the programs of an [`Installation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InstallError {
    #[error(
        "no PostgreSQL{} found in /usr/lib/postgresql, /usr/pgsql-N, /usr/local/pgsql or PATH: \
         install the package postgresql{} or name its bin directory with --pg-bin",
        wanted.map(|m| format!(" {m}")).unwrap_or_default(),
        wanted.map(|m| format!("-{m}")).unwrap_or_default()
    )]
    NotFound { wanted: Option<u32> },
    #[error(
        "{}/{program} is missing or cannot be run: {reason}; install the packages \
         postgresql-N and postgresql-client-N of that version", bin_dir.display()
    )]
    Missing { bin_dir: PathBuf, program: &'static str, reason: String },
    #[error("{} is PostgreSQL {found}, but PostgreSQL {wanted} is needed", bin_dir.display())]
    WrongMajor { bin_dir: PathBuf, found: u32, wanted: u32 },
    #[error("PostgreSQL {major} in {} is too old: 13 or newer is needed", bin_dir.display())]
    TooOld { bin_dir: PathBuf, major: u32 },
}

const PROGRAMS: [&str; 4] = ["postgres", "initdb", "pg_basebackup", "pg_rewind"];

impl Installation {
    /// The installation in `pg_bin`, else the newest of the usual places; `wanted_major` is what
    /// an existing data directory needs.
    pub fn find(pg_bin: Option<&Path>, wanted_major: Option<u32>) -> Result<Self, InstallError> {
        if let Some(bin_dir) = pg_bin {
            let found = Self::verify(bin_dir)?;
            return match wanted_major {
                Some(wanted) if wanted != found.major => Err(InstallError::WrongMajor {
                    bin_dir: found.bin_dir,
                    found: found.major,
                    wanted,
                }),
                _ => Ok(found),
            };
        }
        let mut first_error = None;
        for bin_dir in candidates(wanted_major) {
            match Self::verify(&bin_dir) {
                Ok(found) if wanted_major.is_none_or(|m| m == found.major) => return Ok(found),
                Ok(_) => {}
                Err(e) => first_error = first_error.or(Some(e)),
            }
        }
        Err(first_error.unwrap_or(InstallError::NotFound { wanted: wanted_major }))
    }

    /// Checks that all programs are there and run, and asks `postgres` for its version.
    fn verify(bin_dir: &Path) -> Result<Self, InstallError> {
        let missing = |program, reason| InstallError::Missing {
            bin_dir: bin_dir.to_owned(),
            program,
            reason,
        };
        let mut major = 0;
        for program in PROGRAMS {
            let output = Command::new(bin_dir.join(program))
                .arg("--version")
                .env("LC_ALL", "C")
                .stdin(Stdio::null())
                .output()
                .map_err(|e| missing(program, e.to_string()))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let version = parse_major(&text).ok_or_else(|| {
                let said = String::from_utf8_lossy(&output.stderr);
                missing(program, format!("--version says `{}{}`", text.trim(), said.trim()))
            })?;
            if program == "postgres" {
                major = version;
            }
        }
        if major < 13 {
            return Err(InstallError::TooOld { bin_dir: bin_dir.to_owned(), major });
        }
        Ok(Installation { bin_dir: bin_dir.to_owned(), major, run_as: None })
    }

    /// The same installation, its programs run as `run_as`.
    #[must_use]
    pub fn running_as(mut self, run_as: Option<RunAs>) -> Self {
        self.run_as = run_as;
        self
    }

    /// A command for one of the programs: plain messages (`LC_ALL=C`), none of our `PG*`
    /// variables (a stray `PGOPTIONS` or `PGHOST` would change what the tool does), no stdin, a
    /// process group of its own so that a Ctrl-C at our terminal does not reach it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin_dir.join(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C").stdin(Stdio::null()).process_group(0).current_dir("/");
        if let Some(RunAs { uid, gid }) = self.run_as {
            command.uid(uid).gid(gid);
        }
        command
    }
}

/// Where a server's Unix socket is unless somebody says: where packages have it, if we may.
pub fn usual_socket_dir() -> PathBuf {
    let usual = PathBuf::from("/var/run/postgresql");
    let writable = rustix::fs::access(&usual, rustix::fs::Access::WRITE_OK).is_ok();
    if writable { usual } else { PathBuf::from("/tmp") }
}

/// Bin directories to try, best first.
fn candidates(wanted: Option<u32>) -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    let mut look = |dir: &str, prefix: &str, below: &str| {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(Ok(major)) = name.strip_prefix(prefix).map(str::parse::<u32>) else {
                continue;
            };
            let bin_dir = entry.path().join(below);
            if bin_dir.join("postgres").exists() && wanted.is_none_or(|w| w == major) {
                found.push((major, bin_dir));
            }
        }
    };
    look("/usr/lib/postgresql", "", "bin");
    look("/usr", "pgsql-", "bin");
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    let mut dirs: Vec<PathBuf> = found.into_iter().map(|(_, dir)| dir).collect();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let others = [PathBuf::from("/usr/local/pgsql/bin")];
    dirs.extend(
        others
            .into_iter()
            .chain(std::env::split_paths(&path))
            .filter(|dir| dir.join("postgres").exists()),
    );
    dirs
}

/// `postgres (PostgreSQL) 15.18 (Debian …)` → 15; also `18beta1`.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split("(PostgreSQL)").nth(1)?.trim_start();
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_a_bad_directory_is_named() {
        assert_eq!(
            parse_major("pg_rewind (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n"),
            Some(15)
        );
        assert_eq!(parse_major("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(parse_major("nonsense"), None);
        let error = Installation::find(Some(Path::new("/nonexistent")), None).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nonexistent/postgres") && text.contains("install"), "{text}");
        let absent = InstallError::NotFound { wanted: Some(16) }.to_string();
        assert!(absent.contains("postgresql-16"), "{absent}");
    }
}
