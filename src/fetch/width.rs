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

/// A shorter transfer is over before its rate shows.
const TOLD_BYTES_MIN: u64 = 256 << 10;
/// What all connections were seen to carry is believed less with each flight: half of it after some 140.
const TOLD_KEPT: f64 = 0.995;
/// What one was seen to carry when it had the link for itself is believed for longer, as those that share a link can't
/// prove it anew: half of it after some 700.
const ALONE_KEPT: f64 = 0.999;
/// And comes down by this part of the difference with each flight that was slower than sharing explains.
const DOUBTED: f64 = 0.02;
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
    // Bytes a second that a connection, and several together, were seen to carry lately; 0 while nothing is known: one
    // that flew alone does not tell what two would have carried.
    alone_rate: f64,
    together_rate: f64,
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
        if bytes < TOLD_BYTES_MIN || took.is_zero() {
            return;
        }
        #[allow(clippy::cast_precision_loss, reason = "rates are compared, not counted")]
        let (rate, least, most) =
            (bytes as f64 / took.as_secs_f64(), (beside.start() + 1) as f64, (beside.end() + 1) as f64);
        let (together_min, alone_max) = (rate * least, rate * most);
        let disproved = (self.alone_rate - alone_max).max(0.0);
        self.alone_rate = (self.alone_rate * ALONE_KEPT - disproved * DOUBTED).max(rate);
        if *beside.start() > 0 {
            self.together_rate = (self.together_rate * TOLD_KEPT).max(together_min);
        } else if self.together_rate > 0.0 {
            self.together_rate = (self.together_rate * TOLD_KEPT).max(self.alone_rate);
        }
    }

    /// Whether one connection fills the link: others beside it would only share its rate.
    pub fn is_filled_by_one(&self) -> bool {
        self.together_rate > 0.0
            && self.alone_rate < LINK_RATE_MAX
            && self.together_rate < self.alone_rate * FILLED_RATIO
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
