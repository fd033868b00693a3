//! What is wrong with a mount right now and since when, and the last thing that went wrong: told by the rooms that notice,
//! shown by `reelfs status`.
//! Never here: decisions; nobody acts on what stands here.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use parking_lot::Mutex;

use crate::error::{Error, Kind};

/// The part of a mount that has a problem. Each has one at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The far side does not answer.
    Origin,
    /// The cache keeps nothing: its disk is full, or everything in it is pinned or in use.
    CacheRoom,
    /// The cache keeps nothing: its index cannot be written, or was set aside.
    CacheIndex,
}

impl Part {
    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::CacheRoom | Self::CacheIndex => "cache",
        }
    }
}

/// Something that was noticed, and when.
#[derive(Clone, Debug)]
pub struct Noticed {
    /// One line for a person.
    pub message: String,
    /// For showing a length of time.
    pub at: Instant,
    /// For showing a time of day.
    pub clock: SystemTime,
}

impl Noticed {
    fn now(message: String) -> Self {
        Self { message, at: Instant::now(), clock: SystemTime::now() }
    }
}

/// All of it. Small and bounded: one problem for each part, and one error.
#[derive(Debug, Default)]
pub struct Problems {
    // Taken alone, for a moment.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    current: BTreeMap<Part, Noticed>,
    last_error: Option<Noticed>,
}

impl Problems {
    /// `part` has a problem from now on; if it has one already, that one's time stays. Whether it is new.
    pub fn begins(&self, part: Part, message: impl Into<String>) -> bool {
        let message = message.into();
        let mut state = self.state.lock();
        if let Some(noticed) = state.current.get_mut(&part) {
            noticed.message = message;
            return false;
        }
        let noticed = Noticed::now(message);
        state.last_error = Some(noticed.clone());
        state.current.insert(part, noticed);
        true
    }

    /// The problem of `part` is over; what it was, if there was one.
    pub fn ends(&self, part: Part) -> Option<Noticed> {
        let mut state = self.state.lock();
        // Asked after each piece that is kept.
        if state.current.is_empty() { None } else { state.current.remove(&part) }
    }

    /// Something went wrong, and may be right the next time. What is no failure of a mount is passed over: names that are
    /// not there, files that have changed, questions that were called off.
    pub fn happened(&self, error: &Error) {
        if !matches!(error.kind(), Kind::Missing | Kind::Changed | Kind::Cancelled | Kind::Away) {
            self.state.lock().last_error = Some(Noticed::now(error.to_string()));
        }
    }

    /// The problem of `part` now.
    pub fn of(&self, part: Part) -> Option<Noticed> {
        self.state.lock().current.get(&part).cloned()
    }

    /// All problems there are now.
    pub fn now(&self) -> Vec<(Part, Noticed)> {
        self.state.lock().current.iter().map(|(part, noticed)| (*part, noticed.clone())).collect()
    }

    /// The last thing that went wrong since the mount began.
    pub fn last_error(&self) -> Option<Noticed> {
        self.state.lock().last_error.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_stay_until_they_end_and_errors_until_the_next() {
        let problems = Problems::default();
        assert!(problems.begins(Part::CacheRoom, "full"));
        let since = problems.of(Part::CacheRoom).unwrap().at;
        assert!(!problems.begins(Part::CacheRoom, "fuller"), "it has begun already");
        assert!(problems.begins(Part::Origin, "away"));
        let told: Vec<_> = problems.now().into_iter().map(|(part, noticed)| (part, noticed.message)).collect();
        assert_eq!(told, [(Part::Origin, "away".to_owned()), (Part::CacheRoom, "fuller".to_owned())]);
        assert_eq!(problems.ends(Part::CacheRoom).unwrap().at, since);
        assert!(problems.ends(Part::CacheRoom).is_none() && problems.of(Part::CacheRoom).is_none());
        problems.happened(&Error::new(Kind::Denied, "401"));
        problems.happened(&Error::new(Kind::Missing, "404"));
        assert_eq!(problems.last_error().unwrap().message, "401");
    }
}
