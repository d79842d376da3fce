//! Who may connect: a marked block at the top of `pg_hba.conf` (the first line that matches wins)
//! and of `pg_ident.conf`. The rest of both files is the user's.

use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::durable::{self, Written};
use crate::error::FileError;

const BEGIN: &str = "# BEGIN pgvigil";
const END: &str = "# END pgvigil";

/// What the block says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HbaPlan {
    /// `scram-sha-256`, `trust`, …
    pub auth: String,
    /// Networks whose clients may connect to all databases: `10.0.0.0/8`, `0.0.0.0/0`.
    pub cidrs: Vec<String>,
    /// Hosts of the other nodes: IP addresses or names.
    pub peer_hosts: Vec<String>,
    /// Who we run as: may be `postgres` over the Unix socket.
    pub os_user: String,
    pub replication_user: String,
}

#[derive(Debug, thiserror::Error)]
pub enum HbaError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("`{value}` cannot be {what} in pg_hba.conf")]
    BadWord { what: &'static str, value: String },
}

impl HbaPlan {
    /// Writes both blocks where they differ. The server sees them at the next start or reload.
    pub fn write(&self, pgdata: &Path) -> Result<Written, HbaError> {
        let hba = put_block(&pgdata.join("pg_hba.conf"), &self.render_hba()?)?;
        let ident = put_block(&pgdata.join("pg_ident.conf"), &self.render_ident()?)?;
        Ok(if hba.changed() { hba } else { ident })
    }

    /// The lines for `pg_hba.conf`, without the marks.
    pub fn render_hba(&self) -> Result<String, HbaError> {
        let auth = word("an authentication method", &self.auth)?;
        let repl = name(&self.replication_user)?;
        let mut lines = vec![if auth == "trust" {
            "local all all trust".to_owned()
        } else {
            "local all postgres peer map=pgvigil".to_owned()
        }];
        let mut from = vec!["samehost".to_owned()];
        for peer in &self.peer_hosts {
            from.push(address("a host", peer)?);
        }
        for cidr in &self.cidrs {
            from.push(address("a network", cidr)?);
        }
        let mut unique = Vec::new();
        from.retain(|a| {
            !unique.contains(a) && {
                unique.push(a.clone());
                true
            }
        });
        for address in &from {
            lines.push(format!("host replication {repl} {address} {auth}"));
            lines.push(format!("host all {repl} {address} {auth}"));
        }
        // Clients whose passwords were hashed with md5 go on as before; all others are asked by
        // SCRAM under this name, too.
        let clients = if auth == "scram-sha-256" { "md5" } else { auth };
        lines.push(format!("host all all samehost {clients}"));
        for cidr in &self.cidrs {
            lines.push(format!("host all all {} {clients}", address("a network", cidr)?));
        }
        Ok(lines.join("\n"))
    }

    /// The line for `pg_ident.conf`, without the marks.
    pub fn render_ident(&self) -> Result<String, HbaError> {
        Ok(format!("pgvigil {} postgres", name(&self.os_user)?))
    }
}

/// IP addresses get their mask, networks and names stay.
fn address(what: &'static str, value: &str) -> Result<String, HbaError> {
    let value = word(what, value)?;
    Ok(match value.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => format!("{ip}/32"),
        Ok(IpAddr::V6(ip)) => format!("{ip}/128"),
        Err(_) => value.to_owned(),
    })
}

fn word<'a>(what: &'static str, value: &'a str) -> Result<&'a str, HbaError> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || "#,\"'@\\".contains(c);
    if value.is_empty() || value.contains(bad) {
        return Err(HbaError::BadWord { what, value: value.to_owned() });
    }
    Ok(value)
}

/// A user name, in quotes: then `all` and `+group` mean nothing special.
fn name(value: &str) -> Result<String, HbaError> {
    if value.is_empty() || value.contains(|c: char| c.is_control() || c == '"') {
        return Err(HbaError::BadWord { what: "a user name", value: value.to_owned() });
    }
    Ok(format!("\"{value}\""))
}

fn put_block(path: &Path, lines: &str) -> Result<Written, FileError> {
    let old = durable::read_opt(path)?.unwrap_or_default();
    let mut new = format!("{BEGIN}\n{lines}\n{END}\n").into_bytes();
    new.extend(without_block(&old));
    durable::write_if_changed(path, &new)
}

/// All but our block. Where its end is missing only the mark goes: lines of the user are never
/// lost.
fn without_block(text: &[u8]) -> Vec<u8> {
    let has_end = durable::lines(text).any(|(_, line)| line.trim() == END);
    let mut kept = Vec::with_capacity(text.len());
    let mut inside = false;
    for (raw, line) in durable::lines(text) {
        match line.trim() {
            BEGIN => inside = has_end,
            END => inside = false,
            _ if inside => {}
            _ => durable::push_line(&mut kept, raw),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn plan() -> HbaPlan {
        HbaPlan {
            auth: "scram-sha-256".to_owned(),
            cidrs: vec!["10.0.0.0/8".to_owned()],
            peer_hosts: ["10.1.2.3", "fd00::2", "node3.example"].map(str::to_owned).to_vec(),
            os_user: "postgres".to_owned(),
            replication_user: "pgvigil_repl".to_owned(),
        }
    }

    #[test]
    fn the_block_is_rendered() {
        insta::assert_snapshot!(plan().render_hba().unwrap(), @r#"
        local all postgres peer map=pgvigil
        host replication "pgvigil_repl" samehost scram-sha-256
        host all "pgvigil_repl" samehost scram-sha-256
        host replication "pgvigil_repl" 10.1.2.3/32 scram-sha-256
        host all "pgvigil_repl" 10.1.2.3/32 scram-sha-256
        host replication "pgvigil_repl" fd00::2/128 scram-sha-256
        host all "pgvigil_repl" fd00::2/128 scram-sha-256
        host replication "pgvigil_repl" node3.example scram-sha-256
        host all "pgvigil_repl" node3.example scram-sha-256
        host replication "pgvigil_repl" 10.0.0.0/8 scram-sha-256
        host all "pgvigil_repl" 10.0.0.0/8 scram-sha-256
        host all all samehost md5
        host all all 10.0.0.0/8 md5
        "#);
        let trust = HbaPlan { auth: "trust".to_owned(), ..plan() };
        assert!(trust.render_hba().unwrap().starts_with("local all all trust\n"));
        let bad = HbaPlan { cidrs: vec!["10.0.0.0/8 trust".to_owned()], ..plan() };
        assert!(bad.render_hba().is_err(), "no second word slips in");
    }

    #[test]
    fn the_block_is_on_top_and_the_rest_stays() {
        let dir = TempDir::new();
        let path = dir.path().join("pg_hba.conf");
        let theirs = b"# mine\nhost all \"ren\xe9\" 1.2.3.4/32 md5\n";
        std::fs::write(&path, theirs).unwrap();
        assert_eq!(plan().write(dir.path()).unwrap(), Written::Changed);
        assert_eq!(plan().write(dir.path()).unwrap(), Written::Unchanged);
        let other = HbaPlan { cidrs: Vec::new(), ..plan() };
        assert_eq!(other.write(dir.path()).unwrap(), Written::Changed);
        let bytes = std::fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with(BEGIN) && bytes.ends_with(theirs), "{text}");
        assert_eq!(text.matches(BEGIN).count(), 1);
        let ident = std::fs::read_to_string(dir.path().join("pg_ident.conf")).unwrap();
        assert_eq!(ident, format!("{BEGIN}\npgvigil \"postgres\" postgres\n{END}\n"));
    }
}
