//! The screen of `reelfs top`: mounts one below the other, each file with its bar.
//! Never here: asking, keys, and the terminal itself.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::bar::{Cell, bar};
use crate::cli::{printable, status_report};
use crate::control::Snapshot;
use crate::error::Result;
use crate::read::FileStatus;

const INDENT: &str = "  ";

/// Draws what was told, from line `scroll` on, and returns where that was: no further than to the last line.
pub fn draw(frame: &mut Frame, mounts: &Result<Vec<Snapshot>>, scroll: u16) -> u16 {
    let [body, foot] = Layout::vertical([Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let lines = lines(mounts, body.width);
    let scroll = scroll.min((lines.len() as u16).saturating_sub(body.height));
    frame.render_widget(Paragraph::new(lines).scroll((scroll, 0)), body);
    frame.render_widget(Paragraph::new(legend()), foot);
    scroll
}

fn lines(mounts: &Result<Vec<Snapshot>>, width: u16) -> Vec<Line<'static>> {
    match mounts {
        Err(error) => vec![Line::styled(printable(&error.to_string()), Style::new().fg(Color::Red))],
        Ok(mounts) if mounts.is_empty() => vec![Line::raw("nothing is mounted")],
        Ok(mounts) => mounts.iter().flat_map(|mount| mount_lines(mount, width)).collect(),
    }
}

fn mount_lines(mount: &Snapshot, width: u16) -> Vec<Line<'static>> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut lines = vec![Line::styled(status_report::heading(mount), bold)];
    lines.extend(status_report::whole(mount).into_iter().map(|(name, told)| {
        let color = if name == "wrong" { Color::Red } else { Color::DarkGray };
        Line::from(vec![Span::styled(format!("{INDENT}{name:<8}"), Style::new().fg(color)), Span::raw(told)])
    }));
    for open in mount.library.iter().flat_map(|library| &library.open) {
        let path = Span::styled(printable(&open.path), Style::new().fg(Color::Cyan));
        lines.push(Line::from(vec![INDENT.into(), path, format!("  {}", status_report::open_in_library(open)).into()]));
    }
    lines.extend(mount.files.iter().flat_map(|file| file_lines(file, width)));
    let more = status_report::more_files(mount);
    if !more.is_empty() {
        lines.push(Line::raw(format!("{INDENT}{more}")));
    }
    lines.push(Line::default());
    lines
}

fn file_lines(file: &FileStatus, width: u16) -> Vec<Line<'static>> {
    let indent = INDENT.len() as u16;
    let cells = bar(file, width.saturating_sub(2 * indent)).into_iter();
    let mut row = vec![Span::raw(INDENT)];
    row.extend(cells.map(|cell| Span::styled(cell.symbol(), style(cell))));
    let mut lines = vec![
        Line::default(),
        Line::styled(format!("{INDENT}{}", printable(&file.path)), Style::new().fg(Color::Cyan)),
        Line::from(row),
    ];
    let told = [status_report::position(file), status_report::service(file)];
    lines.extend(told.into_iter().filter(|line| !line.is_empty()).map(|line| Line::raw(format!("{INDENT}{line}"))));
    lines
}

fn legend() -> Line<'static> {
    let told = [
        (Cell::Cached, "cached"),
        (Cell::PartlyCached, "partly"),
        (Cell::InFlight, "on its way"),
        (Cell::Read, "read here"),
    ];
    let mut spans: Vec<_> = told
        .into_iter()
        .flat_map(|(cell, name)| [Span::styled(cell.symbol(), style(cell)), format!(" {name}   ").into()])
        .collect();
    spans.push("q quits, arrows scroll".into());
    Line::from(spans)
}

fn style(cell: Cell) -> Style {
    Style::new().fg(match cell {
        Cell::Read => Color::Yellow,
        Cell::InFlight => Color::Blue,
        Cell::Cached | Cell::PartlyCached => Color::Green,
        Cell::Missing => Color::DarkGray,
    })
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;
    use crate::cli::status_report::tests::mount;
    use crate::error::{Error, Kind};

    fn drawn(mounts: &Result<Vec<Snapshot>>, (width, height): (u16, u16), scroll: u16) -> (String, u16) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut scrolled = 0;
        terminal.draw(|frame| scrolled = draw(frame, mounts, scroll)).unwrap();
        (terminal.backend().to_string(), scrolled)
    }

    #[test]
    fn a_mount_and_its_film() {
        let (screen, _) = drawn(&Ok(vec![mount()]), (100, 20), 0);
        for told in ["/home/me/films", "3.0 MiB/s", "films/a film.mkv", "█┃█", "█▒", "·", "40 s ahead", "q quits"]
        {
            assert!(screen.contains(told), "{told}\n{screen}");
        }
    }

    #[test]
    fn it_scrolls_to_the_end_and_no_further() {
        let mounts = Ok(vec![mount(), mount()]);
        let (screen, scrolled) = drawn(&mounts, (80, 8), 1_000);
        assert!(scrolled > 0 && scrolled < 40 && screen.contains("and 2 more files"), "{scrolled}\n{screen}");
        assert_eq!(drawn(&mounts, (80, 60), 7).1, 0);
    }

    #[test]
    fn nothing_and_errors_are_told_and_no_size_is_too_small() {
        assert!(drawn(&Ok(Vec::new()), (40, 5), 0).0.contains("nothing is mounted"));
        assert!(drawn(&Err(Error::new(Kind::Missing, "gone\u{1b}[2J")), (40, 5), 0).0.contains("gone"));
        for size in [(1, 1), (3, 2), (500, 1)] {
            drawn(&Ok(vec![mount()]), size, 0);
        }
    }
}
