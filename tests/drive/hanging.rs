//! While the origin hangs, what is known and what is cached is answered at once; what is not ends in its time; and when
//! the origin is back, all is as before.
//! Never here: origins that answer something wrong.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use reelfs::demo::{Link, Server, ServerConfig};

use super::compare::{check, check_whole, made, wait_until};
use super::late::Machine;
use super::mount::{Mount, open_direct, read_direct};
use super::needs::{FUSE, Test};

/// What is promised is 50 ms; a machine that runs tests may be ten times as slow.
const AT_ONCE: Duration = Duration::from_millis(500);
const DEADLINE: Duration = Duration::from_secs(2);
const CACHED: (u64, u64) = (0xcac, 4 << 20);

pub fn tests() -> Vec<Test> {
    vec![
        Test::alone("hanging::fresh_names", &[FUSE], || hang("60")),
        Test::alone("hanging::names_whose_time_is_up", &[FUSE], || hang("1")),
        Test::new("hanging::an_orderly_end", &[FUSE], an_orderly_end),
    ]
}

fn timed<T>(what: &str, do_it: impl FnOnce() -> io::Result<T>) -> Duration {
    let begun = Instant::now();
    do_it().unwrap_or_else(|error| panic!("{what}: {error}"));
    begun.elapsed()
}

fn list_long(folder: &Path) -> io::Result<()> {
    for name in fs::read_dir(folder)? {
        name?.metadata()?;
    }
    Ok(())
}

fn server() -> Server {
    let link = Link { round_trip: Duration::from_millis(40), ..Link::default() };
    let mut config = ServerConfig { link, ..ServerConfig::default() }.file("cached.mkv", made(CACHED.0, CACHED.1));
    for number in 0..50 {
        config = config.file(format!("film {number}.mkv"), made(number, 8 << 20));
        config = config.file(format!("sub/film {number}.mkv"), made(number, 8 << 20));
    }
    Server::start(config).unwrap()
}

fn hang(ttl: &str) {
    let server = server();
    let mount = Mount::new(&server.url(), &["--chunk-timeout", "2", "--retries", "3", "--dir-ttl", ttl]);
    let cached = mount.file("cached.mkv");
    check_whole(&open_direct(&cached).unwrap(), CACHED, 1 << 20).unwrap();
    list_long(&mount.point()).unwrap();
    list_long(&mount.file("sub")).unwrap();
    let ttl_ms: u64 = ttl.parse::<u64>().unwrap() * 1000;
    if ttl_ms < 2000 {
        // What the drive and the kernel were told has to grow old.
        thread::sleep(Duration::from_millis(ttl_ms + 100));
    }
    let opened = [open_direct(&mount.file("film 5.mkv")).unwrap(), fs::File::open(mount.file("film 6.mkv")).unwrap()];
    server.set_hanging(true);

    let machine = Machine::watch();
    let mut worst = [("ls", Duration::ZERO); 5];
    let begun = Instant::now();
    // Long enough that fresh and failed questions take turns.
    while begun.elapsed() < DEADLINE * 2 {
        let once = [
            ("ls", timed("ls", || list_long(&mount.file("sub")))),
            ("stat", timed("stat", || fs::metadata(mount.file("film 7.mkv")))),
            ("df", timed("df", || Ok(rustix::fs::statvfs(mount.point())?))),
            (
                "open and read what is cached",
                timed("read", || {
                    check(CACHED.0, 1 << 20, &read_direct(&cached, 1 << 20, 1 << 20)?);
                    Ok(())
                }),
            ),
            ("cat what is cached", timed("cat", || fs::read(&cached))),
        ];
        for (worst, now) in worst.iter_mut().zip(once) {
            *worst = (now.0, worst.1.max(now.1));
        }
        thread::sleep(Duration::from_millis(20));
    }
    println!("while the origin hangs (names fresh for {ttl} s), at worst: {worst:.1?}");
    for (what, took) in worst {
        assert!(took < AT_ONCE + machine.late_by(), "{what} took {took:?}");
    }
    cold_reads(&opened);
    cold_open(&mount.file("film 1.mkv"));
    server.set_hanging(false);
    wait_until("reads after the origin is back", || match read_direct(&mount.file("film 3.mkv"), 5 << 20, 1 << 20) {
        Ok(bytes) => {
            check(3, 5 << 20, &bytes);
            true
        }
        Err(_) => false,
    });
    check_whole(&fs::File::open(mount.file("film 4.mkv")).unwrap(), (4, 8 << 20), 1 << 20).unwrap();
}

/// As a program asks, past the kernel's readahead and with it.
fn cold_reads(opened: &[fs::File]) {
    for file in opened {
        let (machine, begun) = (Machine::watch(), Instant::now());
        let error = file.read_at(&mut [0; 4096], 4 << 20).unwrap_err();
        let took = begun.elapsed();
        println!("a cold read while the origin hangs failed after {took:.1?}");
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        assert!(took < DEADLINE + machine.late_max(), "{took:?}");
    }
}

fn cold_open(path: &Path) {
    let (machine, begun) = (Machine::watch(), Instant::now());
    let error = fs::File::open(path).unwrap_err();
    let took = begun.elapsed();
    println!("a cold open while the origin hangs failed after {took:.1?}");
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    assert!(took < DEADLINE + machine.late_max(), "{took:?}");
}

/// Ctrl-C is heard while reads and names wait for the origin.
fn an_orderly_end() {
    let server = server();
    let mount = Mount::new(&server.url(), &["--chunk-timeout", "60"]);
    let files: Vec<_> =
        (0..20).map(|number| open_direct(&mount.file(&format!("film {number}.mkv"))).unwrap()).collect();
    server.set_hanging(true);
    let readers: Vec<_> =
        files.into_iter().map(|file| thread::spawn(move || file.read_at(&mut [0; 4096], 4 << 20))).collect();
    wait_until("reads at the origin", || server.held() > 4);
    let begun = Instant::now();
    mount.end();
    let took = begun.elapsed();
    for reader in readers {
        assert!(reader.join().unwrap().is_err());
    }
    println!("an end while the origin hangs took {took:.1?}");
    assert!(took < Duration::from_secs(10), "{took:?}");
}
