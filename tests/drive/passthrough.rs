//! Files that the kernel reads by itself: which ones, beside which other opens, and that nothing moves under it.
//! Never here: speed (see the benches).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use reelfs::demo::{Server, ServerConfig};
use rustix::process::Signal;

use super::compare::{check, check_whole, made, wait_until};
use super::mount::{Mount, Place, open_direct};
use super::needs::{FUSE, PASSTHROUGH, Test};

const FILM: (u64, u64) = (0xba5e, 24 << 20);
const PIECE: usize = 256 << 10;

pub fn tests() -> Vec<Test> {
    let needs = &[FUSE, PASSTHROUGH];
    vec![
        Test::new("passthrough::the_kernel_reads_what_is_whole", needs, the_kernel_reads_what_is_whole),
        Test::new("passthrough::what_an_earlier_run_recorded", needs, what_an_earlier_run_recorded),
        Test::new("passthrough::opens_that_overlap_agree", needs, opens_that_overlap_agree),
        Test::new("passthrough::nothing_is_evicted_under_a_reader", needs, nothing_is_evicted_under_a_reader),
        Test::new("passthrough::a_new_version_leaves_the_old_one_whole", needs, a_new_version_leaves_the_old_one_whole),
        Test::new("passthrough::off_means_off", needs, off_means_off),
        Test::new("passthrough::back_and_forth", needs, back_and_forth),
    ]
}

fn server(files: &[(&str, (u64, u64))]) -> Server {
    let files = files.iter().map(|(name, (seed, size))| ((*name).to_owned(), made(*seed, *size)));
    Server::start(ServerConfig { files: files.collect(), ..ServerConfig::default() }).unwrap()
}

pub fn cached_bytes(path: &Path) -> u64 {
    let mut value = [0; 32];
    let len = rustix::fs::getxattr(path, "user.reelfs.cached_bytes", &mut value).unwrap();
    std::str::from_utf8(&value[..len]).unwrap().parse().unwrap()
}

/// Reads all of a film through the drive and waits until all of it is recorded.
fn cache_whole(path: &Path, film: (u64, u64)) {
    check_whole(&File::open(path).unwrap(), film, PIECE).unwrap();
    wait_until("the whole film", || cached_bytes(path) == film.1);
}

/// Has the kernel forget what it read of the cached files, so that each read asks the disk.
fn forget_cached_pages(place: &Place) {
    for shard in fs::read_dir(place.cache().join("entries")).unwrap().flatten() {
        for file in fs::read_dir(shard.path()).unwrap().flatten() {
            // Evicted meanwhile.
            let Ok(file) = File::open(file.path()) else { continue };
            let _ = file.sync_all();
            let _ = reelfs::sys::drop_page_cache(&file);
        }
    }
    // What another core has only just read stays through that; not through this, where it may be written.
    let _ = fs::write("/proc/sys/vm/drop_caches", "1");
}

/// Whether `file` can be read while the drive's process stands still: then nobody but the kernel serves it.
fn is_the_kernels(mount: &Mount, file: &File, made_of: (u64, u64)) -> bool {
    let _ = reelfs::sys::drop_page_cache(file);
    forget_cached_pages(&mount.place);
    let is_read = AtomicBool::new(false);
    mount.send(Signal::STOP);
    thread::scope(|scope| {
        scope.spawn(|| {
            check_whole(file, made_of, PIECE).unwrap();
            is_read.store(true, Ordering::Release);
        });
        let begun = Instant::now();
        while !is_read.load(Ordering::Acquire) && begun.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(5));
        }
        let by_itself = is_read.load(Ordering::Acquire);
        mount.send(Signal::CONT);
        by_itself
    })
}

/// Opens until the kernel reads by itself: the last open of the other way may just be on its way out.
fn open_lent(mount: &Mount, path: &Path, made_of: (u64, u64)) -> File {
    let deadline = Instant::now() + Duration::from_mins(1);
    loop {
        let file = File::open(path).unwrap();
        if is_the_kernels(mount, &file, made_of) {
            return file;
        }
        assert!(Instant::now() < deadline, "never lent: {}", mount.place.log());
        drop(file);
        thread::sleep(Duration::from_millis(20));
    }
}

