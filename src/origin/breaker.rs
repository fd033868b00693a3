//! A circuit breaker around an origin: one that is down is not asked again and again, and whoever wants something of it is
//! told so at once. It is looked at in the background, and asked as usual as soon as it answers.
//! Never here: retries, and what is cached; above, an origin that is away is like one that fails fast.
//!
//! ```text
//!                  several questions in a row without any answer, then a probe, too
//!        closed ──────────────────────────────────────────────────────────────────▶ open ◀─┐
//!          ▲                                                                         │ wait  │ none
//!          └── any answer ─────────────────────────────────────────── half-open ◀────┘───────┘
//!                                                                     (a probe is under way)
//! ```
//!
//! A server that restarts is back in a moment: while an outage is *young*, a refusal says when the next probe is due, so
//! that a reader whose deadline is later can wait for it. Of a longer outage nobody waits for the end.
//!
//! An answer is whatever the origin itself said: bytes, "missing", "denied", "slow down". So one file's trouble never
//! opens it, nor does a server that fails now and then: before it opens, the origin as a whole has failed a probe of ours.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::{Begun, Body, Origin, Pages, Patience, Section, Stat};
use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};
use crate::metrics::Metrics;
use crate::problems::Part;
use crate::range::ByteRange;

/// So many questions in a row have no answer before it is looked whether the origin is there at all. Where one in five
/// fails in any way, that happens once in three thousand; and then the probe tells.
const FAILURES_MAX: u32 = 5;
/// Between the first two probes of an origin that is away; twice as long after each.
const WAIT_FIRST: Duration = Duration::from_secs(1);
/// At most, while nobody asks for anything: a request now and then for a server that is gone for days.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// At most, while somebody does: whoever waits for the server to be back finds it back.
const WAIT_WANTED_MAX: Duration = Duration::from_secs(2);
/// A probe under way may end at any moment: a reader who waits for it looks again after so long.
const WAIT_HALF_OPEN: Duration = Duration::from_millis(100);

/// Whether an origin is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As usual.
    Closed,
    /// Not at all: it has not answered since then.
    Open(Instant),
    /// Nor yet, but a probe is under way; it has not answered since then.
    HalfOpen(Instant),
}

/// The decision. Pure: times are told, not asked for.
#[derive(Debug)]
struct Circuit {
    health: Health,
    // In a row, while closed; and when the first of them ended.
    failures: u32,
    failed_at: Option<Instant>,
    // While open: when the last probe ended, how long to wait for the next, and whether somebody was refused since.
    probed_at: Option<Instant>,
    wait: Duration,
    is_wanted: bool,
    // An outage counts as young for so long after its first failure; and until when this one does.
    young_for: Duration,
    young_until: Option<Instant>,
}

/// Why a question is not asked: the origin has not answered since then, and is looked at again after so long, if that is
/// worth waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refused {
    since: Instant,
    looked_at_in: Option<Duration>,
}

impl Circuit {
    fn new(young_for: Duration) -> Self {
        Self {
            young_for,
            young_until: None,
            health: Health::Closed,
            failures: 0,
            failed_at: None,
            probed_at: None,
            wait: WAIT_FIRST,
            is_wanted: false,
        }
    }

    /// Whether a question may be asked at `now`.
    fn admits(&mut self, now: Instant) -> std::result::Result<(), Refused> {
        let (Health::Open(since) | Health::HalfOpen(since)) = self.health else { return Ok(()) };
        self.is_wanted = true;
        let is_young = self.young_until.is_some_and(|until| now < until);
        let next = self.probe_at().map_or(WAIT_HALF_OPEN, |at| at.saturating_duration_since(now).max(WAIT_HALF_OPEN));
        Err(Refused { since, looked_at_in: is_young.then_some(next) })
    }

    /// The origin has answered something.
    fn answered(&mut self) {
        *self = Self::new(self.young_for);
    }

    /// A question ended at `now` without an answer.
    fn failed(&mut self, now: Instant) {
        // Of those asked before it opened, none says anything new.
        if self.health == Health::Closed {
            self.failures = self.failures.saturating_add(1);
            self.failed_at.get_or_insert(now);
        }
    }

