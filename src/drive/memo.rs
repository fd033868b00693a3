//! What the origin said, kept for a while: listings by folder, stats by file. Fresh answers are given at once; an old
//! one is asked for again, and given after all if the origin takes its time; many askers cause one question.
//! Never here: what a listing or a stat means.
//!
//! Invariant: whoever asks is answered exactly once, without a lock held.

mod grace;

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use lru::LruCache;
use parking_lot::Mutex;

use grace::{GRACED_MAX, end_grace};

use super::inodes::is_at_or_below;
use super::jobs::Jobs;
use crate::cancel::Cancel;
use crate::error::{Error, Kind, Result};

/// An old answer is given after this if no new one has come: below what a person notices, also twice in a row, as an
/// `open` by path waits for the name and then for the version. A near origin answers in time; behind a far one the old
/// answer comes first, and the new one is there for the next who asks.
const GRACE: Duration = Duration::from_millis(15);
/// The same where somebody has asked for new answers: what was known is shown if none comes by then.
const WANTED_GRACE: Duration = Duration::from_millis(500);
/// After a question that failed, the old answer counts as fresh this long: an origin that is away is not hammered.
const FAILED_FOR: Duration = Duration::from_secs(2);
/// A question is asked again so often because of what changed meanwhile; then the answer is taken, and asked for anew by
/// the next who wants it.
const ASKED_AGAIN_MAX: usize = 8;

/// Takes the answer.
pub(super) type Then<V> = Box<dyn FnOnce(Result<V>) + Send>;
/// Another way to the same answer, for one question; see [`Source::ask`].
pub(super) type LoadOnce<V> = Box<dyn FnOnce(&str, &Question<'_>) -> Result<V> + Send>;

/// How a question is asked.
pub(super) struct Question<'a> {
    /// There is an old answer that will do if this one does not come.
    pub is_known: bool,
    /// Set when its time is over.
    pub cancel: &'a Cancel,
}

/// What speaks against an old answer, and how long it waits for a new one before it is given all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// Nothing but its age.
    Old,
    /// New answers were asked for, or it is of an earlier run: given if none has come after this.
    For(Duration),
    /// Known to be wrong by now: good only if the origin can't be asked.
    Wrong,
    /// Of another version than there is by now: never good. What is on its way may be so, too.
    Replaced,
}

impl Doubt {
    /// After how long an old answer stands in for one that does not come.
    fn grace(self) -> Option<Duration> {
        match self {
            Self::Old => Some(GRACE),
            Self::For(grace) => Some(grace),
            Self::Wrong | Self::Replaced => None,
        }
    }
}

