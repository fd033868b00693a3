//! How many connections guesses use at once: as many as help, and no more. Pure: times are told, not asked for.
//! Never here: threads, and which flight is next.
//!
//! A far or narrow connection carries a part of what the link could, and several carry more; a near one fills the link
//! alone, and more of them only stand in the way of the next seek. Which it is shows in the rate, so the rate is asked:
//!
//! ```text
//! wide ──HOLD──▶ one fewer ── as fast ──▶ one fewer … ── slower ──▶ back ──HOLD──▶ one more ── faster ──▶ one more …
//!  ▲                                                                                            └─ not ──▶ back, HOLD …
//!  └──── the rate broke down: nothing that was learned holds any longer
//! ```
//!
//! That takes a copy of some length. Sooner told is how fast one connection was when it had the link for itself, and how
//! fast all are together: where one carries nearly all, a film's next chunk must not share the link with later ones.
//! Of each rate a flight tells a lower and an upper bound, by how many shared the link with it. Only one that flies alone
//! tells exactly what one carries, so one is let fly alone now and then.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// A rate is measured over this many flights for each connection, so that where their ends fall matters little.
const FLIGHTS_EACH: usize = 3;
/// And over this long at least: flights of a near origin land in bursts.
const PERIOD_MIN: Duration = Duration::from_millis(500);
/// Less than this part of the rate is noise: neither gained nor lost by a connection.
const NOISE_SHARE: f64 = 0.05;
/// Below this part of the usual rate, the link is another one.
const BROKEN_DOWN_SHARE: f64 = 0.5;
/// Periods between two trials, at first: a copy of a few hundred megabytes is over before anything is tried.
const HOLD_FIRST: u32 = 8;
/// And at most: a trial that fails costs a part of the rate for a period, which is then little.
const HOLD_MAX: u32 = 64;

/// A shorter transfer is over before its rate shows: more than any probe.
const TOLD_BYTES_MIN: u64 = 512 << 10;
/// A rate comes down by this part of the difference with each flight that was slower than it explains: one may have met
/// a busy machine.
const DOUBTED: f64 = 0.125;
/// What letting one fly alone may cost, as a part of what the link carries.
const ALONE_COST_SHARE: f64 = 0.02;
/// Flights that may try to be alone before it is put off, beside those that were under way when it was time: demands come
/// when they come, and small ones tell nothing.
const ALONE_TRIES_MAX: usize = 8;
/// One that has this part of its rate alone does not share the link with those beside it.
const UNSHARED_SHARE: f64 = 0.9;
/// And then the link may carry so many times what they carry.
const ROOM: f64 = 2.0;
/// More connections than the rates ask for, by this factor: between two requests each stands still for a round trip.
const TOLD_SLACK: f64 = 1.25;
/// One flies while another is asked for.
const TOLD_MIN: usize = 2;
/// One connection fills the link if all together carry less than so many times its rate.
const FILLED_RATIO: f64 = 1.5;
/// Above this rate, in bytes a second, processors are the limit and not the link: a gigabit.
const LINK_RATE_MAX: f64 = 125_000_000.0;

/// What is being tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trial {
    Narrower,
    Wider,
}

/// The number of connections, and what is known of it.
///
/// Invariant: `1 <= now <= most`. It begins at `most`: what is not known costs a reader nothing.
#[derive(Debug)]
pub(super) struct Width {
    now: usize,
    most: usize,
    // Bytes a second before the trial, or as they usually are.
    usual_rate: f64,
    trial: Option<Trial>,
    next_trial: Trial,
    hold: u32,
    hold_after_failure: u32,
    period: Option<Period>,
    // Bytes a second that a connection with the link for itself, and several together, carry as far as is known; 0 while
    // nothing is: one that flew alone does not tell what two would have carried.
    alone_rate: f64,
    together_rate: f64,
    // For so many seconds the link was in use since one flew alone; and what the last flight brought.
    seconds_since_alone: f64,
    flown_bytes: f64,
    // Flights that have landed since it was time that one flies alone, and that did not.
    alone_tries: usize,
}

#[derive(Debug)]
struct Period {
    begun: Instant,
    flights: usize,
    bytes: u64,
}

impl Width {
    /// All of `most`.
    pub fn new(most: usize) -> Self {
        Self {
            now: most,
            most,
            usual_rate: 0.0,
            trial: None,
            next_trial: Trial::Narrower,
            hold: HOLD_FIRST,
            hold_after_failure: HOLD_FIRST,
            period: None,
            alone_rate: 0.0,
            together_rate: 0.0,
            seconds_since_alone: 0.0,
            flown_bytes: 0.0,
            alone_tries: 0,
        }
    }