fn the_kernel_reads_what_is_whole() {
    let server = server(&[("film.mkv", FILM)]);
    let mount = Mount::new(&server.url(), &["--verbose"]);
    assert!(mount.place.log().contains("passthrough: on"), "{}", mount.place.log());
    let path = mount.file("film.mkv");
    let early = File::open(&path).unwrap();
    assert!(!is_the_kernels(&mount, &early, FILM), "nothing is cached yet");
    drop(early);
    cache_whole(&path, FILM);
    let files = [open_lent(&mount, &path, FILM), File::open(&path).unwrap(), File::open(&path).unwrap()];
    assert!(files.iter().all(|file| is_the_kernels(&mount, file, FILM)), "all opens share it");
    server.reset_counts();
    drop(files);
    mount.end();
    assert_eq!(server.counts("film.mkv").body_bytes, 0);
}

/// Recorded, but not hashed by this process: a reader goes through the drive until all of it was.
fn what_an_earlier_run_recorded() {
    const LONG: (u64, u64) = (0x10a6, 80 << 20);
    let server = server(&[("film.mkv", LONG)]);
    let place = Place::new();
    let mount = Mount::on(&place, &server.url(), &[]);
    cache_whole(&mount.file("film.mkv"), LONG);
    mount.end();
    let mount = Mount::on(&place, &server.url(), &[]);
    let path = mount.file("film.mkv");
    let first = File::open(&path).unwrap();
    assert!(!is_the_kernels(&mount, &first, LONG));
    drop(first);
    drop(open_lent(&mount, &path, LONG));
    mount.end();
    // A player that is in the middle of it: the rest is hashed ahead of it.
    let mount = Mount::on(&place, &server.url(), &[]);
    let playing = File::open(&path).unwrap();
    for offset in (0..20 << 20).step_by(PIECE) {
        let mut bytes = vec![0; PIECE];
        playing.read_exact_at(&mut bytes, offset).unwrap();
        check(LONG.0, offset, &bytes);
    }
    thread::sleep(Duration::from_secs(2));
    drop(playing);
    let begun = Instant::now();
    let file = loop {
        let file = File::open(&path).unwrap();
        // No read through the drive in between may do the hashing.
        mount.send(Signal::STOP);
        forget_cached_pages(&place);
        let reading = thread::spawn(move || {
            let mut bytes = vec![0; PIECE];
            file.read_exact_at(&mut bytes, 70 << 20).unwrap();
            check(LONG.0, 70 << 20, &bytes);
            file
        });
        thread::sleep(Duration::from_millis(300));
        let by_itself = reading.is_finished();
        mount.send(Signal::CONT);
        let file = reading.join().unwrap();
        if by_itself {
            break file;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the rest is not hashed: {}", place.log());
    };
    check_whole(&file, LONG, PIECE).unwrap();
}

fn opens_that_overlap_agree() {
    let server = server(&[("film.mkv", FILM)]);
    let mount = Mount::new(&server.url(), &[]);
    let path = mount.file("film.mkv");
    let early = File::open(&path).unwrap();
    cache_whole(&path, FILM);
    let beside = File::open(&path).unwrap();
    assert!(!is_the_kernels(&mount, &beside, FILM), "the first open decides for all that overlap with it");
    for file in [&early, &beside] {
        check_whole(file, FILM, PIECE).unwrap();
    }
    drop((early, beside));
    let lent = open_lent(&mount, &path, FILM);
    // Past the page cache, at places no disk would allow.
    let direct = open_direct(&path).unwrap();
    let mut bytes = vec![0; 1_001];
    direct.read_exact_at(&mut bytes, 12_345).unwrap();
    check(FILM.0, 12_345, &bytes);
    check_whole(&direct, FILM, PIECE).unwrap();
    drop(lent);
    check_whole(&direct, FILM, PIECE).unwrap();
    assert!(is_the_kernels(&mount, &File::open(&path).unwrap(), FILM));
}

fn nothing_is_evicted_under_a_reader() {
    const OTHER: (u64, u64) = (0x07e4, 200 << 20);
    let server = server(&[("film.mkv", FILM), ("other.mkv", OTHER)]);
    let mount = Mount::new(&server.url(), &["--cache-size", "64MiB"]);
    let (path, other) = (mount.file("film.mkv"), mount.file("other.mkv"));
    cache_whole(&path, FILM);
    let lent = open_lent(&mount, &path, FILM);
    check_whole(&File::open(&other).unwrap(), OTHER, PIECE).unwrap();
    assert_eq!(cached_bytes(&path), FILM.1);
    assert!(is_the_kernels(&mount, &lent, FILM));
    drop(lent);
    // Let go of, it gives way like anything else.
    wait_until("room for the other film", || {
        check_whole(&open_direct(&other).unwrap(), OTHER, PIECE).unwrap();
        cached_bytes(&path) < FILM.1
    });
    check_whole(&File::open(&path).unwrap(), FILM, PIECE).unwrap();
}

fn a_new_version_leaves_the_old_one_whole() {
    let server = server(&[("film.mkv", FILM)]);
    let mount = Mount::new(&server.url(), &["--dir-ttl", "0"]);
    let path = mount.file("film.mkv");
    cache_whole(&path, FILM);
    let old = open_lent(&mount, &path, FILM);
    let new = (FILM.0 + 1, FILM.1 + 77);
    server.replace("film.mkv", made(new.0, new.1));
    wait_until("the new film", || {
        File::open(&path).is_ok_and(|file| check_whole(&file, (new.0, new.1), PIECE).is_ok())
    });
    assert!(is_the_kernels(&mount, &old, FILM), "the old one as long as it is open");
    let lent = open_lent(&mount, &path, new);
    check_whole(&old, FILM, PIECE).unwrap();
    drop(lent);
}

fn off_means_off() {
    let server = server(&[("film.mkv", FILM)]);
    let mount = Mount::new(&server.url(), &["--passthrough", "off"]);
    let path = mount.file("film.mkv");
    for _ in 0..3 {
        cache_whole(&path, FILM);
        assert!(!is_the_kernels(&mount, &File::open(&path).unwrap(), FILM));
    }
}

/// Films that come, are lent, are replaced and give way, all the time; each byte that is read is one of its own film's.
fn back_and_forth() {
    const SIZE: u64 = 9 << 20;
    const NAMES: [&str; 6] = ["a.mkv", "b.mkv", "c.mkv", "d.mkv", "e.mkv", "f.mkv"];
    let seed = fastrand::u64(..1 << 32);
    println!("seed {seed}");
    let films: Vec<_> = NAMES.iter().enumerate().map(|(at, name)| (*name, (1_000 * at as u64, SIZE))).collect();
    let server = server(&films);
    let mount = Mount::new(&server.url(), &["--cache-size", "36MiB", "--dir-ttl", "0"]);
    // Of each film, the newest version there may be; a reader sees one version at least as new as when it opened.
    let versions: [AtomicU64; 6] = Default::default();
    let (until, reads) = (Instant::now() + Duration::from_secs(15), AtomicU64::new(0));
    thread::scope(|scope| {
        for reader in 0..4 {
            let (mount, versions, reads) = (&mount, &versions, &reads);
            scope.spawn(move || {
                let mut dice = fastrand::Rng::with_seed(seed + reader);
                while Instant::now() < until {
                    let which = dice.usize(..NAMES.len());
                    let path = mount.file(NAMES[which]);
                    // Replaced just now: as every program sees it, the name is looked up again next time.
                    let Ok(file) = (if dice.u8(..8) == 0 { open_direct(&path) } else { File::open(&path) }) else {
                        continue;
                    };
                    let mut version = None;
                    for _ in 0..dice.usize(1..60) {
                        let len = dice.u64(1..300_000).max(64);
                        let offset = dice.u64(..SIZE - len);
                        let mut bytes = vec![0; len as usize];
                        if let Err(error) = file.read_exact_at(&mut bytes, offset) {
                            assert_eq!(error.raw_os_error(), Some(libc::ESTALE), "{error}");
                            break;
                        }
                        let newest = 1_000 * which as u64 + versions[which].load(Ordering::SeqCst);
                        let fits = |made_of: &u64| bytes[..64] == reelfs::demo::generated(*made_of, offset, 64)[..];
                        let shown = *version.get_or_insert_with(|| {
                            (1_000 * which as u64..=newest).rev().find(fits).expect("bytes of no version")
                        });
                        check(shown, offset, &bytes);
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        scope.spawn(|| {
            let mut dice = fastrand::Rng::with_seed(seed + 100);
            while Instant::now() < until {
                thread::sleep(Duration::from_millis(dice.u64(200..900)));
                let which = dice.usize(..NAMES.len());
                let version = versions[which].fetch_add(1, Ordering::SeqCst) + 1;
                server.replace(NAMES[which], made(1_000 * which as u64 + version, SIZE));
            }
        });
    });
    println!("{} reads", reads.load(Ordering::Relaxed));
    assert!(reads.load(Ordering::Relaxed) > 500);
}
