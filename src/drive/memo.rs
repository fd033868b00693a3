//! What the origin said, kept for a while: listings by folder, stats by file. Fresh answers are given at once; an old
//! one is asked for again, and given after all if the origin takes its time; many askers cause one question.
//! Never here: what a listing or a stat means.
//!
//! Invariant: whoever asks is answered exactly once, without a lock held.

use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use lru::LruCache;
use parking_lot::Mutex;

use super::inodes::is_at_or_below;
use super::jobs::Jobs;
use crate::error::{Error, Kind, Result};

/// An old answer is given after this if no new one has come: below what a person notices, also twice in a row, as an
/// `open` by path waits for the name and then for the version. A near origin answers in time; behind a far one the old
/// answer comes first, and the new one is there for the next who asks.
const GRACE: Duration = Duration::from_millis(15);
/// After a question that failed, the old answer counts as fresh this long: an origin that is away is not hammered.
const FAILED_FOR: Duration = Duration::from_secs(2);
/// A question is asked again so often because of what changed meanwhile; then the answer is taken, and asked for anew by
/// the next who wants it.
const ASKED_AGAIN_MAX: usize = 8;
/// Askers waiting out the grace; more get the old answer at once.
const GRACED_MAX: usize = 4_096;

/// Takes the answer.
pub(super) type Then<V> = Box<dyn FnOnce(Result<V>) + Send>;
/// Another way to the same answer, for one question.
pub(super) type LoadOnce<V> = Box<dyn FnOnce(&str) -> Result<V> + Send>;

/// Where answers come from, and who else is told of them. Called on a thread for names, without a lock held.
pub(super) trait Source<V>: Send + Sync + 'static {
    /// Asks the origin.
    fn ask(&self, path: &str) -> Result<V>;

    /// What is known of a path that nothing is held of in memory.
    fn recall(&self, _path: &str) -> Option<Recalled<V>> {
        None
    }

    /// The origin has answered; `old` is what was known before.
    fn learned(&self, _path: &str, _old: Option<&V>, _new: &V) {}

    /// The origin says that there is nothing.
    fn gone(&self, _path: &str) {}
}

/// What an earlier run knew.
#[derive(Clone)]
pub(super) struct Recalled<V> {
    pub value: V,
    pub fresh_for: Duration,
    /// Good only if the origin can't be asked; else given, too, while the origin takes its time.
    pub is_doubted: bool,
}

/// An answer on its way in.
struct Told<V> {
    value: V,
    fresh_for: Duration,
    /// From the origin just now; else it was remembered.
    is_new: bool,
    /// What was known before, if it was not held in memory.
    old: Option<V>,
}

/// Answers by path.
pub(super) struct Memo<V> {
    ttl: Duration,
    // A question that waited longer for a thread is not asked any more.
    queue_wait_max: Duration,
    source: Box<dyn Source<V>>,
    // What an answer weighs, and how much all may weigh before the least recently used go.
    weigh: fn(&V) -> usize,
    weight_max: usize,
    jobs: Arc<Jobs>,
    graced: Sender<(Instant, Arc<str>)>,
    // Guards answers and askers. Nothing is asked, and nobody answered, under it.
    state: Mutex<State<V>>,
}

struct State<V> {
    answers: LruCache<Arc<str>, Answer<V>>,
    weight: usize,
}

struct Answer<V> {
    value: Option<V>,
    fresh_until: Option<Instant>,
    // Known to be wrong by now: good only if the origin can't be asked.
    is_doubted: bool,
    is_asked: bool,
    // What is being asked may be answered with what was true before a change of our own: it is asked again.
    is_outdated: bool,
    askers: Vec<Then<V>>,
}