    /// Connections to use.
    pub fn now(&self) -> usize {
        self.now.min(self.told())
    }

    /// Whether fewer are used than may be: then what is demanded counts among them.
    pub fn is_narrow(&self) -> bool {
        self.now() < self.most
    }

    /// A flight's bytes came within `took`, while others shared the link: how many at least, and how many at most.
    pub fn flown(&mut self, bytes: u64, took: Duration, beside: RangeInclusive<usize>) {
        if self.owes_one_alone() {
            self.alone_tries += 1;
            if self.alone_tries == self.most + ALONE_TRIES_MAX {
                self.was_alone();
            }
        }
        if bytes < TOLD_BYTES_MIN || took.is_zero() {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "rates are compared, not counted")]
        let (bytes, least, most) = (bytes as f64, (beside.start() + 1) as f64, (beside.end() + 1) as f64);
        let rate = bytes / took.as_secs_f64();
        self.alone_rate = corrected(self.alone_rate, rate, rate * most);
        if *beside.start() > 0 && rate > self.alone_rate * UNSHARED_SHARE {
            // There was room for all of them, and for as many again for all that is known.
            self.together_rate = self.together_rate.max(rate * least * ROOM);
        } else if *beside.start() > 0 {
            self.together_rate = corrected(self.together_rate, rate * least, rate * most);
        } else if self.together_rate > 0.0 {
            self.together_rate = self.together_rate.max(rate);
        }
        self.flown_bytes = bytes;
        self.seconds_since_alone += took.as_secs_f64() / f64::midpoint(least, most);
        if *beside.end() == 0 {
            self.was_alone();
        }
    }

    fn was_alone(&mut self) {
        (self.seconds_since_alone, self.alone_tries) = (0.0, 0);
    }

    /// Whether guesses should fly one behind the other: one connection fills the link, so that others beside it would
    /// only share its rate; or it is time to see whether it does.
    pub fn is_serial(&self) -> bool {
        self.is_filled_by_one() || self.owes_one_alone()
    }

    fn is_filled_by_one(&self) -> bool {
        self.is_a_link() && self.together_rate < self.alone_rate * FILLED_RATIO
    }

    /// Whether what is lost while one flies alone is little beside what was carried since the last did.
    fn owes_one_alone(&self) -> bool {
        let lost_seconds = self.flown_bytes / self.alone_rate - self.flown_bytes / self.together_rate;
        self.is_a_link() && self.seconds_since_alone * ALONE_COST_SHARE > lost_seconds.max(0.0)
    }

    /// Whether something is known of it, and it is what limits the rate.
    fn is_a_link(&self) -> bool {
        self.together_rate > 0.0 && self.together_rate < LINK_RATE_MAX
    }

    /// Connections that carry what all were seen to carry.
    fn told(&self) -> usize {
        if self.together_rate <= 0.0 {
            return self.most;
        }
        #[allow(clippy::cast_sign_loss, reason = "a ratio of positive numbers")]
        let needed = (self.together_rate / self.alone_rate * TOLD_SLACK).ceil() as usize;
        needed.clamp(TOLD_MIN.min(self.most), self.most)
    }

    /// A flight of `bytes` has landed at `at`. `is_busy`: others waited for a connection; only then does the rate tell
    /// anything of the link, and not of the reader.
    pub fn landed(&mut self, bytes: u64, at: Instant, is_busy: bool) {
        if !is_busy {
            self.period = None;
            return;
        }
        let Some(period) = &mut self.period else {
            self.period = Some(Period { begun: at, flights: 0, bytes: 0 });
            return;
        };
        period.flights += 1;
        period.bytes += bytes;
        let elapsed = at.saturating_duration_since(period.begun);
        if period.flights >= FLIGHTS_EACH * self.now && elapsed >= PERIOD_MIN {
            #[allow(clippy::cast_precision_loss, reason = "rates are compared, not counted")]
            let rate = period.bytes as f64 / elapsed.as_secs_f64();
            let before = self.now;
            self.measured(rate);
            // Flights begun under another width are not counted under the new one.
            self.period = (before == self.now).then_some(Period { begun: at, flights: 0, bytes: 0 });
        }
    }

    /// The rate of one period under the present width.
    fn measured(&mut self, rate: f64) {
        if rate < self.usual_rate * BROKEN_DOWN_SHARE && self.trial.is_none() {
            *self = Self { usual_rate: rate, ..Self::new(self.most) };
            return;
        }
        match self.trial {
            None => {
                self.usual_rate = if self.usual_rate > 0.0 { f64::midpoint(self.usual_rate, rate) } else { rate };
                self.hold = self.hold.saturating_sub(1);
                if self.hold == 0 {
                    self.go_on(self.next_trial);
                }
            }
            // Against the rate before the first step, so that many small losses are not taken for none.
            Some(Trial::Narrower) if rate >= self.usual_rate * (1.0 - NOISE_SHARE) => self.go_on(Trial::Narrower),
            Some(Trial::Wider) if rate > self.usual_rate * (1.0 + NOISE_SHARE) => {
                self.usual_rate = rate;
                self.go_on(Trial::Wider);
            }
            Some(failed) => {
                (self.now, self.next_trial) = match failed {
                    Trial::Narrower => (self.now + 1, Trial::Wider),
                    Trial::Wider => (self.now - 1, Trial::Narrower),
                };
                self.trial = None;
                self.hold = self.hold_after_failure;
                self.hold_after_failure = (self.hold_after_failure * 2).min(HOLD_MAX);
            }
        }
    }

    /// One step further, or rest at the end of the scale.
    fn go_on(&mut self, trial: Trial) {
        let next = match trial {
            Trial::Narrower => self.now - 1,
            Trial::Wider => self.now + 1,
        };
        if (1..=self.most).contains(&next) {
            self.now = next;
            self.trial = Some(trial);
        } else {
            self.trial = None;
            self.next_trial = if trial == Trial::Narrower { Trial::Wider } else { Trial::Narrower };
            self.hold = self.hold_after_failure;
        }
    }
}

