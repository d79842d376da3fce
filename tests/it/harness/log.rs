//! What our daemons may not say unnoticed.

/// The line without terminal colours.
fn plain(line: &str) -> String {
    let mut out = String::new();
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// True for a line at this level of our own daemons, as text or as JSON. Postgres writes `ERROR:`
/// with a colon, and its lines are its own affair.
pub(crate) fn is_at_level(line: &str, level: &str) -> bool {
    let line = plain(line);
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(&line) {
        return json["level"].as_str().is_some_and(|l| l.eq_ignore_ascii_case(level));
    }
    line.split_whitespace().take(3).any(|word| word == level)
}

fn is_a_failure(line: &str) -> bool {
    is_at_level(line, "ERROR")
        || line.starts_with("error: ")
        || line.contains("panicked at")
        || line.contains("stack backtrace")
}

/// The lines that the scenario did not announce.
pub(crate) fn surprises(log: &str, announced: &[String]) -> Vec<String> {
    log.lines()
        .filter(|line| is_a_failure(line))
        .filter(|line| line.contains("panicked at") || !announced.iter().any(|a| line.contains(a)))
        .map(str::to_owned)
        .collect()
}

pub(crate) fn last_lines(log: &str, count: usize) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_lines_are_found_as_text_and_as_json() {
        let found = [
            "2026-01-01T00:00:00Z ERROR vigil_keeper: it broke",
            "\u{1b}[2m2026-01-01T00:00:00Z\u{1b}[0m \u{1b}[31mERROR\u{1b}[0m vigil_keeper: it broke",
            r#"{"timestamp":"2026-01-01T00:00:00Z","level":"ERROR","fields":{"message":"x"}}"#,
            "error: no",
            "thread 'main' panicked at src/main.rs:1:1:",
        ];
        for line in found {
            assert_eq!(surprises(line, &[]).len(), 1, "{line}");
        }
        let passed = [
            "2026-01-01 00:00:00 UTC [12] ERROR:  duplicate key value",
            "2026-01-01T00:00:00Z  WARN vigil_keeper: after an ERROR of the peer",
            r#"{"level":"INFO","fields":{"message":"ERROR"}}"#,
        ];
        for line in passed {
            assert!(surprises(line, &[]).is_empty(), "{line}");
        }
    }

    #[test]
    fn what_was_announced_is_no_surprise_but_a_panic_always_is() {
        let announced = ["broke".to_owned()];
        assert!(surprises("2026-01-01T00:00:00Z ERROR x: it broke", &announced).is_empty());
        assert_eq!(surprises("panicked at broke", &announced).len(), 1);
    }
}
