//! Columns of figures: how repeats become one figure, and how the figures become a Markdown table.

use crate::stats::median;

/// The target that all ratios are to.
pub const YARDSTICK: &str = "bare-proxy";
/// The target without a proxy.
pub const DIRECT: &str = "direct";

/// How the figures of the repeats become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fold {
    Median,
    Largest,
    Sum,
    /// The median of the column before, less that of the direct way.
    OverDirect,
}

/// One figure of a scenario.
#[derive(Debug, Clone, Copy)]
pub struct Column {
    pub name: &'static str,
    pub fold: Fold,
    /// Whether a column with the ratio to the yardstick follows.
    pub ratio: bool,
}

impl Column {
    pub const fn compared(name: &'static str) -> Column {
        Column { name, fold: Fold::Median, ratio: true }
    }

    pub const fn shown(name: &'static str) -> Column {
        Column { name, fold: Fold::Median, ratio: false }
    }

    pub const fn largest(name: &'static str) -> Column {
        Column { name, fold: Fold::Largest, ratio: false }
    }

    pub const fn sum(name: &'static str) -> Column {
        Column { name, fold: Fold::Sum, ratio: false }
    }

    pub const fn over_direct(name: &'static str) -> Column {
        Column { name, fold: Fold::OverDirect, ratio: true }
    }
}

/// The figures of one target: a list for each column, with a value for each repeat.
#[derive(Debug, Clone)]
pub struct Row {
    pub target: &'static str,
    pub values: Vec<Vec<f64>>,
}

impl Row {
    pub fn new(target: &'static str, columns: usize) -> Row {
        Row { target, values: vec![Vec::new(); columns] }
    }

    pub fn add(&mut self, figures: &[f64]) {
        for (values, figure) in self.values.iter_mut().zip(figures) {
            values.push(*figure);
        }
    }
}

/// A table with a title.
pub fn markdown(title: &str, columns: &[Column], rows: &[Row]) -> String {
    let mut header = vec!["target".to_owned()];
    for column in columns {
        header.push(column.name.to_owned());
        if column.ratio {
            header.push(format!("÷ {YARDSTICK}"));
        }
    }
    let mut lines = vec![header.clone(), vec!["---".to_owned(); header.len()]];
    for row in rows {
        let mut cells = vec![row.target.to_owned()];
        for index in 0..columns.len() {
            cells.extend(cell(columns, rows, row, index));
        }
        lines.push(cells);
    }
    let lines: Vec<String> = lines.iter().map(|cells| format!("| {} |\n", cells.join(" | "))).collect();
    format!("### {title}\n\n{}", lines.concat())
}

/// A figure, and its ratio where the column has one.
fn cell(columns: &[Column], rows: &[Row], row: &Row, index: usize) -> Vec<String> {
    let figure = folded(columns, rows, row, index);
    let Some(column) = columns.get(index) else { return Vec::new() };
    let mut cells = vec![if column.fold == Fold::Sum { format!("{figure:.0}") } else { shown(figure) }];
    if column.ratio {
        let yardstick = rows.iter().find(|row| row.target == YARDSTICK);
        let yardstick = yardstick.map_or(f64::NAN, |yardstick| folded(columns, rows, yardstick, index));
        let ratio = figure / yardstick;
        cells.push(if ratio.is_finite() { format!("{ratio:.2}") } else { "–".to_owned() });
    }
    cells
}

fn folded(columns: &[Column], rows: &[Row], row: &Row, index: usize) -> f64 {
    let (Some(column), Some(values)) = (columns.get(index), row.values.get(index)) else { return f64::NAN };
    match column.fold {
        Fold::Median => median(values),
        Fold::Largest => values.iter().copied().fold(f64::NAN, f64::max),
        Fold::Sum => values.iter().sum(),
        Fold::OverDirect if row.target == DIRECT => f64::NAN,
        Fold::OverDirect => {
            let before = |row: &Row| index.checked_sub(1).and_then(|index| row.values.get(index).cloned());
            let direct = rows.iter().find(|row| row.target == DIRECT).and_then(before);
            median(&before(row).unwrap_or_default()) - median(&direct.unwrap_or_default())
        }
    }
}

/// Three digits that say something.
fn shown(figure: f64) -> String {
    match figure.abs() {
        size if size.is_nan() => "–".to_owned(),
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{figure:.2}"),
        size if size < 100.0 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(target: &'static str, repeats: &[[f64; 4]]) -> Row {
        let mut row = Row::new(target, 4);
        for figures in repeats {
            row.add(figures);
        }
        row
    }

    #[test]
    fn figures_are_folded_and_compared() {
        let columns = [
            Column::compared("p50 µs"),
            Column::over_direct("added µs"),
            Column::largest("longest ms"),
            Column::sum("errors"),
        ];
        let none = f64::NAN;
        let rows = [
            row("direct", &[[10.0, none, 20.0, 0.0], [12.0, none, 21.0, 0.0], [11.0, none, 20.0, 0.0]]),
            row(YARDSTICK, &[[111.0, none, 20.0, 0.0], [113.0, none, 29.0, 0.0], [100.0, none, 20.0, 0.0]]),
            row("ours", &[[131.0, none, 20.0, 1.0], [161.0, none, 41.5, 2.0], [150.0, none, 20.0, 0.0]]),
        ];
        let expected = "### Title\n\n\
            | target | p50 µs | ÷ bare-proxy | added µs | ÷ bare-proxy | longest ms | errors |\n\
            | --- | --- | --- | --- | --- | --- | --- |\n\
            | direct | 11.0 | 0.10 | – | – | 21.0 | 0 |\n\
            | bare-proxy | 111 | 1.00 | 100 | 1.00 | 29.0 | 0 |\n\
            | ours | 150 | 1.35 | 139 | 1.39 | 41.5 | 3 |\n";
        assert_eq!(markdown("Title", &columns, &rows), expected);
    }

    #[test]
    fn figures_are_shown_with_three_digits() {
        let figures = [0.0, 0.123, 9.994, 12.34, 123.4, 54_321.0, f64::NAN].map(shown);
        assert_eq!(figures, ["0", "0.12", "9.99", "12.3", "123", "54321", "–"]);
    }
}
