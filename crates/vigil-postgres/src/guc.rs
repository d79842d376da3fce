//! The text format of `postgresql.conf` and of connection strings: quoting and reading.

/// A value for a configuration file: in quotes, with what the server's parser treats specially
/// (`'`, `\`, line ends) escaped.
pub fn quote(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted.push('\'');
    for c in value.chars() {
        match c {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            // Cannot be in a setting at all.
            '\0' => {}
            c => quoted.push(c),
        }
    }
    quoted.push('\'');
    quoted
}

/// A libpq connection string from keywords and values, each value quoted where it must be.
pub fn conninfo<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::new();
    for (keyword, value) in pairs {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(keyword);
        text.push('=');
        let plain = |c: char| c.is_ascii_alphanumeric() || "._:/*+-".contains(c);
        if !value.is_empty() && value.chars().all(plain) {
            text.push_str(value);
            continue;
        }
        text.push('\'');
        for c in value.chars() {
            if c == '\'' || c == '\\' {
                text.push('\\');
            }
            text.push(c);
        }
        text.push('\'');
    }
    text
}

/// The name and the value of a line of a configuration file; `None` for comments, blank lines and
/// directives (`include …`).
pub(crate) fn parse_line(line: &str) -> Option<(String, String)> {
    let line = line.trim_start();
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '.'))?;
    let (name, rest) = line.split_at(end);
    let name = name.to_ascii_lowercase();
    if name.is_empty() || name.starts_with("include") {
        return None;
    }
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim_start();
    Some((name, parse_value(rest)))
}

/// The value at the start of `text`, its quotes taken off.
pub(crate) fn parse_value(text: &str) -> String {
    let Some(quoted) = text.strip_prefix('\'') else {
        return text.split(|c: char| c.is_whitespace() || c == '#').next().unwrap_or("").to_owned();
    };
    let mut value = String::new();
    let mut chars = quoted.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\'' if chars.peek() == Some(&'\'') => {
                chars.next();
                value.push('\'');
            }
            '\'' => break,
            '\\' => match chars.next() {
                Some('n') => value.push('\n'),
                Some('r') => value.push('\r'),
                Some('t') => value.push('\t'),
                Some(other) => value.push(other),
                None => break,
            },
            c => value.push(c),
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_values_read_back() {
        for value in
            ["", "plain", "it's", r"a\b", "two\nlines\ttab", "host='x y' password='a\\'b'", "#"]
        {
            let line = format!("  Some_Name = {} # comment", quote(value));
            assert_eq!(parse_line(&line), Some(("some_name".to_owned(), value.to_owned())));
        }
        assert_eq!(parse_line("port 5433"), Some(("port".to_owned(), "5433".to_owned())));
        assert_eq!(parse_line("port=5433#x"), Some(("port".to_owned(), "5433".to_owned())));
        for line in ["", "# port = 1", "include_if_exists = 'x'", "include 'x'"] {
            assert_eq!(parse_line(line), None);
        }
    }

    #[test]
    fn conninfo_quotes_what_must_be() {
        let pairs = [("host", "10.0.0.1"), ("user", "a b"), ("password", r"it's \ "), ("x", "")];
        assert_eq!(conninfo(pairs), r"host=10.0.0.1 user='a b' password='it\'s \\ ' x=''");
    }
}