impl<V: Clone + Send + 'static> Memo<V> {
    /// Answers of `source` count as fresh for `ttl`; all together weigh at most `weight_max` (but one is always kept).
    pub(super) fn new(
        (ttl, queue_wait_max): (Duration, Duration),
        (weigh, weight_max): (fn(&V) -> usize, usize),
        jobs: &Arc<Jobs>,
        source: impl Source<V>,
    ) -> Result<Arc<Self>> {
        let (graced, to_grace) = bounded(GRACED_MAX);
        let state = Mutex::new(State { answers: LruCache::unbounded(), weight: 0 });
        let memo = Arc::new(Self {
            ttl,
            queue_wait_max,
            source: Box::new(source),
            weigh,
            weight_max,
            jobs: Arc::clone(jobs),
            graced,
            state,
        });
        let weak = Arc::downgrade(&memo);
        thread::Builder::new()
            .name("grace".into())
            .spawn(move || end_grace(&weak, &to_grace))
            .map_err(|error| Error::io("starting the grace thread", &error))?;
        Ok(memo)
    }

    /// What is known of `path`, however old.
    pub(super) fn known(&self, path: &str) -> Option<V> {
        self.state.lock().answers.get(path).and_then(|answer| answer.value.clone())
    }

    /// What is known of `path`, if it is fresh.
    pub(super) fn fresh(&self, path: &str) -> Option<V> {
        let mut state = self.state.lock();
        let answer = state.answers.get(path)?;
        if answer.is_fresh() { answer.value.clone() } else { None }
    }

    /// Answers `then`: now if it is known and fresh, else when the origin has answered.
    pub(super) fn get(self: &Arc<Self>, path: &str, then: Then<V>) {
        self.get_by(path, None, then);
    }

    /// The same; what is not known at all is asked for with `load`.
    pub(super) fn get_by(self: &Arc<Self>, path: &str, load: Option<LoadOnce<V>>, then: Then<V>) {
        let mut state = self.state.lock();
        if !state.answers.contains(path) {
            state.answers.push(path.into(), Answer::unknown());
        }
        let Some((path, answer)) = state.answers.get_key_value_mut(path) else { return };
        let path = Arc::clone(path);
        if answer.is_fresh()
            && let Some(value) = answer.value.clone()
        {
            drop(state);
            return then(Ok(value));
        }
        // An old answer waits for the new one, but not for ever; unless it is doubted, or none but new ones are wanted.
        let has_grace = !answer.is_doubted && !self.ttl.is_zero();
        if let Some(old) = answer.value.clone().filter(|_| has_grace)
            && self.graced.try_send((Instant::now() + GRACE, Arc::clone(&path))).is_err()
        {
            self.ask(state, &path, None);
            return then(Ok(old));
        }
        let load = if answer.value.is_none() { load } else { None };
        answer.askers.push(then);
        self.ask(state, &path, load);
    }

    /// Has `path` asked for, unless it is fresh or being asked for; nobody waits.
    pub(super) fn prefetch(self: &Arc<Self>, path: &str) {
        let mut state = self.state.lock();
        let is_known = state.answers.peek(path).is_some_and(|answer| answer.is_asked || answer.is_fresh());
        if !is_known {
            let path: Arc<str> = path.into();
            if !state.answers.contains(&path) {
                state.answers.push(Arc::clone(&path), Answer::unknown());
            }
            self.ask(state, &path, None);
        }
    }

    /// Asks for `path` on this very thread with `load`, before there is anybody else. What kept the origin from answering,
    /// if what is known from earlier has to do.
    pub(super) fn begin(&self, path: &str, load: LoadOnce<V>) -> Result<Option<Error>> {
        match self.load(path, false, Some(load)) {
            (Ok(told), failure) => {
                self.learn(path, told);
                Ok(failure)
            }
            (Err(error), _) => Err(error),
        }
    }

    fn learn(&self, path: &str, told: Told<V>) {
        let path: Arc<str> = path.into();
        {
            let mut state = self.state.lock();
            if !state.answers.contains(&path) {
                state.answers.push(Arc::clone(&path), Answer::unknown());
            }
        }
        self.answered(&path, Ok(told));
    }

    /// All at `top` and below it is asked for anew by the next `get`.
    pub(super) fn expire_below(&self, top: &str) {
        for (_, answer) in self.state.lock().answers.iter_mut().filter(|(path, _)| is_at_or_below(path, top)) {
            answer.doubt();
        }
    }

    /// The next `get` asks the origin. What is known stays, for when the origin is away.
    pub(super) fn expire(&self, path: &str) {
        if let Some(answer) = self.state.lock().answers.peek_mut(path) {
            answer.doubt();
        }
    }

    /// What is known of `path` is changed as the origin was; where `change` can't (`false`), it is asked for anew.
    pub(super) fn amend(&self, path: &str, change: impl FnOnce(&mut V) -> bool) {
        let mut state = self.state.lock();
        let Some(answer) = state.answers.peek_mut(path) else { return };
        answer.is_outdated = answer.is_asked;
        let Some(value) = &mut answer.value else { return };
        let before = (self.weigh)(value);
        let is_changed = change(value);
        let after = (self.weigh)(value);
        if !is_changed {
            answer.doubt();
        }
        state.weight = state.weight + after - before;
    }

    /// Whether what is being asked has to be asked again.
    fn take_outdated(&self, path: &str) -> bool {
        let mut state = self.state.lock();
        state.answers.peek_mut(path).is_some_and(|answer| std::mem::take(&mut answer.is_outdated))
    }

    /// Starts the question if it is not under way. Takes the lock and gives it up.
    fn ask(
        self: &Arc<Self>,
        mut state: parking_lot::MutexGuard<'_, State<V>>,
        path: &Arc<str>,
        load: Option<LoadOnce<V>>,
    ) {
        let Some(answer) = state.answers.peek_mut(path) else { return };
        if std::mem::replace(&mut answer.is_asked, true) {
            return;
        }
        let is_known = answer.value.is_some() || answer.is_doubted;
        drop(state);
        let (memo, asked) = (Arc::clone(self), Arc::clone(path));
        let queued_at = Instant::now();
        let job = move || {
            // Behind too many questions to an origin that hangs: whoever waits has waited long enough.
            let load = if queued_at.elapsed() > memo.queue_wait_max {
                Some(Box::new(|path: &str| Err(late(path))) as LoadOnce<V>)
            } else {
                load
            };
            let told = panic::catch_unwind(AssertUnwindSafe(|| {
                let mut told = memo.load(&asked, is_known, load).0;
                for _ in 0..ASKED_AGAIN_MAX {
                    if !memo.take_outdated(&asked) {
                        break;
                    }
                    told = memo.load(&asked, true, None).0;
                }
                told
            }));
            memo.answered(
                &asked,
                told.unwrap_or_else(|_| {
                    Err(Error::new(Kind::Local, format!("{asked}: a question failed inside reelfs")))
                }),
            );
        };
        if let Err(error) = self.jobs.run(job) {
            self.answered(path, Err(error));
        }
    }

    /// The answer from wherever it can be had: from disk if nothing is held in memory and that is fresh, else from the
    /// origin, else from disk after all. And what kept the origin from answering.
    fn load(&self, path: &str, is_known: bool, load: Option<LoadOnce<V>>) -> (Result<Told<V>>, Option<Error>) {
        let recalled = if is_known { None } else { self.source.recall(path) };
        if let Some(Recalled { value, fresh_for, .. }) = recalled.clone().filter(|known| !known.fresh_for.is_zero()) {
            return (Ok(Told { value, fresh_for, is_new: false, old: None }), None);
        }
        if let Some(known) = recalled.as_ref().filter(|known| !known.is_doubted && !self.ttl.is_zero()) {
            self.hold_old(path, &known.value);
        }
        match (load.map_or_else(|| self.source.ask(path), |load| load(path)), recalled) {
            (Ok(value), recalled) => {
                let old = recalled.map(|known| known.value);
                (Ok(Told { value, fresh_for: self.ttl, is_new: true, old }), None)
            }
            (Err(error), Some(Recalled { value, .. })) if leaves_known(&error) => {
                log::info!("{path}: {error}; going on with what an earlier run knew");
                (Ok(Told { value, fresh_for: FAILED_FOR, is_new: false, old: None }), Some(error))
            }
            (Err(error), _) => (Err(error), None),
        }
    }

    /// Holds what was recalled as an old answer while the origin is asked, so that whoever waits is given it in a moment.
    fn hold_old(&self, path: &str, value: &V) {
        let mut state = self.state.lock();
        let Some((path, answer)) = state.answers.get_key_value_mut(path) else { return };
        // Asked for anew meanwhile.
        if answer.value.is_some() || answer.is_doubted {
            return;
        }
        answer.value = Some(value.clone());
        let path = Arc::clone(path);
        let is_graced = self.graced.try_send((Instant::now() + GRACE, path)).is_ok();
        let askers = if is_graced { Vec::new() } else { std::mem::take(&mut answer.askers) };
        state.weight += (self.weigh)(value);
        self.shrink(&mut state);
        drop(state);
        for then in askers {
            then(Ok(value.clone()));
        }
    }

    fn answered(&self, path: &Arc<str>, told: Result<Told<V>>) {
        let mut state = self.state.lock();
        let Some(answer) = state.answers.peek_mut(path) else { return };
        answer.is_asked = false;
        let askers = std::mem::take(&mut answer.askers);
        let mut learned = None;
        let mut is_gone = false;
        let reply = match (told, &answer.value) {
            (Ok(told), held) => {
                let (gained, lost) = ((self.weigh)(&told.value), held.as_ref().map_or(0, self.weigh));
                let old = held.clone().or(told.old);
                answer.value = Some(told.value.clone());
                let is_outdated = std::mem::take(&mut answer.is_outdated);
                answer.fresh_until = if is_outdated { None } else { Some(Instant::now() + told.fresh_for) };
                answer.is_doubted = is_outdated;
                state.weight = state.weight + gained - lost;
                self.shrink(&mut state);
                learned = told.is_new.then(|| (old, told.value.clone()));
                Ok(told.value)
            }
            // Away is not gone: what was known stays true until the origin itself says otherwise.
            (Err(error), Some(old)) if leaves_known(&error) => {
                log::info!("{path}: {error}; going on with what is known");
                let old = old.clone();
                answer.fresh_until = Some(Instant::now() + FAILED_FOR);
                Ok(old)
            }
            (Err(error), _) => {
                is_gone = error.kind() == Kind::Missing;
                if let Some(gone) = state.answers.pop(path) {
                    state.weight -= gone.value.as_ref().map_or(0, self.weigh);
                }
                Err(error)
            }
        };
        drop(state);
        for then in askers {
            then(reply.clone());
        }
        if let Some((old, new)) = learned {
            self.source.learned(path, old.as_ref(), &new);
        }
        if is_gone {
            self.source.gone(path);
        }
    }

    /// Lets go of the least recently used that nobody waits for.
    fn shrink(&self, state: &mut State<V>) {
        let mut looks = state.answers.len();
        while state.weight > self.weight_max && state.answers.len() > 1 && looks > 0 {
            looks -= 1;
            let Some((path, answer)) = state.answers.pop_lru() else { return };
            if answer.is_asked {
                state.answers.push(path, answer);
            } else {
                state.weight -= answer.value.as_ref().map_or(0, self.weigh);
            }
        }
    }
}

