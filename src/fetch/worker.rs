//! What a worker does with one flight: ask, land, ask again after a failure that may pass, hand over to the cache.
//! Never here: who waits, and in which order flights are flown.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::flight::{Flight, Whole};
use super::growth::{Followed, Taken};
use super::lanes::{Flown, Seat};
use super::race::Race;
use super::request::Request;
use super::{Resident, Shared};
use crate::cancel::Cancel;
use crate::config::BLOCK_SIZE_BYTES;
use crate::error::{Error, Kind, Result};
use crate::origin::{Body, Patience, Stat};
use crate::range::ByteRange;
use crate::retry;

/// A flight that moves is let go on this many timeouts: a chunk over a line of a tenth of a film's rate.
const FLIGHT_TIMEOUTS_MAX: u32 = 12;
/// How often a wait for memory, or before a retry, looks whether the flight was called off.
const LOOK: Duration = Duration::from_millis(20);

/// A server has seen the end of another request by then: what was refused beside it is not asked for again before.
const PLACE_WAIT_MIN: Duration = Duration::from_millis(100);

/// A flight whose file grows under it asks so often what it has become; one that is replaced all the time is no recording.
const FOLLOWED_MAX: u32 = 8;

/// Of a reader's time, one part in so many may go by until the cache's disk has taken what came before.
const DISK_SHARE: u32 = 2;

impl Shared {
    /// Flies one flight to its end, and tells what it brought. Never panics: a panic below is an error for
    /// whoever waits.
    pub(super) fn fly(self: &Arc<Self>, flight: &Arc<Flight>, seat: &Seat<'_>) -> Flown {
        if !flight.start() {
            return Flown::default();
        }
        let asked_bytes = flight.missing().len();
        let has_memory = self.take_memory(flight, asked_bytes);
        if has_memory {
            flight.land_in(self.memory.buffer(asked_bytes));
        }
        let flown = panic::catch_unwind(AssertUnwindSafe(|| {
            if has_memory { self.fetch(flight, seat) } else { Err(called_off().into()) }
        }))
        .unwrap_or_else(|_| {
            Err(Error::new(Kind::Local, format!("{}: a fetch failed inside reelfs", flight.entry.path())).into())
        });
        let taken_bytes = if has_memory { asked_bytes } else { 0 };
        let brought = flight.brought();
        match flown {
            Ok(()) => self.hand_over(flight, flight.landed(), taken_bytes),
            Err(Unfinished::Queued(buffer)) => self.memory.give_back(taken_bytes, Some(buffer)),
            Err(Unfinished::Failed(error)) => {
                if error.kind() == Kind::Cancelled {
                    self.metrics.flights_cancelled.add(1);
                } else {
                    // A reader who waits warns of it himself. By its chunk, whatever part of it was wanted: what is said
                    // again is counted.
                    let level = if flight.is_waited_for() { log::Level::Info } else { log::Level::Warn };
                    let entry = &flight.entry;
                    log::log!(level, "{} {}: {error}", entry.path(), entry.slot(flight.missing().start));
                }
                // The table is held while the end moves: nobody may find the range free before it is.
                let mut table = self.table.lock();
                let (begun, answered) = flight.end_early(&error, BLOCK_SIZE_BYTES);
                if begun.is_none() {
                    table.remove(flight);
                }
                drop(table);
                // Before the cache, which may have to wait for its disk.
                answered.tell(Err(&error));
                match begun {
                    Some(whole) => self.hand_over(flight, whole, taken_bytes),
                    None => self.memory.give_back(taken_bytes, flight.let_go()),
                }
            }
        }
        brought
    }

    /// Waits for memory; `false`: the flight was called off meanwhile. Nobody waits for a disk of the cache that is stuck,
    /// and no reader for half of its time: what the disk has not taken yet is let go.
    fn take_memory(&self, flight: &Flight, bytes: u64) -> bool {
        loop {
            let (lane, waits_until) = flight.urgency();
            if self.memory.take(bytes, lane, LOOK) {
                return true;
            }
            if flight.cancel.is_cancelled() {
                return false;
            }
            let is_late = |until: Instant| {
                until.saturating_duration_since(Instant::now()) < self.config.chunk_timeout / DISK_SHARE
            };
            if self.cache.is_stuck() {
                while self.cache.let_oldest_go() {}
            } else if waits_until.is_some_and(is_late) {
                self.cache.let_oldest_go();
            }
        }
    }

