//! The conversations with one server: which of them is used next, when another one is begun, and when one has ended.
//! Never here: what is asked in them.
//!
//! One is enough to begin with. Another one is begun when all are busy, behind the back of whoever found them so: a
//! handshake takes a dozen round trips, and waiting in a line takes less.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::address::Address;
use super::session::Session;
use crate::error::{Error, Kind, Result};
use crate::store::driver::Driver;

/// Handshakes at once: servers drop whom they do not know beyond ten (`MaxStartups`), and others may be coming.
const OPENING_MAX: usize = 3;
/// A handshake that takes longer may hang, and another one be begun beside it. Less than half of what a stall allows, as
/// whoever waits is to have the other one's answer, too.
const OPENING_SLOW: Duration = Duration::from_secs(3);
/// A server that refused one more conversation is not asked for another one so soon.
const GROW_AGAIN: Duration = Duration::from_secs(15);
/// Made ready for a film: for its head, its end, and what follows the head.
const WARM: usize = 3;
/// What a reader weighs beside the bytes that it has asked for: it will ask for more.
const READER_BYTES: u64 = 64 << 10;
/// What opening a file weighs: about a round trip.
const OPENING_BYTES: u64 = 256 << 10;

/// How often the pool is looked after.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// A reply that is so late will not come.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// Files that nobody has read for so long are closed.
const KEPT_FOR: Duration = Duration::from_secs(30);
/// And conversations ended that nobody has used for so long.
const IDLE_MAX: Duration = Duration::from_mins(5);

/// Conversations with one server, as many as help, `most` at most.
pub(super) struct Pool {
    program: Vec<String>,
    address: Address,
    most: usize,
    // Taken alone; conversations are dropped outside.
    state: Mutex<State>,
    // One more conversation, or one that could not be begun.
    changed: Notify,
}

#[derive(Default)]
struct State {
    members: Vec<Arc<Member>>,
    /// When those were begun that are not there yet; one that hangs is in here until it is given up.
    opening: Vec<Instant>,
    failures: u64,
    failure: Option<(Error, Instant)>,
    warmed: Option<Instant>,
}

/// A conversation, and how much it is used.
struct Member {
    session: Session,
    readers: AtomicUsize,
    used: Mutex<Instant>,
}

/// The use of a conversation.
pub(super) struct Lease(Arc<Member>);

impl Pool {
    /// Begins nothing yet.
    pub fn new(driver: &Driver, program: Vec<String>, address: Address, most: usize) -> Arc<Self> {
        let pool = Self { program, address, most, state: Mutex::default(), changed: Notify::new() };
        let pool = Arc::new(pool);
        driver.start(tidy(Arc::downgrade(&pool)));
        pool
    }

