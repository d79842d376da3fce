//! Tables for people. Where there is little room the less important columns go, so that the rest
//! stays readable; colour only repeats what a word says.

use comfy_table::{
    CellAlignment, Color, ContentArrangement, ContentLineStyle, LineStyle, TableStyle,
};
use jiff::Timestamp;

use crate::output::Look;

/// As psql draws.
const STYLE: TableStyle = TableStyle::new()
    .header_lines(ContentLineStyle::none().junction('|'))
    .header_separator(LineStyle::none().fill('-').junction('+'))
    .content_lines(ContentLineStyle::none().junction('|'));

/// A column: its title, and how soon it goes when there is no room (0 = never).
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) dispensable: u8,
    pub(crate) right: bool,
}

impl Column {
    pub(crate) const fn left(title: &'static str, dispensable: u8) -> Self {
        Column { title, dispensable, right: false }
    }

    pub(crate) const fn right(title: &'static str, dispensable: u8) -> Self {
        Column { title, dispensable, right: true }
    }
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Cell {
    text: String,
    mood: Mood,
}

/// How a value is to be felt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mood {
    Plain,
    Good,
    Doubtful,
    Bad,
}

impl Mood {
    fn colour(self) -> Option<Color> {
        match self {
            Mood::Plain => None,
            Mood::Good => Some(Color::Green),
            Mood::Doubtful => Some(Color::Yellow),
            Mood::Bad => Some(Color::Red),
        }
    }
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Cell { text: text.into(), mood: Mood::Plain }
    }

    pub(crate) fn felt(self, mood: Mood) -> Self {
        Cell { mood, ..self }
    }
}

/// The table as lines without trailing blanks.
pub(crate) fn table(columns: &[Column], rows: &[Vec<Cell>], look: Look) -> String {
    let kept = kept(columns, rows, look.width);
    let mut table = comfy_table::Table::new();
    table.load_style(STYLE).force_no_tty();
    if look.colour {
        table.enforce_styling();
    }
    if let Some(width) = look.width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    let align = |column: &Column| {
        if column.right { CellAlignment::Right } else { CellAlignment::Left }
    };
    table.set_header(
        kept.iter()
            .map(|i| comfy_table::Cell::new(columns[*i].title).set_alignment(align(&columns[*i]))),
    );
    for row in rows {
        table.add_row(kept.iter().map(|i| {
            let cell = comfy_table::Cell::new(&row[*i].text).set_alignment(align(&columns[*i]));
            match row[*i].mood.colour() {
                Some(colour) if look.colour => cell.fg(colour),
                _ => cell,
            }
        }));
    }
    table.trim_fmt()
}

/// The columns for which there is room.
fn kept(columns: &[Column], rows: &[Vec<Cell>], width: Option<u16>) -> Vec<usize> {
    let mut kept: Vec<usize> = (0..columns.len()).collect();
    let Some(width) = width else { return kept };
    let needed = |i: usize| {
        let cells = rows.iter().map(|row| row[i].text.chars().count());
        cells.max().unwrap_or(0).max(columns[i].title.chars().count()) + 2
    };
    while kept.iter().map(|i| needed(*i) + 1).sum::<usize>() > usize::from(width) + 1 {
        let next = kept.iter().enumerate().max_by_key(|(_, i)| columns[**i].dispensable);
        let Some((at, i)) = next else { break };
        if columns[*i].dispensable == 0 {
            break;
        }
        kept.remove(at);
    }
    kept
}

/// A sentence in lines that fit, all but the first indented; a word that is too long stays whole.
pub(crate) fn sentence(text: &str, look: Look) -> String {
    let Some(width) = look.width.map(usize::from) else { return text.to_owned() };
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) => lines.push(format!("  {word}")),
            None => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

/// How long ago `since` (RFC 3339) was, in its largest unit: `42s`, `5m`, `3h`, `2d`.
pub(crate) fn age(since: &str, now: Timestamp) -> String {
    let Ok(since) = since.parse::<Timestamp>() else { return since.to_owned() };
    // The monitor's clock may be ahead of ours.
    let seconds = now.duration_since(since).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// `0 B`, `16 MB`: as `pg_size_pretty` writes it.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count;
    let mut unit = 0;
    while value >= 10_240 && unit + 1 < UNITS.len() {
        value = value / 1024 + (value % 1024) / 512;
        unit += 1;
    }
    format!("{value} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(look: Look) -> String {
        let columns = [Column::left("Name", 0), Column::right("Lag", 2), Column::left("Health", 1)];
        let row = |name: &str, lag: &str, health: &str, mood| {
            vec![Cell::new(name), Cell::new(lag), Cell::new(health).felt(mood)]
        };
        let rows =
            [row("node1", "0 B", "good", Mood::Good), row("node2", "16 MB", "bad", Mood::Bad)];
        table(&columns, &rows, look)
    }

    #[test]
    fn as_wide_as_it_takes() {
        let expected = "\u{20}Name  |   Lag | Health
-------+-------+--------
 node1 |   0 B | good
 node2 | 16 MB | bad";
        assert_eq!(sample(Look::default()), expected);
        assert_eq!(sample(Look { width: Some(24), colour: false }), expected);
    }

    #[test]
    fn the_least_important_column_goes_first() {
        let expected = "\u{20}Name  | Health
-------+--------
 node1 | good
 node2 | bad";
        assert_eq!(sample(Look { width: Some(23), colour: false }), expected);
        assert_eq!(sample(Look { width: Some(15), colour: false }).lines().next(), Some(" Name"));
    }

    #[test]
    fn colour_is_only_added_to_the_same_words() {
        let coloured = sample(Look { colour: true, width: None });
        assert!(coloured.contains('\u{1b}') && coloured.contains("good"));
        assert!(!sample(Look::default()).contains('\u{1b}'));
    }

    #[test]
    fn sentences_fit() {
        let narrow = Look { width: Some(14), colour: false };
        assert_eq!(sentence("alert: one of two is away", narrow), "alert: one of\n  two is away");
        assert_eq!(sentence("averyveryverylongword", narrow), "averyveryverylongword");
        assert_eq!(sentence("as it is", Look::default()), "as it is");
    }

    #[test]
    fn ages_and_sizes() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        for (since, expected) in [
            ("2026-11-21T11:59:18Z", "42s"),
            ("2026-11-21T11:55:00.5Z", "4m"),
            ("2026-11-21T14:00:00+05:00", "3h"),
            ("2026-11-01T12:00:00Z", "20d"),
            ("2026-11-21T12:00:09Z", "0s"),
            ("once upon a time", "once upon a time"),
        ] {
            assert_eq!(age(since, now), expected);
        }
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(10_239), "10239 B");
        assert_eq!(bytes(16 << 20), "16 MB");
        assert_eq!(bytes(u64::MAX), "16777216 TB");
    }
}
