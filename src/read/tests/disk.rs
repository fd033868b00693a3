//! What the disk makes of it: bytes that are there after a restart, that rotted, that there is no room for.
//! Never here: what gives way to what (see the cache's own tests).

use super::*;

#[test]
fn a_restart_fetches_nothing_again() {
    let house = House::build(&PLAN);
    drop(house.sequential(5 * CHUNK));
    let house = house.restart(&PLAN);
    drop(house.sequential(5 * CHUNK));
    assert_eq!(house.asked(), []);
}

#[test]
fn bytes_that_rotted_on_disk_are_fetched_again() {
    let house = House::build(&PLAN);
    drop(house.sequential(5 * CHUNK));
    let name = house.dir.path().join("entries/01/0000000000000001.data");
    let house = {
        let house = house.restart(&PLAN);
        std::os::unix::fs::FileExt::write_all_at(
            &std::fs::File::options().write(true).open(name).unwrap(),
            b"rot",
            2 * CHUNK + 99,
        )
        .unwrap();
        house
    };
    drop(house.sequential(5 * CHUNK));
    assert_eq!(house.asked(), [ByteRange::at(2 * CHUNK, CHUNK)]);
    assert_eq!(house.metrics.cache_corrupt_chunks.get(), 1);
}

#[test]
fn a_disk_without_room_serves_each_byte_once_to_a_run() {
    let house = House::build(&Plan { min_free_bytes: u64::MAX / 2, ..PLAN });
    drop(house.sequential(20 * CHUNK));
    assert_eq!(house.cache.used_bytes(), 0);
    let asked = house.asked();
    assert!(asked.windows(2).all(|pair| pair[0].end == pair[1].start), "{asked:?}");
}

/// What lookahead fetches must still be in memory when it is read, as it is nowhere else.
#[test]
fn a_disk_without_room_serves_each_byte_once_with_lookahead() {
    let house = House::build(&Plan { min_free_bytes: u64::MAX / 2, lookahead_chunks: 20, ..PLAN });
    house.sequential(SIZE - SIZE % (128 * KIB));
    let asked: u64 = house.asked().iter().map(|range| range.len()).sum();
    // Before the first bytes have come back from the cache, nobody knows that it takes none.
    assert!(asked <= SIZE + 4 * CHUNK, "{asked} bytes asked for, of {SIZE}");
}

#[test]
fn a_file_far_larger_than_the_cache_is_read_right() {
    let house = House::build(&Plan { cache_chunks: 16, lookahead_chunks: 20, fill: Fill::Playing, ..PLAN });
    for _ in 0..2 {
        drop(house.sequential(40 * CHUNK));
    }
    assert!(house.cache.used_bytes() <= 16 * CHUNK);
}

#[test]
fn the_cache_may_be_let_go_while_bytes_still_wait_for_the_disk() {
    for _ in 0..20 {
        let house = House::build(&PLAN);
        let handle = house.open();
        for slot in 0..20 {
            house.read(&handle, ByteRange::at(slot * CHUNK, 512 * KIB));
        }
        drop(handle);
        drop(house.restart(&PLAN));
    }
}
