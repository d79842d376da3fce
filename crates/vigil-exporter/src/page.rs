//! Prometheus' text format, as far as it must be understood: names, labels, values.

use std::collections::HashSet;
use std::fmt::Write as _;

/// One sample line: `name{labels} value`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sample<'a> {
    pub name: &'a str,
    /// What is between the braces; empty without them.
    labels: &'a str,
    /// The value, and the time if there is one.
    pub value: &'a str,
}

impl<'a> Sample<'a> {
    /// `None` for comments and empty lines.
    pub fn parse(line: &'a str) -> Option<Self> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let end = line.find(['{', ' '])?;
        let (name, rest) = line.split_at(end);
        let Some(rest) = rest.strip_prefix('{') else {
            return Some(Sample { name, labels: "", value: rest.trim() });
        };
        let close = closing_brace(rest)?;
        Some(Sample { name, labels: &rest[..close], value: rest[close + 1..].trim() })
    }

    /// The value of a label, escapes resolved.
    pub fn label(&self, wanted: &str) -> Option<String> {
        let mut rest = self.labels;
        loop {
            let (name, after) = rest.split_once("=\"")?;
            let end = closing_quote(after)?;
            if name.trim_start_matches([',', ' ']) == wanted {
                return Some(unescape(&after[..end]));
            }
            rest = &after[end + 1..];
        }
    }
}

/// `page` with these labels put into every sample.
pub fn with_labels(page: &str, labels: &[(&str, &str)]) -> String {
    let mut added = String::new();
    for (name, value) in labels {
        let comma = if added.is_empty() { "" } else { "," };
        // Writing to a string cannot fail.
        let _ = write!(added, "{comma}{name}=\"{}\"", escape(value));
    }
    let mut out = String::with_capacity(page.len() * 2);
    for line in page.lines() {
        if let Some(Sample { name, labels, value }) = Sample::parse(line) {
            let comma = if labels.is_empty() || labels.ends_with(',') { "" } else { "," };
            let _ = writeln!(out, "{name}{{{labels}{comma}{added}}} {value}");
        } else {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// Pages one after the other; what several say of a metric (HELP, TYPE) is said once.
pub fn join<'a>(pages: impl IntoIterator<Item = &'a str>) -> String {
    let mut said = HashSet::new();
    let mut out = String::new();
    for line in pages.into_iter().flat_map(str::lines) {
        if line.starts_with('#') && !said.insert(line) {
            continue;
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Where the labels end: a brace that is not within quotes.
fn closing_brace(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        let found = at + text[at..].find(['"', '}'])?;
        if text.as_bytes()[found] == b'}' {
            return Some(found);
        }
        at = found + 1 + closing_quote(&text[found + 1..])? + 1;
    }
}

/// The first quote that no backslash escapes.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}

fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.extend(chars.next().map(|c| if c == 'n' { '\n' } else { c })),
            c => out.push(c),
        }
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_put_in_whatever_the_others_hold() {
        let page = "# HELP a A.\na 1\na{} 2\nb{x=\"}\",y=\"\\\"}\"} 3 170\n\nc{x=\"1\",} NaN\n";
        let labelled = with_labels(page, &[("node", "n\"1"), ("port", "5")]);
        let expected = "# HELP a A.\na{node=\"n\\\"1\",port=\"5\"} 1\na{node=\"n\\\"1\",port=\"5\"} 2\n\
                        b{x=\"}\",y=\"\\\"}\",node=\"n\\\"1\",port=\"5\"} 3 170\n\n\
                        c{x=\"1\",node=\"n\\\"1\",port=\"5\"} NaN\n";
        assert_eq!(labelled, expected);
    }

    #[test]
    fn comments_are_there_once() {
        let joined = join(["# TYPE a gauge\na{n=\"1\"} 1", "# TYPE a gauge\na{n=\"2\"} 1\n"]);
        assert_eq!(joined, "# TYPE a gauge\na{n=\"1\"} 1\na{n=\"2\"} 1\n");
    }

    #[test]
    fn a_label_is_found_by_its_whole_name() {
        let sample = Sample::parse("a{nodename=\"n1\",name=\"q\\\"\\n\",e=\"\"} 1").unwrap();
        assert_eq!(sample.label("name").unwrap(), "q\"\n");
        assert_eq!(sample.label("nodename").unwrap(), "n1");
        assert_eq!(sample.label("e").unwrap(), "");
        assert_eq!(sample.label("ode"), None);
        assert_eq!((sample.name, sample.value), ("a", "1"));
    }
}