impl<V> Answer<V> {
    fn unknown() -> Self {
        Self {
            value: None,
            fresh_until: None,
            is_doubted: false,
            is_asked: false,
            is_outdated: false,
            askers: Vec::new(),
        }
    }

    fn doubt(&mut self) {
        self.fresh_until = None;
        self.is_doubted = true;
        self.is_outdated = self.is_asked;
    }

    fn is_fresh(&self) -> bool {
        self.fresh_until.is_some_and(|until| Instant::now() < until)
    }
}

/// Whether an error says nothing of what is there: the origin is away, or what answers in its place is not it.
fn leaves_known(error: &Error) -> bool {
    !matches!(error.kind(), Kind::Missing | Kind::Denied | Kind::Changed | Kind::Invalid)
}

fn late(path: &str) -> Error {
    Error::new(Kind::TimedOut, format!("{path}: the origin did not answer in time"))
}

/// Gives those who have waited long enough the old answer, in the order they came.
fn end_grace<V: Clone + Send + 'static>(memo: &Weak<Memo<V>>, inbox: &Receiver<(Instant, Arc<str>)>) {
    for (deadline, path) in inbox {
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
        let Some(memo) = memo.upgrade() else { return };
        let mut state = memo.state.lock();
        let Some(answer) = state.answers.peek_mut(&path).filter(|answer| !answer.is_doubted) else { continue };
        let Some(old) = answer.value.clone() else { continue };
        let askers = std::mem::take(&mut answer.askers);
        drop(state);
        for then in askers {
            then(Ok(old.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
