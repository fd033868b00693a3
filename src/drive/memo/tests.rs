//! Answers that are fresh, old, late, wanted by many, or remembered from an earlier run.
//! Never here: what an origin says.

use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_channel::Receiver;

use super::*;

const LONG: Duration = Duration::from_mins(10);

struct Counting {
    tokens: Receiver<Result<()>>,
    count: AtomicUsize,
    recalled: Option<Recalled<usize>>,
}

impl Source<usize> for Counting {
    fn ask(&self, _: &str, _: &Question<'_>) -> Result<usize> {
        match self.tokens.recv() {
            Ok(Err(error)) => Err(error),
            _ => Ok(self.count.fetch_add(1, Ordering::Relaxed)),
        }
    }

    fn recall(&self, _: &str) -> Option<Recalled<usize>> {
        self.recalled.clone()
    }
}

fn ask(memo: &Arc<Memo<usize>>, path: &str) -> Receiver<Result<usize>> {
    let (answer, answers) = bounded(1);
    memo.get(path, Box::new(move |result| drop(answer.send(result))));
    answers
}

/// A memo whose answers count up, and whose origin answers one question for each token.
fn counting(ttl: Duration) -> (Arc<Memo<usize>>, Sender<Result<()>>) {
    remembering(ttl, None)
}

/// The same, with an answer on disk.
fn remembering(ttl: Duration, recalled: Option<(usize, Duration)>) -> (Arc<Memo<usize>>, Sender<Result<()>>) {
    with_recalled(ttl, recalled, Doubt::Wrong)
}

fn with_recalled(
    ttl: Duration,
    recalled: Option<(usize, Duration)>,
    doubt: Doubt,
) -> (Arc<Memo<usize>>, Sender<Result<()>>) {
    let jobs = Arc::new(Jobs::start("test", 4).unwrap());
    let recalls = Arc::new(Jobs::start("test", 1).unwrap());
    let (token, tokens) = bounded::<Result<()>>(100);
    let count = AtomicUsize::new(0);
    let recalled = recalled.map(|(value, fresh_for)| Recalled { value, fresh_for, doubt });
    let source = Counting { tokens, count, recalled };
    (Memo::new(ttl, (|_| 1, 3), (&jobs, &recalls), source).unwrap(), token)
}

#[test]
fn many_askers_one_question() {
    let (memo, token) = counting(LONG);
    let answers: Vec<_> = (0..10).map(|_| ask(&memo, "a")).collect();
    token.send(Ok(())).unwrap();
    assert!(answers.iter().all(|answer| answer.recv_timeout(LONG).unwrap().unwrap() == 0));
    assert_eq!(ask(&memo, "a").recv().unwrap().unwrap(), 0, "fresh: at once");
}

#[test]
fn an_old_answer_is_given_while_the_origin_hangs() {
    let (memo, token) = counting(Duration::from_nanos(1));
    token.send(Ok(())).unwrap();
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), 0);
    let hanging = ask(&memo, "a");
    assert_eq!(hanging.recv_timeout(LONG).unwrap().unwrap(), 0, "no token yet: the old one");
    token.send(Ok(())).unwrap();
    drop(token);
}

#[test]
fn away_is_not_gone() {
    let (memo, token) = counting(Duration::ZERO);
    token.send(Ok(())).unwrap();
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), 0);
    token.send(Err(Error::new(Kind::Unreachable, "away"))).unwrap();
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), 0);
    assert_eq!(memo.known("a"), Some(0));
}

#[test]
fn what_an_earlier_run_knew_counts_while_it_is_fresh_or_nobody_answers() {
    let (memo, _token) = remembering(LONG, Some((77, LONG)));
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), 77, "the origin was not asked");

    let (memo, token) = remembering(LONG, Some((77, Duration::ZERO)));
    token.send(Ok(())).unwrap();
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), 0);
    token.send(Err(Error::new(Kind::Unreachable, "away"))).unwrap();
    assert_eq!(ask(&memo, "b").recv_timeout(LONG).unwrap().unwrap(), 77);
    token.send(Err(Error::new(Kind::Missing, "gone"))).unwrap();
    assert_eq!(ask(&memo, "c").recv_timeout(LONG).unwrap().unwrap_err().kind(), Kind::Missing);
    token.send(Err(Error::new(Kind::Denied, "no"))).unwrap();
    assert_eq!(ask(&memo, "d").recv_timeout(LONG).unwrap().unwrap_err().kind(), Kind::Denied);
}

