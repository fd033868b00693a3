//! The plug is pulled, again and again, at random moments of reading: what the next mount reads is right, and what was
//! recorded before is not fetched again.
//! Never here: the cache on its own; see `tests/crash.rs`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use reelfs::demo::{Link, Server, ServerConfig};
use reelfs::range::{ByteRange, RangeSet};
use rusqlite::Connection;

use super::compare::{check, made};
use super::mount::{Mount, Place, open_direct, read_direct};
use super::needs::{FUSE, Test};

/// How often; fewer for a first look.
const KILLS: &str = "REELFS_TESTS_KILLS";
const KILLS_DEFAULT: u64 = 200;
/// The seed of a run that failed.
const SEED: &str = "REELFS_TESTS_SEED";
const FILES: u64 = 4;
const FILE_BYTES: u64 = 32 << 20;
/// So slow that the files last for a while, so fast that each life records something.
const RATE: u64 = 24 << 20;
/// A life lasts up to so long after its first read.
const LIFE_MAX_MS: u64 = 120;
const READERS: u64 = 3;

pub fn tests() -> Vec<Test> {
    vec![Test::new(
        "kills::nothing_false_is_left_and_nothing_is_lost",
        &[FUSE],
        nothing_false_is_left_and_nothing_is_lost,
    )]
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn name(number: u64) -> String {
    format!("{number}.mkv")
}

/// What the index holds of each file. A copy is looked at: the next mount shall find what the dead one left.
fn recorded(place: &Place) -> HashMap<String, RangeSet> {
    let copy = tempfile::tempdir().unwrap();
    for file in ["index.sqlite", "index.sqlite-wal"] {
        if place.cache().join(file).exists() {
            fs::copy(place.cache().join(file), copy.path().join(file)).unwrap();
        }
    }
    let index = Connection::open(copy.path().join("index.sqlite")).unwrap();
    let mut rows = index
        .prepare("SELECT path, start_byte, end_byte FROM cache_chunks JOIN cache_entries USING (entry_id)")
        .unwrap();
    let rows = rows.query_map((), |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
    let mut recorded: HashMap<String, RangeSet> = HashMap::new();
    for (path, start, end) in rows.unwrap().map(Result::unwrap) {
        recorded.entry(path).or_default().insert(ByteRange::new(start.try_into().unwrap(), end.try_into().unwrap()));
    }
    recorded
}

/// Reads at random places, and now and then on from there, until the drive is dead.
fn read_until_dead(point: &Path, generation: u64, is_dying: &AtomicBool, mut random: fastrand::Rng) {
    let end = |error: std::io::Error| {
        // Only what was killed may fail.
        assert!(is_dying.load(Ordering::SeqCst), "a living drive failed: {error}");
    };
    loop {
        let number = random.u64(..FILES);
        let file = match open_direct(&point.join(name(number))) {
            Ok(file) => file,
            Err(error) => return end(error),
        };
        let mut at = random.u64(..FILE_BYTES - (1 << 20));
        for _ in 0..random.usize(1..8) {
            let mut bytes = vec![0; random.usize(1..300_000)];
            let len = match file.read_at(&mut bytes, at) {
                Ok(len) => len,
                Err(error) => return end(error),
            };
            check(generation * FILES + number, at, &bytes[..len]);
            at += len as u64;
        }
    }
}

fn nothing_false_is_left_and_nothing_is_lost() {
    let kills = from_env(KILLS).unwrap_or(KILLS_DEFAULT);
    let seed = from_env(SEED).unwrap_or_else(|| fastrand::u64(..));
    println!("kills: {SEED}={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let link = Link { rate_total: Some(RATE), ..Link::default() };
    let files =
        |generation: u64| (0..FILES).map(move |number| (name(number), made(generation * FILES + number, FILE_BYTES)));
    let server = Server::start(ServerConfig { link, files: files(0).collect(), ..ServerConfig::default() }).unwrap();
    let place = Place::new();
    let (begun, mut generation, mut most_kept_bytes, mut checked_bytes) = (Instant::now(), 0, 0, 0);
    let mut before: HashMap<String, RangeSet> = HashMap::new();
    for kill in 0..kills {
        let options = ["--chunk-size", "128KiB", "--fill", "never", "--connections", "4", "--lookahead-chunks", "4"];
        let mount = Mount::on(&place, &server.url(), &options);
        // What was recorded is right, and is here.
        for (path, ranges) in &before {
            let number: u64 = path.trim_end_matches(".mkv").parse().unwrap();
            let ranges: Vec<_> = ranges.iter().collect();
            for _ in 0..2 {
                let range = ranges[random.usize(..ranges.len())];
                let start = random.u64(range.start..range.end);
                let bytes = read_direct(&mount.file(path), start, (range.end - start).min(100_000) as usize).unwrap();
                check(generation * FILES + number, start, &bytes);
                checked_bytes += bytes.len();
            }
        }
        let (point, is_dying) = (mount.point(), Arc::new(AtomicBool::new(false)));
        let readers: Vec<_> = (0..READERS)
            .map(|_| {
                let (point, is_dying, random) = (point.clone(), Arc::clone(&is_dying), random.fork());
                thread::spawn(move || read_until_dead(&point, generation, &is_dying, random))
            })
            .collect();
        thread::sleep(Duration::from_millis(random.u64(..LIFE_MAX_MS)));
        is_dying.store(true, Ordering::SeqCst);
        mount.kill();
        for reader in readers {
            reader.join().unwrap_or_else(|_| panic!("kill {kill} of {SEED}={seed}"));
        }
        for asked in server.ranges() {
            let again = before.get(&*asked.path).map(|ranges| ranges.overlap(asked.range)).unwrap_or_default();
            assert!(
                again.is_empty(),
                "{again:?} of {} was recorded, and fetched again: kill {kill}, {SEED}={seed}",
                asked.path
            );
        }
        server.reset_counts();
        let after = recorded(&place);
        let kept_bytes = after.values().map(RangeSet::len).sum::<u64>();
        // Right after all is new there may be none.
        most_kept_bytes = most_kept_bytes.max(kept_bytes);
        for (path, ranges) in &before {
            let lost: Vec<_> = ranges
                .iter()
                .flat_map(|range| after.get(path).map_or(vec![range], |after| after.gaps(range)))
                .collect();
            assert!(lost.is_empty(), "{lost:?} of {path} was recorded, and is no more: kill {kill}, {SEED}={seed}");
        }
        before = after;
        if kept_bytes > FILES * FILE_BYTES * 3 / 4 {
            // Soon there would be nothing left to fetch: new films under the same names.
            generation += 1;
            files(generation).for_each(|(path, content)| server.replace(&path, content));
            before.clear();
            fs::remove_dir_all(place.cache()).unwrap();
        }
    }
    println!(
        "{kills} kills in {:.1?}: {checked_bytes} bytes of recorded chunks read again and right, none fetched again; \
         {generation} times all new, {most_kept_bytes} bytes recorded at most",
        begun.elapsed()
    );
    assert!(checked_bytes > 0 && most_kept_bytes > 0);
}
