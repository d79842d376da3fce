//! Values as users write them.

use std::time::Duration;

/// `250ms`, `5s`, `1m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = "expected for example `250ms`, `5s` or `1m`";
    let value = humantime::parse_duration(text).map_err(|_| expected.to_owned())?;
    if value.as_millis() == 0 {
        return Err("it must be at least 1ms".to_owned());
    }
    Ok(value)
}

/// Milliseconds of a duration that [`duration`] has read.
pub(crate) fn millis(value: Duration) -> u64 {
    u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
}

/// A level, or a list of them by module as `tracing` takes it: `info`, `warn,pgctl=debug`.
pub(crate) fn log_level(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for part in text.split(',') {
        let level = part.rsplit('=').next().unwrap_or(part).trim();
        if !LEVELS.contains(&level.to_ascii_lowercase().as_str()) {
            return Err(format!("expected one of {}", LEVELS.join(", ")));
        }
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("1m"), Ok(Duration::from_mins(1)));
        assert_eq!(duration("1m 30s").map(millis), Ok(90_000));
        for bad in ["", "5", "s", "-1s", "0s", "10us", "5 parsecs", "1e3s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn log_levels() {
        assert!(log_level("warn").is_ok() && log_level("warn,pgctl=debug").is_ok());
        assert!(log_level("").is_err() && log_level("loud").is_err());
    }
}
