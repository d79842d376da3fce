//! From root to the `postgres` user: Postgres refuses to run as root, so we do not either.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// An account of `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
}

#[derive(Debug, thiserror::Error)]
pub enum UserError {
    #[error(
        "started as root, but there is no user `{0}` to run Postgres as: create it, or start as another user"
    )]
    NoSuchUser(String),
    #[error("cannot read /etc/passwd: {0}")]
    Passwd(#[source] io::Error),
    #[error("cannot start again as user `{user}`: {source}")]
    Exec { user: String, source: io::Error },
}

/// What clients of Postgres read, and we say ourselves: nobody else's servers and options.
const CLIENTS_VARIABLES: [&str; 13] = [
    "PGAPPNAME",
    "PGDATABASE",
    "PGHOST",
    "PGHOSTADDR",
    "PGOPTIONS",
    "PGPASSWORD",
    "PGSERVICE",
    "PGSSLCERT",
    "PGSSLKEY",
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGTZ",
    "PGUSER",
];

/// Set in the environment of the process that was started again, so that a failure to drop root
/// ends in an error and not in a loop.
const DROPPED: &str = "PGVIGIL_DROPPED_ROOT";

/// As root: starts this program again, with the same arguments, as user `postgres` (never returns
/// on success). As anybody else it does so only where the environment holds variables that would
/// lead our own connections elsewhere; they are left out.
pub fn reexec_as_postgres() -> Result<(), UserError> {
    drop_root("postgres")?;
    let mut misleading =
        CLIENTS_VARIABLES.iter().filter(|name| std::env::var_os(name).is_some()).peekable();
    if misleading.peek().is_none() {
        return Ok(());
    }
    let user = current_user();
    let mut command = again();
    for name in misleading {
        command.env_remove(name);
    }
    Err(UserError::Exec { user, source: command.exec() })
}

/// This program, with the same arguments.
fn again() -> Command {
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_else(|| OsString::from("pgvigil"));
    let mut command = Command::new("/proc/self/exe");
    command.arg0(name).args(args);
    command
}

/// As [`reexec_as_postgres`], for a user of another name. The process is replaced, its pid stays:
/// supplementary groups go, `HOME`, `USER` and `LOGNAME` are the user's, the rest of the
/// environment is kept. Call it before any thread or runtime is started.
pub fn drop_root(user: &str) -> Result<(), UserError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let failed = |source| UserError::Exec { user: user.to_owned(), source };
    if std::env::var_os(DROPPED).is_some() {
        return Err(failed(io::Error::other("still root after the attempt")));
    }
    let account = lookup(user)?;
    if account.uid == 0 {
        return Err(failed(io::Error::other("this user is root by another name")));
    }
    // `uid` without `groups` makes std drop root's supplementary groups.
    let error = again()
        .uid(account.uid)
        .gid(account.gid)
        .env("HOME", &account.home)
        .env("USER", user)
        .env("LOGNAME", user)
        .env(DROPPED, "1")
        .exec();
    Err(failed(error))
}

/// The account of `user`.
pub fn lookup(user: &str) -> Result<Account, UserError> {
    find(&passwd()?, |a| a.name == user).ok_or_else(|| UserError::NoSuchUser(user.to_owned()))
}

/// The name of the user that we run as, its number when it has no name.
pub fn current_user() -> String {
    let uid = rustix::process::geteuid().as_raw();
    let account = passwd().ok().and_then(|text| find(&text, |a| a.uid == uid));
    account.map_or_else(|| uid.to_string(), |a| a.name)
}

fn passwd() -> Result<String, UserError> {
    let bytes = fs::read("/etc/passwd").map_err(UserError::Passwd)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn find(passwd: &str, wanted: impl Fn(&Account) -> bool) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        let account = Account {
            name: (*name).to_owned(),
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home: (*home).to_owned(),
        };
        wanted(&account).then_some(account)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_found_by_name_and_number() {
        let text = "root:x:0:0:root:/root:/bin/bash\nbroken\npostgres:x:101:104:PG,,,:/var/lib/postgresql:/bin/bash\n";
        let account = find(text, |a| a.name == "postgres").unwrap();
        assert_eq!(
            (account.uid, account.gid, account.home.as_str()),
            (101, 104, "/var/lib/postgresql")
        );
        assert_eq!(find(text, |a| a.uid == 0).unwrap().name, "root");
        assert_eq!(find(text, |a| a.name == "nobody"), None);
    }

    /// As root: a copy of this test program drops root in the test after this one.
    #[test]
    fn root_is_dropped_for_good() {
        if !rustix::process::geteuid().is_root() || lookup("postgres").is_err() {
            return;
        }
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "user::tests::who_am_i", "--nocapture"])
            .env("VIGIL_WHO_AM_I", "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let account = lookup("postgres").unwrap();
        let expected = format!("I am {} {} in {}", account.uid, account.gid, account.home);
        assert!(said.contains(&expected) && said.contains("groups []"), "{said} {output:?}");
    }

    #[test]
    fn who_am_i() {
        if std::env::var_os("VIGIL_WHO_AM_I").is_some() {
            reexec_as_postgres().unwrap();
            let (uid, gid) =
                (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
            println!("I am {uid} {gid} in {}", std::env::var("HOME").unwrap());
            println!("groups {:?}", rustix::process::getgroups().unwrap());
        }
    }
}
