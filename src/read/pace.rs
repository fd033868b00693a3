//! How fast a film is played, and how much of it must lie ready ahead of the player. Pure: times are told, not asked for.
//! Never here: what was read (see `pattern`), and fetching.
//!
//! A player takes in a film as fast as it shows it; a copy takes in all it can get. What tells them apart is the time
//! they spend elsewhere: so the rate is bytes by the time in which the reader did not wait for us. A copy's is
//! enormous, and it gets all the lookahead there is; a film's is its own, and it gets half a minute.

use std::time::{Duration, Instant};

/// A film is fetched this far ahead of its player: what a far link may take to recover.
const AHEAD: Duration = Duration::from_secs(30);
/// What is shown by then goes before what other readers need later.
const URGENT: Duration = Duration::from_secs(15);
/// A player fills its own buffer first, faster than it plays: until then nothing is known.
const KNOWN_AFTER: Duration = Duration::from_secs(3);
/// Older observations count half, then a quarter, …: a film's rate changes with its scenes.
const MEMORY: Duration = Duration::from_secs(20);
/// Whoever reads nothing for so long has paused, and says nothing of the film.
const PAUSE: Duration = Duration::from_secs(10);
/// A reader that never did anything but wait is taken for one as fast as this: no division by nothing.
const READING_MIN: Duration = Duration::from_millis(1);

/// A player takes in at most so many times what its film has on average: scenes differ, and it fills its buffer.
const PLAYED_TIMES_MAX: u64 = 4;
/// And in bytes a second, where nobody says how long the film plays: 128 Mbit/s, the most a disc carries.
const PLAYED_MAX: u64 = 16_000_000;
/// What no copy is slower than: the kernel's steps alone make a slow film's rate uneven.
const PLAYED_MIN: u64 = 1_000_000;

/// The rate at which one handle is read.
#[derive(Debug, Default)]
pub struct Pace {
    last: Option<Seen>,
    bytes: u64,
    elapsed: Duration,
    // Of `elapsed`, what the reader did not spend waiting.
    own: Duration,
}

#[derive(Debug)]
struct Seen {
    at: Instant,
    read_bytes: u64,
    waited: Duration,
}

impl Pace {
    /// By `at`, `read_bytes` were read in all, and the reader had waited for `waited` in all. Reads that wait at the
    /// same time count together; no more than the time that passed is believed.
    pub fn observe(&mut self, at: Instant, read_bytes: u64, waited: Duration) {
        let seen = Seen { at, read_bytes, waited };
        let Some(last) = self.last.replace(seen) else { return };
        let elapsed = at.saturating_duration_since(last.at);
        let own = elapsed.saturating_sub(waited.saturating_sub(last.waited));
        if own > PAUSE {
            return;
        }
        self.bytes += read_bytes.saturating_sub(last.read_bytes);
        self.elapsed += elapsed;
        self.own += own;
        if self.elapsed > MEMORY {
            self.bytes /= 2;
            self.elapsed /= 2;
            self.own /= 2;
        }
    }

    /// Bytes a second, once there is something to go by.
    pub fn bytes_per_second(&self) -> Option<u64> {
        (self.elapsed >= KNOWN_AFTER).then(|| by_time(self.bytes, self.own.max(READING_MIN)))
    }
}

/// A film's rate: as its container has it on average, or as it is really read if that is more.
pub fn rate(observed: Option<u64>, size_bytes: u64, duration: Option<Duration>) -> Option<u64> {
    let average = duration.filter(|duration| *duration > Duration::ZERO).map(|duration| by_time(size_bytes, duration));
    observed.max(average)
}

/// Whether a reader of `observed` bytes a second plays the film, and does not copy it. One that was not observed for long
/// enough does not play yet.
pub fn is_playing(observed: Option<u64>, size_bytes: u64, duration: Option<Duration>) -> bool {
    let most = rate(None, size_bytes, duration).map_or(PLAYED_MAX, |average| average.saturating_mul(PLAYED_TIMES_MAX));
    observed.is_some_and(|observed| observed <= most.max(PLAYED_MIN))
}

/// How far lookahead goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Fetched ahead up to here: the end of a chunk.
    pub end: u64,
    /// Needed within seconds up to here.
    pub urgent_end: u64,
}

/// The window of a reader at `position`: `chunks_max` chunks at most, no more than half a minute if the `rate` is known.
pub fn window(position: u64, rate: Option<u64>, chunk: u64, chunks_max: u64) -> Window {
    let seconds = |rate: u64, time: Duration| rate.saturating_mul(time.as_secs());
    let slot_end = position.next_multiple_of(chunk);
    let chunks = rate.map_or(chunks_max, |rate| seconds(rate, AHEAD).div_ceil(chunk).clamp(1, chunks_max.max(1)));
    let end = slot_end.saturating_add(chunks.min(chunks_max).saturating_mul(chunk));
    // Whatever the rate, what comes next is needed soon.
    let urgent_end = rate.map_or(slot_end.saturating_add(chunk), |rate| position.saturating_add(seconds(rate, URGENT)));
    Window { end, urgent_end: urgent_end.min(end) }
}

