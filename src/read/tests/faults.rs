//! Origins that hang, fail and panic, and ends that come early: whoever waits is answered, and the next read is none the worse.
//! Never here: when a request is made again (see `retry`).

use super::*;
use crate::fetch::Lane;

#[test]
fn a_hanging_origin_ends_in_time_and_stops_nothing_else() {
    let house = House::build(&Plan { timeout: Duration::from_millis(400), ..PLAN });
    let handle = house.open();
    house.read(&handle, ByteRange::at(0, 64 * KIB));
    house.cache.flush();
    house.gate(true);
    let begun = Instant::now();
    let answers: Vec<_> = (1..30).map(|slot| house.ask(&house.open(), ByteRange::at(slot * CHUNK, KIB))).collect();
    let mut buffer = vec![0; 64 << 10];
    assert!(house.reader().read_cached(&handle, 0, &mut buffer), "what is here is answered on the spot");
    assert_eq!(buffer, right(ByteRange::at(0, 64 * KIB)));
    let request = house.request();
    for answer in answers {
        assert_eq!(wait(&answer).unwrap_err().kind(), Kind::TimedOut);
    }
    assert!(begun.elapsed() >= Duration::from_millis(400));
    request.wait_cancelled();
    // And when the origin is back, so are its bytes.
    house.gate(false);
    house.read(&handle, ByteRange::at(3 * CHUNK, KIB));
}

#[test]
fn a_late_read_does_not_call_off_what_others_wait_for() {
    let house = House::build(&PLAN);
    house.gate(true);
    let (first, second) = (house.open(), house.open());
    let waits = house.ask(&first, ByteRange::at(CHUNK, KIB));
    let request = house.request();
    let late = house.ask(&second, ByteRange::at(2 * CHUNK, KIB));
    let other = house.request();
    drop(late);
    // As the deadline does.
    house.reader().core.fetcher.call_off_unwanted();
    assert!(!request.cancel.is_cancelled() && !other.cancel.is_cancelled());
    request.act(Act::Finish);
    other.act(Act::Finish);
    assert!(wait(&waits).unwrap() == right(ByteRange::at(CHUNK, KIB)));
}

#[test]
fn a_panic_in_an_origin_wakes_everyone_and_the_next_read_works() {
    let house = House::build(&Plan { connections: 1, ..PLAN });
    house.gate(true);
    let range = ByteRange::at(CHUNK, KIB);
    let handles: Vec<_> = (0..5).map(|_| house.open()).collect();
    let answers: Vec<_> = handles.iter().map(|handle| house.ask(handle, range)).collect();
    house.request().act(Act::Panic);
    for answer in answers {
        assert_eq!(wait(&answer).unwrap_err().kind(), Kind::Local);
    }
    house.gate(false);
    house.read(&handles[0], range);
}

#[test]
fn what_may_pass_is_asked_again_and_what_came_is_not() {
    let house = House::build(&PLAN);
    let handle = house.sequential(128 * KIB);
    house.gate(true);
    let answer = house.ask(&handle, ByteRange::at(128 * KIB, 128 * KIB));
    // On a busy machine the rest of the chunk may be asked for before the read is, and on its own.
    let mut first = house.request();
    if first.range == ByteRange::new(256 * KIB, CHUNK) {
        first.act(Act::Finish);
        first = house.request();
    }
    first.act(Act::Send(100 * KIB));
    first.act(Act::Fail(Error::new(Kind::Unreachable, "reset")));
    let second = house.request();
    assert_eq!(second.range, ByteRange::new(228 * KIB, first.range.end));
    second.act(Act::Finish);
    assert!(wait(&answer).unwrap() == right(ByteRange::at(128 * KIB, 128 * KIB)));
}

#[test]
fn what_cannot_pass_is_told_at_once() {
    for kind in [Kind::Missing, Kind::Denied, Kind::Changed, Kind::Unsupported] {
        let house = House::build(&PLAN);
        *house.origin.refusal.lock() = Some(kind);
        let error = read(house.reader(), &house.open(), ByteRange::at(0, KIB)).unwrap_err();
        assert_eq!((error.kind(), house.origin.refused.load(Ordering::Relaxed)), (kind, 1));
    }
}

