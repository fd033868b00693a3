//! A server that is gone for a while: what needs it fails at once, what does not never notices, and it is found again
//! when it is back.
//! Never here: one that fails now and then (`storm`), or one that only says nothing (`hanging`).

use std::fs;
use std::time::{Duration, Instant};

use reelfs::demo::{Server, ServerConfig};

use super::compare::{check, check_whole, made, wait_until};
use super::late::Machine;
use super::mount::{Mount, open_direct, read_direct};
use super::needs::{FUSE, Test};

const CACHED: (u64, u64) = (1, 4 << 20);
const COLD: (u64, u64) = (2, 64 << 20);
/// What fails without being asked takes less, on a machine that runs other tests, too; asked three times, it takes longer.
const AT_ONCE: Duration = Duration::from_millis(150);

pub fn tests() -> Vec<Test> {
    vec![Test::new("outage::it_is_told_at_once_and_ends_by_itself", &[FUSE], it_is_told_at_once_and_ends_by_itself)]
}

fn server(port: u16) -> Server {
    let config = ServerConfig { port, ..ServerConfig::default() };
    Server::start(config.file("cached.mkv", made(CACHED.0, CACHED.1)).file("cold.mkv", made(COLD.0, COLD.1))).unwrap()
}

fn it_is_told_at_once_and_ends_by_itself() {
    let origin = server(0);
    // For as long an outage is young, and readers wait for its end.
    let mount = Mount::new(&origin.url(), &["--fill", "never", "--chunk-timeout", "3"]);
    let cached = open_direct(&mount.file("cached.mkv")).unwrap();
    check_whole(&cached, CACHED, 1 << 20).unwrap();
    let cold = open_direct(&mount.file("cold.mkv")).unwrap();
    let port = origin.address().port();
    drop(origin);

    let mut offset = 8 << 20;
    let mut read_cold = || {
        offset += 128 << 10;
        let begun = Instant::now();
        let read = std::os::unix::fs::FileExt::read_at(&cold, &mut [0; 4096], offset);
        (read.err().and_then(|error| error.raw_os_error()), begun.elapsed())
    };
    wait_until("a log that says so", || {
        assert_eq!(read_cold().0, Some(libc::EIO));
        mount.place.log().contains(" is away")
    });
    let machine = Machine::watch();
    let mut took: Vec<_> = (0..20)
        .map(|_| {
            let (error, took) = read_cold();
            assert_eq!(error, Some(libc::EIO));
            took
        })
        .collect();
    took.sort_unstable();
    println!("cold reads while the server is gone: half of them within {:?}, all within {:?}", took[10], took[19]);
    assert!(took[10] < AT_ONCE + machine.late_by(), "{took:?}");
    assert!(mount.place.log().contains("has not answered for"), "since when: {}", mount.place.log());
    check_whole(&cached, CACHED, 1 << 20).unwrap();
    assert_eq!(fs::read_dir(mount.point()).unwrap().count(), 2);

    let _back = server(port);
    wait_until("reads after the server is back", || match read_direct(&mount.file("cold.mkv"), 40 << 20, 1 << 20) {
        Ok(bytes) => {
            check(COLD.0, 40 << 20, &bytes);
            true
        }
        Err(_) => false,
    });
    assert!(mount.place.log().contains(" is back after "), "{}", mount.place.log());
}
