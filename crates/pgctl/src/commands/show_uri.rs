//! `show-uri`: what applications put into their configuration.

use serde::Serialize;
use tokio::time::timeout_at;
use vigil_proto::{Uri, pb};

use crate::failure::Failure;
use crate::monitor::Session;

/// Show connection strings that find the primary, or a standby, whoever that is
#[derive(Debug, clap::Args)]
#[command(after_help = "\
User, password and database are yours to add; `prefer-standby` needs libpq 14 or newer.

Examples:
  pgctl show-uri
  psql \"$(pgctl show-uri --json | jq -r '.uris[] | select(.type==\"read-write\") | .uri')\"")]
pub(crate) struct Args {}

impl Args {
    pub(crate) async fn run(self, session: &Session) -> Result<(), Failure> {
        let mut monitor = session.to_show().await?;
        let call = monitor.client.show_uri(pb::Selector::from(session.selector()));
        let answer = timeout_at(monitor.deadline, call).await;
        let uris = Uris { uris: monitor.shown(answer)?.try_into()? };
        session.output.data(&uris, |_| uris.text(session.formation()))
    }
}

#[derive(Serialize)]
struct Uris {
    uris: Vec<Uri>,
}

impl Uris {
    /// Not a table: a URI that is broken over lines cannot be copied.
    fn text(&self, formation: &str) -> String {
        if self.uris.is_empty() {
            return format!("formation {formation} has no nodes");
        }
        let several = self.uris.iter().any(|uri| uri.groupid != self.uris[0].groupid);
        let line = |uri: &Uri| {
            let group = if several { format!("group {}  ", uri.groupid) } else { String::new() };
            format!("{group}{:<10}  {}", uri.r#type, uri.uri)
        };
        self.uris.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_named_only_when_there_are_several() {
        let uri = |groupid, kind: &str| Uri {
            formationid: "default".to_owned(),
            groupid,
            r#type: kind.to_owned(),
            uri: "postgres://a".to_owned(),
        };
        let mut uris = Uris { uris: vec![uri(0, "read-write"), uri(0, "read-only")] };
        assert_eq!(uris.text("f"), "read-write  postgres://a\nread-only   postgres://a");
        uris.uris.push(uri(1, "read-write"));
        assert!(uris.text("f").ends_with("\ngroup 1  read-write  postgres://a"));
        assert_eq!(Uris { uris: Vec::new() }.text("f"), "formation f has no nodes");
    }
}
