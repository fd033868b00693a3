//! `reelfs top`: what running mounts do, drawn anew twice a second.
//! Never here: what is told, and how a screen is laid out (see `screen`).

mod bar;
mod screen;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::misuse;
use super::status::ask;
use crate::error::{Error, Result};

/// As often as a person can follow; a mount answers in a millisecond or two.
const TICK: Duration = Duration::from_millis(500);
/// How often it is looked whether a signal has come.
const LOOK: Duration = Duration::from_millis(100);
/// Lines that Page Up and Page Down go.
const PAGE_LINES: u16 = 20;

/// Watch what running mounts do, live: a bar for each open file shows what of it is cached, on its way, and being read.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// The mount to watch: its folder, or anything on it. Default: all mounts of this user.
    mountpoint: Option<PathBuf>,
}

/// Draws until `q`. The terminal is given back as it was, also after a panic or a signal.
pub fn run(args: &TopArgs) -> Result<()> {
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        return Err(misuse("top draws on a terminal: use `reelfs status` here, with --json for programs"));
    }
    // A mount that is not there is told before the screen changes.
    ask(args.mountpoint.as_deref())?;
    let failed = |error: io::Error| Error::io("drawing on the terminal", &error);
    let is_ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&is_ending)).map_err(failed)?;
    }
    // Its panic hook gives the terminal back, too.
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let shown = show(args, &mut terminal, &is_ending).map_err(failed);
    ratatui::restore();
    shown
}

fn show(args: &TopArgs, terminal: &mut DefaultTerminal, is_ending: &AtomicBool) -> io::Result<()> {
    let mut scroll = 0u16;
    let mut mounts = ask(args.mountpoint.as_deref());
    let mut asked_at = Instant::now();
    while !is_ending.load(Ordering::Relaxed) {
        if asked_at.elapsed() >= TICK {
            mounts = ask(args.mountpoint.as_deref());
            asked_at = Instant::now();
        }
        terminal.draw(|frame| scroll = screen::draw(frame, &mounts, scroll))?;
        // Everything that was typed meanwhile; the screen follows at once.
        while event::poll(LOOK)? {
            match event::read()? {
                Event::Key(key) if key.kind == KeyEventKind::Press => match meaning(key) {
                    Meaning::Quit => return Ok(()),
                    Meaning::Scroll(lines) => scroll = scroll.saturating_add_signed(lines),
                    Meaning::Nothing => {}
                },
                Event::Resize(..) => {}
                _ => continue,
            }
            break;
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Quit,
    /// Down by so many lines, or up.
    Scroll(i16),
    Nothing,
}

fn meaning(key: KeyEvent) -> Meaning {
    match key.code {
        KeyCode::Char('q') | KeyCode::Esc => Meaning::Quit,
        // A terminal that is drawn on passes it on as a key.
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Meaning::Quit,
        KeyCode::Down | KeyCode::Char('j') => Meaning::Scroll(1),
        KeyCode::Up | KeyCode::Char('k') => Meaning::Scroll(-1),
        KeyCode::PageDown | KeyCode::Char(' ') => Meaning::Scroll(PAGE_LINES.cast_signed()),
        KeyCode::PageUp => Meaning::Scroll(-PAGE_LINES.cast_signed()),
        KeyCode::Home => Meaning::Scroll(i16::MIN),
        _ => Meaning::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let of = |code, modifiers| meaning(KeyEvent::new(code, modifiers));
        assert_eq!(of(KeyCode::Char('q'), KeyModifiers::NONE), Meaning::Quit);
        assert_eq!(of(KeyCode::Char('c'), KeyModifiers::CONTROL), Meaning::Quit);
        assert_eq!(of(KeyCode::Char('c'), KeyModifiers::NONE), Meaning::Nothing);
        assert_eq!(of(KeyCode::Up, KeyModifiers::NONE), Meaning::Scroll(-1));
    }
}
