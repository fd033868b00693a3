//! The next episode: which name follows one that is nearly played, and having its opening here before anyone opens it.
//! Never here: when a film counts as nearly played (see `read`).

use std::cmp::Ordering;
use std::sync::Arc;

use super::Drive;
use super::listing::Listing;
use crate::error::{Error, Kind, Result};
use crate::media::is_film_name;
use crate::origin::{Listed, ListedKind};
use crate::store::join;

impl Drive {
    /// Has what players open the next episode with fetched, when the link is free and on another thread.
    pub(super) fn prepare_next(self: &Arc<Self>, path: &Arc<str>) {
        let (drive, played) = (Arc::downgrade(self), Arc::clone(path));
        let queued = self.nexts.run(move || {
            let Some(drive) = drive.upgrade() else { return };
            match drive.fetch_next(&played) {
                Ok(Some(next)) => log::info!("{played} is nearly over: {next} is ready"),
                Ok(None) => log::debug!("{played} is nearly over, and nothing follows it"),
                // Whoever opens it will meet the same error.
                Err(error) => log::info!("{played} is nearly over: the next one: {error}"),
            }
        });
        if let Err(error) = queued {
            log::debug!("{error}");
        }
    }

    fn fetch_next(&self, played: &str) -> Result<Option<String>> {
        let (folder, name) = played.rsplit_once('/').unwrap_or(("", played));
        // A folder too large for memory holds no season.
        let Listing::Small(names) = self.listing_now(folder, &mut || self.still_there())? else { return Ok(None) };
        let Some(next) = next_name(&names, name).map(|next| join(folder, next)) else { return Ok(None) };
        let entry = self.cache.entry(&next, &self.stat_now(&next, &mut || self.still_there())?)?;
        self.reader.warm_opening(&entry, &mut |_| self.still_there())?;
        Ok(Some(next))
    }

    /// An error once the drive is being taken off: for whoever works for nobody who waits.
    pub(super) fn still_there(&self) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::new(Kind::Cancelled, "the drive is being unmounted"));
        }
        Ok(())
    }
}

/// The file of the same kind that follows `name` in a listing as a person would sort it.
fn next_name<'a>(names: &'a [Listed], name: &str) -> Option<&'a str> {
    names
        .iter()
        .filter(|listed| matches!(listed.kind, ListedKind::File { .. }))
        .map(|listed| &*listed.name)
        .filter(|other| is_same_kind(other, name) && natural(other, name).is_gt())
        .min_by(|a, b| natural(a, b))
}

/// Films of whatever container are of one kind; anything else goes by its ending.
fn is_same_kind(a: &str, b: &str) -> bool {
    let ending = |name: &str| name.rsplit_once('.').map(|(_, ending)| ending.to_lowercase());
    if is_film_name(a) || is_film_name(b) { is_film_name(a) && is_film_name(b) } else { ending(a) == ending(b) }
}

/// As a person sorts: numbers by their value, however they are padded, and letters whatever their case. Names that differ
/// are never equal.
pub(super) fn natural(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let ((this, left_rest), (that, right_rest)) = (first_run(left), first_run(right));
        if this.is_empty() && that.is_empty() {
            // The same to a person.
            return a.cmp(b);
        }
        let is_number = |run: &str| run.starts_with(|first: char| first.is_ascii_digit());
        let order = if is_number(this) && is_number(that) {
            let (this, that) = (this.trim_start_matches('0'), that.trim_start_matches('0'));
            this.len().cmp(&that.len()).then_with(|| this.cmp(that))
        } else {
            this.to_lowercase().cmp(&that.to_lowercase())
        };
        if order.is_ne() {
            return order;
        }
        (left, right) = (left_rest, right_rest);
    }
}

/// A run of digits, or of anything else, and what follows it.
fn first_run(text: &str) -> (&str, &str) {
    let is_digit = text.starts_with(|first: char| first.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != is_digit).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn next<'a>(listing: &'a [Listed], name: &str) -> Option<&'a str> {
        next_name(listing, name)
    }

    fn listing(names: &[&str]) -> Vec<Listed> {
        let kind = |name: &str| match name.strip_suffix('/') {
            Some(_) => ListedKind::Folder,
            None => ListedKind::File { size_bytes: Some(1) },
        };
        let listed = |name: &&str| Listed { name: name.trim_end_matches('/').into(), kind: kind(name), modified: None };
        names.iter().map(listed).collect()
    }

    #[test]
    fn episodes_follow_each_other_as_people_count() {
        let season = listing(&[
            "S01E01.mkv",
            "S01E01.nfo",
            "S01E01.srt",
            "S01E02.mp4",
            "S01E10.mkv",
            "S01E9.mkv",
            "extras.mkv/",
            "s02e01.mkv",
        ]);
        let order = ["S01E01.mkv", "S01E02.mp4", "S01E9.mkv", "S01E10.mkv", "s02e01.mkv"];
        for pair in order.windows(2) {
            assert_eq!(next(&season, pair[0]), Some(pair[1]));
        }
        assert_eq!(next(&season, "s02e01.mkv"), None, "the last one");
        assert_eq!(next(&season, "S01E05.mkv"), Some("S01E9.mkv"), "one that is gone by now");
        let songs = listing(&["1.flac", "10.flac", "2.flac", "2.txt", "3.FLAC"]);
        assert_eq!(next(&songs, "1.flac"), Some("2.flac"));
        assert_eq!(next(&songs, "2.flac"), Some("3.FLAC"));
        assert_eq!(next(&songs, "2.txt"), None);
    }

    #[test]
    fn numbers_by_value_and_letters_without_case() {
        for (less, more) in [
            ("2", "10"),
            ("a2b", "A10b"),
            ("episode 2", "Episode 10"),
            ("99999999999999999999999998", "99999999999999999999999999"),
            ("a", "a1"),
            ("", "a"),
            ("Пилот 2", "пилот 10"),
        ] {
            assert_eq!(natural(less, more), Ordering::Less, "{less} {more}");
        }
        assert_eq!(natural("01", "1"), "01".cmp("1"), "the same to a person, told apart all the same");
    }

    proptest! {
        #[test]
        fn it_is_an_order(a in "[a-b0-2]{0,6}", b in "[a-b0-2]{0,6}", c in "[a-b0-2]{0,6}") {
            prop_assert_eq!(natural(&a, &b), natural(&b, &a).reverse());
            prop_assert_eq!(natural(&a, &b).is_eq(), a == b);
            if natural(&a, &b).is_le() && natural(&b, &c).is_le() {
                prop_assert!(natural(&a, &c).is_le());
            }
        }
    }
}
