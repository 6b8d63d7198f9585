//! Tables of text: columns as wide as their widest cell, numbers to the right.

use unicode_width::UnicodeWidthStr;

/// Where the cells of a column stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction.
pub(crate) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table with these columns.
    pub(crate) fn new(columns: &[(&'static str, Align)]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row, one cell for each column.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells);
    }

    /// Returns the lines: head, rule, rows, and a rule below if there are rows. Columns in which every cell is empty are left out.
    pub(crate) fn lines(&self) -> Vec<String> {
        let used: Vec<usize> = (0..self.columns.len())
            .filter(|column| {
                self.rows.is_empty() || self.rows.iter().any(|row| !row[*column].is_empty())
            })
            .collect();
        let widths: Vec<usize> = used
            .iter()
            .map(|column| {
                let cells = self.rows.iter().map(|row| row[*column].width());
                cells.chain([self.columns[*column].0.width()]).max().unwrap_or(0)
            })
            .collect();
        let line = |cell: &dyn Fn(usize) -> String| {
            let mut text = String::new();
            for (column, width) in used.iter().zip(&widths) {
                if !text.is_empty() {
                    text.push_str("  ");
                }
                let cell = cell(*column);
                let gap = " ".repeat(width - cell.width());
                match self.columns[*column].1 {
                    Align::Left => text.extend([cell, gap]),
                    Align::Right => text.extend([gap, cell]),
                }
            }
            text.trim_end().to_string()
        };
        let rule = "-".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1));
        let mut lines = vec![line(&|column| self.columns[column].0.to_string()), rule.clone()];
        lines.extend(self.rows.iter().map(|row| line(&|column| row[column].clone())));
        if !self.rows.is_empty() {
            lines.push(rule);
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_ones_disappear() {
        let mut table =
            Table::new(&[("ID", Align::Left), ("Tags", Align::Left), ("Files", Align::Right)]);
        table.row(vec!["世界".into(), String::new(), "7".into()]);
        table.row(vec!["abc".into(), String::new(), "1,234".into()]);

        let lines = table.lines();

        assert_eq!(
            lines,
            ["ID    Files", "-----------", "世界      7", "abc   1,234", "-----------"]
        );
    }
}
