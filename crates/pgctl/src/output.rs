//! Where output goes and how it may look.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// The form that the caller wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) look: Look,
}

/// What the place allows to which text goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Look {
    pub(crate) colour: bool,
    /// Columns; `None` = as many as it takes.
    pub(crate) width: Option<u16>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let look = Look {
            colour: terminal && !set("NO_COLOR") && !dumb,
            // Comfy-table knows how to ask the terminal.
            width: columns.or_else(|| comfy_table::Table::new().width()).filter(|width| *width > 0),
        };
        Output { json, look }
    }

    /// Prints data: as JSON, or as `text` says it for people.
    pub(crate) fn data(
        self,
        data: &impl Serialize,
        text: impl FnOnce(Look) -> String,
    ) -> Result<(), Failure> {
        let shown = if self.json {
            let json = serde_json::to_string(data);
            json.map_err(|error| Failure::unexpected(format!("cannot write JSON: {error}")))?
        } else {
            text(self.look)
        };
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(shown.trim_end().as_bytes())?;
        stdout.write_all(b"\n")?;
        stdout.flush()?;
        Ok(())
    }

    /// Tells people on stderr what goes on. Scripts that read JSON are spared.
    pub(crate) fn note(self, line: &str) {
        if !self.json {
            // Not worth ending for.
            _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}
