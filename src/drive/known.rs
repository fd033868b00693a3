//! Where listings and stats come from, and where they go: the origin is asked, the tree on disk remembers.
//! Never here: how long an answer counts (see `memo`).

use std::sync::Arc;
use std::time::Duration;

use super::Ask;
use super::inodes::Inodes;
use super::listing::{self, Listing};
use super::memo::{Doubt, Question, Recalled, Source};
use crate::cache::Cache;
use crate::error::{Error, Kind, Result};
use crate::origin::Stat;
use crate::store::join;

/// What an earlier run knew is shown when the origin has said nothing for so long: more than a new connection takes over a
/// far link.
const EARLIER_GRACE: Duration = Duration::from_secs(3);

/// The folders of a source.
pub(super) struct Folders {
    pub ask: Ask,
    pub cache: Arc<Cache>,
    pub inodes: Arc<Inodes>,
    pub ttl: Duration,
    /// Names change by us: what an earlier run wrote down is for when nobody answers.
    pub is_writable: bool,
}

/// Its files.
pub(super) struct Files {
    pub ask: Ask,
    pub cache: Arc<Cache>,
}

impl Source<Listing> for Folders {
    fn ask(&self, folder: &str, question: &Question<'_>) -> Result<Listing> {
        let asked = self.ask.of(question, |origin, patience| Listing::gather(origin, folder, patience, &self.cache));
        asked.map_err(|error| if folder.is_empty() { not_gone(error) } else { error })
    }

    fn recall(&self, folder: &str) -> Option<Recalled<Listing>> {
        let known = self.cache.known_listing(folder).and_then(|known| {
            let Some(known) = known else { return Ok(None) };
            let age = known.age.filter(|_| !self.is_writable);
            let fresh_for = age.map_or(Duration::ZERO, |age| self.ttl.saturating_sub(age));
            let value = Listing::recall(known.listing)?;
            // Its time is over, or not known: somebody wanted it new, or clocks differ.
            let doubt = match age {
                Some(_) => Doubt::Old,
                None if self.is_writable => Doubt::Wrong,
                None => Doubt::For(EARLIER_GRACE),
            };
            Ok(Some(Recalled { value, fresh_for, doubt }))
        });
        known.unwrap_or_else(|error| {
            log::warn!("{error}");
            None
        })
    }

    /// A time that was shown stays as long as the new listing may mean the same one.
    fn settle(&self, folder: &str, old: Option<&Listing>, new: Listing) -> Listing {
        if self.is_writable {
            // Our own listings are exact, and a time that is set there to a near one is meant so.
            return new;
        }
        new.settle(old, |listed| {
            let known = self.cache.known_stat(&join(folder, &listed.name));
            known.ok().flatten().and_then(|stat| stat.modified)
        })
    }

    fn learned(&self, folder: &str, old: Option<&Listing>, new: &Listing) {
        // A top folder without a name is a disk that is not mounted there, as a rule: what lay below stays written down.
        if let Listing::Small(names) = new
            && !(folder.is_empty() && names.is_empty())
        {
            self.cache.keep_listing(folder, names);
        }
        if let (Some(Listing::Small(old)), Listing::Small(new)) = (old, new) {
            let of = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            listing::retimed(old, new).for_each(|listed| self.inodes.retime(&of(&listed.name), listed.modified));
        }
    }

    fn gone(&self, folder: &str) {
        self.cache.forget_path(folder);
    }
}

/// For the top folder, without which there would be no drive: where it is missing, something else answers for the server
/// (a proxy, while what is behind it starts again), and one such answer must not forget all that is known.
fn not_gone(error: Error) -> Error {
    if error.kind() == Kind::Missing { Error::new(Kind::Unreachable, error.to_string()) } else { error }
}

impl Source<Stat> for Files {
    fn ask(&self, path: &str, question: &Question<'_>) -> Result<Stat> {
        self.ask.of(question, |origin, patience| origin.stat(path, patience))
    }

    /// Never fresh: the first open of a run asks which version there is now. Only if nobody answers soon, the last one counts.
    fn recall(&self, path: &str) -> Option<Recalled<Stat>> {
        let known = self.cache.known_stat(path).unwrap_or_else(|error| {
            log::warn!("{error}");
            None
        });
        known.map(|value| Recalled { value, fresh_for: Duration::ZERO, doubt: Doubt::For(EARLIER_GRACE) })
    }

    fn learned(&self, path: &str, old: Option<&Stat>, new: &Stat) {
        if old != Some(new) {
            self.cache.note_stat(path, new);
        }
    }

    fn gone(&self, path: &str) {
        self.cache.forget_path(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_folder_is_away_rather_than_gone() {
        assert_eq!(not_gone(Error::new(Kind::Missing, "404")).kind(), Kind::Unreachable);
        assert_eq!(not_gone(Error::new(Kind::Denied, "403")).kind(), Kind::Denied);
    }
}