    fn hand_over(self: &Arc<Self>, flight: &Arc<Flight>, (range, bytes, digest): Whole, taken_bytes: u64) {
        let landed = Resident { flight: Arc::clone(flight), digest, taken_bytes, is_late: false };
        let shared = Arc::clone(self);
        let done = Box::new(move |kept| shared.settle_kept(landed, kept));
        self.cache.keep(&flight.entry, range, bytes, digest, done);
        flight.given();
    }

    /// Gives the cache what it did not take before. Called without a lock, also by the cache's writer, for which nobody
    /// may wait here.
    pub(super) fn hand_over_again(self: &Arc<Self>, resident: Resident) {
        let (range, bytes) = resident.flight.whole();
        let (shared, again) = (Arc::clone(self), resident.clone());
        let done = Box::new(move |kept| shared.settle_kept(again, kept));
        if !self.cache.keep_again(&resident.flight.entry, range, bytes, resident.digest, done) {
            self.table.lock().put_back(resident);
        }
    }

    /// Lands every byte, over as many attempts as the retry rules allow.
    fn fetch(&self, flight: &Arc<Flight>, seat: &Seat<'_>) -> std::result::Result<(), Unfinished> {
        let begun = Instant::now();
        let mut give_up_at = begun + self.config.chunk_timeout * FLIGHT_TIMEOUTS_MAX;
        let (mut attempt, mut followed) = (0, 0);
        self.retry.asked();
        loop {
            let before = flight.missing();
            let asked_at = Instant::now();
            let asked_in = flight.entry.asked();
            let error = match self.attempt(flight, seat, &mut give_up_at) {
                Ok(()) => {
                    self.late.lock().ended(false);
                    self.metrics.chunk_download.add(begun.elapsed());
                    return Ok(());
                }
                Err(error) => error,
            };
            if flight.cancel.is_cancelled() {
                return Err(called_off().into());
            }
            let error = if error.kind() == Kind::Changed && followed < FOLLOWED_MAX {
                followed = if flight.missing() == before { followed + 1 } else { 0 };
                match self.follow_changed(flight, &asked_in) {
                    Ok(true) => continue,
                    Ok(false) => error,
                    Err(error) => error,
                }
            } else {
                error
            };
            if error.kind() != Kind::Away {
                self.late.lock().ended(error.may_pass());
            }
            if let Some(since) = retry::silent_since(&error, asked_at, Instant::now(), self.config.chunk_timeout) {
                // The next try goes over a new connection, unless another one has brought anything meanwhile.
                self.origin.doubt(since);
            }
            let has_moved = flight.missing() != before;
            if has_moved {
                // It moved: what failed was this connection, not the origin. What is left is another request.
                attempt = 0;
                self.retry.asked();
            }
            let others = if !has_moved && is_refusal(&error) { seat.refused() } else { 0 };
            let left = self.time_left(flight).min(give_up_at.saturating_duration_since(Instant::now()));
            let wait = if flight.is_waited_for() {
                if others > 0 {
                    // The newest of the guesses under way gives its place to whoever waits.
                    let _ = self.lanes.guesses().iter().any(|guess| guess.gives_way());
                }
                self.retry.wait_awaited(attempt, &error, left)?
            } else {
                let tries = attempt.max(flight.times_refused());
                let wait = self.retry.wait(tries, &error, left)?;
                if others > 0
                    && let Some(buffer) = flight.back_to_queue(|lane| self.lanes.push_front(lane, flight))
                {
                    log::debug!("{} {}: {error}; queued again, {others} are under way", flight.entry.path(), before);
                    return Err(Unfinished::Queued(buffer));
                }
                wait
            };
            log::info!("{} {}: {error}; asking again in {wait:.1?}", flight.entry.path(), flight.missing());
            attempt += 1;
            seat.asks(false);
            sleep_before_retry(wait, flight, &error, || others > 0 && seat.has_place())?;
            seat.asks(true);
        }
    }

