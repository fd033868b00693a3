//! The order of fetches: demand, what is urgent, lookahead, fill; and connections that guesses can't take: a share is kept
//! for demand, and of an origin that takes few requests at once, all but what a demand leaves.
//! Never here: what a flight does.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::flight::Flight;
use super::limit::Limit;
use super::race::Race;
use super::width::Width;

/// Priority of a fetch, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Someone waits.
    Demand,
    /// Someone will probably ask within seconds.
    Urgent,
    /// Someone will probably ask.
    Lookahead,
    /// Someone may ask some day.
    Fill,
}

const LANES: [Lane; 4] = [Lane::Demand, Lane::Urgent, Lane::Lookahead, Lane::Fill];

/// Flights queued at once, for each lane. The kernel keeps far fewer reads under way; lookahead that does not fit
/// is asked for again with the next read.
const QUEUED_MAX: [usize; LANES.len()] = [16_384, 1_024, 1_024, 1_024];

/// Of the connections, this part is never given to guesses, so that a seek finds a free one.
const DEMAND_SHARE: usize = 4;

/// A connection that has brought nothing for so long fills no link: what hangs must not end all lookahead.
const FILLING: Duration = Duration::from_millis(500);

/// One queue for each lane, and the connections that serve them.
pub(super) struct Lanes {
    // Guards what waits and what flies. The innermost lock of its room; nothing is taken, and nothing dropped, under it.
    queues: Mutex<Queues>,
    changed: Condvar,
}

struct Queues {
    waiting: [VecDeque<Arc<Flight>>; LANES.len()],
    // Requests under way that will be late at that time, in order; the number tells those of one time apart.
    // About as many as there are connections: whoever asked forgets it.
    races: BTreeMap<(Instant, u64), Arc<Race>>,
    races_begun: u64,
    // What is under way: as many as there are workers, at most.
    flying: Vec<Flying>,
    seats_taken: u64,
    width: Width,
    // How many requests the origin takes at once.
    limit: Limit,
    is_stopped: bool,
}

/// A connection in use.
struct Flying {
    seat: u64,
    // The lane its flight was taken from, and the flight, unless it is a second request.
    lane: Lane,
    flight: Option<Weak<Flight>>,
    // A request is under way; else its flight waits to be asked for again.
    is_asking: bool,
    // It takes its part of the link until then, unless more comes; `None` when the rest is on the wire, and the next
    // request may be sent behind it.
    fills_until: Option<Instant>,
    // How many others filled the link while it did: fewest and most.
    beside: RangeInclusive<usize>,
}

impl Flying {
    fn fills(&self, now: Instant) -> bool {
        self.fills_until.is_some_and(|until| now < until)
    }
}

/// What a worker does next.
pub(super) enum Job {
    /// Fly it.
    Fly(Arc<Flight>),
    /// It is late: ask a second time.
    Overtake(Arc<Race>),
}

/// A connection in use. Given back when dropped.
pub(super) struct Seat<'a> {
    lanes: &'a Lanes,
    number: u64,
    // As the lanes have it.
    fills_until: Cell<Option<Instant>>,
    // Its bytes came as slowly as they were asked for: they tell nothing of the link.
    is_held_back: Cell<bool>,
    flown: Flown,
}

/// What a flight brought, and how long its bytes took from the first on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flown {
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

impl Lanes {
    /// For so many workers, each of which is one connection.
    pub(super) fn new(connections: usize) -> Self {
        let queues = Queues {
            waiting: Default::default(),
            races: BTreeMap::new(),
            races_begun: 0,
            flying: Vec::with_capacity(connections),
            seats_taken: 0,
            width: Width::new(guesses_max(connections)),
            limit: Limit::new(connections),
            is_stopped: false,
        };
        Self { queues: Mutex::new(queues), changed: Condvar::new() }
    }

    /// Queues a flight; `false` when its lane is full.
    pub(super) fn push(&self, lane: Lane, flight: &Arc<Flight>) -> bool {
        let mut queues = self.queues.lock();
        let has_room = queues.waiting[lane as usize].len() < QUEUED_MAX[lane as usize];
        if has_room {
            queues.waiting[lane as usize].push_back(Arc::clone(flight));
            self.changed.notify_one();
        }
        has_room
    }