/// What a rate is taken for once it was seen to lie within these bounds. What was carried once can be carried.
fn corrected(rate: f64, least: f64, most: f64) -> f64 {
    (rate - (rate - most).max(0.0) * DOUBTED).max(least)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes a second of a link with so many connections in use.
    type Link = fn(usize) -> u64;

    const CHUNK: u64 = 2 << 20;

    /// Lands chunks of an endless copy for `seconds`, and tells the width in use after each.
    fn copy(width: &mut Width, from: Instant, seconds: u64, link: Link) -> (Instant, Vec<usize>) {
        let (mut at, mut widths) = (from, Vec::new());
        while at < from + Duration::from_secs(seconds) {
            at += Duration::from_micros(CHUNK * 1_000_000 / link(width.now()));
            width.landed(CHUNK, at, true);
            widths.push(width.now());
        }
        (at, widths)
    }

    /// Which width was in use most of the time, of the later half.
    fn settled(widths: &[usize]) -> usize {
        let later = &widths[widths.len() / 2..];
        (0..64).max_by_key(|width| later.iter().filter(|used| *used == width).count()).unwrap()
    }

    fn far(width: usize) -> u64 {
        12_500_000.min(width as u64 * 2_020_000)
    }

    fn near(_: usize) -> u64 {
        12_500_000
    }

    #[test]
    fn it_settles_where_one_more_does_not_help() {
        for (link, most, knee) in [(far as Link, 12, 6), (far, 4, 4), (far, 6, 6), (near, 6, 1), (near, 1, 1)] {
            let mut width = Width::new(most);
            let (_, widths) = copy(&mut width, Instant::now(), 1_000, link);
            assert_eq!(widths[0], most);
            assert!(settled(&widths).abs_diff(knee) <= usize::from(knee != most), "{most}: {}", settled(&widths));
        }
    }

    #[test]
    fn it_follows_a_link_that_changes() {
        let mut width = Width::new(6);
        let (at, widths) = copy(&mut width, Instant::now(), 500, near);
        assert_eq!(settled(&widths), 1);
        // Each connection is throttled now: all are wanted again, soon.
        let (at, widths) = copy(&mut width, at, 60, far);
        assert_eq!(*widths.iter().max().unwrap(), 6);
        let (_, widths) = copy(&mut width, at, 500, near);
        assert_eq!(settled(&widths), 1);
    }

    #[test]
    fn trials_cost_little() {
        let mut width = Width::new(6);
        let (_, widths) = copy(&mut width, Instant::now(), 1_000, far);
        let lost = widths.iter().filter(|width| **width < 6).count();
        assert!(lost * 100 < widths.len() * 10, "{lost} of {}", widths.len());
    }

    #[test]
    fn one_connection_that_fills_the_link_is_told_at_once() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut near = Width::new(7);
        near.flown(1_000, SECOND, 6..=6);
        assert!(near.now() == 7 && !near.is_narrow(), "too short to tell");
        near.flown(12_500_000, SECOND, 0..=0);
        near.flown(1_800_000, SECOND, 6..=6);
        assert!(near.now() == 2 && near.is_narrow(), "{}", near.now());
        let mut far = Width::new(7);
        far.flown(2_500_000, SECOND, 0..=0);
        far.flown(1_800_000, SECOND, 6..=6);
        assert!(far.now() == 7 && !far.is_narrow(), "{}", far.now());
        assert!(near.is_filled_by_one() && !far.is_filled_by_one());
        let mut new = Width::new(7);
        new.flown(2_500_000, SECOND, 0..=0);
        assert!(new.now() == 7 && !new.is_filled_by_one(), "one alone does not tell what two would carry");
        let mut only = Width::new(1);
        only.flown(2_500_000, SECOND, 0..=0);
        assert!(only.now() == 1 && !only.is_narrow());
    }

    #[test]
    fn what_one_carries_is_not_forgotten_in_a_crowd() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut width = Width::new(7);
        width.flown(12_500_000, SECOND, 0..=0);
        width.flown(6_200_000, SECOND, 1..=1);
        (0..10_000).for_each(|_| width.flown(10_000_000, SECOND, 0..=2));
        assert!(width.now() == 2 && width.is_filled_by_one(), "{width:?}");
        // Each connection is throttled now, and one at a time shows it.
        (0..200).for_each(|_| width.flown(2_000_000, SECOND, 0..=0));
        assert!(width.now() > 2 && !width.is_filled_by_one(), "{width:?}");
    }

    /// Flies chunks for `seconds`, as many beside each other as are wanted; tells the part of the time that one flew alone.
    fn fly(width: &mut Width, seconds: f64, link: Link) -> f64 {
        let (mut all, mut alone) = (0.0, 0.0);
        while all < seconds {
            let count = if width.is_serial() { 1 } else { width.now() };
            let took = Duration::from_micros(CHUNK * 1_000_000 * count as u64 / link(count));
            width.flown(CHUNK, took, count - 1..=count - 1);
            all += took.div_f64(f64::from(u32::try_from(count).unwrap())).as_secs_f64();
            alone += if count == 1 { took.as_secs_f64() } else { 0.0 };
        }
        alone / all
    }

    #[test]
    fn one_that_never_flew_alone_is_let_do_so_where_that_costs_little() {
        let mut width = Width::new(7);
        fly(&mut width, 100.0, near);
        assert!(width.is_filled_by_one() && width.now() == 2, "{width:?}");
        let mut width = Width::new(7);
        let alone = fly(&mut width, 1_000.0, far);
        assert!((0.005..0.03).contains(&alone) && width.now() == 7, "{alone} {width:?}");
    }

    #[test]
    fn what_is_never_alone_does_not_try_for_ever() {
        let mut width = Width::new(7);
        (0..100).for_each(|_| width.flown(6_250_000, Duration::from_secs(1), 1..=1));
        while !width.is_serial() {
            width.flown(6_250_000, Duration::from_secs(1), 1..=1);
        }
        (0..7 + ALONE_TRIES_MAX).for_each(|_| width.flown(1_000, Duration::from_millis(1), 0..=0));
        assert!(!width.is_serial(), "small ones tell nothing");
    }

    #[test]
    fn two_slow_flights_are_not_believed_and_a_slower_link_is() {
        const SECOND: Duration = Duration::from_secs(1);
        let mut width = Width::new(7);
        width.flown(12_500_000, SECOND, 0..=0);
        width.flown(6_200_000, SECOND, 1..=1);
        (0..2).for_each(|_| width.flown(4_000_000, SECOND, 0..=0));
        assert!(width.is_filled_by_one());
        // The whole link is slower now: alone it shows as thin at first, then all together are.
        (0..20).for_each(|_| width.flown(5_000_000, SECOND, 0..=0));
        assert!(!width.is_filled_by_one() && width.now() > 2);
        (0..40).for_each(|_| width.flown(2_500_000, SECOND, 1..=1));
        assert!(width.is_filled_by_one() && width.now() == 2, "{width:?}");
    }

    #[test]
    fn a_link_as_fast_as_the_machine_is_not_filled_by_one() {
        let mut width = Width::new(7);
        width.flown(500_000_000, Duration::from_secs(1), 0..=0);
        width.flown(250_000_000, Duration::from_secs(1), 1..=1);
        assert!(width.now() == 2 && !width.is_filled_by_one());
    }

    #[test]
    fn a_film_that_does_not_fill_the_link_teaches_nothing() {
        let mut width = Width::new(6);
        let begun = Instant::now();
        for second in 0..1_000 {
            width.landed(CHUNK, begun + Duration::from_secs(second), false);
        }
        assert_eq!((width.now(), width.usual_rate), (6, 0.0));
    }

    proptest! {
        #[test]
        fn it_stays_within_its_bounds(most in 1usize..70, rates in prop::collection::vec(0f64..1e9, 1..500)) {
            let mut width = Width::new(most);
            for rate in rates {
                width.measured(rate);
                prop_assert!((1..=most).contains(&width.now()));
            }
        }
    }
}