#[test]
fn what_an_earlier_run_knew_is_given_while_the_origin_hangs() {
    let (memo, token) = with_recalled(LONG, Some((77, Duration::ZERO)), Doubt::Old);
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), 77, "no token yet");
    assert_eq!((memo.known("a"), memo.fresh("a")), (Some(77), None));
    token.send(Ok(())).unwrap();
    while memo.fresh("a") != Some(0) {
        thread::yield_now();
    }
    assert_eq!(memo.state.lock().weight, 1, "weighed once");
}

#[test]
fn what_is_asked_for_anew_is_not_taken_from_an_earlier_run() {
    let (memo, token) = remembering(LONG, Some((77, LONG)));
    for path in ["a", "a/b", "ab"] {
        assert_eq!(ask(&memo, path).recv_timeout(LONG).unwrap().unwrap(), 77);
    }
    memo.expire_below("a");
    token.send(Ok(())).unwrap();
    assert_eq!(ask(&memo, "a/b").recv_timeout(LONG).unwrap().unwrap(), 0);
    assert_eq!(ask(&memo, "ab").recv_timeout(LONG).unwrap().unwrap(), 77);
}

#[test]
fn a_start_tells_what_kept_the_origin_from_answering() {
    let away = || -> LoadOnce<usize> { Box::new(|_, _| Err(Error::new(Kind::Unreachable, "away"))) };
    let (memo, _token) = remembering(LONG, Some((77, Duration::ZERO)));
    assert_eq!(memo.begin("", away()).unwrap().unwrap().kind(), Kind::Unreachable);
    assert_eq!(memo.known(""), Some(77));
    let (memo, _token) = counting(LONG);
    assert_eq!(memo.begin("", away()).unwrap_err().kind(), Kind::Unreachable);
    assert!(memo.begin("", Box::new(|_, _| Ok(0))).unwrap().is_none());
    assert_eq!(memo.fresh(""), Some(0));
}

#[test]
fn gone_is_gone() {
    let (memo, token) = counting(LONG);
    token.send(Ok(())).unwrap();
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), 0);
    memo.expire("a");
    token.send(Err(Error::new(Kind::Missing, "gone"))).unwrap();
    // The grace may answer first; the answer after it can't be the old one.
    let _ = ask(&memo, "a").recv_timeout(LONG).unwrap();
    while memo.known("a").is_some() {
        thread::yield_now();
    }
}

#[test]
fn a_replaced_answer_is_never_given_again() {
    let (memo, token) = counting(LONG);
    token.send(Ok(())).unwrap();
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), 0);
    memo.forget("a");
    assert_eq!((memo.known("a"), memo.state.lock().weight), (None, 0));
    token.send(Err(Error::new(Kind::Unreachable, "away"))).unwrap();
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap_err().kind(), Kind::Unreachable);
}

#[test]
fn an_answer_replaced_while_it_is_asked_for_is_asked_for_again() {
    let (memo, token) = with_recalled(LONG, Some((77, Duration::ZERO)), Doubt::For(LONG));
    let answer = ask(&memo, "a");
    while memo.known("a") != Some(77) {
        thread::yield_now();
    }
    memo.forget("a");
    // The answer to the first question may be of before.
    token.send(Ok(())).unwrap();
    assert!(answer.recv_timeout(Duration::from_millis(50)).is_err());
    token.send(Ok(())).unwrap();
    assert_eq!(answer.recv_timeout(LONG).unwrap().unwrap(), 1);
    assert_eq!(memo.fresh("a"), Some(1));

    let answer = ask(&memo, "b");
    while memo.known("b") != Some(77) {
        thread::yield_now();
    }
    memo.forget("b");
    let away = || Err(Error::new(Kind::Unreachable, "away"));
    token.send(away()).unwrap();
    token.send(away()).unwrap();
    assert_eq!(answer.recv_timeout(LONG).unwrap().unwrap_err().kind(), Kind::Unreachable, "nor what was recalled");
}

