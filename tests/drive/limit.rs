//! `--bandwidth-limit`, as the server and a player see it.
//! Never here: who goes before whom under it; that is decided in `fetch`, and tested there.

use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use reelfs::demo::{Link, Server, ServerConfig};

use super::compare::{check, check_whole, made};
use super::mount::{Mount, open_direct};
use super::needs::{FUSE, Test};

/// Bytes a second.
const LIMIT: u64 = 2_500_000;
const WINDOW: Duration = Duration::from_secs(10);
/// In a thousand parts of the limit, over such a window.
const EXCEEDED_MAX: u64 = 50;
const FILM: (u64, u64) = (0x11f, 64 << 20);

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("limit::a_copy_keeps_to_it_and_what_is_cached_does_not", &[FUSE], a_copy_keeps_to_it),
        Test::new("limit::a_film_below_it_plays", &[FUSE], a_film_below_it_plays),
    ]
}

fn start() -> (Server, Mount) {
    // A link far wider than the limit, from a little way off.
    let link = Link { round_trip: Duration::from_millis(40), ..Link::default() };
    let config = ServerConfig { link, ..ServerConfig::default() };
    let server = Server::start(config.file("film.mkv", made(FILM.0, FILM.1))).unwrap();
    let mount = Mount::new(&server.url(), &["--bandwidth-limit", "20Mbit/s", "--chunk-timeout", "30"]);
    (server, mount)
}

fn a_copy_keeps_to_it() {
    let (server, mount) = start();
    let film = open_direct(&mount.file("film.mkv")).unwrap();
    let copied = 32 << 20;
    let (mut sent, begun) = (Vec::new(), Instant::now());
    thread::scope(|scope| {
        let copying = scope.spawn(|| check_whole(&film, (FILM.0, copied), 256 << 10).unwrap());
        while !copying.is_finished() {
            // The count is true at some time between the two: on a busy machine they can lie far apart.
            let asked_at = begun.elapsed();
            let bytes = server.total().body_bytes;
            sent.push((asked_at, bytes, begun.elapsed()));
            thread::sleep(Duration::from_millis(50));
        }
    });
    // The most that was sent within any window: what is counted lies wholly in it.
    let most = sent.iter().enumerate().filter_map(|(from, (at, before, _))| {
        let (_, after, _) = sent[from..].iter().rev().find(|(_, _, end)| *end <= *at + WINDOW)?;
        (sent.last()?.0 >= *at + WINDOW).then_some(after - before)
    });
    let most = per_mille(most.max().expect("a copy that takes longer than that"), WINDOW);
    let average = per_mille(copied, begun.elapsed());
    println!("of 1000 parts of the limit, {most} were sent in the busiest 10 s, and {average} read on average");
    assert!(most <= 1_000 + EXCEEDED_MAX, "{most}");
    assert!(average >= 800, "the limit is no brake beyond itself: {average}");

    let (before, again) = (server.total().body_bytes, Instant::now());
    check_whole(&film, (FILM.0, copied), 256 << 10).unwrap();
    println!("read again from the cache in {:.1?}", again.elapsed());
    assert!(again.elapsed() < begun.elapsed() / 3 && server.total().body_bytes < before + copied / 4);
}

/// So many bytes in that time, in a thousand parts of the limit.
fn per_mille(bytes: u64, time: Duration) -> u64 {
    bytes * 1_000_000 / LIMIT / time.as_millis() as u64
}

/// A film of four fifths of the limit, read as a player does: piece after piece, each when it is due.
fn a_film_below_it_plays() {
    const PIECE: usize = 128 << 10;
    const RATE: u64 = LIMIT / 5 * 4;
    let (_server, mount) = start();
    let film = open_direct(&mount.file("film.mkv")).unwrap();
    let (mut bytes, mut stalled, begun) = (vec![0; PIECE], Duration::ZERO, Instant::now());
    let pieces = 8 * RATE / PIECE as u64;
    for number in 0..pieces {
        let due = Duration::from_micros(number * PIECE as u64 * 1_000_000 / RATE) + stalled;
        thread::sleep(due.saturating_sub(begun.elapsed()));
        film.read_exact_at(&mut bytes, number * PIECE as u64).unwrap();
        check(FILM.0, number * PIECE as u64, &bytes);
        // Shown when it was due, or as soon as it is there.
        stalled += begun.elapsed().saturating_sub(due);
    }
    println!("eight seconds of a film of 16 Mbit/s under 20 Mbit/s stood still for {stalled:.1?}");
    assert!(stalled < Duration::from_secs(3), "{stalled:?}");
}
