//! What was read against what it should be, and waiting for what will be.
//! Never here: the drive.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::{Duration, Instant};

use reelfs::demo::{Content, generate};

/// Nothing that is waited for here takes longer unless it is broken.
const SOON: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(5);

/// A file of the demo's origin that takes no memory.
pub fn made(seed: u64, size_bytes: u64) -> Content {
    Content::Generated { size_bytes, seed }
}

/// Whether `bytes` are those of the generated file `seed` from `offset` on; says where they are not.
pub fn check(seed: u64, offset: u64, bytes: &[u8]) {
    let mut expected = vec![0; bytes.len()];
    generate(seed, offset, &mut expected);
    if let Some(at) = bytes.iter().zip(&expected).position(|(read, expected)| read != expected) {
        panic!("a wrong byte at {} of the file made of {seed:#x}", offset + at as u64);
    }
}

/// Reads a generated file from end to end in pieces of `piece` bytes and checks each.
pub fn check_whole(file: &File, (seed, size_bytes): (u64, u64), piece: usize) -> io::Result<()> {
    let mut bytes = vec![0; piece];
    let mut at = 0;
    while at < size_bytes {
        let len = piece.min((size_bytes - at) as usize);
        file.read_exact_at(&mut bytes[..len], at)?;
        check(seed, at, &bytes[..len]);
        at += len as u64;
    }
    Ok(())
}

/// Waits until `is_so`; panics if it does not come about.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        thread::sleep(TICK);
    }
}