    /// The file is another than was asked for. Whether that other one begins with the same bytes: they can be asked for again.
    fn follow_changed(&self, flight: &Flight, asked_in: &Stat) -> Result<bool> {
        // Another flight has followed it meanwhile.
        if flight.entry.asked().version != asked_in.version {
            return Ok(true);
        }
        let stall = retry::stall(self.time_left(flight), self.config.chunk_timeout, self.origin.silent_for());
        let patience = Patience { stall, cancel: flight.cancel.clone() };
        let followed = self.follow(&flight.entry, Taken::Asked, &patience)?;
        // `Same` as another flight has found it to be in this moment, or as it was.
        Ok(followed != Followed::Replaced && flight.entry.asked().version != asked_in.version)
    }

    /// For how long an answer is of use: to whoever waits longest, or, to a guess, as long as to a reader who comes now.
    fn time_left(&self, flight: &Flight) -> Duration {
        let waited_for_until = flight.waited_for_until();
        waited_for_until.map_or(self.config.chunk_timeout, |until| until.saturating_duration_since(Instant::now()))
    }

    /// One request for all that is missing; under a bandwidth limit, as many as it takes.
    fn attempt(&self, flight: &Arc<Flight>, seat: &Seat<'_>, give_up_at: &mut Instant) -> Result<()> {
        while !flight.missing().is_empty() {
            self.land(flight, seat, give_up_at)?;
        }
        Ok(())
    }

    /// One request, from the first missing byte on, or what is under way already.
    fn land(&self, flight: &Arc<Flight>, seat: &Seat<'_>, give_up_at: &mut Instant) -> Result<()> {
        let entry = &flight.entry;
        let mut request = Request::new(flight);
        let (mut body, body_end) = if let Some((body, body_end)) = flight.take_begun() {
            self.metrics.origin_requests.add(1);
            self.throttle.came_unasked(body_end.saturating_sub(flight.missing().start));
            (body, body_end)
        } else {
            let asked = self.wait_to_ask(flight, seat, give_up_at)?;
            if asked.is_empty() {
                // Cut short meanwhile.
                return Ok(());
            }
            request.asked(asked);
            let body = self.ask(flight, asked)?;
            seat.answered();
            (body, asked.end)
        };
        while let Some(piece) = body.next()? {
            if let Some(first_byte) = request.came(piece.len()) {
                self.metrics.chunk_first_byte.add(first_byte);
            }
            self.metrics.origin_bytes.add(piece.len() as u64);
            self.metrics.origin_rate.add(piece.len() as u64);
            flight.land(&piece).tell(Ok(()));
            if flight.cancel.is_cancelled() {
                return Err(called_off());
            }
            let left = flight.missing();
            if left.is_empty() && left.end < body_end {
                // Cut short: the rest of the answer is not wanted.
                return Ok(());
            }
            let now = Instant::now();
            if flight.is_nearly_here(now) {
                seat.nearly_done();
            } else {
                seat.moved(now);
            }
            if now >= *give_up_at {
                return Err(Error::new(Kind::TimedOut, format!("{}: the origin is too slow", entry.path())));
            }
        }
        let left = flight.missing();
        if left.is_empty() || left.start >= body_end {
            return Ok(());
        }
        Err(Error::new(Kind::Unreachable, format!("{}: the origin sent less than it promised", entry.path())))
    }
}

impl Shared {
    /// What may be asked for next: under a bandwidth limit a part of what is missing, and not at once. That is no fault of
    /// the origin's, and shortens no time it has.
    fn wait_to_ask(&self, flight: &Flight, seat: &Seat<'_>, give_up_at: &mut Instant) -> Result<ByteRange> {
        let begun = Instant::now();
        let bytes_max = self.throttle.wait_to_ask(flight);
        if flight.cancel.is_cancelled() {
            return Err(called_off());
        }
        let missing = flight.missing();
        let Some(bytes_max) = bytes_max else { return Ok(missing) };
        seat.held_back();
        *give_up_at += begun.elapsed();
        Ok(missing.intersect(ByteRange::at(missing.start, bytes_max)))
    }