#[test]
fn reader_is_asked_for_until_its_deadline() {
    let house = House::build(&Plan { timeout: Duration::from_secs(2), ..PLAN });
    for kind in [Kind::Busy, Kind::Unreachable] {
        *house.origin.refusal.lock() = Some(kind);
        let before = house.origin.refused.load(Ordering::Relaxed);
        let begun = Instant::now();
        let error = read(house.reader(), &house.open(), ByteRange::at(0, KIB)).unwrap_err();
        assert!(matches!(error.kind(), Kind::TimedOut) || error.kind() == kind, "{error}");
        assert!(begun.elapsed() >= Duration::from_millis(1_800), "{kind:?}: it could still have come");
        assert!(house.origin.refused.load(Ordering::Relaxed) > before + 3, "{kind:?}: more often than a guess is");
    }
    // It is back before the deadline, which is far off here: this machine may be busy.
    let house = House::build(&Plan { timeout: Duration::from_secs(20), ..PLAN });
    *house.origin.refusal.lock() = Some(Kind::Unreachable);
    let answer = house.ask(&house.open(), ByteRange::at(CHUNK, KIB));
    std::thread::sleep(Duration::from_millis(700));
    *house.origin.refusal.lock() = None;
    assert!(wait(&answer).unwrap() == right(ByteRange::at(CHUNK, KIB)));
}

#[test]
fn guess_gives_way_to_a_reader_who_is_refused() {
    let house = House::build(&PLAN);
    let handle = house.open();
    house.gate(true);
    let _interests =
        house.reader().core.fetcher.want(handle.entry(), ByteRange::at(10 * CHUNK, CHUNK), Lane::Lookahead);
    let guess = house.request();
    *house.origin.refusal.lock() = Some(Kind::Busy);
    let answer = house.ask(&handle, ByteRange::at(30 * CHUNK, KIB));
    guess.wait_cancelled();
    *house.origin.refusal.lock() = None;
    house.gate(false);
    assert!(wait(&answer).unwrap() == right(ByteRange::at(30 * CHUNK, KIB)));
}

#[test]
fn guess_that_is_refused_waits_for_its_turn() {
    let house = House::build(&PLAN);
    let handle = house.open();
    house.gate(true);
    let want =
        |slot| house.reader().core.fetcher.want(handle.entry(), ByteRange::at(slot * CHUNK, CHUNK), Lane::Lookahead);
    let _first = want(10);
    let guess = house.request();
    *house.origin.refusal.lock() = Some(Kind::Unreachable);
    let second = want(20);
    eventually(|| house.origin.refused.load(Ordering::Relaxed) == 1);
    *house.origin.refusal.lock() = None;
    std::thread::sleep(Duration::from_millis(300));
    assert!(house.requests.is_empty() && !second[0].is_over(), "the origin takes one at once");
    guess.act(Act::Finish);
    assert_eq!(house.request().range, ByteRange::at(20 * CHUNK, CHUNK));
}

#[test]
fn fill_does_not_pester_an_origin_that_refuses() {
    let house = House::build(&Plan { fill: Fill::Playing, ..PLAN });
    let handle = house.sequential(20 * CHUNK);
    *house.origin.refusal.lock() = Some(Kind::Changed);
    eventually(|| {
        house.origin.refused.load(Ordering::Relaxed) > 0 || house.cache.held(handle.entry()).unwrap().1 == SIZE
    });
    std::thread::sleep(Duration::from_secs(1));
    let refused = house.origin.refused.load(Ordering::Relaxed);
    assert!(refused <= 3, "{refused} requests in a second");
}

#[test]
fn an_unmount_answers_whoever_waits_and_loses_nothing_that_came() {
    for _ in 0..20 {
        let mut house = House::build(&PLAN);
        let handle = house.sequential(4 * CHUNK);
        house.gate(true);
        let answers: Vec<_> = (10..30).map(|slot| house.ask(&handle, ByteRange::at(slot * CHUNK, KIB))).collect();
        house.request().act(Act::Send(KIB));
        // The handle outlives the reader, as the kernel closes late.
        house.reader.take();
        for answer in answers {
            let answer = wait(&answer);
            assert!(answer.is_ok() || answer.is_err_and(|error| error.kind() == Kind::Local));
        }
        drop(handle);
        let house = house.restart(&PLAN);
        drop(house.sequential(4 * CHUNK));
        assert_eq!(house.asked(), []);
    }
}