    /// When the next probe is due; `None` while there is no reason for one, or one is under way.
    fn probe_at(&self) -> Option<Instant> {
        match self.health {
            Health::Closed => self.failed_at.filter(|_| self.failures >= FAILURES_MAX),
            Health::Open(_) => {
                let wait = if self.is_wanted { self.wait.min(WAIT_WANTED_MAX) } else { self.wait };
                self.probed_at.map(|at| at + wait)
            }
            Health::HalfOpen(_) => None,
        }
    }

    /// A probe begins. While it is only suspected, all go on asking.
    fn probes(&mut self) {
        if let Health::Open(since) = self.health {
            self.health = Health::HalfOpen(since);
            self.is_wanted = false;
        }
    }

    /// The probe ended at `now` without an answer. Whether that opens it.
    fn probe_failed(&mut self, now: Instant) -> bool {
        self.probed_at = Some(now);
        match self.health {
            // Unless somebody was answered while it was under way.
            Health::Closed if self.failures >= FAILURES_MAX => {
                let since = self.failed_at.unwrap_or(now);
                self.health = Health::Open(since);
                self.young_until = Some(since + self.young_for);
                true
            }
            Health::HalfOpen(since) => {
                self.health = Health::Open(since);
                self.wait = (self.wait * 2).min(WAIT_MAX);
                false
            }
            Health::Closed | Health::Open(_) => false,
        }
    }
}

/// An origin that is asked only while it is there.
pub struct Breaker {
    shared: Arc<Shared>,
}

struct Shared {
    origin: Arc<dyn Origin>,
    metrics: Arc<Metrics>,
    // Taken alone; nothing is asked under it.
    circuit: Mutex<Circuit>,
    changed: Condvar,
    // Set at the end: a probe under way is called off.
    stop: Cancel,
}

impl Breaker {
    /// Starts the thread that looks at `origin` while it is away. A reader waits `timeout` for bytes: for so long an outage
    /// is young, and a probe, of which a reader may await two, lasts half of it at most.
    pub fn start(origin: Arc<dyn Origin>, timeout: Duration, metrics: Arc<Metrics>) -> Result<Self> {
        let circuit = Mutex::new(Circuit::new(timeout));
        let shared = Arc::new(Shared { origin, metrics, circuit, changed: Condvar::new(), stop: Cancel::new() });
        let probing = Arc::clone(&shared);
        thread::Builder::new()
            .name("prober".into())
            .spawn(move || probing.probe_whenever_due(timeout / 2))
            .map_err(|error| Error::io("starting the probing thread", &error))?;
        Ok(Self { shared })
    }
}

impl Breaker {
    /// The origin as a whole was just asked in vain, which is as good as a probe: nobody else needs to wait for it.
    pub fn found_away(&self, error: &Error) {
        let now = Instant::now();
        let mut circuit = self.shared.circuit.lock();
        // Nobody was using it a moment ago: what is known is shown at once.
        let young_for = std::mem::take(&mut circuit.young_for);
        circuit.young_until = None;
        if circuit.health == Health::Closed {
            circuit.failures = FAILURES_MAX;
            circuit.failed_at.get_or_insert(now);
            circuit.probe_failed(now);
            self.shared.metrics.origin_outages.add(1);
            self.shared.metrics.problems.begins(Part::Origin, error.to_string());
            self.shared.changed.notify_one();
        }
        circuit.young_for = young_for;
    }
}

impl Drop for Breaker {
    fn drop(&mut self) {
        self.shared.stop.cancel();
        // Taken, so that it is not told between its look and its sleep.
        drop(self.shared.circuit.lock());
        self.shared.changed.notify_one();
        // Not waited for: a probe that hangs on a network disk can't be called off.
    }
}

impl Shared {
    /// Asks, if it may, and learns from how that ends.
    fn ask<V>(&self, question: impl FnOnce(&dyn Origin) -> Result<V>) -> Result<V> {
        let admitted = self.circuit.lock().admits(Instant::now());
        if let Err(refused) = admitted {
            self.changed.notify_one();
            return Err(away(self.origin.describe(), refused));
        }
        let answer = question(&*self.origin);
        match answered(answer.as_ref().err()) {
            Some(true) => self.answered(),
            Some(false) => self.failed(),
            None => {}
        }
        self.metrics.origin_errors.add(u64::from(answer.as_ref().is_err_and(Error::may_pass)));
        if let Err(error) = &answer {
            self.metrics.problems.happened(error);
        }
        answer
    }

