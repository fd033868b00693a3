//! A server that fails one request in five, in seven ways, and a thousand reads through it: none shows a wrong byte, none
//! is longer than its deadline, no open than the kernel's questions of it, and nearly all succeed.
//! Never here: one fault at a time (`faults`), and a server that is not there at all (`outage`).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reelfs::demo::{Act, RequestInfo, Server, ServerConfig};

use super::compare::{check, made};
use super::late::Machine;
use super::mount::{Mount, open_direct};
use super::needs::{FUSE, Test};

const FILMS: u64 = 4;
const SIZE: u64 = 256 << 20;
const READS: usize = 1_000;
const READERS: u64 = 20;
/// A read's longest piece: the kernel hands longer ones on in parts.
const READ_BYTES_MAX: usize = 256 << 10;
const DEADLINE: Duration = Duration::from_secs(4);
/// What an open may ask, each with a deadline of its own: the kernel looks the name up and opens it, and does both once
/// more where the name turns out to stand for another version by now.
const OPEN_QUESTIONS: u32 = 4;
/// Of a thousand, so many may end in an error: a file that shows another version ends its handles, which one answer in
/// thirty-five does; hardly anything else does.
const FAILED_MAX: usize = 100;

pub fn tests() -> Vec<Test> {
    vec![Test::new("storm::one_request_in_five_fails_in_seven_ways", &[FUSE], one_request_in_five_fails)]
}

const WAYS: [&str; 7] = ["reset", "stall", "429 with Retry-After", "500", "503", "short body", "another version"];

/// One request in five fails. The same seed makes the same weather for the same order of requests.
fn storm(seed: u64) -> (impl Fn(&RequestInfo) -> Act + Send + Sync + use<>, Arc<[AtomicU64; 7]>) {
    let met = Arc::<[AtomicU64; 7]>::default();
    let (count, dice) = (Arc::clone(&met), Mutex::new(fastrand::Rng::with_seed(seed)));
    let storm = move |request: &RequestInfo| {
        let mut dice = dice.lock();
        if dice.u8(..5) > 0 {
            return Act::Serve;
        }
        // What has no body can't break off in it, and has no bytes of another version.
        let way = dice.usize(..if request.range.is_some() { 7 } else { 5 });
        let after = dice.u64(..READ_BYTES_MAX as u64);
        let number = count[way].fetch_add(1, Ordering::Relaxed);
        match way {
            0 => Act::ResetAfter(after),
            1 => [Act::Hang, Act::StallAfter(after)][dice.usize(..2)],
            2 => Act::Status(429, Some(1)),
            3 => Act::Status(500, None),
            4 => Act::Status(503, None),
            5 => Act::TruncateAfter(after),
            _ => Act::OtherVersion(number),
        }
    };
    (storm, met)
}

/// A film that is opened anew whenever its handle has met another version, as a player would.
struct Film<'a> {
    mount: &'a Mount,
    number: u64,
    file: Option<File>,
}

impl Film<'_> {
    fn open(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            self.file = Some(open_direct(&self.mount.file(&format!("{}.mkv", self.number)))?);
        }
        Ok(())
    }

    fn read(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let read = self.file.as_ref().map_or(Ok(()), |file| file.read_exact_at(bytes, offset));
        if read.is_err() {
            self.file = None;
        }
        read
    }
}

/// What came of all reads, and of opens before them.
#[derive(Default)]
struct Outcome {
    longest_open: Duration,
    longest_read: Duration,
    failed: Vec<Option<i32>>,
}

fn one_request_in_five_fails() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let files = (0..FILMS).map(|number| (format!("{number}.mkv"), made(number, SIZE))).collect();
    let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
    let seconds = DEADLINE.as_secs().to_string();
    let mount = Mount::new(&server.url(), &["--chunk-timeout", &seconds, "--connections", "20"]);
    // Known before the storm: else its first answer, of whatever version, would be the file.
    for number in 0..FILMS {
        let mut bytes = vec![0; 4_096];
        let mut film = Film { mount: &mount, number, file: None };
        film.open().and_then(|()| film.read(SIZE / 2, &mut bytes)).unwrap();
        check(number, SIZE / 2, &bytes);
    }
    server.reset_counts();
    let (weather, met) = storm(seed);
    server.set_weather(weather);

    let machine = Machine::watch();
    let (left, outcome, begun) = (AtomicUsize::new(READS), Mutex::new(Outcome::default()), Instant::now());
    thread::scope(|scope| {
        for reader in 0..READERS {
            let (mount, left, outcome) = (&mount, &left, &outcome);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed ^ reader);
                let mut opened: Vec<_> = (0..FILMS).map(|number| Film { mount, number, file: None }).collect();
                let take = |left: usize| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    let film = random.choice(&mut opened).unwrap();
                    let mut bytes = vec![0; random.usize(1..READ_BYTES_MAX)];
                    let offset = random.u64(..SIZE - READ_BYTES_MAX as u64);
                    let asked_at = Instant::now();
                    let opened = film.open();
                    let opened_at = Instant::now();
                    let read = opened.and_then(|()| film.read(offset, &mut bytes));
                    let took = opened_at.elapsed();
                    // Whatever happened: no wrong byte.
                    if read.is_ok() {
                        check(film.number, offset, &bytes);
                    }
                    let mut outcome = outcome.lock();
                    outcome.longest_open = outcome.longest_open.max(opened_at - asked_at);
                    outcome.longest_read = outcome.longest_read.max(took);
                    outcome.failed.extend(read.err().map(|error| error.raw_os_error()));
                }
            });
        }
    });
    server.set_weather(reelfs::demo::Fair);

    let late_max = machine.late_max();
    let Outcome { longest_open, longest_read, failed } = outcome.into_inner();
    let count = |errno| failed.iter().filter(|error| **error == Some(errno)).count();
    let (stale, io) = (count(libc::ESTALE), count(libc::EIO));
    let met: Vec<_> = WAYS.iter().zip(met.iter()).map(|(way, met)| (way, met.load(Ordering::Relaxed))).collect();
    let failures: u64 = met.iter().map(|(_, times)| times).sum();
    println!(
        "{READS} reads in {:.1?}, the longest {longest_read:.1?}, of opens {longest_open:.1?}; {stale} ended in ESTALE, {io} \
         in EIO; of {} requests {failures} failed: {met:?}",
        begun.elapsed(),
        server.total().requests,
    );
    assert!(longest_read < DEADLINE + late_max, "{longest_read:?}, with {late_max:?} allowed beyond");
    assert!(longest_open < OPEN_QUESTIONS * DEADLINE + late_max, "{longest_open:?}");
    assert_eq!(stale + io, failed.len(), "{failed:?}");
    assert!(failed.len() <= FAILED_MAX && met.iter().all(|(_, times)| *times > 0));
    assert!(!mount.place.log().contains(" is away"), "such a server is there: {}", mount.place.log());
}
