//! A bound on what is said again and again: the same warning once for each minute, with a count, and of warnings that differ
//! only in their file or their bytes the first few. Pure: times are told, not asked for.
//! Never here: writing lines.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use log::Level;

/// How long equal lines are counted before the count is told.
pub(super) const WINDOW: Duration = Duration::from_mins(1);
/// Different lines of one place in the program within that time: an outage has a line for each file that is read meanwhile.
const LINES_MAX: u32 = 6;
/// Lines that are remembered within that time; more are not told apart from each other.
const TEXTS_MAX: usize = 256;

/// A line that is to be logged.
pub(super) struct Said<'a> {
    pub level: Level,
    pub target: &'a str,
    /// The place in the program that says it: file and line.
    pub place: (&'a str, u32),
    pub text: &'a str,
}

/// What becomes of it.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// It is said now.
    pub is_said: bool,
    /// It is the first that is counted instead: somebody must ask for the count later.
    pub is_first_unsaid: bool,
    /// Counts whose time is up, to be said before it.
    pub over: Vec<Counted>,
}

/// Lines that were not said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Counted {
    pub level: Level,
    pub target: String,
    text: String,
    // With the first one, if that was said.
    times: u32,
    // Others like it, that differ from it.
    is_others: bool,
}

impl Counted {
    /// As it is logged.
    pub fn line(&self) -> String {
        let Self { text, times, .. } = self;
        if self.is_others {
            return format!("{times} more like these, the last of them: {text}");
        }
        format!("{text} (said {times} times)")
    }
}

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    // By text: since when, and how often.
    texts: HashMap<String, (Instant, Counted)>,
    // By place: since when, how many different lines were said, and those that were not.
    places: HashMap<(String, u32), (Instant, u32, Option<Counted>)>,
}

impl Repeats {
    /// `said` is to be logged at `now`.
    pub fn hear(&mut self, said: &Said<'_>, now: Instant) -> Verdict {
        let was_idle = self.is_idle();
        let over = self.take_over(now);
        let counted = |times, is_others| Counted {
            level: said.level,
            target: said.target.to_owned(),
            text: said.text.to_owned(),
            times,
            is_others,
        };
        if let Some((_, known)) = self.texts.get_mut(said.text) {
            known.times = known.times.saturating_add(1);
            return Verdict { is_said: false, is_first_unsaid: was_idle, over };
        }
        let place = (said.place.0.to_owned(), said.place.1);
        let (_, lines, others) = self.places.entry(place).or_insert((now, 0, None));
        if *lines >= LINES_MAX || self.texts.len() >= TEXTS_MAX {
            let times = others.as_ref().map_or(0, |others| others.times).saturating_add(1);
            *others = Some(counted(times, true));
            return Verdict { is_said: false, is_first_unsaid: was_idle, over };
        }
        *lines += 1;
        self.texts.insert(said.text.to_owned(), (now, counted(1, false)));
        Verdict { is_said: true, is_first_unsaid: false, over }
    }

    /// Whether nothing is counted that is still to be said.
    pub fn is_idle(&self) -> bool {
        self.texts.values().all(|(_, counted)| counted.times < 2)
            && self.places.values().all(|(_, _, others)| others.is_none())
    }

    /// The counts whose time is up at `now`.
    pub fn take_over(&mut self, now: Instant) -> Vec<Counted> {
        self.take(&|since| now.duration_since(since) >= WINDOW)
    }

    /// All counts.
    pub fn take_all(&mut self) -> Vec<Counted> {
        self.take(&|_| true)
    }

    fn take(&mut self, is_over: &dyn Fn(Instant) -> bool) -> Vec<Counted> {
        let mut over: Vec<_> = Vec::new();
        self.texts.retain(|_, (since, counted)| {
            let is_over = is_over(*since);
            over.extend((is_over && counted.times > 1).then(|| counted.clone()));
            !is_over
        });
        self.places.retain(|_, (since, _, others)| {
            let is_over = is_over(*since);
            over.extend(others.take_if(|_| is_over));
            !is_over
        });
        over.sort_by(|a, b| a.text.cmp(&b.text));
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Said<'_> {
        Said { level: Level::Warn, target: "reelfs::x", place: ("src/x.rs", 7), text }
    }

    fn lines(counted: &[Counted]) -> Vec<String> {
        counted.iter().map(Counted::line).collect()
    }

    #[test]
    fn equal_warnings_are_counted_for_a_minute() {
        let (mut repeats, begun) = (Repeats::default(), Instant::now());
        assert!(repeats.hear(&said("away"), begun).is_said);
        assert!(repeats.is_idle());
        let second = repeats.hear(&said("away"), begun + Duration::from_secs(1));
        assert!(!second.is_said && second.is_first_unsaid && second.over.is_empty());
        assert!(!repeats.hear(&said("away"), begun + Duration::from_secs(59)).is_first_unsaid, "somebody asks already");
        let later = repeats.hear(&said("away"), begun + WINDOW);
        assert_eq!((later.is_said, lines(&later.over)), (true, vec!["away (said 3 times)".to_owned()]));
    }

    #[test]
    fn warnings_of_an_outage_are_bounded_however_many_files_are_read() {
        let (mut repeats, begun) = (Repeats::default(), Instant::now());
        let mut told = 0;
        for file in 0..1_000 {
            told += u32::from(repeats.hear(&said(&format!("film {file}: no answer")), begun).is_said);
        }
        assert_eq!(told, LINES_MAX);
        assert!(repeats.hear(&Said { place: ("src/y.rs", 1), ..said("another thing") }, begun).is_said);
        let over = repeats.take_all();
        assert_eq!(lines(&over), ["994 more like these, the last of them: film 999: no answer"]);
        assert!(repeats.is_idle() && repeats.take_all().is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut repeats, begun) = (Repeats::default(), Instant::now());
        for line in 0..2_000 {
            let text = format!("{line}");
            let heard = Said { place: ("src/x.rs", line), ..said(&text) };
            repeats.hear(&heard, begun);
        }
        assert!(repeats.texts.len() <= TEXTS_MAX);
        assert!(repeats.take_over(begun + WINDOW).len() <= 2_000 && repeats.places.is_empty());
    }
}
