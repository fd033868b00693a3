//! A source of which a part is shown: names that the user's filters leave out are not listed, and can't be opened either by
//! a program that guesses them.
//! Never here: how rules are typed, and patterns themselves.

mod glob;
mod rules;

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub use self::rules::{RULES_MAX, Rules, view};
use super::{Begun, Body, Health, Listed, ListedKind, Origin, Pages, Patience, Section, Stat};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::{LINK_ENDING, join};

/// An origin, seen through filters.
pub struct Filtered {
    origin: Arc<dyn Origin>,
    rules: Rules,
    /// How many names the top folder held and how many of them are shown, once it was listed. Taken alone.
    top: Mutex<Option<(usize, usize)>>,
}

impl Filtered {
    /// Shows of `origin` what `rules` let through.
    pub fn new(origin: Arc<dyn Origin>, rules: Rules) -> Self {
        Self { origin, rules, top: Mutex::default() }
    }

    /// An error if the top folder was listed, holds names, and none of them is shown: a mistake in the filters, as a rule.
    pub fn check_shows(&self) -> Result<()> {
        match *self.top.lock() {
            Some((names, 0)) if names > 0 => {
                let told = format!(
                    "{}: the filters leave none of its {names} names: check --include, --exclude, --filter and --media-only",
                    self.origin.describe()
                );
                Err(Error::new(Kind::Missing, told))
            }
            _ => Ok(()),
        }
    }

    fn shows(&self, folder: &str, listed: &Listed) -> bool {
        let path = join(folder, &listed.name);
        match listed.kind {
            ListedKind::Folder => self.rules.shows_folder(&path),
            ListedKind::File { .. } => self.rules.shows_file(&path),
            ListedKind::Link { .. } => self.rules.shows_link(&path),
        }
    }

    fn check_file(&self, path: &str) -> Result<()> {
        // The file of a link is there for its target.
        let is_of_shown = |path: &str| path.strip_suffix(LINK_ENDING).is_some_and(|link| self.rules.shows_link(link));
        if self.rules.shows_file(path) || is_of_shown(path) { Ok(()) } else { Err(self.left_out(path)) }
    }

    fn left_out(&self, path: &str) -> Error {
        let path = path.escape_debug();
        Error::new(Kind::Missing, format!("{}: `{path}` is left out by the filters", self.origin.describe()))
    }
}

impl Origin for Filtered {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        if !folder.is_empty() && !self.rules.shows_folder(folder) {
            return Err(self.left_out(folder));
        }
        let (mut names, mut shown) = (0, 0);
        self.origin.list(folder, patience, &mut |mut page| {
            names += page.len();
            page.retain(|listed| self.shows(folder, listed));
            shown += page.len();
            if page.is_empty() { Ok(()) } else { pages(page) }
        })?;
        if folder.is_empty() {
            *self.top.lock() = Some((names, shown));
        }
        Ok(())
    }

    fn stat(&self, path: &str, patience: &Patience) -> Result<Stat> {
        self.check_file(path)?;
        self.origin.stat(path, patience)
    }

    fn begin(&self, path: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        self.check_file(path)?;
        self.origin.begin(path, section, patience)
    }

    fn look_anew(&self) {
        self.origin.look_anew();
    }

    fn warm(&self, every: Duration) {
        self.origin.warm(every);
    }

    fn doubt(&self, silent_since: Instant) {
        self.origin.doubt(silent_since);
    }

    fn silent_for(&self) -> Duration {
        self.origin.silent_for()
    }

    fn probe(&self, patience: &Patience) -> Result<()> {
        self.origin.probe(patience)
    }

    fn health(&self) -> Health {
        self.origin.health()
    }

    fn read(&self, path: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        self.check_file(path)?;
        self.origin.read(path, expected, range, patience)
    }

    fn describe(&self) -> &str {
        self.origin.describe()
    }
}

#[cfg(test)]
mod tests;
