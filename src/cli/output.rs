//! What commands print: lines for people, with colours where these can be seen, and JSON for machines.

use std::io::{IsTerminal, Write};

use serde_json::Value;

use super::CommandError;
use crate::config::Environment;

/// How lines are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Green,
    Yellow,
    Red,
    Bold,
    Faint,
}

/// Whether and how a stream shows colours.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint {
    is_on: bool,
}

impl Paint {
    /// For a stream: colours where it is a terminal, unless `NO_COLOR` is set to anything or the terminal knows none.
    pub(super) fn of(stream: &impl IsTerminal, environment: &Environment) -> Self {
        let is_refused = environment.get("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_dumb = environment.get("TERM") == Some("dumb");
        Self { is_on: stream.is_terminal() && !is_refused && !is_dumb }
    }

    /// A text in a colour.
    pub(super) fn paint(self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Green => "32",
            Colour::Yellow => "33",
            Colour::Red => "31",
            Colour::Bold => "1",
            Colour::Faint => "2",
        };
        if self.is_on { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Writes to standard output. A reader who has heard enough is no error.
pub(super) fn print(text: &str) -> Result<(), CommandError> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Writes a value to standard output, for machines.
pub(super) fn print_json(value: &Value) -> Result<(), CommandError> {
    print(&format!("{value:#}"))
}

/// Writes to standard error. Where that takes nothing, what is done goes on without it.
pub(super) fn tell_aside(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Rows in columns as wide as what is in them, the names of the columns above. Numbers stand at the right.
pub(super) fn table(names: &[&str], rows: &[Vec<String>], paint: Paint) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(names.get(column).map(|name| name.chars().count())).max().unwrap_or_default()
    };
    let is_number = |column: usize| {
        let mut cells = rows.iter().filter_map(|row| row.get(column)).filter(|cell| !cell.is_empty());
        !rows.is_empty() && cells.all(|cell| cell.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
    };
    let widths: Vec<(usize, bool)> =
        (0..names.len()).map(|column| (width(column), is_number(column))).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded = cells.zip(&widths).map(|(cell, (width, is_right))| {
            if *is_right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![paint.paint(Colour::Bold, &line(&mut names.iter().copied()))];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_as_wide_as_their_cells_and_numbers_stand_at_the_right() {
        let rows = [["żółw", "7"], ["a", "1234"]].map(|row| row.map(str::to_owned).to_vec());
        let told = table(&["model", "n"], &rows, Paint { is_on: false });
        assert_eq!(told, "model     n\nżółw      7\na      1234");
        assert_eq!(table(&["model"], &[], Paint { is_on: false }), "model");
    }

    #[test]
    fn colours_are_shown_on_terminals_only_and_can_be_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!Paint::of(&file, &Environment::default()).is_on);
        assert_eq!(Paint { is_on: true }.paint(Colour::Red, "x"), "\x1b[31mx\x1b[0m");
    }
}
