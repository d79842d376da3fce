//! Values that several programs take, each with what is expected where one is wrong.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reads a host and a port; `like` is an example.
pub fn address(like: &'static str) -> impl Fn(&str) -> Result<String, String> + Clone {
    move |text| {
        let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        match parts.map(|(_, port)| port.parse::<u16>()) {
            Some(Ok(_)) => Ok(text.to_owned()),
            _ => Err(format!("an address and a port are expected, like {like}")),
        }
    }
}

/// Reads a network, or one address.
///
/// # Errors
/// It is none.
pub fn cidr(text: &str) -> Result<String, String> {
    let bad = || format!("`{text}` is not a network like 10.0.0.0/8");
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| bad())?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    match bits.unwrap_or(width) {
        bits if bits <= width => Ok(format!("{address}/{bits}")),
        _ => Err(bad()),
    }
}

/// Reads a duration.
///
/// # Errors
/// It is none.
pub fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|e| format!("{e}; a duration like 100ms or 1s is expected"))
}

/// Reads a duration that has limits.
pub fn duration_within(
    allowed: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone {
    move |text| {
        let value = duration(text)?;
        if !allowed.contains(&value) {
            let [least, most] =
                [allowed.start(), allowed.end()].map(|limit| humantime::format_duration(*limit));
            return Err(format!("{least} to {most} are allowed"));
        }
        Ok(value)
    }
}

/// The same path as an absolute one, without a slash at the end, so that siblings can be named.
pub fn absolute(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.components().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let address = address("127.0.0.1:1");
        for good in ["127.0.0.1:6000", "[::1]:6000", "::1:6000", "localhost:0"] {
            assert_eq!(address(good).as_deref(), Ok(good));
        }
        for bad in ["", "6000", ":6000", "host", "host:", "host:x", "host:65536"] {
            assert!(address(bad).is_err_and(|e| e.ends_with("like 127.0.0.1:1")), "{bad}");
        }
    }

    #[test]
    fn networks() {
        assert_eq!(cidr("10.1.2.3").unwrap(), "10.1.2.3/32");
        assert_eq!(cidr("::/0").unwrap(), "::/0");
        for bad in ["", "all", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0/8"] {
            assert!(cidr(bad).is_err_and(|e| e.contains("not a network")), "{bad}");
        }
    }

    #[test]
    fn paths() {
        assert_eq!(absolute(Path::new("/data/m/")).as_os_str(), "/data/m");
        assert_eq!(absolute(Path::new("m")), std::env::current_dir().unwrap().join("m"));
    }

    #[test]
    fn durations() {
        let within = duration_within(Duration::from_millis(10)..=Duration::from_mins(1));
        assert_eq!(within("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(within("1m"), Ok(Duration::from_mins(1)));
        for bad in ["9ms", "61s"] {
            assert_eq!(within(bad).unwrap_err(), "10ms to 1m are allowed");
        }
        assert!(within("soon").is_err_and(|e| e.contains("100ms or 1s")));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
    }
}
