//! How a home is asked: again, if what failed may pass; no faster than it bears; no more at once than it takes.
//! Never here: what is asked for.

use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use super::value;
use crate::error::{Kind, Result};
use crate::range::ByteRange;
use crate::retry::Retry;
use crate::store::keyed::{Key, Keyed, Limits, Look, Swap};

/// From the first try of one request to the last: a server that restarts is back by then.
const RETRIES_LAST: Duration = Duration::from_mins(2);

/// Requests for the same that get no answer in time: a home that is stuck costs so many times its timeout.
const TIMEOUTS_MAX: u32 = 3;

/// Keys asked for at once: what buckets answer with.
pub(super) const LIST_KEYS: usize = 1_000;

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