    /// Queues a flight that was refused before all others of its lane; `false` when its lane is full.
    pub(super) fn push_front(&self, lane: Lane, flight: &Arc<Flight>) -> bool {
        let mut queues = self.queues.lock();
        let has_room = queues.waiting[lane as usize].len() < QUEUED_MAX[lane as usize];
        if has_room {
            queues.waiting[lane as usize].push_front(Arc::clone(flight));
        }
        has_room
    }

    /// Whether the origin was seen to take fewer requests at once than there are connections.
    pub(super) fn is_limited(&self) -> bool {
        self.queues.lock().limit.is_low()
    }

    /// The guesses under way, the last begun first.
    pub(super) fn guesses(&self) -> Vec<Arc<Flight>> {
        let queues = self.queues.lock();
        let guesses = queues.flying.iter().rev().filter(|flying| flying.lane != Lane::Demand);
        guesses.filter_map(|flying| flying.flight.as_ref()?.upgrade()).collect()
    }

    /// A request under way is late `at` that time, unless it is forgotten before.
    pub(super) fn watch(&self, race: &Arc<Race>, at: Instant) {
        let mut queues = self.queues.lock();
        queues.races_begun += 1;
        let key = (at, queues.races_begun);
        queues.races.insert(key, Arc::clone(race));
        self.changed.notify_one();
    }

    /// It was answered.
    pub(super) fn forget(&self, race: &Arc<Race>) {
        let mut queues = self.queues.lock();
        let key = queues.races.iter().find(|(_, watched)| Arc::ptr_eq(watched, race)).map(|(key, _)| *key);
        let gone = key.and_then(|key| queues.races.remove(&key));
        drop(queues);
        drop(gone);
    }

    /// Waits for the next flight of the highest lane that may fly, or for a request to be late; `None` when all is
    /// stopped.
    pub(super) fn next(&self) -> Option<(Job, Seat<'_>)> {
        let mut queues = self.queues.lock();
        loop {
            if queues.is_stopped {
                return None;
            }
            let now = Instant::now();
            if let Some((job, number)) = queues.take(now) {
                if queues.look_again_at(now).is_some() || queues.next_lane(now).is_some() {
                    // Who was woken for it may be us: somebody else has to watch the time, or take what else may fly.
                    self.changed.notify_one();
                }
                let fills_until = Cell::new(Some(now + FILLING));
                let (is_held_back, flown) = (Cell::default(), Flown::default());
                return Some((job, Seat { lanes: self, number, fills_until, is_held_back, flown }));
            }
            match queues.look_again_at(now) {
                Some(at) => drop(self.changed.wait_until(&mut queues, at)),
                None => self.changed.wait(&mut queues),
            }
        }
    }

    /// Nothing flies from now on.
    pub(super) fn stop(&self) {
        let mut queues = self.queues.lock();
        queues.is_stopped = true;
        let left = (std::mem::take(&mut queues.waiting), std::mem::take(&mut queues.races));
        self.changed.notify_all();
        drop(queues);
        drop(left);
    }
}

impl Queues {
    /// The lane whose first flight may fly now.
    fn next_lane(&self, now: Instant) -> Option<Lane> {
        let has = LANES.map(|lane| !self.waiting[lane as usize].is_empty());
        let flying = LANES.map(|lane| self.flying.iter().filter(|flying| flying.lane == lane).count());
        let is_filled = self.width.is_serial() && self.filling(now) > 0 || self.is_full();
        let width = self.width.now().min(guesses_max(self.limit.now()));
        next_lane(has, flying, width, self.width.is_narrow(), is_filled)
    }

    /// Whether the origin would refuse one more request. One that waits to be asked for again keeps its place.
    fn is_full(&self) -> bool {
        self.limit.is_low() && self.flying.len() >= self.limit.now()
    }

    /// Requests under way beside that of `seat`.
    fn asking_beside(&self, seat: u64) -> usize {
        self.flying.iter().filter(|flying| flying.is_asking && flying.seat != seat).count()
    }