    /// The same for an answer whose beginning is what is waited for; a listing is one when it has ended.
    fn ask_timed<V>(&self, question: impl FnOnce(&dyn Origin) -> Result<V>) -> Result<V> {
        let asked_at = Instant::now();
        self.ask(question).inspect(|_| self.metrics.origin_answer_times.add(asked_at.elapsed()))
    }

    fn answered(&self) {
        let mut circuit = self.circuit.lock();
        let was = circuit.health;
        circuit.answered();
        drop(circuit);
        if let Health::Open(since) | Health::HalfOpen(since) = was {
            self.metrics.problems.ends(Part::Origin);
            log::warn!("{} is back after {:.0?}", self.origin.describe(), since.elapsed());
        }
    }

    fn failed(&self) {
        let mut circuit = self.circuit.lock();
        circuit.failed(Instant::now());
        if circuit.probe_at().is_some() {
            self.changed.notify_one();
        }
    }

    fn probe_whenever_due(&self, timeout: Duration) {
        loop {
            let mut circuit = self.circuit.lock();
            loop {
                if self.stop.is_cancelled() {
                    return;
                }
                match circuit.probe_at() {
                    Some(at) if at <= Instant::now() => break,
                    Some(at) => drop(self.changed.wait_until(&mut circuit, at)),
                    None => self.changed.wait(&mut circuit),
                }
            }
            circuit.probes();
            drop(circuit);
            let patience = Patience { stall: timeout, cancel: self.stop.child() };
            // Or it would stay half-open for ever, and nothing be asked again.
            let probed = panic::catch_unwind(AssertUnwindSafe(|| self.origin.probe(&patience)));
            let probed = probed.unwrap_or_else(|_| Err(Error::new(Kind::Unreachable, "a probe failed inside reelfs")));
            match &probed {
                Err(error) if answered(Some(error)) == Some(false) => {
                    if self.circuit.lock().probe_failed(Instant::now()) {
                        self.metrics.origin_outages.add(1);
                        self.metrics.problems.begins(Part::Origin, error.to_string());
                        log::warn!("{} is away: {error}; what is cached goes on", self.origin.describe());
                    }
                }
                // Whatever went wrong on our side: nothing is known, and asking tells more than not asking.
                _ => self.answered(),
            }
        }
    }
}

/// Whether a question that ended so was answered by the origin itself; `None` if that can't be said.
fn answered(error: Option<&Error>) -> Option<bool> {
    match error.map(Error::kind) {
        None | Some(Kind::Missing | Kind::Denied | Kind::Changed | Kind::Busy | Kind::Unsupported) => Some(true),
        Some(Kind::Unreachable | Kind::TimedOut) => Some(false),
        Some(Kind::Away | Kind::Corrupt | Kind::Full | Kind::Invalid | Kind::Cancelled | Kind::Local) => None,
    }
}

fn away(described: &str, Refused { since, looked_at_in }: Refused) -> Error {
    let since = since.elapsed();
    Error::new(Kind::Away, format!("{described} has not answered for {since:.0?}: it is asked again when it does"))
        .with_retry_after(looked_at_in)
}

