//! A process that reads, killed at any moment: what it leaves behind is true, or is found false and fetched again.
//! Never here: power loss. `kill -9` leaves the kernel's page cache alone, so the order of syncs is not seen here.
//!
//! The child is this same program, started again with a variable that tells it what to read; it runs as the test
//! `child`, which without that variable does nothing.
#![allow(clippy::unwrap_used, reason = "a test that meets an error should end there")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

use reelfs::cache::index::Index;
use reelfs::cache::{Cache, Entry};
use reelfs::cancel::Cancel;
use reelfs::config::{CacheConfig, FetchConfig, Fill, PlacesConfig, ReadConfig};
use reelfs::demo::{Content, Link, Server, ServerConfig, generated};
use reelfs::fetch::Fetcher;
use reelfs::metrics::Metrics;
use reelfs::origin::Patience;
use reelfs::origin::source::Source;
use reelfs::range::{ByteRange, RangeSet};
use reelfs::read::{Handle, Reader};
use reelfs::retry::Retry;

const CHILD: &str = "REELFS_TEST_CRASH_CHILD";
const KILLS: u32 = 200;
const CHUNK: u64 = 256 << 10;
const BUDGET: u64 = 32 * CHUNK;
/// What one file may be counted beside its bytes, when it is in pieces.
const EXTENTS: u64 = 4096;
/// One that fits the cache, and one that is evicted all the time.
const FILES: [(&str, u64); 2] = [("short.mkv", 5 * CHUNK + 321), ("long.mkv", 60 * CHUNK + 12_345)];
const PATIENCE: Duration = Duration::from_secs(30);

struct Mount {
    reader: Reader,
    cache: Arc<Cache>,
    handles: Vec<Arc<Handle>>,
}

fn cache_config(dir: &Path, size_bytes: u64) -> CacheConfig {
    CacheConfig { dir: dir.to_owned(), size_bytes, min_free_bytes: 0, chunk_size_bytes: CHUNK }
}

impl Mount {
    fn build(dir: &Path, url: &str, budget: u64) -> Self {
        let metrics = Arc::<Metrics>::default();
        let origin = Source::parse(url).unwrap().open(&PlacesConfig::default()).unwrap();
        let cache = Arc::new(Cache::open(&cache_config(dir, budget), origin.describe(), Arc::clone(&metrics)).unwrap());
        let patience = Patience { stall: PATIENCE, cancel: Cancel::new() };
        let entries: Vec<Arc<Entry>> =
            FILES.iter().map(|(name, _)| cache.entry(name, &origin.stat(name, &patience).unwrap()).unwrap()).collect();
        let fetch = FetchConfig { connections: 4, chunk_timeout: PATIENCE, retries: 1, bandwidth_limit: None };
        let read = ReadConfig { lookahead_chunks: 4, fill: Fill::Playing, checks_whole: true };
        let retry = Arc::new(Retry::new(fetch.retries, Arc::clone(&metrics)));
        let fetcher = Fetcher::start(origin, Arc::clone(&cache), &fetch, CHUNK, retry, Arc::clone(&metrics)).unwrap();
        let reader = Reader::start(Arc::clone(&cache), fetcher, &read, PATIENCE, metrics).unwrap();
        let handles = entries.into_iter().map(|entry| reader.open(entry)).collect();
        Self { reader, cache, handles }
    }

    fn read(&self, file: usize, range: ByteRange) {
        let handle = &self.handles[file];
        let mut bytes = vec![0; range.len() as usize];
        if !self.reader.read_cached(handle, range.start, &mut bytes) {
            let (answer, answers) = bounded(1);
            self.reader.read(handle, range, Box::new(move |result| drop(answer.send(result.map(<[u8]>::to_vec)))));
            bytes = answers.recv_timeout(2 * PATIENCE).expect("an answer").unwrap();
        }
        assert!(bytes == right(file, range), "wrong bytes: {range} of {}", FILES[file].0);
    }
}

fn right(file: usize, range: ByteRange) -> Vec<u8> {
    generated(file as u64, range.start, range.len() as usize)
}

/// Reads at random, in runs and in jumps, until it is killed.
#[test]
fn child() {
    let Ok(task) = std::env::var(CHILD) else { return };
    let [seed, url, dir] = task.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{task}") };
    let mut dice = fastrand::Rng::with_seed(seed.parse().unwrap());
    let mount = Mount::build(Path::new(dir), url, BUDGET);
    // The parent waits for a sign of life, so that most kills hit the reading and not the start.
    println!("reading");
    loop {
        let file = dice.usize(..FILES.len());
        let size = FILES[file].1;
        let mut at = dice.u64(..size);
        for _ in 0..dice.u32(1..12) {
            let range = ByteRange::at(at, dice.u64(1..200_000)).intersect(ByteRange::new(0, size));
            mount.read(file, range);
            at = range.end;
        }
    }
}