    /// When something may change though nobody tells: a request is late, or a connection fills the link no longer.
    fn look_again_at(&self, now: Instant) -> Option<Instant> {
        let late_at = self.races.first_key_value().map(|((at, _), _)| *at).filter(|_| !self.is_full());
        let has_guesses = LANES[1..].iter().any(|lane| !self.waiting[*lane as usize].is_empty());
        let free_at = self.flying.iter().filter_map(|flying| flying.fills_until).filter(|until| *until > now).min();
        late_at.into_iter().chain(free_at.filter(|_| has_guesses)).min()
    }

    /// Connections that have more to bring than what is on the wire, and do.
    fn filling(&self, now: Instant) -> usize {
        self.flying.iter().filter(|flying| flying.fills(now)).count()
    }

    fn take(&mut self, now: Instant) -> Option<(Job, u64)> {
        let is_late = !self.is_full() && self.races.first_key_value().is_some_and(|((at, _), _)| *at <= now);
        let lane = self.next_lane(now);
        let (job, lane, flight) = if is_late && lane != Some(Lane::Demand) {
            // Somebody waits for it, as for a demand; but nobody has asked for that one even once.
            (Job::Overtake(self.races.pop_first()?.1), Lane::Demand, None)
        } else {
            let lane = lane?;
            let flight = self.waiting[lane as usize].pop_front()?;
            let known = Arc::downgrade(&flight);
            (Job::Fly(flight), lane, Some(known))
        };
        self.seats_taken += 1;
        let (seat, others) = (self.seats_taken, self.filling(now));
        self.flying.push(Flying {
            seat,
            lane,
            flight,
            is_asking: true,
            fills_until: Some(now + FILLING),
            beside: others..=others,
        });
        self.count_beside(now);
        Some((job, seat))
    }

    /// Tells all that fill the link how many do, now that this has changed.
    fn count_beside(&mut self, now: Instant) {
        let others = self.filling(now).saturating_sub(1);
        for flying in self.flying.iter_mut().filter(|flying| flying.fills(now)) {
            flying.beside = others.min(*flying.beside.start())..=others.max(*flying.beside.end());
        }
    }

    fn flying(&mut self, seat: u64) -> Option<&mut Flying> {
        self.flying.iter_mut().find(|flying| flying.seat == seat)
    }
}

impl Seat<'_> {
    /// More bytes have come.
    pub(super) fn moved(&self, now: Instant) {
        // Seldom, and long before it is too late: it costs a lock.
        if self.fills_until.get().is_some_and(|until| until < now + FILLING / 2) {
            self.fill_until(Some(now + FILLING));
        }
    }

    /// What is left is on the wire already: the next request's answer comes behind it.
    pub(super) fn nearly_done(&self) {
        if self.fills_until.get().is_some() {
            self.fill_until(None);
            self.lanes.changed.notify_one();
        }
    }

    fn fill_until(&self, until: Option<Instant>) {
        self.fills_until.set(until);
        let mut queues = self.lanes.queues.lock();
        if let Some(flying) = queues.flying(self.number) {
            flying.fills_until = until;
            queues.count_beside(Instant::now());
        }
    }

    /// An answer to its request has begun.
    pub(super) fn answered(&self) {
        let mut queues = self.lanes.queues.lock();
        let others = queues.asking_beside(self.number);
        if queues.limit.answered(others) {
            self.lanes.changed.notify_one();
        }
    }

    /// Its request was refused; so many others were under way.
    pub(super) fn refused(&self) -> usize {
        let mut queues = self.lanes.queues.lock();
        let others = queues.asking_beside(self.number);
        queues.limit.refused(others);
        others
    }

    /// Whether its request is under way; else the flight waits to be asked for again, and nobody else takes its place.
    pub(super) fn asks(&self, is_asking: bool) {
        if let Some(flying) = self.lanes.queues.lock().flying(self.number) {
            flying.is_asking = is_asking;
        }
    }

    /// Whether the origin would take its request beside those under way, as far as is known.
    pub(super) fn has_place(&self) -> bool {
        let queues = self.lanes.queues.lock();
        queues.asking_beside(self.number) < queues.limit.now()
    }

    /// What comes over it waits for us.
    pub(super) fn held_back(&self) {
        self.is_held_back.set(true);
    }

    /// What came over it.
    pub(super) fn landed(mut self, flown: Flown) {
        if !self.is_held_back.get() {
            self.flown = flown;
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut queues = self.lanes.queues.lock();
        let number = self.number;
        let beside = queues.flying(number).map_or(0..=0, |flying| flying.beside.clone());
        queues.flying.retain(|flying| flying.seat != number);
        let now = Instant::now();
        queues.count_beside(now);
        let is_busy = [Lane::Urgent, Lane::Lookahead].iter().any(|lane| !queues.waiting[*lane as usize].is_empty());
        let (width, was_serial) = (queues.width.now(), queues.width.is_serial());
        let Flown { bytes, took } = self.flown;
        if bytes > 0 {
            queues.width.flown(bytes, took, beside);
            queues.width.landed(bytes, now, is_busy);
        }
        // The worker that held this seat looks for the next flight itself; others only if there is more room than that.
        if queues.width.now() > width || was_serial && !queues.width.is_serial() {
            self.lanes.changed.notify_all();
        }
    }
}

