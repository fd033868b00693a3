//! Fetching without a reader: each byte once, behind everybody else, and told why when it can't be.
//! Never here: which files are fetched (see `drive/keep.rs`).

use std::thread;

use super::*;
use crate::range::RangeSet;
use crate::read::Come;

/// Warms the whole film on a thread of its own; how many bytes it told of, and how it ended.
fn warm(house: &House) -> (Result<()>, u64) {
    let entry = house.cache.entry("film", &stat()).unwrap();
    let mut told_bytes = 0;
    let mut tell = |come| {
        count(&mut told_bytes, come);
        Ok(())
    };
    let ended = house.reader().warm(&entry, &mut tell);
    (ended, told_bytes)
}

fn count(bytes: &mut u64, come: Come) {
    match come {
        Come::WasHere(more) | Come::Fetched(more) => *bytes += more,
        Come::Lost(less) => *bytes -= less,
    }
}

#[test]
fn each_byte_is_asked_for_once() {
    let house = House::build(&PLAN);
    // Some of it is here, in pieces.
    let handle = house.open();
    for at in [0, 64 * KIB, 3 * CHUNK + 200 * KIB, 9 * CHUNK + 900 * KIB] {
        house.read(&handle, ByteRange::at(at, 64 * KIB));
    }
    let (ended, told_bytes) = warm(&house);
    ended.unwrap();
    assert_eq!(told_bytes, SIZE, "what was here counts, too");
    let asked = house.asked();
    assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "{asked:?}");
    let requests = asked.len();
    let (ended, told_bytes) = warm(&house);
    ended.unwrap();
    assert_eq!((told_bytes, house.asked().len()), (SIZE, requests), "nothing is left to ask for");
}

#[test]
fn what_was_broken_off_is_gone_on_with() {
    let house = House::build(&PLAN);
    let entry = house.cache.entry("film", &stat()).unwrap();
    let mut here_bytes = 0;
    let mut tell = |come| {
        count(&mut here_bytes, come);
        if here_bytes > SIZE / 2 { Err(Error::new(Kind::Cancelled, "Ctrl-C")) } else { Ok(()) }
    };
    assert_eq!(house.reader().warm(&entry, &mut tell).unwrap_err().kind(), Kind::Cancelled);
    drop(entry);
    let house = house.restart(&PLAN);
    warm(&house).0.unwrap();
    let again: u64 = house.asked().into_iter().map(ByteRange::len).sum();
    assert!(again <= SIZE - here_bytes, "{again} bytes, though {here_bytes} were here");
}

#[test]
fn whoever_reads_has_the_link_at_once() {
    let house = House::build(&PLAN);
    house.gate(true);
    thread::scope(|scope| {
        let warming = scope.spawn(|| warm(&house));
        // As many as may be guessed at; the rest is free.
        let guesses: Vec<_> = (0..3).map(|_| house.request()).collect();
        assert!(guesses.iter().all(|guess| guess.range.len() == CHUNK));
        let own = ByteRange::at(20 * CHUNK, KIB);
        let answer = house.ask(&house.open(), own);
        // The first look at the film's head is no reader's, and may come first.
        let mut request = house.request();
        while request.range.start != own.start {
            request.act(Act::Finish);
            request = house.request();
        }
        guesses.iter().for_each(Request::wait_cancelled);
        request.act(Act::Finish);
        assert!(wait(&answer).unwrap() == right(own));
        house.gate(false);
        while let Ok(request) = house.requests.try_recv() {
            request.act(Act::Finish);
        }
        let (ended, told_bytes) = warming.join().unwrap();
        ended.unwrap();
        assert_eq!(told_bytes, SIZE);
    });
    let entry = house.cache.entry("film", &stat()).unwrap();
    assert_eq!(house.cache.held(&entry).unwrap().1, SIZE);
}

#[test]
fn what_cannot_be_fetched_is_told_as_a_reader_is() {
    let house = House::build(&PLAN);
    *house.origin.refusal.lock() = Some(Kind::Denied);
    assert_eq!(warm(&house).0.unwrap_err().kind(), Kind::Denied);
}

#[test]
fn a_disk_without_room_is_told() {
    let house = House::build(&Plan { min_free_bytes: 1 << 60, ..PLAN });
    let (ended, told_bytes) = warm(&house);
    assert_eq!((ended.unwrap_err().kind(), told_bytes), (Kind::Full, 0));
}

#[test]
fn an_opening_is_both_ends() {
    let house = House::build(&PLAN);
    let entry = house.cache.entry("film", &stat()).unwrap();
    house.reader().warm_opening(&entry, &mut |_| Ok(())).unwrap();
    let asked: RangeSet = house.asked().into_iter().collect();
    let ends = [ByteRange::new(0, 2 * CHUNK), ByteRange::new(SIZE - SIZE % (64 * KIB) - 64 * KIB, SIZE)];
    assert_eq!(asked, ends.into_iter().collect());
}