impl Origin for Breaker {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        self.shared.ask(|origin| origin.list(folder, patience, pages))
    }

    fn stat(&self, path: &str, patience: &Patience) -> Result<Stat> {
        self.shared.ask_timed(|origin| origin.stat(path, patience))
    }

    fn begin(&self, path: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        self.shared.ask_timed(|origin| origin.begin(path, section, patience))
    }

    fn look_anew(&self) {
        self.shared.origin.look_anew();
    }

    fn warm(&self, every: Duration) {
        if self.health() == Health::Closed {
            self.shared.origin.warm(every);
        }
    }

    fn doubt(&self, asked_at: Instant) {
        self.shared.origin.doubt(asked_at);
    }

    fn silent_for(&self) -> Duration {
        self.shared.origin.silent_for()
    }

    fn probe(&self, patience: &Patience) -> Result<()> {
        self.shared.origin.probe(patience)
    }

    fn health(&self) -> Health {
        self.shared.circuit.lock().health
    }

    fn read(&self, path: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        self.shared.ask_timed(|origin| origin.read(path, expected, range, patience))
    }

    fn describe(&self) -> &str {
        self.shared.origin.describe()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::origin::{Listed, ListedKind};

    const SECOND: Duration = Duration::from_secs(1);
    const YOUNG_FOR: Duration = Duration::from_secs(10);

    /// A circuit that opened at `now`, after questions that failed a second before.
    fn opened(now: Instant) -> Circuit {
        let mut circuit = Circuit::new(YOUNG_FOR);
        (0..FAILURES_MAX).for_each(|_| circuit.failed(now.checked_sub(SECOND).unwrap()));
        circuit.probes();
        assert!(circuit.probe_failed(now));
        circuit
    }

    #[test]
    fn it_opens_when_nothing_was_answered_and_a_probe_neither() {
        let (mut circuit, now) = (Circuit::new(YOUNG_FOR), Instant::now());
        for _ in 1..FAILURES_MAX {
            circuit.failed(now);
            assert_eq!(circuit.probe_at(), None);
        }
        circuit.answered();
        (1..FAILURES_MAX).for_each(|_| circuit.failed(now));
        assert_eq!(circuit.probe_at(), None, "not in a row");
        circuit.failed(now);
        assert!(circuit.probe_at().is_some_and(|at| at <= now), "only suspected");
        circuit.probes();
        assert_eq!(circuit.admits(now), Ok(()), "and asked as before");
        assert!(circuit.probe_failed(now + SECOND));
        let refused = circuit.admits(now + SECOND).unwrap_err();
        assert_eq!((circuit.health, refused.since), (Health::Open(now), now));
    }

    #[test]
    fn an_answer_to_anybody_keeps_it_closed() {
        let (mut circuit, now) = (Circuit::new(YOUNG_FOR), Instant::now());
        (0..FAILURES_MAX).for_each(|_| circuit.failed(now));
        circuit.probes();
        circuit.answered();
        assert!(!circuit.probe_failed(now) && circuit.admits(now).is_ok());
    }

    #[test]
    fn it_is_looked_at_less_and_less_unless_somebody_wants_it() {
        let now = Instant::now();
        let mut circuit = opened(now);
        let mut at = now;
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(circuit.probe_at(), Some(at + wait * SECOND));
            circuit.probes();
            assert!(matches!(circuit.health, Health::HalfOpen(_)) && circuit.probe_at().is_none());
            at += wait * SECOND;
            assert!(!circuit.probe_failed(at), "open already");
        }
        assert!(circuit.admits(at).is_err());
        assert_eq!(circuit.probe_at(), Some(at + WAIT_WANTED_MAX));
        circuit.probes();
        circuit.probe_failed(at);
        assert_eq!(circuit.probe_at(), Some(at + WAIT_MAX), "once for whoever wanted it");
        circuit.probes();
        circuit.answered();
        assert_eq!((circuit.health, circuit.probe_at()), (Health::Closed, None));
    }

    #[test]
    fn outage_that_is_young_says_when_it_is_looked_at() {
        let now = Instant::now();
        let mut circuit = opened(now);
        let looked_at_in = |circuit: &mut Circuit, at| circuit.admits(at).unwrap_err().looked_at_in;
        assert_eq!(looked_at_in(&mut circuit, now), Some(WAIT_FIRST));
        assert_eq!(looked_at_in(&mut circuit, now + SECOND / 2), Some(WAIT_FIRST / 2));
        assert_eq!(looked_at_in(&mut circuit, now + 3 * SECOND), Some(WAIT_HALF_OPEN), "it is due");
        circuit.probes();
        assert_eq!(looked_at_in(&mut circuit, now + SECOND), Some(WAIT_HALF_OPEN), "under way");
        circuit.probe_failed(now + SECOND);
        // Its first failure was a second before it opened.
        let old = now + YOUNG_FOR.checked_sub(SECOND).unwrap();
        assert!(looked_at_in(&mut circuit, old.checked_sub(SECOND / 10).unwrap()).is_some());
        assert_eq!(looked_at_in(&mut circuit, old), None, "nobody waits for the end of a long outage");
    }

    proptest! {
        #[test]
        fn it_is_never_open_without_a_failed_probe_and_a_way_back(steps in prop::collection::vec(0u8..5, 0..200)) {
            let (mut circuit, mut now, mut failed_probes) = (Circuit::new(YOUNG_FOR), Instant::now(), 0);
            for step in steps {
                now += SECOND;
                match step {
                    0 => circuit.failed(now),
                    1 => drop(circuit.admits(now)),
                    2 => {
                        circuit.answered();
                        failed_probes = 0;
                    }
                    3 => circuit.probes(),
                    _ => {
                        circuit.probe_failed(now);
                        failed_probes += 1;
                    }
                }
                let is_open = circuit.health != Health::Closed;
                prop_assert!(!is_open || failed_probes > 0);
                prop_assert!(!matches!(circuit.health, Health::Open(_)) || circuit.probe_at().is_some());
            }
        }
    }

    #[test]
    fn only_silence_says_away() {
        let kinds = [Kind::Missing, Kind::Denied, Kind::Changed, Kind::Busy, Kind::Unsupported];
        assert!(kinds.iter().all(|kind| answered(Some(&Error::new(*kind, ""))) == Some(true)));
        assert_eq!(answered(None), Some(true));
        assert_eq!(answered(Some(&Error::new(Kind::Unreachable, ""))), Some(false));
        assert_eq!(answered(Some(&Error::new(Kind::Cancelled, ""))), None, "says nothing");
    }

    /// Answers as it is told, and counts how often it was asked.
    #[derive(Default)]
    struct Told {
        error: Mutex<Option<Kind>>,
        probe_error: Mutex<Option<Kind>>,
        asked: Mutex<u32>,
    }

    impl Origin for Told {
        fn list(&self, _: &str, _: &Patience, pages: &mut Pages<'_>) -> Result<()> {
            match *self.probe_error.lock() {
                Some(kind) => Err(Error::new(kind, "told")),
                None => pages(vec![Listed { name: "a".into(), kind: ListedKind::Folder, modified: None }]),
            }
        }

        fn stat(&self, _: &str, _: &Patience) -> Result<Stat> {
            *self.asked.lock() += 1;
            Err(Error::new(self.error.lock().unwrap_or(Kind::Missing), "told"))
        }

        fn read(&self, _: &str, _: &Stat, _: ByteRange, _: &Patience) -> Result<Box<dyn Body>> {
            unreachable!("not asked here")
        }

        fn describe(&self) -> &'static str {
            "told:"
        }
    }

    fn wait_for(is_so: impl Fn() -> bool) {
        let deadline = Instant::now() + 20 * SECOND;
        while !is_so() {
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_is_away_is_not_asked_until_it_is_back() {
        let (origin, metrics) = (Arc::new(Told::default()), Arc::<Metrics>::default());
        let breaker = Breaker::start(Arc::clone(&origin) as _, SECOND, Arc::clone(&metrics)).unwrap();
        let ask = || {
            let patience = Patience { stall: SECOND, cancel: Cancel::new() };
            breaker.stat("film", &patience).unwrap_err().kind()
        };
        // One file's trouble: the origin itself is well.
        *origin.error.lock() = Some(Kind::TimedOut);
        (0..3 * FAILURES_MAX).for_each(|_| assert_eq!(ask(), Kind::TimedOut));
        *origin.probe_error.lock() = Some(Kind::Unreachable);
        wait_for(|| ask() == Kind::Away);
        assert!(matches!(breaker.health(), Health::Open(_) | Health::HalfOpen(_)));
        let asked = *origin.asked.lock();
        assert_eq!(ask(), Kind::Away);
        assert_eq!((*origin.asked.lock(), metrics.origin_outages.get()), (asked, 1));
        *origin.error.lock() = None;
        *origin.probe_error.lock() = None;
        wait_for(|| ask() == Kind::Missing);
        assert_eq!(breaker.health(), Health::Closed);
        // Found so by whoever mounts it.
        *origin.probe_error.lock() = Some(Kind::Unreachable);
        breaker.found_away(&Error::new(Kind::Unreachable, "no route"));
        assert_eq!((ask(), metrics.origin_outages.get()), (Kind::Away, 2));
        let refused = breaker.shared.circuit.lock().admits(Instant::now());
        assert!(refused.is_err_and(|refused| refused.looked_at_in.is_none()), "nobody waits for it");
        *origin.probe_error.lock() = None;
        wait_for(|| ask() == Kind::Missing);
    }
}
