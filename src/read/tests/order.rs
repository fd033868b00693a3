//! What is fetched before what, and what is given up for it: lanes, flights cut short, readers that went elsewhere.
//! Never here: a server; every answer is the test's own.

use super::*;
use crate::fetch::Lane;

fn want(house: &House, slot: u64, lane: Lane) -> Interest {
    let entry = house.cache.entry("film", &stat()).unwrap();
    house.reader().core.fetcher.want(&entry, entry.slot(slot * CHUNK), lane).pop().expect("a flight")
}

#[test]
fn what_is_urgent_overtakes_what_is_not() {
    let house = House::build(&Plan { connections: 1, ..PLAN });
    house.gate(true);
    let running = want(&house, 1, Lane::Lookahead);
    let first = house.request();
    let later: Vec<_> = [2, 3].into_iter().map(|slot| want(&house, slot, Lane::Lookahead)).collect();
    let soon = want(&house, 9, Lane::Urgent);
    later[1].raise(Lane::Urgent);
    first.act(Act::Finish);
    for slot in [9, 3, 2] {
        let request = house.request();
        assert_eq!(request.range.start, slot * CHUNK);
        request.act(Act::Finish);
    }
    drop((running, later, soon));
}

#[test]
fn a_seek_into_a_chunk_that_only_began_cuts_it_short() {
    let house = House::build(&PLAN);
    house.gate(true);
    let interest = want(&house, 5, Lane::Lookahead);
    let front = house.request();
    assert_eq!(front.range, ByteRange::at(5 * CHUNK, CHUNK));
    let own = ByteRange::at(5 * CHUNK + 700 * KIB, KIB);
    let answer = house.ask(&house.open(), own);
    let request = house.request();
    assert_eq!(request.range, own.align(BLOCK_SIZE_BYTES, SIZE), "its own blocks, at once");
    request.act(Act::Finish);
    assert!(wait(&answer).unwrap() == right(own));
    assert_eq!(interest.range().end, request.range.start);
    // Who waits for the front gets it, and all the rest is still right.
    let handle = house.open();
    let early = house.ask(&handle, ByteRange::at(5 * CHUNK, KIB));
    front.act(Act::Finish);
    assert!(wait(&early).unwrap() == right(ByteRange::at(5 * CHUNK, KIB)));
    house.gate(false);
    house.read(&handle, ByteRange::at(5 * CHUNK, CHUNK));
    let bytes = house.metrics.origin_bytes.get();
    assert!(bytes < CHUNK + 200_000, "{bytes}: little more than each byte once");
}

#[test]
fn a_near_read_or_one_that_others_wait_behind_cuts_nothing() {
    let house = House::build(&PLAN);
    house.gate(true);
    let interest = want(&house, 5, Lane::Lookahead);
    let request = house.request();
    let near = house.ask(&house.open(), ByteRange::at(5 * CHUNK + 200 * KIB, KIB));
    let behind = ByteRange::at(6 * CHUNK - KIB, KIB);
    // In a run, as the kernel reads ahead: what lies before is waited for by the same reader.
    let waiter = Pending::new(behind, Instant::now() + LONG, Box::new(|_| {}), |_| {});
    let dynamic: Arc<dyn Waiter> = Arc::clone(&waiter) as _;
    let entry = house.cache.entry("film", &stat()).unwrap();
    let fetcher = &house.reader().core.fetcher;
    fetcher.demand(&entry, ByteRange::new(6 * CHUNK - 64 * KIB, 6 * CHUNK), behind, false, &dynamic).unwrap();
    let lone = house.ask(&house.open(), ByteRange::at(5 * CHUNK + 700 * KIB, KIB));
    assert_eq!(interest.range(), ByteRange::at(5 * CHUNK, CHUNK));
    request.act(Act::Finish);
    wait(&near).unwrap();
    wait(&lone).unwrap();
    assert_eq!(house.asked(), [ByteRange::at(5 * CHUNK, CHUNK)]);
}

#[test]
fn a_chunk_left_while_it_was_waited_for_ends_with_the_wait() {
    let house = House::build(&PLAN);
    house.gate(true);
    let interest = want(&house, 5, Lane::Lookahead);
    let request = house.request();
    let answer = house.ask(&house.open(), ByteRange::at(5 * CHUNK, 64 * KIB));
    drop(interest);
    assert!(!request.cancel.is_cancelled(), "someone waits");
    request.act(Act::Send(64 * KIB));
    wait(&answer).unwrap();
    request.wait_cancelled();
}

