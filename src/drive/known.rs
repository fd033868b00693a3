//! Where listings and stats come from, and where they go: the origin is asked, the tree on disk remembers.
//! Never here: how long an answer counts (see `memo`).

use std::sync::Arc;
use std::time::Duration;

use super::Ask;
use super::inodes::Inodes;
use super::listing::{self, Listing};
use super::memo::{Doubt, Memo, Question, Recalled, Source};
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
    pub stats: Arc<Memo<Stat>>,
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

    /// A time that was shown stays as long as the new listing may mean the same one. Where it can't, the file is another
    /// version: what is known of the old one must go before anybody is told of the new one, whose number would else be
    /// tied to the old bytes.
    fn settle(&self, folder: &str, old: Option<&Listing>, new: Listing) -> Listing {
        // Our own listings are exact, and a time that is set there to a near one is meant so.
        let new = if self.is_writable {
            new
        } else {
            new.settle(old, |listed| {
                let known = self.cache.known_stat(&join(folder, &listed.name));
                known.ok().flatten().and_then(|stat| stat.modified)
            })
        };
        if let Some(old) = old {
            self.forget_changed(folder, old, &new);
        }
        new
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

impl Folders {
    /// What is known of files that `new` lists as other versions than `old` goes.
    fn forget_changed(&self, folder: &str, old: &Listing, new: &Listing) {
        let changed = old.changed_in(new).unwrap_or_else(|error| {
            log::warn!("{folder}: which files have changed is not known: {error}");
            Vec::new()
        });
        if changed.is_empty() {
            return;
        }
        let forget = || changed.iter().for_each(|name| self.stats.forget(&join(folder, name)));
        // Before, as an answer that is on its way may be noted; and after, as one may have been recalled meanwhile.
        forget();
        if let Err(error) = self.cache.forget_stats(folder, &changed) {
            log::warn!("{error}");
        }
        forget();
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
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::SystemTime;

    use crossbeam_channel::bounded;

    use super::*;
    use crate::cancel::Cancel;
    use crate::config::CacheConfig;
    use crate::drive::jobs::Jobs;
    use crate::origin::{Body, Listed, ListedKind, Origin, Pages, Patience, Version};
    use crate::range::ByteRange;
    use crate::retry::Retry;

    const LONG: Duration = Duration::from_mins(10);

    /// One film, changed in this minute.
    #[derive(Default)]
    struct Film {
        minute: AtomicU64,
        has_no_stats: AtomicBool,
    }

    impl Film {
        fn modified(&self) -> SystemTime {
            SystemTime::UNIX_EPOCH + Duration::from_mins(self.minute.load(Ordering::Relaxed))
        }
    }

    impl Origin for Film {
        fn list(&self, _: &str, _: &Patience, pages: &mut Pages<'_>) -> Result<()> {
            let kind = ListedKind::File { size_bytes: Some(5) };
            pages(vec![Listed { name: "a.mkv".into(), kind, modified: Some(self.modified()) }])
        }

        fn stat(&self, _: &str, _: &Patience) -> Result<Stat> {
            if self.has_no_stats.load(Ordering::Relaxed) {
                return Err(Error::new(Kind::Unreachable, "away"));
            }
            let modified = Some(self.modified());
            Ok(Stat { size_bytes: 5, modified, version: Version::etag(&format!("{modified:?}")) })
        }

        fn read(&self, _: &str, _: &Stat, _: ByteRange, _: &Patience) -> Result<Box<dyn Body>> {
            Err(Error::new(Kind::Unsupported, "nobody reads here"))
        }

        fn describe(&self) -> &'static str {
            "a film"
        }
    }

    fn get<V: Clone + Send + 'static>(memo: &Arc<Memo<V>>, path: &str) -> Result<V> {
        let (tell, told) = bounded(1);
        memo.get(path, Box::new(move |answer| drop(tell.send(answer))));
        told.recv_timeout(LONG).unwrap()
    }

    /// Folders and files of `film`, as a drive knows them.
    fn memos(film: &Arc<Film>, cache: &Arc<Cache>) -> (Arc<Memo<Listing>>, Arc<Memo<Stat>>) {
        let retry = Arc::new(Retry::new(0, Arc::default()));
        let origin = Arc::clone(film) as Arc<dyn Origin>;
        let ask = Ask { origin, cancel: Cancel::new(), timeout: LONG, retry };
        let jobs = Arc::new(Jobs::start("test", 2).unwrap());
        let files = Files { ask: ask.clone(), cache: Arc::clone(cache) };
        let stats = Memo::new(LONG, (|_| 1, 10), (&jobs, &jobs), files).unwrap();
        let folders = Folders {
            ask,
            cache: Arc::clone(cache),
            inodes: Arc::new(Inodes::new()),
            stats: Arc::clone(&stats),
            ttl: LONG,
            is_writable: false,
        };
        (Memo::new(LONG, (Listing::weight, 10), (&jobs, &jobs), folders).unwrap(), stats)
    }

    #[test]
    fn the_stat_of_a_file_that_is_listed_as_another_version_is_known_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let config = CacheConfig {
            dir: dir.path().to_owned(),
            size_bytes: 1 << 20,
            min_free_bytes: 0,
            chunk_size_bytes: 64 << 10,
        };
        let cache = Arc::new(Cache::open(&config, "test:known", Arc::default()).unwrap());
        let film = Arc::<Film>::default();
        let (listings, stats) = memos(&film, &cache);
        get(&listings, "").unwrap();
        let old = get(&stats, "a.mkv").unwrap();
        assert_eq!(stats.fresh("a.mkv"), Some(old.clone()));

        film.minute.store(60, Ordering::Relaxed);
        film.has_no_stats.store(true, Ordering::Relaxed);
        listings.expire("");
        get(&listings, "").unwrap();
        assert_eq!(stats.known("a.mkv"), None, "before anybody is told of the new version");
        assert_eq!(cache.known_stat("a.mkv").unwrap(), None);
        assert!(get(&stats, "a.mkv").is_err(), "nor while the origin is away");

        film.has_no_stats.store(false, Ordering::Relaxed);
        let new = get(&stats, "a.mkv").unwrap();
        assert_ne!(new.version, old.version);
        // The next run, which knows of the earlier one's stat only what the disk holds.
        listings.expire("");
        cache.expire_listings("").unwrap();
        drop((listings, stats));
        film.minute.store(120, Ordering::Relaxed);
        film.has_no_stats.store(true, Ordering::Relaxed);
        let (listings, stats) = memos(&film, &cache);
        assert_eq!(cache.known_stat("a.mkv").unwrap(), Some(new));
        // What the earlier run was still writing down may be young.
        let is_old = || get(&listings, "").unwrap().find("a.mkv").unwrap().unwrap().modified != Some(film.modified());
        while is_old() {
            listings.expire("");
        }
        assert!(get(&stats, "a.mkv").is_err());
    }

    #[test]
    fn the_top_folder_is_away_rather_than_gone() {
        assert_eq!(not_gone(Error::new(Kind::Missing, "404")).kind(), Kind::Unreachable);
        assert_eq!(not_gone(Error::new(Kind::Denied, "403")).kind(), Kind::Denied);
    }
}