fn by_time(bytes: u64, time: Duration) -> u64 {
    u64::try_from(u128::from(bytes) * 1_000_000 / time.as_micros().max(1)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const CHUNK: u64 = 2 * MIB;
    const SECOND: Duration = Duration::from_secs(1);

    /// Reads `rate` bytes a second for so many seconds, of which the reader waits a part.
    fn read(pace: &mut Pace, from: Instant, seconds: u32, rate: u64, waits: f64) -> Instant {
        for second in 0..=seconds {
            let passed = SECOND * second;
            pace.observe(from + passed, rate * passed.as_secs(), passed.mul_f64(waits));
        }
        from + SECOND * seconds
    }

    #[test]
    fn a_film_is_read_at_its_own_rate() {
        let mut pace = Pace::default();
        let begun = Instant::now();
        read(&mut pace, begun, 2, 500_000, 0.0);
        assert_eq!(pace.bytes_per_second(), None, "too early to tell");
        read(&mut pace, begun + 2 * SECOND, 100, 500_000, 0.0);
        assert!((450_000..=550_000).contains(&pace.bytes_per_second().unwrap()), "{pace:?}");
    }

    #[test]
    fn a_copy_has_no_rate_of_its_own() {
        let mut pace = Pace::default();
        read(&mut pace, Instant::now(), 60, 10_000_000, 0.99);
        assert!(pace.bytes_per_second().unwrap() > 500_000_000, "{pace:?}");
        // Several reads wait at once.
        let mut pace = Pace::default();
        read(&mut pace, Instant::now(), 60, 10_000_000, 3.0);
        assert!(pace.bytes_per_second().unwrap() > 1_000_000_000, "{pace:?}");
    }

    #[test]
    fn a_pause_is_no_slow_film() {
        let mut pace = Pace::default();
        let paused = read(&mut pace, Instant::now(), 15, 500_000, 0.0);
        pace.observe(paused + 600 * SECOND, 16 * 500_000, Duration::ZERO);
        assert!((450_000..=550_000).contains(&pace.bytes_per_second().unwrap()), "{pace:?}");
    }

    #[test]
    fn a_scene_that_needs_more_gets_more() {
        let mut pace = Pace::default();
        let quiet = read(&mut pace, Instant::now(), 300, 500_000, 0.0);
        let before = 300 * 500_000;
        for second in 1..=40 {
            pace.observe(quiet + SECOND * second, before + 2_000_000 * u64::from(second), Duration::ZERO);
        }
        assert!(pace.bytes_per_second().unwrap() > 1_500_000, "{pace:?}");
    }

    #[test]
    fn the_container_speaks_first_and_the_reader_louder() {
        let hour = Some(Duration::from_hours(1));
        assert_eq!(rate(None, 3_600_000_000, None), None);
        assert_eq!(rate(None, 3_600_000_000, hour), Some(1_000_000));
        assert_eq!(rate(Some(400_000), 3_600_000_000, hour), Some(1_000_000));
        assert_eq!(rate(Some(9_000_000), 3_600_000_000, hour), Some(9_000_000));
        assert_eq!(rate(None, 5, Some(Duration::ZERO)), None);
    }

    #[test]
    fn a_copy_does_not_play() {
        let (size, hour) = (3_600_000_000, Some(Duration::from_hours(1)));
        assert!(!is_playing(None, size, hour), "nobody knows yet");
        assert!(is_playing(Some(1_000_000), size, hour) && is_playing(Some(4_000_000), size, hour));
        assert!(!is_playing(Some(4_000_001), size, hour));
        assert!(is_playing(Some(16_000_000), size, None), "a disc's rate");
        assert!(!is_playing(Some(400_000_000), size, None));
        assert!(is_playing(Some(900_000), 36_000_000, hour), "a very slow film, unevenly read");
    }

    #[test]
    fn half_a_minute_lies_ahead_and_half_of_that_is_urgent() {
        // 4 Mbit/s: 15 MB ahead, 7.5 MB urgent.
        let film = window(10 * CHUNK, Some(500_000), CHUNK, 20);
        assert_eq!(film, Window { end: 18 * CHUNK, urgent_end: 10 * CHUNK + 7_500_000 });
        // 80 Mbit/s would need more than there may be.
        assert_eq!(window(10 * CHUNK + 1, Some(10_000_000), CHUNK, 20).end, 31 * CHUNK);
        assert_eq!(window(10 * CHUNK, None, CHUNK, 20), Window { end: 30 * CHUNK, urgent_end: 11 * CHUNK });
        assert_eq!(window(10 * CHUNK + 1, Some(1), CHUNK, 20).end, 12 * CHUNK, "never less than what comes next");
        assert_eq!(window(10 * CHUNK + 1, Some(1), CHUNK, 0).end, 11 * CHUNK, "unless lookahead is off");
    }

    proptest! {
        #[test]
        fn a_window_is_bounded(at in any::<u32>(), rate in prop::option::of(any::<u64>()), chunks in 0u64..5_000) {
            let at = u64::from(at);
            let window = window(at, rate, CHUNK, chunks);
            prop_assert!(window.end <= at + (chunks + 1) * CHUNK && window.end >= at);
            prop_assert!(window.urgent_end <= window.end);
        }
    }
}