    /// Asks for `range`, and returns when an answer begins: to this request, or to one that overtook it.
    fn ask(&self, flight: &Arc<Flight>, range: ByteRange) -> Result<Box<dyn Body>> {
        let late_after = {
            let mut late = self.late.lock();
            late.asked();
            late.after()
        };
        let asked_at = Instant::now();
        let Some(late_after) = late_after else {
            let answer = self.request(flight, range, &flight.cancel);
            self.began(&answer, asked_at);
            return answer;
        };
        let race = Race::new(flight, range, asked_at);
        self.lanes.watch(&race, asked_at + late_after);
        let first = self.request(flight, range, &race.first);
        let (answer, is_second) = race.first_answered(first);
        self.lanes.forget(&race);
        self.began(&answer, asked_at);
        self.metrics.hedge_wins.add(u64::from(is_second));
        answer
    }

    /// A request is late. If somebody waits for it, it is made a second time; if its answer comes first, the flight's own
    /// worker goes on with it.
    pub(super) fn overtake(&self, race: &Arc<Race>) {
        if !race.is_open() || !race.flight.is_running() {
            return;
        }
        let is_waited_for = race.flight.is_waited_for();
        {
            let mut late = self.late.lock();
            let Some(late_after) = late.after() else { return };
            if !is_waited_for {
                drop(late);
                // Only guessed so far; somebody may come.
                return self.lanes.watch(race, Instant::now() + late_after);
            }
            if !late.pay() {
                return;
            }
        }
        self.metrics.hedges.add(1);
        self.throttle.came_unasked(race.range.len());
        self.origin.doubt(race.asked_at);
        let asked_at = Instant::now();
        let asked = AssertUnwindSafe(|| self.request(&race.flight, race.range, &race.second));
        // A panic below is the first request's to tell of, if it meets it, too.
        let Ok(answer) = panic::catch_unwind(asked) else { return };
        match answer {
            Ok(body) => {
                if race.second_answered(body) {
                    self.late.lock().began(asked_at.elapsed());
                }
            }
            Err(error) if matches!(error.kind(), Kind::Cancelled | Kind::Away) => {}
            Err(error) => self.late.lock().ended(error.may_pass()),
        }
    }

    fn request(&self, flight: &Flight, range: ByteRange, cancel: &Cancel) -> Result<Box<dyn Body>> {
        let entry = &flight.entry;
        let stall = retry::stall(self.time_left(flight), self.config.chunk_timeout, self.origin.silent_for());
        let patience = Patience { stall, cancel: cancel.clone() };
        if entry.grows() {
            return self.ask_growing(entry, range, &patience);
        }
        self.metrics.origin_requests.add(1);
        self.origin.read(entry.path(), &entry.asked(), range, &patience)
    }

    fn began(&self, answer: &Result<Box<dyn Body>>, asked_at: Instant) {
        if answer.is_ok() {
            self.late.lock().began(asked_at.elapsed());
        }
    }
}

fn called_off() -> Error {
    Error::new(Kind::Cancelled, "nobody wants these bytes any longer")
}

/// How a flight left its worker without all its bytes.
enum Unfinished {
    Failed(Error),
    /// Refused beside others: it will be flown again. With the buffer it was to land in.
    Queued(Vec<u8>),
}

impl From<Error> for Unfinished {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// Whether an error may mean that too much was asked for at once: a word of the server, or no connection.
fn is_refusal(error: &Error) -> bool {
    matches!(error.kind(), Kind::Busy | Kind::Unreachable)
}

/// Ends early when somebody has come meanwhile: with `error` if the origin asked for a longer wait than that one has, else
/// to ask at once. So it does when another request has ended, if that one stood in the way (`has_place`).
fn sleep_before_retry(wait: Duration, flight: &Flight, error: &Error, has_place: impl Fn() -> bool) -> Result<()> {
    let (begun, was_waited_for) = (Instant::now(), flight.is_waited_for());
    let is_asked_for = error.retry_after().is_some();
    let until = begun + wait;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        if flight.cancel.is_cancelled() {
            return Err(called_off());
        }
        if is_asked_for && flight.waited_for_until().is_some_and(|deadline| deadline <= until) {
            return Err(error.clone());
        }
        let has_come = !was_waited_for && flight.is_waited_for();
        if !is_asked_for && begun.elapsed() >= PLACE_WAIT_MIN.min(wait) && (has_come || has_place()) {
            return Ok(());
        }
        thread::sleep(left.min(LOOK));
    }
    Ok(())
}
