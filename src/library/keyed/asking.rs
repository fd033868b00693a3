//! How a home is asked: again, if what failed may pass; no faster than it bears; no more at once than it takes.
//! Never here: what is asked for.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::value;
use crate::error::{Kind, Result};
use crate::range::ByteRange;
use crate::retry::Retry;
use crate::store::keyed::at_once::at_once;
use crate::store::keyed::{Key, Keyed, Limits, Look, Swap, There};

/// From the first try of one request to the last: a server that restarts is back by then.
const RETRIES_LAST: Duration = Duration::from_mins(2);

/// Requests for the same that get no answer in time: a home that is stuck costs so many times its timeout.
const TIMEOUTS_MAX: u32 = 3;

/// Keys asked for at once: what buckets answer with.
pub(super) const LIST_KEYS: usize = 1_000;

/// A page of a listing costs no more than asking for so many keys one by one.
const PAGE_COSTS_KEYS: usize = 32;

/// A home, asked with patience.
pub(super) struct Asking {
    home: Arc<dyn Keyed>,
    retry: Retry,
    // When the next request may begin, where there is a limit: of all who ask this home here.
    next: Arc<Mutex<Instant>>,
}

impl Asking {
    /// A request that fails is made again up to `retries` times; 0 where the asker's own asker asks again.
    pub fn new(home: Arc<dyn Keyed>, retries: u32) -> Self {
        Self { home, retry: Retry::new(retries, Arc::default()), next: Arc::new(Mutex::new(Instant::now())) }
    }

    /// The same home, for somebody else.
    pub fn again_for(&self, retries: u32) -> Self {
        Self { next: Arc::clone(&self.next), ..Self::new(Arc::clone(&self.home), retries) }
    }

    pub fn mend_modes(&self) {
        self.home.mend_modes(&value::is_ours);
    }

    pub fn describe(&self) -> &str {
        self.home.describe()
    }

    pub fn limits(&self) -> &Limits {
        self.home.limits()
    }

    /// What of a value lies within `range`.
    pub fn get(&self, key: &str, range: ByteRange) -> Result<Bytes> {
        self.pace(1);
        self.again(|| self.home.get(key, range))
    }

    /// What is known of a value without reading it.
    pub fn look(&self, key: &str) -> Result<Look> {
        self.pace(1);
        self.again(|| self.home.look(key))
    }

    /// Writes in this order; what is written at once is no more than the home takes.
    pub fn put(&self, entries: &[(String, Bytes)]) -> Result<()> {
        for some in entries.chunks(self.limits().batch_keys_max.max(1)) {
            self.pace(some.len());
            self.again(|| self.home.put(some))?;
        }
        Ok(())
    }

    pub fn put_one(&self, key: String, value: Bytes) -> Result<()> {
        self.put(&[(key, value)])
    }

    /// Writes in any order, many together; what came of each, in their order. Where the home takes many as one, they fail
    /// together, too.
    pub fn put_together(&self, entries: &[(String, Bytes)]) -> Vec<Result<()>> {
        let limits = self.limits();
        if limits.small_at_once > 0 {
            return at_once(entries, limits.small_at_once, |entry| self.put(std::slice::from_ref(entry)));
        }
        let mut done = Vec::with_capacity(entries.len());
        for some in entries.chunks(limits.batch_keys_max.max(1)) {
            self.pace(some.len());
            let put = self.again(|| self.home.put_together(some));
            done.extend(some.iter().map(|_| put.clone()));
        }
        done
    }

    /// What stands by each of these keys.
    pub fn there(&self, keys: &[String]) -> Result<Vec<There>> {
        let limits = self.limits();
        if limits.small_at_once > 0 {
            if let Some(all) = self.there_by_listing(keys)? {
                return Ok(all);
            }
            let one = |key: &String| {
                self.pace(2);
                self.again(|| self.home.there(std::slice::from_ref(key)))
            };
            return at_once(keys, limits.small_at_once, one).into_iter().map(|there| Ok(there?[0])).collect();
        }
        let mut all = Vec::with_capacity(keys.len());
        for some in keys.chunks(limits.batch_keys_max.max(1)) {
            self.pace(some.len());
            all.extend(self.again(|| self.home.there(some))?);
        }
        Ok(all)
    }

    /// The same by a listing of all keys from the first of these to the last, which is one request where they stand side by
    /// side; nothing where so many others stand between them that it would not pay.
    fn there_by_listing(&self, keys: &[String]) -> Result<Option<Vec<There>>> {
        let (Some(first), Some(last)) = (keys.iter().min(), keys.iter().max()) else { return Ok(Some(Vec::new())) };
        let folder = common_folder(first, last);
        // What is below `a` stands behind `a-b`.
        let Some(last) = keys.iter().map(|key| format!("{key}/")).max() else { return Ok(Some(Vec::new())) };
        let (mut pages_left, mut there) = (keys.len().div_ceil(PAGE_COSTS_KEYS), BTreeSet::new());
        let mut from = Bound::Included(first.clone());
        loop {
            let Some(left) = pages_left.checked_sub(1) else { return Ok(None) };
            pages_left = left;
            let page = self.list(folder, from.as_ref().map(String::as_str), LIST_KEYS)?;
            let is_end =
                page.len() < LIST_KEYS || page.last().is_some_and(|end| end.key > last && !end.key.starts_with(&last));
            from = Bound::Excluded(page.last().map(|end| end.key.clone()).unwrap_or_default());
            there.extend(page.into_iter().map(|key| key.key));
            if is_end {
                break;
            }
        }
        let one = |key: &String| {
            let below = format!("{key}/");
            let next = there.range::<str, _>((Bound::Included(below.as_str()), Bound::Unbounded)).next();
            match () {
                () if there.contains(key) => There::Value,
                () if next.is_some_and(|next| next.starts_with(&below)) => There::Folder,
                () => There::Nothing,
            }
        };
        Ok(Some(keys.iter().map(one).collect()))
    }

