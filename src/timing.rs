//! How long things take: counted in buckets whose bounds grow by a fifth at most. A count costs a few atomic additions and
//! takes no lock.
//! Never here: what is timed (see `metrics`), and formatting.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Each power of two is divided into so many buckets: a quantile is too large by a quarter at most.
const STEPS: usize = 4;
/// Powers of two from a microsecond on: 67 seconds are the last bound.
const POWERS: usize = 26;
/// The first holds all up to a microsecond, the last all beyond the last bound.
const BUCKETS: usize = 1 + POWERS * STEPS + 1;
/// Four of these are the first bound.
const GRAIN_NANOS: u64 = 250;
/// Quantiles are told of so many whole minutes, and the one that has begun.
pub const RECENT_MINUTES: usize = 5;

/// How long one kind of thing took, since the start and in the last minutes. 6 KiB, whatever it counts.
#[derive(Debug)]
pub struct Timing {
    since: Instant,
    buckets: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
    // Two threads that begin the same minute may lose a little.
    minutes: [Minute; RECENT_MINUTES + 1],
}

#[derive(Debug)]
struct Minute {
    // Which minute since the start it holds.
    stamp: AtomicU64,
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Minute {
    fn default() -> Self {
        Self { stamp: AtomicU64::new(0), buckets: [const { AtomicU32::new(0) }; BUCKETS] }
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
            sum_nanos: AtomicU64::new(0),
            minutes: std::array::from_fn(|_| Minute::default()),
        }
    }
}

/// What a timing says of the last minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles {
    /// So many were timed in these minutes.
    pub count: u64,
    /// Half of them took no longer.
    pub p50: Duration,
    /// Nine in ten.
    pub p90: Duration,
    /// All but one in a hundred.
    pub p99: Duration,
}

/// All that was timed since the start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// A bound in nanoseconds, a power of two of a microsecond, and how many took no longer; in rising order.
    pub up_to: Vec<(u64, u64)>,
    /// How many there were in all.
    pub count: u64,
    /// How long they took together.
    pub sum: Duration,
}

impl Timing {
    /// It took so long once more.
    pub fn add(&self, took: Duration) {
        self.add_at(took, self.since.elapsed());
    }

    /// Calls `what`, and counts how long that takes, whatever comes of it.
    pub fn of<T>(&self, what: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let answer = what();
        self.add(begun.elapsed());
        answer
    }

    /// So many were timed since the start.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    /// Of the last minutes; `None` if there was nothing in them.
    pub fn quantiles(&self) -> Option<Quantiles> {
        self.quantiles_at(self.since.elapsed())
    }

    /// Since the start.
    pub fn histogram(&self) -> Histogram {
        let counts = self.buckets.each_ref().map(|bucket| bucket.load(Ordering::Relaxed));
        let mut so_far = 0;
        let mut up_to = Vec::with_capacity(POWERS + 1);
        for (at, count) in counts.iter().enumerate().take(BUCKETS - 1) {
            so_far += count;
            if at % STEPS == 0 {
                up_to.push((bound_nanos(at), so_far));
            }
        }
        Histogram {
            up_to,
            count: counts.iter().sum(),
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)),
        }
    }

    fn add_at(&self, took: Duration, at: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket_of(nanos);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
        let minute_number = at.as_secs() / 60;
        let minute = &self.minutes[minute_number as usize % self.minutes.len()];
        if minute.stamp.swap(minute_number, Ordering::Relaxed) != minute_number {
            minute.buckets.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        }
        minute.buckets[bucket].fetch_add(1, Ordering::Relaxed);
    }

    fn quantiles_at(&self, at: Duration) -> Option<Quantiles> {
        let now = at.as_secs() / 60;
        let recent = now.saturating_sub(RECENT_MINUTES as u64)..=now;
        let mut counts = [0u64; BUCKETS];
        for minute in self.minutes.iter().filter(|minute| recent.contains(&minute.stamp.load(Ordering::Relaxed))) {
            for (sum, count) in counts.iter_mut().zip(&minute.buckets) {
                *sum += u64::from(count.load(Ordering::Relaxed));
            }
        }
        let count: u64 = counts.iter().sum();
        let quantile = |percent| Duration::from_nanos(quantile_nanos(&counts, count, percent));
        (count > 0).then(|| Quantiles { count, p50: quantile(50), p90: quantile(90), p99: quantile(99) })
    }
}

