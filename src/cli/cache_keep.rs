//! `reelfs cache warm`, `pin`, `unpin`: asks the mounts that the paths lie on, which alone may touch their caches.
//! Never here: what a mount does about it, and what it says when it is done.

use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{complain, printable, say};
use crate::config::format_size;
use crate::control::{self, Answer, Progress, Request};
use crate::error::{Error, Kind, Result};

/// Where nobody looks at a bar, a line so often.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// What is here already is counted in its first moment, and says nothing of the rate.
const COUNTED_AFTER: Duration = Duration::from_secs(1);
/// Sizes come before names: the line stays still however long a name is.
const BAR: &str = "{bytes:>11} of {total_bytes:<11} {bar:24} {binary_bytes_per_sec:>13} {eta:>4} left  {wide_msg}";

/// What is asked of a mount about one path, relative to its source.
pub type Asking<'a> = &'a dyn Fn(String) -> Request;

/// Asks for each path in turn. One that is refused does not keep the others from being done. `is_quiet`: how it goes on is
/// not shown.
pub fn run(paths: &[PathBuf], request: Asking, is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    each(paths, out, &mut |path| {
        let found = control::find(path)?;
        let request = request(found.path.clone());
        let mut shown = Shown::new(is_quiet);
        let answer = found.ask(&request, &mut |progress| {
            shown.show(&progress);
            Ok(())
        });
        shown.clear();
        match answer? {
            Answer::Done { message } => Ok(message),
            _ => Err(Error::new(Kind::Unsupported, "the mount answered something else: mount again with this reelfs")),
        }
    })
}

fn each(paths: &[PathBuf], out: &mut dyn Write, ask: &mut dyn FnMut(&Path) -> Result<String>) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for path in paths {
        match ask(path) {
            Ok(message) => {
                let said = writeln!(out, "{}", printable(&message));
                said.map_err(|error| Error::io("writing the answer", &error))?;
            }
            Err(error) => {
                complain(&error);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

/// How a long job goes on, on stderr: a bar for whoever watches, a line now and then for a log.
enum Shown {
    Nowhere,
    Bar { bar: ProgressBar, begun: Instant },
    Lines { begun: Option<(Instant, u64)>, last: Instant },
}

impl Shown {
    fn new(is_quiet: bool) -> Self {
        let now = Instant::now();
        if is_quiet {
            Self::Nowhere
        } else if io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(BAR).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::new(0).with_style(style.progress_chars("━╸─"));
            Self::Bar { bar, begun: now }
        } else {
            Self::Lines { begun: None, last: now }
        }
    }

    fn show(&mut self, progress: &Progress) {
        let Progress { path, done_bytes, total_bytes } = progress;
        match self {
            Self::Nowhere => {}
            Self::Bar { bar, begun } => {
                bar.set_length(*total_bytes);
                bar.set_position(*done_bytes);
                if begun.elapsed() < COUNTED_AFTER {
                    bar.reset_eta();
                }
                bar.set_message(printable(path));
            }
            Self::Lines { begun, last } => {
                if last.elapsed() < LINE_EVERY {
                    return;
                }
                *last = Instant::now();
                let (since, from_bytes) = *begun.get_or_insert((*last, *done_bytes));
                say(&line(progress, since.elapsed(), done_bytes.saturating_sub(from_bytes)));
            }
        }
    }

    /// The answer comes in the bar's place.
    fn clear(&self) {
        if let Self::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}

/// `1.2 GiB of 4.1 GiB, 10.5 MiB/s, 4 min left: film.mkv`; `come_bytes` came in `took`.
fn line(progress: &Progress, took: Duration, come_bytes: u64) -> String {
    let Progress { path, done_bytes, total_bytes } = progress;
    let rate = come_bytes.checked_div(took.as_secs()).unwrap_or(0);
    let left = total_bytes.saturating_sub(*done_bytes).checked_div(rate);
    let left = left.map(|seconds| format!(", {}/s, {} min left", format_size(rate), seconds.div_ceil(60)));
    format!("{} of {}{}: {path}", format_size(*done_bytes), format_size(*total_bytes), left.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_refused_does_not_stop_the_others() {
        let paths = ["a", "no drive", "b"].map(PathBuf::from);
        let mut out = Vec::new();
        let code = each(&paths, &mut out, &mut |path| {
            if path.ends_with("no drive") {
                return Err(Error::new(Kind::Missing, "no drive: not on a drive"));
            }
            Ok(format!("{}\x1b: pinned", path.display()))
        });
        assert_eq!(code.unwrap(), ExitCode::FAILURE);
        assert_eq!(String::from_utf8(out).unwrap(), "a\\u{1b}: pinned\nb\\u{1b}: pinned\n");
    }

    #[test]
    fn a_line_says_how_far_how_fast_how_long() {
        let progress = Progress { path: "film.mkv".into(), done_bytes: 1 << 30, total_bytes: 4 << 30 };
        let line = |seconds, come_bytes| line(&progress, Duration::from_secs(seconds), come_bytes);
        assert_eq!(line(0, 0), "1.0 GiB of 4.0 GiB: film.mkv", "nothing is known yet");
        assert_eq!(line(10, 0), "1.0 GiB of 4.0 GiB: film.mkv", "it stands still");
        assert_eq!(line(64, 1 << 30), "1.0 GiB of 4.0 GiB, 16.0 MiB/s, 4 min left: film.mkv");
    }

    #[test]
    fn the_bar_is_well_formed() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