    /// The conversation with the shortest line, for a reader of the file at `path`.
    pub async fn lease(self: &Arc<Self>, driver: &Driver, path: &str) -> Result<Lease> {
        let mut failures_before = None;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let ended: Vec<_>;
            {
                let mut state = self.state.lock();
                ended = state.members.extract_if(.., |member| member.session.has_ended()).collect();
                let best = state.members.iter().min_by_key(|member| member.weight_bytes(path)).cloned();
                let failures = *failures_before.get_or_insert(state.failures);
                if best.is_none()
                    && failures != state.failures
                    && state.under_way() == 0
                    && let Some((failure, _)) = &state.failure
                {
                    return Err(failure.clone());
                }
                if best.as_ref().is_none_or(|best| best.is_busy()) {
                    self.grow(&mut state, driver);
                }
                if let Some(best) = best {
                    return Ok(Lease::new(best));
                }
            }
            drop(ended);
            // A handshake that hangs tells nobody.
            let _ = tokio::time::timeout(OPENING_SLOW, changed).await;
        }
    }

    /// Has a few conversations ready, unless that was asked for less than `every` ago.
    pub fn warm(self: &Arc<Self>, driver: &Driver, every: Duration) {
        let mut state = self.state.lock();
        if state.warmed.is_some_and(|at| at.elapsed() < every) {
            return;
        }
        state.warmed = Some(Instant::now());
        while state.members.len() + state.under_way() < WARM.min(self.most) && self.grow(&mut state, driver) {}
    }

    /// No answer came for so long: what has not been heard from since may be gone, too.
    pub fn doubt(&self, stall: Duration) {
        let members = self.state.lock().members.clone();
        // Half of it: whoever waited did not ask in the very moment.
        for member in members.iter().filter(|member| member.session.unheard_for() >= stall / 2) {
            member.session.end(Error::new(Kind::Unreachable, format!("{}: the connection is dead", self.address)));
        }
    }

    /// Begins another one, if there may be one.
    fn grow(self: &Arc<Self>, state: &mut State, driver: &Driver) -> bool {
        let has_any = !state.members.is_empty();
        let was_refused = state.failure.as_ref().is_some_and(|(_, at)| at.elapsed() < GROW_AGAIN);
        let under_way = state.under_way();
        if state.members.len() + under_way >= self.most
            || under_way >= OPENING_MAX
            || (has_any && was_refused)
            || (!has_any && under_way > 0)
        {
            return false;
        }
        let begun = Instant::now();
        state.opening.push(begun);
        let (pool, program, address) = (Arc::downgrade(self), self.program.clone(), self.address.clone());
        driver.start(async move {
            let connected = Session::connect(&program, &address).await;
            let Some(pool) = pool.upgrade() else { return };
            pool.opened(begun, connected);
        });
        true
    }

    fn opened(&self, begun: Instant, connected: Result<Session>) {
        let mut state = self.state.lock();
        if let Some(at) = state.opening.iter().position(|other| *other == begun) {
            state.opening.swap_remove(at);
        }
        let mut surplus = None;
        let alive = state.members.iter().filter(|member| !member.session.has_ended()).count();
        match connected {
            // It was given up for lost, and others have come in its place.
            Ok(session) if alive >= self.most => surplus = Some(session),
            Ok(session) => {
                let used = Mutex::new(Instant::now());
                state.members.push(Arc::new(Member { session, readers: AtomicUsize::new(0), used }));
                state.failure = None;
                log::debug!("{}: {} connections", self.address, state.members.len());
            }
            Err(error) => {
                if !state.members.is_empty() {
                    log::debug!("no further connection: {error}");
                }
                state.failures += 1;
                state.failure = Some((error, Instant::now()));
            }
        }
        drop(state);
        drop(surplus);
        self.changed.notify_waiters();
    }
}

impl State {
    /// Handshakes that may soon be done.
    fn under_way(&self) -> usize {
        self.opening.iter().filter(|begun| begun.elapsed() < OPENING_SLOW).count()
    }
}

impl Member {
    fn weight_bytes(&self, path: &str) -> u64 {
        let opening = if self.session.keeps(path) { 0 } else { OPENING_BYTES };
        self.session.weight_bytes() + self.readers.load(Ordering::Relaxed) as u64 * READER_BYTES + opening
    }

    fn is_busy(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0 || self.session.weight_bytes() > 0
    }
}

impl Lease {
    fn new(member: Arc<Member>) -> Self {
        member.readers.fetch_add(1, Ordering::Relaxed);
        Self(member)
    }
}

impl std::ops::Deref for Lease {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.0.session
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.0.used.lock() = Instant::now();
        self.0.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends what is of no use any longer, as long as there is a pool.
async fn tidy(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(TIDY_EVERY).await;
        let Some(pool) = pool.upgrade() else { return };
        let members = pool.state.lock().members.clone();
        for member in &members {
            member.session.close_unused(KEPT_FOR);
            if member.session.silent_for().is_some_and(|silence| silence > SILENCE_MAX) {
                let why = format!("{}: the server has fallen silent", pool.address);
                member.session.end(Error::new(Kind::Unreachable, why));
            }
        }
        drop(members);
        let is_over = |member: &Member| {
            member.session.has_ended() || (!member.is_busy() && member.used.lock().elapsed() > IDLE_MAX)
        };
        let over: Vec<_> = pool.state.lock().members.extract_if(.., |member| is_over(member)).collect();
        drop(over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_that_hangs_keeps_nobody_from_beginning_another_one() {
        let now = Instant::now();
        let slow = now.checked_sub(OPENING_SLOW).unwrap();
        let state = State { opening: vec![slow, now, slow], ..State::default() };
        assert_eq!(state.under_way(), 1);
    }
}
