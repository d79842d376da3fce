//! Where WAL comes from.

use std::process::Command;

use crate::guc::conninfo;

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
}

/// Without the password.
impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upstream({}@{}:{}", self.user, self.host, self.port)?;
        write!(f, " as {}, slot {:?})", self.application_name, self.slot)
    }
}

impl Upstream {
    /// For `primary_conninfo`, password included: the file it goes to has mode 0600.
    pub fn primary_conninfo(&self) -> String {
        let port = self.port.to_string();
        let mut pairs = self.pairs(&port);
        if let Some(password) = &self.password {
            pairs.push(("password", password));
        }
        conninfo(pairs)
    }

    /// For a program's arguments, which everybody can read: no password.
    pub(super) fn tool_conninfo(&self) -> String {
        let port = self.port.to_string();
        conninfo(self.pairs(&port))
    }

    /// Gives the password to a program through its environment.
    pub(super) fn authenticate(&self, command: &mut Command) {
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", password);
        }
        // Never ask: there is nobody to answer. And never a `~/.pgpass` of chance.
        command.env("PGPASSFILE", "/dev/null");
    }

    fn pairs<'a>(&'a self, port: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![
            ("host", &self.host),
            ("port", port),
            ("user", &self.user),
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
        };
        insta::assert_snapshot!(upstream.primary_conninfo(), @"host=n1 port=5432 user=repl connect_timeout=2 keepalives_idle=1 keepalives_interval=1 keepalives_count=3 tcp_user_timeout=3000 application_name='node 2' password='se cret'");
        assert!(!upstream.tool_conninfo().contains("cret"));
        assert!(!format!("{upstream:?}").contains("cret"));
    }
}
