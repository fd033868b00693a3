//! The budget is hard: a file far larger than the cache is read twice, while the cache on disk is measured all the time.
//! Never here: what is kept and what goes.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use reelfs::demo::{Server, ServerConfig};

use super::compare::{check_whole, made};
use super::mount::{Mount, Place, open_direct};
use super::needs::{FUSE, Test};

const BUDGET: u64 = 64 << 20;
const FILE: (u64, u64) = (0xb1d, 1 << 30);

pub fn tests() -> Vec<Test> {
    vec![Test::new(
        "budget::a_large_file_twice_through_a_small_cache",
        &[FUSE],
        a_large_file_twice_through_a_small_cache,
    )]
}

/// Bytes on disk below `folder`, as `du` counts them. What goes while it is looked at counts as gone.
fn on_disk(folder: &Path) -> u64 {
    let Ok(names) = fs::read_dir(folder) else { return 0 };
    let each = names.flatten().map(|name| match name.metadata() {
        Ok(metadata) if metadata.is_dir() => metadata.blocks() * 512 + on_disk(&name.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    each.sum()
}

fn a_large_file_twice_through_a_small_cache() {
    let server = Server::start(ServerConfig::default().file("film.mkv", made(FILE.0, FILE.1))).unwrap();
    let place = Place::new();
    let mount = Mount::on(&place, &server.url(), &["--cache-size", "64MiB"]);
    let is_over = AtomicBool::new(false);
    let (most, samples, all) = thread::scope(|scope| {
        let measuring = scope.spawn(|| {
            let (mut most, mut samples, mut all) = (0, 0, 0);
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(on_disk(&place.cache().join("entries")));
                all = all.max(on_disk(&place.cache()));
                samples += 1;
            }
            (most, samples, all)
        });
        let read = std::panic::catch_unwind(|| {
            for _ in 0..2 {
                check_whole(&open_direct(&mount.file("film.mkv")).unwrap(), FILE, 1 << 20).unwrap();
            }
        });
        is_over.store(true, Ordering::Relaxed);
        let sampled = measuring.join().unwrap();
        read.unwrap();
        sampled
    });
    println!(
        "1 GiB twice under 64 MiB: entries at most {most} bytes on disk, with the index {all}, in {samples} samples"
    );
    assert!(samples > 100, "{samples}");
    assert!(most > BUDGET / 2, "the cache is hardly used: {most}");
    assert!(most <= BUDGET, "{most} bytes on disk");
}