    /// Removes in this order, as far as it is more than the home takes at once.
    pub fn delete(&self, keys: &[String]) -> Result<()> {
        for some in keys.chunks(self.limits().batch_keys_max.max(1)) {
            self.pace(some.len());
            self.again(|| self.home.delete(some))?;
        }
        Ok(())
    }

    /// Puts values in the place of others that are still what was seen; says of each whether it did.
    pub fn swap(&self, swaps: &[Swap]) -> Result<Vec<bool>> {
        let mut done = Vec::new();
        for some in swaps.chunks(self.limits().batch_keys_max.max(1)) {
            self.pace(some.len());
            done.extend(self.again(|| self.home.swap(some))?);
        }
        Ok(done)
    }

    pub fn swap_one(&self, swap: Swap) -> Result<bool> {
        Ok(self.swap(&[swap])?.iter().all(|is_done| *is_done))
    }

    /// See [`Keyed::find_others`].
    pub fn find_others(&self) -> Result<()> {
        self.again(|| self.home.find_others())
    }

    pub fn list(&self, prefix: &str, from: Bound<&str>, limit: usize) -> Result<Vec<Key>> {
        self.pace(1);
        self.again(|| self.home.list(prefix, from, limit))
    }

    /// All keys with this prefix, a page at a time; `each` says whether to go on.
    pub fn walk(&self, prefix: &str, each: &mut dyn FnMut(Key) -> Result<bool>) -> Result<()> {
        let mut last: Option<String> = None;
        loop {
            let from = last.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
            let page = self.list(prefix, from, LIST_KEYS)?;
            let is_last = page.len() < LIST_KEYS;
            last = page.last().map(|key| key.key.clone());
            for key in page {
                if !each(key)? {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn again<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        self.retry.asked();
        let (since, mut attempt, mut timeouts) = (Instant::now(), 0, 0);
        loop {
            match work() {
                Err(error) => {
                    timeouts += u32::from(error.kind() == Kind::TimedOut);
                    if timeouts >= TIMEOUTS_MAX {
                        return Err(error.context(format_args!("asked {timeouts} times")));
                    }
                    let left = RETRIES_LAST.saturating_sub(since.elapsed());
                    std::thread::sleep(self.retry.wait(attempt, &error, left)?);
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    fn pace(&self, requests: usize) {
        let Some(per_second) = self.limits().requests_per_second else { return };
        let lasts = Duration::from_secs(1) / per_second.max(1) * u32::try_from(requests).unwrap_or(u32::MAX);
        let begin = {
            let mut next = self.next.lock();
            let begin = (*next).max(Instant::now());
            *next = begin + lasts;
            begin
        };
        std::thread::sleep(begin.saturating_duration_since(Instant::now()));
    }
}

/// The folder that both keys are below, with its `/`; `""` is the top.
fn common_folder<'a>(one: &'a str, other: &str) -> &'a str {
    let common = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
    one.as_bytes()[..common].iter().rposition(|byte| *byte == b'/').map_or("", |slash| &one[..=slash])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::keyed::memory::Memory;

    #[test]
    fn a_listing_tells_the_same_as_asking_for_each_key() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut name = |parts: usize| {
            let part = |rng: &mut fastrand::Rng| {
                (0..rng.usize(1..3)).map(|_| rng.choice(['a', '-', '.', '0', 'b']).unwrap()).collect::<String>()
            };
            (0..parts).map(|_| part(&mut rng)).collect::<Vec<_>>().join("/")
        };
        let home = Arc::new(Memory::default());
        let asking = Asking::new(Arc::clone(&home) as Arc<dyn Keyed>, 0);
        let mut is_known = [false; 3];
        for round in 0..200 {
            home.put(&[(name(1 + round % 3), Bytes::from_static(b"x"))]).unwrap();
            let keys: Vec<_> = (0..=round % 7).map(|n| name(1 + n % 2)).collect();
            let each = home.there(&keys).unwrap();
            assert_eq!(asking.there_by_listing(&keys).unwrap().as_ref(), Some(&each), "{keys:?}");
            for there in each {
                is_known[there as usize] = true;
            }
        }
        assert_eq!(is_known, [true; 3]);
        // Where too much else stands between, nobody reads all of it.
        for n in 0..3_000 {
            home.put(&[(format!("c/{n:04}"), Bytes::from_static(b"x"))]).unwrap();
        }
        let far = |last: &str| asking.there_by_listing(&["c/0000".to_owned(), last.to_owned()]).unwrap();
        assert_eq!(far("c/0990"), Some(vec![There::Value; 2]));
        assert_eq!(far("c/2990"), None);
    }
}