/// The bound that so many in a hundred do not exceed; for what is beyond the last bound, that one.
fn quantile_nanos(counts: &[u64; BUCKETS], count: u64, percent: u64) -> u64 {
    let rank = (count * percent).div_ceil(100).max(1);
    let mut so_far = 0;
    let reaches = |count: &u64| {
        so_far += count;
        so_far >= rank
    };
    bound_nanos(counts.iter().position(reaches).unwrap_or(BUCKETS - 1).min(BUCKETS - 2))
}

/// The bucket for what took so long: longer than the bound before it, and no longer than its own.
fn bucket_of(nanos: u64) -> usize {
    let grains = nanos.saturating_sub(1) / GRAIN_NANOS;
    if grains < STEPS as u64 {
        return 0;
    }
    let power = grains.ilog2();
    let step = (grains >> (power - 2)) as usize % STEPS;
    (1 + (power as usize - 2) * STEPS + step).min(BUCKETS - 1)
}

/// The longest that belongs into a bucket that has a bound.
fn bound_nanos(bucket: usize) -> u64 {
    let Some(at) = bucket.checked_sub(1) else { return STEPS as u64 * GRAIN_NANOS };
    ((STEPS + at % STEPS + 1) as u64 * GRAIN_NANOS) << (at / STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_lies_between_the_bounds_of_its_bucket() {
        let mut last = 0;
        for bucket in 0..BUCKETS - 1 {
            let bound = bound_nanos(bucket);
            assert!(bound > last && (bucket == 0 || bound * 4 <= last * 5), "{last} {bound}");
            assert_eq!((bucket_of(last + 1), bucket_of(bound)), (bucket, bucket));
            last = bound;
        }
        assert_eq!(last, 1_000 << POWERS);
        assert_eq!((bucket_of(0), bucket_of(last + 1), bucket_of(u64::MAX)), (0, BUCKETS - 1, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_of_the_last_minutes_and_histograms_of_all() {
        let timing = Timing::default();
        assert_eq!(timing.quantiles_at(Duration::ZERO), None);
        let (minute, micros) = (Duration::from_mins(1), Duration::from_micros);
        (0..98).for_each(|_| timing.add_at(micros(100), minute));
        (0..2).for_each(|_| timing.add_at(micros(50_000), minute));
        let told = timing.quantiles_at(minute * 6).unwrap();
        assert_eq!((told.count, told.p50, told.p90), (100, micros(112), micros(112)));
        assert_eq!(told.p99, micros(57_344));
        assert_eq!(timing.quantiles_at(minute * 7), None);
        // The place of the first minute in the ring, used again.
        timing.add_at(micros(3), minute * 7);
        assert_eq!(timing.quantiles_at(minute * 7).unwrap().count, 1);
        let all = timing.histogram();
        assert_eq!((all.count, all.sum), (101, micros(98 * 100 + 2 * 50_000 + 3)));
        let up_to = |bound_micros: u64| all.up_to.iter().find(|(bound, _)| *bound == bound_micros * 1_000).unwrap().1;
        assert_eq!([1, 2, 4, 64, 128, 32_768, 65_536].map(up_to), [0, 0, 1, 1, 99, 99, 101]);
        assert_eq!(timing.count(), 101);
    }

    #[test]
    fn what_takes_too_long_is_beyond_every_bound() {
        let timing = Timing::default();
        timing.add_at(Duration::from_hours(1), Duration::ZERO);
        let all = timing.histogram();
        assert_eq!((all.count, all.up_to.last().unwrap().1), (1, 0));
        assert!(timing.quantiles_at(Duration::ZERO).unwrap().p50 > Duration::from_mins(1));
    }
}