#[test]
fn a_reader_that_went_elsewhere_takes_no_share_of_the_cache() {
    let house = House::build(&Plan { lookahead_chunks: 4, ..PLAN });
    let handle = house.sequential(2 * CHUNK);
    let sequential = || house.reader().core.sequential.load(Ordering::Relaxed);
    eventually(|| sequential() == 1);
    house.read(&handle, ByteRange::at(30 * CHUNK, KIB));
    eventually(|| sequential() == 0);
    house.read(&handle, ByteRange::at(2 * CHUNK, 512 * KIB));
    eventually(|| sequential() == 1);
    drop(handle);
    eventually(|| sequential() == 0);
}

#[test]
fn a_seek_and_a_close_call_lookahead_off() {
    for is_seek in [true, false] {
        let house = House::build(&Plan { lookahead_chunks: 3, ..PLAN });
        let handle = house.sequential(CHUNK);
        house.cache.flush();
        eventually(|| house.reader().core.fetcher.is_idle());
        house.gate(true);
        // Far enough that lookahead has more to fetch.
        let mut requests = Vec::new();
        let mut at = CHUNK;
        while requests.is_empty() {
            let range = ByteRange::at(at, 128 * KIB);
            let answer = house.ask(&handle, range);
            while answer.is_empty() {
                if let Ok(request) = house.requests.recv_timeout(Duration::from_millis(5)) {
                    if request.range.start <= range.end { request.act(Act::Finish) } else { requests.push(request) }
                }
            }
            at += 128 * KIB;
            assert!(at < 20 * CHUNK, "lookahead never began");
        }
        let far = if is_seek {
            Some(house.ask(&handle, ByteRange::at(30 * CHUNK, KIB)))
        } else {
            drop(handle);
            None
        };
        requests[0].wait_cancelled();
        if let Some(far) = far {
            // Others of the lookahead may have been sent off before the seek.
            let request = std::iter::repeat_with(|| house.request()).find(|request| request.range.start == 30 * CHUNK);
            request.unwrap().act(Act::Finish);
            assert!(wait(&far).unwrap() == right(ByteRange::at(30 * CHUNK, KIB)));
        }
        eventually(|| house.reader().core.fetcher.is_idle());
    }
}

#[test]
fn demand_overtakes_lookahead_in_the_queue() {
    let house = House::build(&Plan { connections: 1, lookahead_chunks: 8, ..PLAN });
    let entry = house.cache.entry("film", &stat()).unwrap();
    house.gate(true);
    let fetcher = &house.reader().core.fetcher;
    let interests: Vec<_> =
        (1..6).flat_map(|slot| fetcher.want(&entry, entry.slot(slot * CHUNK), Lane::Lookahead)).collect();
    let running = house.request();
    let handle = house.open();
    let far = house.ask(&handle, ByteRange::at(30 * CHUNK, KIB));
    // And one that was only guessed becomes a demand.
    let guessed = house.ask(&handle, ByteRange::at(4 * CHUNK, KIB));
    running.act(Act::Finish);
    for start in [30 * CHUNK, 4 * CHUNK] {
        let next = house.request();
        assert_eq!(next.range.start, start);
        next.act(Act::Finish);
    }
    wait(&far).unwrap();
    wait(&guessed).unwrap();
    drop(interests);
}

#[test]
fn lookahead_that_hangs_leaves_a_connection_for_demand() {
    let house = House::build(&Plan { connections: 2, ..PLAN });
    let entry = house.cache.entry("film", &stat()).unwrap();
    house.gate(true);
    let fetcher = &house.reader().core.fetcher;
    let _interests: Vec<_> =
        (1..9).flat_map(|slot| fetcher.want(&entry, entry.slot(slot * CHUNK), Lane::Lookahead)).collect();
    let _hangs = house.request();
    let answer = house.ask(&house.open(), ByteRange::at(30 * CHUNK, KIB));
    let request = house.request();
    assert_eq!(request.range.start, 30 * CHUNK);
    request.act(Act::Finish);
    wait(&answer).unwrap();
}
