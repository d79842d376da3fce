//! Where WAL comes from.

use std::path::Path;
use std::process::Command;

use crate::durable::{self, Written};
use crate::error::FileError;
use crate::guc::conninfo;
use crate::sql::{replication_options, tool_options};

/// A server to clone, to rewind from or to follow.
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: Option<String>,
    /// The name that the upstream's sync rule knows us by.
    pub application_name: String,
    /// Our slot on the upstream; it must exist before: a missing one costs a retry interval.
    pub slot: Option<String>,
    /// Its major version, which is ours: some settings came later than 13.
    pub major: u32,
}

/// Without the password.
impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({}@{}:{}", self.user, self.host, self.port)?;
        write!(f, " as {}, slot {:?})", self.application_name, self.slot)
    }
}

impl Upstream {
    /// For `primary_conninfo`, password included. **The server writes it to its log, password and
    /// all, each time it changes**: prefer [`Upstream::primary_conninfo_with`].
    pub fn primary_conninfo(&self) -> String {
        let (port, options) = (self.port.to_string(), replication_options(self.major));
        let mut pairs = self.pairs(&port);
        pairs.push(("options", &options));
        if let Some(password) = &self.password {
            pairs.push(("password", password));
        }
        conninfo(pairs)
    }

    /// For `primary_conninfo`, the password in a file ([`Upstream::write_passfile`]).
    pub fn primary_conninfo_with(&self, passfile: &Path) -> String {
        let (port, options) = (self.port.to_string(), replication_options(self.major));
        let passfile = passfile.to_string_lossy();
        let mut pairs = self.pairs(&port);
        pairs.push(("options", &options));
        if self.password.is_some() {
            pairs.push(("passfile", &passfile));
        }
        conninfo(pairs)
    }

    /// Without any password: for a program's arguments, which everybody can read. The rest is in
    /// its environment.
    pub fn public_conninfo(&self) -> String {
        let port = self.port.to_string();
        conninfo(self.pairs(&port))
    }

    /// Writes the password file: for every host and port, so that a change of upstream does not
    /// touch it. Mode 0600. Outside of the data directory it outlives a clone and a rewind.
    pub fn write_passfile(&self, path: &Path) -> Result<Written, FileError> {
        let Some(password) = &self.password else { return Ok(Written::Unchanged) };
        let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
        let line = format!("*:*:*:{}:{}\n", escape(&self.user), escape(password));
        durable::write_if_changed(path, line.as_bytes())
    }

    /// Gives a program what it needs for its sessions, the password among it, through its
    /// environment.
    pub(super) fn introduce(&self, command: &mut Command) {
        command.env("PGOPTIONS", tool_options(self.major));
        // The home's file says nothing to us.
        command.env("PGPASSFILE", "/nonexistent");
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", password);
        }
    }

    fn pairs<'a>(&'a self, port: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![
            ("host", &self.host),
            ("port", port),
            ("user", &self.user),
            ("sslmode", "prefer"),
            // Neither Kerberos nor waiting for it.
            ("gssencmode", "disable"),
            // Seconds; 2 is libpq's minimum.
            ("connect_timeout", "2"),
            ("keepalives_idle", "1"),
            ("keepalives_interval", "1"),
            ("keepalives_count", "3"),
            // Milliseconds.
            ("tcp_user_timeout", "3000"),
            ("application_name", &self.application_name),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_goes_only_where_it_may() {
        let upstream = Upstream {
            host: "n1".to_owned(),
            port: 5432,
            user: "repl".to_owned(),
            password: Some("se cret".to_owned()),
            application_name: "node 2".to_owned(),
            slot: None,
            major: 15,
        };
        insta::assert_snapshot!(upstream.primary_conninfo(), @"host=n1 port=5432 user=repl sslmode=prefer gssencmode=disable connect_timeout=2 keepalives_idle=1 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=3000 application_name='node 2' options='-c statement_timeout=0 -c lock_timeout=0 -c idle_session_timeout=0 -c local_preload_libraries=' password='se cret'");
        assert!(!upstream.public_conninfo().contains("cret"));
        assert!(!format!("{upstream:?}").contains("cret"));
    }
}