/// Where answers come from, and who else is told of them. Called on threads for names, without a lock held; `recall` on
/// those that never ask the origin.
pub(super) trait Source<V>: Send + Sync + 'static {
    /// Asks the origin.
    fn ask(&self, path: &str, question: &Question<'_>) -> Result<V>;

    /// What is known of a path that nothing is held of in memory.
    fn recall(&self, _path: &str) -> Option<Recalled<V>> {
        None
    }

    /// The origin has answered `new`; what is to be known from now on, beside what was known before.
    fn settle(&self, _path: &str, _old: Option<&V>, new: V) -> V {
        new
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
    pub doubt: Doubt,
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

impl<V: Clone> Told<V> {
    /// What is known and fresh.
    fn fresh(recalled: Option<&Recalled<V>>) -> Option<Self> {
        let Recalled { value, fresh_for, .. } = recalled.filter(|known| !known.fresh_for.is_zero())?;
        Some(Self { value: value.clone(), fresh_for: *fresh_for, is_new: false, old: None })
    }

    /// What has to do, as the origin does not answer.
    fn old(value: V) -> Self {
        Self { value, fresh_for: FAILED_FOR, is_new: false, old: None }
    }
}

/// Answers by path.
pub(super) struct Memo<V> {
    ttl: Duration,
    source: Box<dyn Source<V>>,
    // What an answer weighs, and how much all may weigh before the least recently used go.
    weigh: fn(&V) -> usize,
    weight_max: usize,
    // Ask the origin, and look up what an earlier run knew, which never waits for the origin.
    jobs: Arc<Jobs>,
    recalls: Arc<Jobs>,
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
    doubt: Doubt,
    // Since then, if it is being asked for.
    asked_at: Option<Instant>,
    // What is being asked may be answered with what was true before a change of our own: it is asked again.
    is_outdated: bool,
    askers: Vec<Then<V>>,
}

impl<V: Clone + Send + 'static> Memo<V> {
    /// Answers of `source` count as fresh for `ttl`; all together weigh at most `weight_max` (but one is always kept).
    pub(super) fn new(
        ttl: Duration,
        (weigh, weight_max): (fn(&V) -> usize, usize),
        (jobs, recalls): (&Arc<Jobs>, &Arc<Jobs>),
        source: impl Source<V>,
    ) -> Result<Arc<Self>> {
        let (graced, to_grace) = bounded(GRACED_MAX);
        let state = Mutex::new(State { answers: LruCache::unbounded(), weight: 0 });
        let memo = Arc::new(Self {
            ttl,
            source: Box::new(source),
            weigh,
            weight_max,
            jobs: Arc::clone(jobs),
            recalls: Arc::clone(recalls),
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
        // An old answer waits for the new one, but not for ever; unless it is wrong, or none but new ones are wanted.
        let given_at = answer.given_at(Instant::now()).filter(|_| !self.ttl.is_zero());
        if let (Some(old), Some(given_at)) = (answer.value.clone(), given_at)
            && self.graced.try_send((given_at, Arc::clone(&path))).is_err()
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
        let is_known = state.answers.peek(path).is_some_and(|answer| answer.asked_at.is_some() || answer.is_fresh());
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
        let recalled = self.source.recall(path);
        let told = match Told::fresh(recalled.as_ref()) {
            Some(told) => Ok((told, None)),
            None => self.load(path, false, (Some(load), recalled), &Cancel::new()),
        };
        told.map(|(told, failure)| {
            self.learn(path, told);
            failure
        })
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

    /// All at `top` and below it is asked for anew by the next `get`, as somebody wants it so.
    pub(super) fn refresh_below(&self, top: &str) {
        self.doubt_below(top, Doubt::For(WANTED_GRACE));
    }

    /// The same for one path.
    pub(super) fn refresh(&self, path: &str) {
        if let Some(answer) = self.state.lock().answers.peek_mut(path) {
            answer.doubt(Doubt::For(WANTED_GRACE));
        }
    }

    /// What is known of all at `top` and below it is wrong.
    pub(super) fn expire_below(&self, top: &str) {
        self.doubt_below(top, Doubt::Wrong);
    }

    fn doubt_below(&self, top: &str, doubt: Doubt) {
        for (_, answer) in self.state.lock().answers.iter_mut().filter(|(path, _)| is_at_or_below(path, top)) {
            answer.doubt(doubt);
        }
    }

    /// What is known is wrong: the next `get` asks the origin. It stays, for when the origin is away.
    pub(super) fn expire(&self, path: &str) {
        if let Some(answer) = self.state.lock().answers.peek_mut(path) {
            answer.doubt(Doubt::Wrong);
        }
    }

    /// What is known of `path` is of a version that is no more: it is never given again, not even while the origin is away. A
    /// question under way is asked again.
    pub(super) fn forget(&self, path: &str) {
        let mut state = self.state.lock();
        let Some(answer) = state.answers.peek_mut(path) else { return };
        let value = answer.value.take();
        if answer.asked_at.is_some() {
            answer.doubt(Doubt::Replaced);
        } else {
            state.answers.pop(path);
        }
        state.weight -= value.as_ref().map_or(0, self.weigh);
    }

    /// What is known of `path` is changed as the origin was; where `change` can't (`false`), it is asked for anew.
    pub(super) fn amend(&self, path: &str, change: impl FnOnce(&mut V) -> bool) {
        let mut state = self.state.lock();
        let Some(answer) = state.answers.peek_mut(path) else { return };
        answer.is_outdated = answer.asked_at.is_some();
        let Some(value) = &mut answer.value else { return };
        let before = (self.weigh)(value);
        let is_changed = change(value);
        let after = (self.weigh)(value);
        if !is_changed {
            answer.doubt(Doubt::Wrong);
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
        if answer.asked_at.is_some() {
            return;
        }
        answer.asked_at = Some(Instant::now());
        let is_known = answer.value.is_some() || answer.doubt >= Doubt::Wrong;
        drop(state);
        if is_known {
            return self.question(path, true, load, None);
        }
        // On threads of their own: while all that ask the origin are busy, what an earlier run knew is found all the same.
        let (memo, asked) = (Arc::clone(self), Arc::clone(path));
        let recall = move || {
            let recalled = panic::catch_unwind(AssertUnwindSafe(|| memo.source.recall(&asked))).unwrap_or_default();
            if let Some(told) = Told::fresh(recalled.as_ref()) {
                return memo.answered(&asked, Ok(told));
            }
            if let Some(known) = recalled.as_ref().filter(|_| !memo.ttl.is_zero()) {
                memo.hold_old(&asked, known);
            }
            memo.question(&asked, false, load, recalled);
        };
        if let Err(error) = self.recalls.run(recall) {
            self.answered(path, Err(error));
        }
    }

    /// Has the origin asked.
    fn question(
        self: &Arc<Self>,
        path: &Arc<str>,
        is_known: bool,
        load: Option<LoadOnce<V>>,
        recalled: Option<Recalled<V>>,
    ) {
        let (memo, asked, known) = (Arc::clone(self), Arc::clone(path), recalled.clone());
        let work = move |cancel: &Cancel| {
            let told = panic::catch_unwind(AssertUnwindSafe(|| {
                let mut told = memo.load(&asked, is_known, (load, recalled), cancel);
                for _ in 0..ASKED_AGAIN_MAX {
                    if !memo.take_outdated(&asked) {
                        break;
                    }
                    told = memo.load(&asked, true, (None, None), cancel);
                }
                told
            }));
            let told = told
                .unwrap_or_else(|_| Err(Error::new(Kind::Local, format!("{asked}: a question failed inside reelfs"))));
            memo.answered(&asked, told.map(|(told, _)| told));
        };
        // Behind too many questions to an origin that hangs: whoever waits has waited long enough.
        let (memo, asked) = (Arc::clone(self), Arc::clone(path));
        let late = move || {
            let told = known.map_or_else(|| Err(late(&asked)), |known| Ok(Told::old(known.value)));
            memo.answered(&asked, told);
        };
        if let Err(error) = self.jobs.ask(work, late) {
            self.answered(path, Err(error));
        }
    }

    /// The answer from the origin, else what was recalled after all. And what kept the origin from answering.
    fn load(
        &self,
        path: &str,
        is_known: bool,
        (load, recalled): (Option<LoadOnce<V>>, Option<Recalled<V>>),
        cancel: &Cancel,
    ) -> Result<(Told<V>, Option<Error>)> {
        let question = Question { is_known: is_known || recalled.is_some(), cancel };
        let asked = load.map_or_else(|| self.source.ask(path, &question), |load| load(path, &question));
        // Not by whoever asked: its time was over.
        let is_called_off = |error: &Error| error.kind() == Kind::Cancelled && cancel.is_cancelled();
        match (asked.map_err(|error| if is_called_off(&error) { late(path) } else { error }), recalled) {
            (Ok(value), recalled) => {
                let old = recalled.map(|known| known.value);
                let value = self.source.settle(path, old.clone().or_else(|| self.known(path)).as_ref(), value);
                Ok((Told { value, fresh_for: self.ttl, is_new: true, old }, None))
            }
            (Err(error), Some(Recalled { value, .. })) if leaves_known(&error) => {
                log::info!("{path}: {error}; going on with what an earlier run knew");
                Ok((Told::old(value), Some(error)))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Holds what was recalled as an old answer while the origin is asked, so that whoever waits is given it in a moment.
    fn hold_old(&self, path: &str, known: &Recalled<V>) {
        let mut state = self.state.lock();
        let Some((path, answer)) = state.answers.get_key_value_mut(path) else { return };
        // Asked for anew meanwhile.
        if answer.value.is_some() || answer.doubt >= Doubt::Wrong {
            return;
        }
        answer.doubt = answer.doubt.max(known.doubt);
        let Some(given_at) = answer.given_at(Instant::now()) else { return };
        answer.value = Some(known.value.clone());
        let path = Arc::clone(path);
        let is_graced = self.graced.try_send((given_at, path)).is_ok();
        let askers = if is_graced { Vec::new() } else { std::mem::take(&mut answer.askers) };
        state.weight += (self.weigh)(&known.value);
        self.shrink(&mut state);
        drop(state);
        for then in askers {
            then(Ok(known.value.clone()));
        }
    }

    fn answered(&self, path: &Arc<str>, told: Result<Told<V>>) {
        let mut state = self.state.lock();
        let Some(answer) = state.answers.peek_mut(path) else { return };
        answer.asked_at = None;
        let askers = std::mem::take(&mut answer.askers);
        let is_replaced = answer.is_outdated && answer.doubt == Doubt::Replaced;
        let told = if is_replaced { Err(replaced(path)) } else { told };
        let mut learned = None;
        let mut is_gone = false;
        let reply = match (told, &answer.value) {
            (Ok(told), held) => {
                let (gained, lost) = ((self.weigh)(&told.value), held.as_ref().map_or(0, self.weigh));
                let old = held.clone().or(told.old);
                answer.value = Some(told.value.clone());
                let is_outdated = std::mem::take(&mut answer.is_outdated);
                answer.fresh_until = if is_outdated { None } else { Some(Instant::now() + told.fresh_for) };
                answer.doubt = if is_outdated { Doubt::Wrong } else { Doubt::Old };
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

    /// Those who wait for `path` are given the old answer, if its time has come or there are too many who wait (`at_once`). When
    /// to come again, if its time is still to come: it may have been put off since they asked.
    fn give_old(&self, path: &str, at_once: bool) -> Option<Instant> {
        let mut state = self.state.lock();
        let answer = state.answers.peek_mut(path).filter(|answer| !answer.askers.is_empty())?;
        let (old, grace) = (answer.value.clone()?, answer.doubt.grace()?);
        let now = Instant::now();
        if !at_once && !answer.is_given(now) {
            return Some(answer.asked_at.unwrap_or(now) + grace);
        }
        let askers = std::mem::take(&mut answer.askers);
        drop(state);
        for then in askers {
            then(Ok(old.clone()));
        }
        None
    }

    /// Lets go of the least recently used that nobody waits for.
    fn shrink(&self, state: &mut State<V>) {
        let mut looks = state.answers.len();
        while state.weight > self.weight_max && state.answers.len() > 1 && looks > 0 {
            looks -= 1;
            let Some((path, answer)) = state.answers.pop_lru() else { return };
            if answer.asked_at.is_some() {
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
            doubt: Doubt::Old,
            asked_at: None,
            is_outdated: false,
            askers: Vec::new(),
        }
    }

    fn doubt(&mut self, doubt: Doubt) {
        self.fresh_until = None;
        self.doubt = self.doubt.max(doubt);
        self.is_outdated = self.asked_at.is_some();
    }

    /// When an old answer is given to whoever asks at `now`: those who come late in a long wait need not wait as long.
    fn given_at(&self, now: Instant) -> Option<Instant> {
        let grace = self.doubt.grace()?;
        Some((self.asked_at.unwrap_or(now) + grace).max(now + GRACE))
    }

    /// Whether an old answer is given at `now`, as no new one has come.
    fn is_given(&self, now: Instant) -> bool {
        let waits_until = self.doubt.grace().map(|grace| self.asked_at.unwrap_or(now) + grace);
        self.doubt == Doubt::Old || waits_until.is_some_and(|until| until <= now)
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

fn replaced(path: &str) -> Error {
    Error::new(Kind::Changed, format!("{path} has changed at the origin while it was asked about: try again"))
}

#[cfg(test)]
mod tests;
