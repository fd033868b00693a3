//! How a long job goes on, told on stderr.
//! Never here: the job.

use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use super::{printable, say};
use crate::config::format_size;
use crate::control::{JobProgress, Progress};

/// Where nobody looks at a bar, a line so often.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// What is here already is counted in its first moment, and says nothing of the rate.
const COUNTED_AFTER: Duration = Duration::from_secs(1);
/// Sizes come before names: the line stays still however long a name is.
const BAR: &str = "{bytes:>11} of {total_bytes:<11} {bar:24} {binary_bytes_per_sec:>13} {eta:>4} left  {wide_msg}";

/// How a long job goes on, on stderr: a bar for whoever watches, a line now and then for a log.
pub enum Shown {
    Nowhere,
    Bar { bar: ProgressBar, begun: Instant },
    Lines { begun: Option<(Instant, u64)>, last: Instant },
}

impl Shown {
    /// For a job that begins now. `is_quiet`: nothing is shown.
    pub fn new(is_quiet: bool) -> Self {
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

    /// How far it is.
    pub fn show(&mut self, progress: &Progress) {
        self.show_job(&progress.clone().into());
    }

    /// How far a mount's job is, of which some was there before.
    pub fn show_job(&mut self, job: &JobProgress) {
        let JobProgress { progress, here_bytes } = job;
        let Progress { path, done_bytes, total_bytes } = progress;
        match self {
            Self::Nowhere => {}
            Self::Bar { bar, begun } => {
                bar.set_length(*total_bytes);
                bar.set_position(*done_bytes);
                // Neither what was here nor a pause says anything of the rate.
                if begun.elapsed() < COUNTED_AFTER {
                    bar.reset_eta();
                }
                bar.set_message(printable(&format!("{path}{}", here(*here_bytes))));
            }
            Self::Lines { begun, last } => {
                if last.elapsed() < LINE_EVERY {
                    return;
                }
                *last = Instant::now();
                let come_bytes = done_bytes.saturating_sub(*here_bytes);
                let (since, from_bytes) = *begun.get_or_insert((*last, come_bytes));
                say(&(line(progress, since.elapsed(), come_bytes.saturating_sub(from_bytes)) + &here(*here_bytes)));
            }
        }
    }

    /// It is done: the answer comes in the bar's place.
    pub fn clear(&self) {
        if let Self::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}

/// Behind the name of the file, so that the line stays still.
fn here(here_bytes: u64) -> String {
    if here_bytes == 0 { String::new() } else { format!(" ({} were here)", format_size(here_bytes)) }
}

/// `1.2 GiB of 4.1 GiB, 10.5 MiB/s, 4 min left: film.mkv`; `come_bytes` came in `took`. Whoever looks through everything
/// learns how much that is on the way: then it is `1.2 GiB, 10.5 MiB/s: film.mkv`.
fn line(progress: &Progress, took: Duration, come_bytes: u64) -> String {
    let Progress { path, done_bytes, total_bytes } = progress;
    let rate = come_bytes.checked_div(took.as_secs()).unwrap_or(0);
    let done = format_size(*done_bytes);
    let speed = if rate > 0 { format!(", {}/s", format_size(rate)) } else { String::new() };
    if *total_bytes == 0 {
        return format!("{done}{speed}: {path}");
    }
    let left = total_bytes.saturating_sub(*done_bytes).checked_div(rate);
    let left = left.map(|seconds| format!(", {} min left", seconds.div_ceil(60))).unwrap_or_default();
    format!("{done} of {}{speed}{left}: {path}", format_size(*total_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_how_fast_how_long() {
        let progress = Progress { path: "film.mkv".into(), done_bytes: 1 << 30, total_bytes: 4 << 30 };
        let line = |seconds, come_bytes| line(&progress, Duration::from_secs(seconds), come_bytes);
        let endless = Progress { total_bytes: 0, ..progress.clone() };
        assert_eq!(super::line(&endless, Duration::from_secs(64), 1 << 30), "1.0 GiB, 16.0 MiB/s: film.mkv");
        assert_eq!(line(0, 0), "1.0 GiB of 4.0 GiB: film.mkv", "nothing is known yet");
        assert_eq!(line(10, 0), "1.0 GiB of 4.0 GiB: film.mkv", "it stands still");
        assert_eq!(line(64, 1 << 30), "1.0 GiB of 4.0 GiB, 16.0 MiB/s, 4 min left: film.mkv");
    }

    #[test]
    fn the_bar_is_well_formed() {
        assert!(ProgressStyle::with_template(BAR).is_ok());
    }
}