/// Connections that guesses may take: all but a quarter (if there are two or more).
fn guesses_max(connections: usize) -> usize {
    if connections > 1 { connections - connections.div_ceil(DEMAND_SHARE) } else { 1 }
}

/// The lane that a free connection serves next. Guesses have `width` connections among them, and fill one of these;
/// where that is narrow, one that is demanded takes its part of the link from them. Only one: a demand that hangs must not
/// end all lookahead. Where the link `is_filled`, they wait: what comes first is needed first. Fill has one of them beside
/// others, and all of them alone.
fn next_lane(
    has_waiting: [bool; LANES.len()],
    flying: [usize; LANES.len()],
    width: usize,
    is_narrow: bool,
    is_filled: bool,
) -> Option<Lane> {
    let [demand, urgent, lookahead, fill] = flying;
    let demanded = if is_narrow { demand.min(1) } else { 0 };
    let may_guess = !is_filled && urgent + lookahead + fill < width.saturating_sub(demanded).max(1);
    LANES.into_iter().find(|lane| {
        has_waiting[*lane as usize]
            && match lane {
                Lane::Demand => true,
                Lane::Urgent | Lane::Lookahead => may_guess,
                Lane::Fill => may_guess && (fill == 0 || demand + urgent + lookahead == 0),
            }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Queues of a link that one connection fills, with three chunks to fetch ahead.
    fn filled(dir: &std::path::Path) -> (Lanes, Instant) {
        let entry = crate::fetch::entry_in(dir, 3 << 20);
        let lanes = Lanes::new(10);
        for start in [0, 1 << 20, 2 << 20] {
            let range = crate::range::ByteRange::at(start, 1 << 20);
            assert!(lanes.push(Lane::Lookahead, &Flight::new(&entry, range, Lane::Lookahead)));
        }
        let mut queues = lanes.queues.lock();
        queues.width.flown(12_500_000, Duration::from_secs(1), 0..=0);
        queues.width.flown(6_200_000, Duration::from_secs(1), 1..=1);
        drop(queues);
        (lanes, Instant::now())
    }

    #[test]
    fn on_a_filled_link_the_next_request_follows_when_the_last_is_nearly_done() {
        let dir = tempfile::tempdir().unwrap();
        let (lanes, _) = filled(dir.path());
        let (_, seat) = lanes.next().unwrap();
        assert!(lanes.queues.lock().next_lane(Instant::now()).is_none(), "the first has the link for itself");
        seat.nearly_done();
        let (_, second) = lanes.next().unwrap();
        assert!(lanes.queues.lock().next_lane(Instant::now()).is_none());
        drop((seat, second));
        assert!(lanes.next().is_some());
    }

    #[test]
    fn what_hangs_does_not_fill_a_link_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let (lanes, now) = filled(dir.path());
        let mut queues = lanes.queues.lock();
        let (_, seat) = queues.take(now).unwrap();
        assert!(queues.next_lane(now).is_none());
        assert_eq!(queues.look_again_at(now), Some(now + FILLING), "nobody else would tell");
        assert_eq!(queues.next_lane(now + FILLING), Some(Lane::Lookahead));
        // One that moves goes on filling it.
        queues.flying(seat).unwrap().fills_until = Some(now + 2 * FILLING);
        assert!(queues.next_lane(now + FILLING).is_none());
    }

    #[test]
    fn guesses_fly_within_what_the_origin_takes() {
        let dir = tempfile::tempdir().unwrap();
        let entry = crate::fetch::entry_in(dir.path(), 8 << 20);
        let flights: Vec<_> = (0..8)
            .map(|at| Flight::new(&entry, crate::range::ByteRange::at(at << 20, 1 << 20), Lane::Lookahead))
            .collect();
        let lanes = Lanes::new(10);
        assert!(flights[..4].iter().all(|flight| lanes.push(Lane::Lookahead, flight)));
        let mut seats: Vec<_> = (0..4).map(|_| lanes.next().unwrap().1).collect();
        // Two of the four are refused, one after the other, and go back.
        for number in [3, 2] {
            assert_eq!(seats[number].refused(), number);
            drop(seats.pop());
            assert!(lanes.push_front(Lane::Lookahead, &flights[number]));
        }
        let now = Instant::now();
        assert!(lanes.is_limited() && lanes.queues.lock().next_lane(now).is_none(), "two are under way");
        drop(seats.pop());
        assert!(lanes.queues.lock().next_lane(now).is_none(), "the other place is a demand's");
        assert!(lanes.push(Lane::Demand, &flights[5]));
        let (_, demand) = lanes.next().unwrap();
        drop(seats.pop());
        demand.asks(false);
        assert!(demand.has_place());
        assert_eq!(lanes.queues.lock().next_lane(now), Some(Lane::Lookahead), "one beside the demand that waits");
        let (job, beside) = lanes.next().unwrap();
        assert!(
            matches!(job, Job::Fly(flight) if Arc::ptr_eq(&flight, &flights[2])),
            "the refused ones in their order"
        );
        assert!(lanes.queues.lock().next_lane(now).is_none(), "what waits to be asked for again keeps its place");
        assert_eq!(lanes.guesses().len(), 1);
        drop((demand, beside));
    }

    #[test]
    fn guesses_leave_a_quarter_to_demand() {
        for (connections, guesses) in [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3), (8, 6), (64, 48)] {
            assert_eq!(guesses_max(connections), guesses, "{connections}");
        }
    }

    #[test]
    fn the_highest_lane_that_may_fly_is_next() {
        let all = [true; 4];
        assert_eq!(next_lane([false; 4], [0; 4], 6, false, false), None);
        assert_eq!(next_lane(all, [0; 4], 6, false, false), Some(Lane::Demand));
        assert_eq!(next_lane(all, [7, 0, 6, 0], 6, false, false), Some(Lane::Demand), "guesses never stand in its way");
        let guesses = [false, true, true, true];
        assert_eq!(next_lane(guesses, [0, 0, 5, 0], 6, false, false), Some(Lane::Urgent));
        assert_eq!(next_lane(guesses, [0, 1, 5, 0], 6, false, false), None);
        assert_eq!(next_lane(guesses, [0, 0, 5, 1], 6, false, false), None, "fill is a guess, too");
        assert_eq!(next_lane([false, false, true, true], [0, 2, 3, 0], 6, false, false), Some(Lane::Lookahead));
        assert_eq!(next_lane([false, false, false, true], [0; 4], 6, false, false), Some(Lane::Fill));
        let fill = [false, false, false, true];
        assert_eq!(next_lane(fill, [0, 0, 0, 5], 6, false, false), Some(Lane::Fill), "alone it has all");
        assert_eq!(next_lane(fill, [0, 0, 0, 6], 6, false, false), None);
        for beside in [[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]] {
            assert_eq!(next_lane(fill, beside, 6, false, false), None, "beside others it has one");
        }
        assert_eq!(next_lane(guesses, [3, 0, 1, 0], 2, true, false), None, "a demand has its part of a narrow link");
        assert_eq!(next_lane(guesses, [3, 0, 0, 0], 2, true, false), Some(Lane::Urgent));
        assert_eq!(next_lane(guesses, [3, 0, 0, 0], 1, true, false), Some(Lane::Urgent), "but never all of it");
        assert_eq!(next_lane(guesses, [1, 0, 0, 0], 2, true, true), None, "one connection fills the link");
        assert_eq!(next_lane(all, [1, 1, 0, 0], 2, true, true), Some(Lane::Demand), "which stops no demand");
    }
}
