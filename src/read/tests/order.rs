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
