//! A film that is replaced at the origin while it is open: old bytes or an error on the old handle, new bytes on a new
//! one, and never a mix.
//! Never here: other faults.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use reelfs::demo::{Server, ServerConfig};

use super::compare::{check, check_whole, made, wait_until};
use super::mount::{Mount, open_direct};
use super::needs::{FUSE, Test};

const SIZE: u64 = 24 << 20;
const PIECE: usize = 256 << 10;

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("replaced::by_another_of_the_same_size", &[FUSE], || replace(true, SIZE)),
        Test::new("replaced::without_etags", &[FUSE], || replace(false, SIZE)),
        Test::new("replaced::by_a_shorter_one", &[FUSE], || replace(true, SIZE / 2)),
        Test::new("replaced::again_and_again", &[FUSE], again_and_again),
    ]
}

/// Reads all of `file`, which was opened on the film made of `seed`; whether a read failed because it is gone.
fn old_or_gone(file: &File, seed: u64) -> bool {
    let mut is_gone = false;
    for offset in (0..SIZE).step_by(PIECE) {
        let mut bytes = vec![0; PIECE];
        match file.read_exact_at(&mut bytes, offset) {
            Ok(()) => check(seed, offset, &bytes),
            Err(error) => {
                assert!(matches!(error.raw_os_error(), Some(libc::ESTALE)), "{error}");
                is_gone = true;
            }
        }
    }
    is_gone
}

fn replace(has_etags: bool, new_size: u64) {
    let config = ServerConfig { has_etags, ..ServerConfig::default() };
    let server = Server::start(config.file("film.mkv", made(1, SIZE))).unwrap();
    let mount = Mount::new(&server.url(), &["--dir-ttl", "1", "--fill", "never", "--lookahead-chunks", "0"]);
    let path = mount.file("film.mkv");
    let (direct, buffered) = (open_direct(&path).unwrap(), File::open(&path).unwrap());
    for file in [&direct, &buffered] {
        let mut bytes = vec![0; PIECE];
        file.read_exact_at(&mut bytes, 8 << 20).unwrap();
        check(1, 8 << 20, &bytes);
    }
    server.replace("film.mkv", made(2, new_size));
    assert!(old_or_gone(&direct, 1), "what was never fetched can't be read");
    assert!(old_or_gone(&buffered, 1));
    // After its time the name stands for the new film; the old handles never do.
    wait_until("the new film", || {
        let file = open_direct(&path).unwrap();
        file.metadata().unwrap().len() == new_size && check_whole(&file, (2, new_size), PIECE).is_ok()
    });
    check_whole(&File::open(&path).unwrap(), (2, new_size), PIECE).unwrap();
    old_or_gone(&direct, 1);
    old_or_gone(&buffered, 1);
}

/// A reader who opens the film anew all the time sees whole versions only.
fn again_and_again() {
    const SMALL: u64 = 3 << 20;
    let server = Server::start(ServerConfig::default().file("film.mkv", made(0, SMALL))).unwrap();
    let mount = Mount::new(&server.url(), &["--dir-ttl", "0"]);
    let path = mount.file("film.mkv");
    let mut newest_seen = 0;
    for round in 0..60 {
        if round % 3 == 0 {
            server.replace("film.mkv", made(round, SMALL));
        }
        let Ok(file) = (if round % 2 == 0 { open_direct(&path) } else { File::open(&path) }) else { continue };
        let mut bytes = vec![0; SMALL as usize];
        if round % 5 == 0 {
            server.replace("film.mkv", made(round, SMALL));
        }
        if file.read_exact_at(&mut bytes, 0).is_err() {
            continue;
        }
        let seed = (0..=round).find(|seed| bytes[..64] == reelfs::demo::generated(*seed, 0, 64)).unwrap();
        check(seed, 0, &bytes);
        newest_seen = newest_seen.max(seed);
    }
    assert!(newest_seen >= 30, "{newest_seen}");
}
