//! The terminal.

use std::io;
use std::time::Instant;

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Style, Stylize};
use ratatui::text::{Line, Text};
use ratatui::widgets::{Cell, Row};
use ratatui::{DefaultTerminal, Frame};

use super::view::View;
use crate::table::{Table, printable};

/// A terminal in raw mode on its alternate screen. Dropping it gives the terminal back.
pub struct Screen(DefaultTerminal);

impl Screen {
    pub fn open() -> io::Result<Screen> {
        ratatui::try_init().map(Screen)
    }

    /// Shows a view until `next`. Answers whether the user wants to end.
    pub fn show(&mut self, view: &View, next: Instant) -> io::Result<bool> {
        self.0.draw(|frame| draw(frame, view))?;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if !event::poll(left)? {
                return Ok(false);
            }
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let control = key.modifiers.contains(KeyModifiers::CONTROL);
                    match key.code {
                        KeyCode::Char('q') | KeyCode::Esc => return Ok(true),
                        KeyCode::Char('c') if control => return Ok(true),
                        _ => {}
                    }
                }
                Event::Resize(..) => {
                    self.0.draw(|frame| draw(frame, view))?;
                }
                _ => {}
            }
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Lines that every table gets before any gets more: its heading, rows and an empty line.
const TABLE_LINES_MIN: u16 = 4;

/// From top to bottom: the proxy, listeners, clusters, drops, sessions. A short screen shows the first rows of each.
fn draw(frame: &mut Frame<'_>, view: &View) {
    let [head, tables] = Layout::vertical([Constraint::Length(3), Constraint::Fill(1)]).areas(frame.area());
    let trouble = view.trouble.clone().unwrap_or_default();
    let lines =
        vec![Line::from(view.title.as_str()).bold(), Line::from(view.totals.as_str()), Line::from(trouble).red()];
    frame.render_widget(Text::from(lines), head);
    let needs = view.tables().map(|table| u16::try_from(table.rows.len() + 2).unwrap_or(u16::MAX));
    let areas: [Rect; 4] = Layout::vertical(heights(needs, tables.height).map(Constraint::Length)).areas(tables);
    for (table, area) in view.tables().into_iter().zip(areas) {
        frame.render_widget(widget(table), area);
    }
}

/// A little for each, then the rest from the top on.
fn heights(needs: [u16; 4], mut left: u16) -> [u16; 4] {
    let mut heights = [0; 4];
    for bound in [TABLE_LINES_MIN, u16::MAX] {
        for (height, need) in heights.iter_mut().zip(needs) {
            let more = (need.min(bound) - *height).min(left);
            *height += more;
            left -= more;
        }
    }
    heights
}

fn widget(table: &Table) -> ratatui::widgets::Table<'static> {
    let right: Vec<bool> = table.titles().map(|(_, right)| right).collect();
    let cells = |texts: Vec<String>| {
        let cell = |(text, &right): (String, &bool)| {
            let line = Line::from(text);
            Cell::from(if right { line.right_aligned() } else { line })
        };
        Row::new(texts.into_iter().zip(&right).map(cell).collect::<Vec<_>>())
    };
    let heading = cells(table.titles().map(|(title, _)| title.to_owned()).collect());
    let rows = table.rows.iter().map(|row| cells(row.iter().map(|cell| printable(cell)).collect()));
    let widths = table.widths().into_iter().map(|width| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX)));
    ratatui::widgets::Table::new(rows, widths).header(heading.style(Style::new().bold().cyan())).column_spacing(2)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn table(title: &'static str, rows: usize) -> Table {
        let mut table = Table::new(&[title, ">N"]);
        table.rows = (0..rows).map(|n| vec![format!("{}{n}", title.to_lowercase()), n.to_string()]).collect();
        table
    }

    #[test]
    fn every_table_has_its_place() {
        let view = View {
            title: "l7mp-proxy".to_owned(),
            totals: "messages".to_owned(),
            trouble: Some("away".to_owned()),
            listeners: table("LISTENER", 2),
            clusters: table("CLUSTER", 1),
            drops: table("DROPPED", 0),
            sessions: table("NAME", 20),
        };
        let mut terminal = Terminal::new(TestBackend::new(20, 16)).unwrap();
        terminal.draw(|frame| draw(frame, &view)).unwrap();
        let buffer = terminal.backend().buffer();
        let lines: Vec<String> = (0..16)
            .map(|y| (0..20).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned())
            .collect();
        let expected = [
            "l7mp-proxy",
            "messages",
            "away",
            "LISTENER   N",
            "listener0  0",
            "listener1  1",
            "",
            "CLUSTER   N",
            "cluster0  0",
            "",
            "DROPPED  N",
            "",
            "NAME     N",
            "name0    0",
            "name1    1",
            "name2    2",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn no_table_takes_it_all() {
        assert_eq!(heights([3, 3, 2, 5], 50), [3, 3, 2, 5]);
        assert_eq!(heights([100, 3, 2, 50], 30), [21, 3, 2, 4]);
        assert_eq!(heights([100, 100, 100, 100], 10), [4, 4, 2, 0]);
        assert_eq!(heights([5, 5, 5, 5], 0), [0; 4]);
    }
}