#[test]
fn the_least_recently_used_go_first() {
    let (memo, token) = counting(LONG);
    for path in ["a", "b", "c", "d"] {
        token.send(Ok(())).unwrap();
        ask(&memo, path).recv_timeout(LONG).unwrap().unwrap();
    }
    assert_eq!(memo.known("a"), None);
    assert!(memo.known("b").is_some() && memo.known("d").is_some());
}

#[test]
fn refresh_shows_what_was_known_while_the_origin_hangs() {
    let (memo, token) = counting(LONG);
    token.send(Ok(())).unwrap();
    assert_eq!(ask(&memo, "a/b").recv_timeout(LONG).unwrap().unwrap(), 0);
    memo.refresh_below("a");
    let begun = Instant::now();
    assert_eq!(ask(&memo, "a/b").recv_timeout(LONG).unwrap().unwrap(), 0, "no token yet");
    assert!(begun.elapsed() >= WANTED_GRACE, "the new one is waited for");
    assert_eq!(ask(&memo, "a/b").recv_timeout(LONG).unwrap().unwrap(), 0, "nor for those who come later");
    token.send(Ok(())).unwrap();
    while memo.fresh("a/b") != Some(1) {
        thread::yield_now();
    }
}

#[test]
fn refresh_while_others_wait_puts_their_old_answer_off_and_does_not_lose_it() {
    let (memo, token) = counting(Duration::from_nanos(1));
    token.send(Ok(())).unwrap();
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), 0);
    let (earlier, begun) = (ask(&memo, "a"), Instant::now());
    memo.refresh("a");
    assert_eq!(earlier.recv_timeout(LONG).unwrap().unwrap(), 0, "no token yet");
    // Where the machine is slow, the answer was given before the refresh.
    println!("given after {:.0?}", begun.elapsed());
    drop(token);
}

#[test]
fn the_old_answer_comes_when_its_time_has_come_or_too_many_wait() {
    let (memo, token) = counting(LONG);
    token.send(Ok(())).unwrap();
    assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), 0);
    memo.state.lock().answers.peek_mut("a").unwrap().doubt(Doubt::For(LONG));
    assert_eq!(memo.give_old("a", true), None, "nobody waits");
    let answer = ask(&memo, "a");
    assert!(memo.give_old("a", false).is_some_and(|given_at| given_at > Instant::now()), "put off");
    assert!(answer.try_recv().is_err());
    assert_eq!(memo.give_old("a", true), None);
    assert_eq!(answer.recv_timeout(LONG).unwrap().unwrap(), 0);
    let wrong = ask(&memo, "a");
    memo.expire("a");
    assert_eq!(memo.give_old("a", true), None);
    assert!(wrong.try_recv().is_err(), "what is wrong is not given");
    drop(token);
}

#[test]
fn refresh_shows_a_new_answer_that_comes_soon() {
    let (memo, token) = counting(LONG);
    for answer in 0..2 {
        token.send(Ok(())).unwrap();
        assert_eq!(ask(&memo, "a").recv_timeout(LONG).unwrap().unwrap(), answer);
        memo.refresh("a");
    }
}

#[test]
fn doubt_of_an_answer_says_when_it_is_given() {
    let now = Instant::now();
    let mut answer = Answer::<usize>::unknown();
    assert!(answer.given_at(now) == Some(now + GRACE) && answer.is_given(now));
    answer.doubt(Doubt::For(WANTED_GRACE));
    assert_eq!(answer.given_at(now), Some(now + WANTED_GRACE));
    answer.asked_at = Some(now);
    assert!(!answer.is_given(now) && answer.is_given(now + WANTED_GRACE));
    assert_eq!(answer.given_at(now + WANTED_GRACE), Some(now + WANTED_GRACE + GRACE), "it was waited for long enough");
    answer.doubt(Doubt::Wrong);
    answer.doubt(Doubt::For(WANTED_GRACE));
    assert!(answer.given_at(now).is_none() && !answer.is_given(now + LONG), "what is wrong stays so");
}

#[test]
fn recalled_answers_are_given_while_every_thread_hangs() {
    let (memo, token) = with_recalled(LONG, Some((77, Duration::ZERO)), Doubt::Old);
    // More than there are threads that ask.
    let answers: Vec<_> = (0..10).map(|number| ask(&memo, &number.to_string())).collect();
    assert!(answers.iter().all(|answer| answer.recv_timeout(LONG).unwrap().unwrap() == 77));
    drop(token);
}