/// What the index says is there, by path.
fn recorded(dir: &Path) -> BTreeMap<String, RangeSet> {
    let mut recorded: BTreeMap<String, RangeSet> = BTreeMap::new();
    let Ok(index) = Index::open_to_look(&dir.join("index.sqlite")) else { return recorded };
    for entry in index.entries(0).unwrap() {
        let mut at = 0;
        loop {
            let page = index.chunks(entry.entry_id, at).unwrap();
            let Some(last) = page.last() else { break };
            at = last.range.end;
            for chunk in &page {
                recorded.entry(entry.path.clone()).or_default().insert(chunk.range);
            }
        }
    }
    recorded
}

fn du(dir: &Path) -> (u64, u64) {
    let mut sum = (0, 0);
    for name in fs::read_dir(dir).unwrap() {
        let path = name.unwrap().path();
        let (bytes, files) = if path.is_dir() { du(&path) } else { (fs::metadata(&path).unwrap().blocks() * 512, 1) };
        sum = (sum.0 + bytes, sum.1 + files);
    }
    sum
}

#[test]
fn two_hundred_kills_leave_nothing_false_and_lose_nothing_recorded() {
    let seed =
        std::env::var("REELFS_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("REELFS_TEST_SEED={seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    // Slow enough that a kill hits requests, writes and records under way alike.
    let link = Link { rate_per_connection: Some(40 << 20), ..Link::default() };
    let config = ServerConfig { link, ..ServerConfig::default() };
    let config = (0..FILES.len()).fold(config, |config, file| {
        config.file(FILES[file].0, Content::Generated { size_bytes: FILES[file].1, seed: file as u64 })
    });
    let server = Server::start(config).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (mut survived, mut verified) = (0, 0);
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(CHILD, format!("{} {} {}", dice.u64(..), server.url(), dir.path().display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = child.stdout.take().unwrap();
        if dice.u8(..8) > 0 {
            let (mut told, mut byte) = (Vec::new(), [0]);
            while !told.ends_with(b"reading") && out.read(&mut byte).unwrap() > 0 {
                told.push(byte[0]);
            }
        }
        thread::sleep(Duration::from_micros(dice.u64(..60_000)));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        let mut said = String::new();
        let _ = out.read_to_string(&mut said);
        assert!(status.code().is_none(), "kill {kill}, seed {seed}: it ended by itself: {said}");

        let before = recorded(dir.path());
        // Sparsely, as it hashes all; by the last time it has seen what every kill left and no read has touched.
        if kill % 5 == 4 {
            let cache = Cache::open(&cache_config(dir.path(), BUDGET), &server.url(), Arc::default()).unwrap();
            let mut bad = Vec::new();
            verified += cache.verify(&mut |chunk| bad.push(chunk.clone())).unwrap().chunks;
            assert!(bad.is_empty(), "kill {kill}, seed {seed}: {bad:?}");
            drop(cache);
        }
        // With more room than the child had, so that nothing is evicted, and rightly fetched again, under the checks.
        server.reset_counts();
        let mount = Mount::build(dir.path(), &server.url(), 4 * BUDGET);
        let (disk, files) = du(&dir.path().join("entries"));
        assert!(disk <= BUDGET, "kill {kill}, seed {seed}: {disk} bytes");
        let spare = disk.saturating_sub(mount.cache.used_bytes());
        assert!(spare <= files * EXTENTS, "kill {kill}, seed {seed}: {spare} bytes that no row knows");
        // Every recorded byte, right, without asking for it.
        for (file, (name, _)) in FILES.iter().enumerate() {
            for range in before.get(*name).into_iter().flat_map(RangeSet::iter) {
                for piece in range.slots(CHUNK) {
                    mount.read(file, piece);
                    survived += 1;
                }
            }
        }
        // Lookahead and fill may ask for what was not there; nobody may for what was.
        for asked in server.ranges() {
            let again = before.get(&*asked.path).map(|set| set.overlap(asked.range)).unwrap_or_default();
            let total: u64 = before.values().map(RangeSet::len).sum();
            assert!(
                again.is_empty(),
                "kill {kill}, seed {seed}: {again:?} of {} was recorded, one of {total} bytes",
                asked.path
            );
        }
        // And some reads of anything.
        for _ in 0..3 {
            let file = dice.usize(..FILES.len());
            mount.read(
                file,
                ByteRange::at(dice.u64(..FILES[file].1), 70_000).intersect(ByteRange::new(0, FILES[file].1)),
            );
        }
        drop(mount);
        // Back within the child's budget: else one killed before it has swept leaves what only this process had kept.
        let cache = Cache::open(&cache_config(dir.path(), BUDGET), &server.url(), Arc::default()).unwrap();
        if kill % 20 == 19 {
            // Begin anew now and then, so that kills hit an empty cache, too.
            cache.purge(reelfs::cache::Purge::All).unwrap();
        }
    }
    println!("{survived} recorded chunks read after {KILLS} kills, {verified} verified");
    assert!(survived > u64::from(KILLS), "too little was recorded to prove anything");
}
