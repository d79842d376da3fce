//! Where the monitor is, as users write it.

use std::time::Duration;

use tonic::transport::Endpoint;

/// The monitor's gRPC port.
pub const DEFAULT_PORT: u16 = 6000;

/// Text that does not say where a monitor is.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{problem}, expected for example `http://127.0.0.1:6000` or `monitor:6000`")]
pub struct BadUrl {
    problem: String,
}

/// How to reach the monitor at `url`: `http://host:6000`, `host:6000`, `host`, or the
/// `postgres://…@host:5431/…` that users of pg_auto_failover have. Of the latter the first host
/// is taken, and never the port, because that is the one of the monitor's Postgres.
///
/// The endpoint notices within three seconds that nobody is there any more, and also that a
/// connection has died without a word.
///
/// # Errors
/// What is wrong with the text. It never repeats the user or the password.
pub fn endpoint(url: &str) -> Result<Endpoint, BadUrl> {
    let uri = format!("http://{}", authority(url.trim())?);
    let endpoint = Endpoint::from_shared(uri)
        .map_err(|_| BadUrl { problem: "this is no host name".to_owned() })?;
    Ok(endpoint
        .connect_timeout(Duration::from_secs(3))
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true))
}

/// `host:port` of the monitor.
fn authority(url: &str) -> Result<String, BadUrl> {
    let bad = |problem: &str| BadUrl { problem: problem.to_owned() };
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (before_path, path) = rest.split_at(end);
    let hosts = before_path.rsplit_once('@').map_or(before_path, |(_user, hosts)| hosts);
    let (address, port_counts) = match scheme {
        "" | "http" if hosts.len() < before_path.len() => {
            return Err(bad("a user name has no place in this URL"));
        }
        "" | "http" if !matches!(path, "" | "/") => {
            return Err(bad("nothing but host and port is understood"));
        }
        "" | "http" => (hosts, true),
        "https" => return Err(bad("`https` is not supported")),
        "postgres" | "postgresql" => (hosts.split(',').next().unwrap_or_default(), false),
        other => return Err(BadUrl { problem: format!("`{other}` is not a known scheme") }),
    };
    let (host, port) = split_port(address).ok_or_else(|| bad("the port is not a number"))?;
    if host.is_empty() {
        return Err(bad("no host is named"));
    }
    let port = port.filter(|_| port_counts).unwrap_or(DEFAULT_PORT);
    Ok(format!("{host}:{port}"))
}

/// Takes `host`, `host:port`, `[v6]`, `[v6]:port` apart. `None`: there is no valid port.
fn split_port(address: &str) -> Option<(&str, Option<u16>)> {
    let port_from = match address.find(']') {
        Some(bracket) => bracket + 1,
        None => address.find(':').unwrap_or(address.len()),
    };
    let (host, port) = address.split_at(port_from);
    if port.is_empty() {
        return Some((host, None));
    }
    let number = port.strip_prefix(':')?.parse().ok().filter(|n| *n != 0)?;
    Some((host, Some(number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_it() {
        for (url, expected) in [
            ("http://db:6007", "http://db:6007/"),
            ("http://db:6007/", "http://db:6007/"),
            ("http://db", "http://db:6000/"),
            ("db:6007", "http://db:6007/"),
            (" db ", "http://db:6000/"),
            ("127.0.0.1:6000", "http://127.0.0.1:6000/"),
            ("[::1]:6007", "http://[::1]:6007/"),
            ("http://[fe80::1]", "http://[fe80::1]:6000/"),
            ("postgres://autoctl_node@db:5431/pg_auto_failover", "http://db:6000/"),
            ("postgresql://u:p@ss@db:5431/x?sslmode=prefer", "http://db:6000/"),
            ("postgres://u:secret@a:5431,b:5431/x", "http://a:6000/"),
            ("postgres://db", "http://db:6000/"),
            ("postgres://u@[::1]:5431/x", "http://[::1]:6000/"),
        ] {
            assert_eq!(endpoint(url).unwrap().uri().to_string(), expected, "{url}");
        }
    }

    #[test]
    fn bad_ones_are_refused_without_telling_the_password() {
        for url in [
            "",
            "http://",
            "http://:6000",
            "db:",
            "db:0",
            "db:x",
            "db:65536",
            "https://db:6000",
            "ftp://db",
            "db:6000/path",
            "::1",
            "postgres:///pg_auto_failover",
            "postgres://u:secret@/x",
            "http://u:secret@db:6000",
            "u:secret@db",
            "a host:6000",
            "http://db:6000?x=secret",
        ] {
            let error = endpoint(url).map(|e| e.uri().to_string()).unwrap_err().to_string();
            assert!(!error.contains("secret") && error.contains("expected"), "{url}: {error}");
        }
    }
}
