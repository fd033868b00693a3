//! Row 12: what one read of 128 KiB costs that the cache answers, counted rather than timed: instructions (callgrind),
//! allocations, and questions to the index. The drive is called as the kernel's adapter calls it.
//! Never here: mounts. What the kernel does, copying included, callgrind does not see.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use reelfs::cache::Cache;
use reelfs::config::{CacheConfig, DriveConfig, FetchConfig, Fill, PlacesConfig, ReadConfig};
use reelfs::drive::{Drive, Found, ROOT};
use reelfs::fetch::Fetcher;
use reelfs::metrics::Metrics;
use reelfs::origin::source::Source;
use reelfs::range::ByteRange;
use reelfs::read::Reader;
use reelfs::retry::Retry;

use crate::Result;
use crate::allocations;
use crate::bench::Bench;
use crate::machine;
use crate::stats::float;
use crate::table::{Line, Unit};

const NAME: &str = "film.mkv";
const FILE_BYTES: u64 = 8 << 20;
const READ_BYTES: u64 = 128 << 10;
/// Allocations are counted over so many.
const READS: u64 = 10_000;
/// Under callgrind: once so many reads, once twice as many; the difference is theirs alone. So many that what starting
/// and ending cost, which is never quite the same twice, is lost among them. The film is in the cache from the reads
/// before, so that fetching it, which differs more, is no part of either.
const CALLGRIND_READS: u64 = 100_000;
/// Functions named below the table.
const FUNCTIONS_SHOWN: usize = 8;
/// An answer takes no longer unless something is broken; callgrind is slow.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// Row 12.
pub fn hits(bench: &mut Bench) -> Result<()> {
    let (dir, row) = (bench.scratch().join("hits"), 12);
    fs::create_dir_all(&dir)?;
    let program = std::env::current_exe()?;
    bench.say("counting allocations …")?;
    let counted = read_in_process(Command::new(&program), &dir, READS)?;
    let value = |name: &str| counted[name].as_f64().ok_or_else(|| format!("no {name} was counted"));
    let per_read = |name: &str| Ok::<_, String>(value(name)? / float(READS));
    bench.add(Line::new(row, "a hit of 128 KiB: allocations", Unit::Count, &[per_read("allocations")?]));
    bench.add(Line::new(row, "bytes allocated", Unit::Count, &[per_read("allocated_bytes")?]));
    bench.add(Line::new(row, "index lookups", Unit::Count, &[per_read("index_lookups")?]));
    let time = [per_read("micros")? / 1e3];
    bench.add(Line::new(row, "time, page cache hot, without the kernel's adapter", Unit::Milliseconds, &time));
    if machine::program("valgrind").is_none() || machine::program("callgrind_annotate").is_none() {
        bench.add(Line::missing(row, "instructions", "valgrind is not installed"));
        return Ok(());
    }
    let mut profiles = Vec::new();
    for reads in [CALLGRIND_READS, 2 * CALLGRIND_READS] {
        bench.say(&format!("{reads} reads under callgrind …"))?;
        profiles.push(Profile::take(&program, &dir, reads)?);
    }
    let (total, mut functions) = profiles[1].since(&profiles[0]);
    functions.sort_by(|a, b| b.1.total_cmp(&a.1));
    let copied: f64 = functions.iter().filter(|(name, _)| is_copying(name)).map(|(_, count)| count).sum();
    let shown = functions.iter().take(FUNCTIONS_SHOWN).map(|(name, count)| format!("{count:.0} {name}"));
    bench.add(
        Line::new(row, "instructions, all threads", Unit::Count, &[total])
            .note("in user space only; the copy out of the page cache is one pread, which the kernel does")
            .note(format!("most of them: {}", shown.collect::<Vec<_>>().join("; "))),
    );
    bench.add(Line::new(row, "of them copying memory", Unit::Count, &[copied]));
    Ok(())
}

fn is_copying(function: &str) -> bool {
    ["memcpy", "memmove", "memset"].iter().any(|name| function.contains(name))
}

/// Starts this program once more, alone with its reads.
fn read_in_process(mut command: Command, dir: &Path, reads: u64) -> Result<serde_json::Value> {
    command.args(["--bench", "--hit-reads", &reads.to_string(), "--dir"]).arg(dir);
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(format!("{reads} hits: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Instructions by function.
struct Profile {
    reads: u64,
    functions: HashMap<String, u64>,
}

impl Profile {
    fn take(program: &Path, dir: &Path, reads: u64) -> Result<Self> {
        let out = dir.join(format!("callgrind-{reads}.out"));
        let valgrind = machine::program("valgrind").ok_or("valgrind is not installed")?;
        let mut command = Command::new(valgrind);
        command.args(["--quiet", "--tool=callgrind", &format!("--callgrind-out-file={}", out.display())]).arg(program);
        read_in_process(command, dir, reads)?;
        let annotate = machine::program("callgrind_annotate").ok_or("callgrind_annotate is not installed")?;
        let output = Command::new(annotate).args(["--threshold=100", "--auto=no"]).arg(&out).output()?;
        if !output.status.success() {
            return Err(format!("callgrind_annotate: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let text = String::from_utf8_lossy(&output.stdout);
        let mut functions = HashMap::new();
        for (name, count) in text.lines().filter_map(parse_function) {
            *functions.entry(name).or_default() += count;
        }
        Ok(Self { reads, functions })
    }

    /// For each read that this one has more than `fewer`: instructions in all, and by function.
    fn since(&self, fewer: &Self) -> (f64, Vec<(String, f64)>) {
        let reads = float(self.reads - fewer.reads);
        let more = |(name, count): (&String, &u64)| {
            let before = fewer.functions.get(name).copied().unwrap_or_default();
            (name.clone(), (float(*count) - float(before)) / reads)
        };
        let functions: Vec<_> = self.functions.iter().map(more).collect();
        (functions.iter().map(|(_, count)| count).sum(), functions)
    }
}

/// Of `1,234 (5.6%)  file.c:function [object]`: the function and its own instructions.
fn parse_function(line: &str) -> Option<(String, u64)> {
    let (count, rest) = line.trim().split_once(' ')?;
    let count = count.replace(',', "").parse().ok()?;
    let rest = rest.trim_start();
    let rest = if rest.starts_with('(') { rest.split_once(')')?.1 } else { rest }.trim();
    // Totals name no function.
    let (_, function) = rest.split_once(':')?;
    Some((function.split(" [").next()?.to_owned(), count))
}

/// The other side of `--hit-reads`: a drive over a folder in `dir`, a film that is wholly cached and trusted, and `reads`
/// reads of it. Prints what they took together. Folder and cache are left for the next one.
pub fn read_hits(dir: &Path, reads: u64) -> Result<()> {
    let films = dir.join("films");
    if !films.exists() {
        fs::create_dir(&films)?;
        fs::write(films.join(NAME), reelfs::demo::generated(12, 0, FILE_BYTES as usize))?;
    }
    let metrics = Arc::<Metrics>::default();
    let (drive, cache) = assemble(&films, dir.join("cache"), &metrics)?;
    let drive = Arc::new(drive);

    let (tell, told) = bounded(1);
    let tell_ino = tell.clone();
    drive.lookup(ROOT, NAME, move |found| {
        let ino = |found| if let Found::Name(attributes) = found { attributes.ino } else { 0 };
        let _ = tell_ino.send(found.map(ino));
    });
    let ino = told.recv_timeout(ANSWER_MAX)??;
    drive.open(ino, false, move |opened| {
        let _ = tell.send(opened.map(|opened| opened.handle));
    });
    let handle = told.recv_timeout(ANSWER_MAX)??;
    let offsets = || (0..FILE_BYTES).step_by(READ_BYTES as usize).cycle();
    // From the folder into the cache, and once more until all of it is answered from there.
    for offset in offsets().take((FILE_BYTES / READ_BYTES) as usize) {
        read(&drive, handle, offset)?;
    }
    cache.flush();
    for offset in offsets().take((FILE_BYTES / READ_BYTES) as usize) {
        read(&drive, handle, offset)?;
    }

    let (cached, lookups) = (metrics.read_cached_bytes.get(), metrics.index_lookups.get());
    let (calls, bytes) = allocations::so_far();
    let begun = Instant::now();
    for offset in offsets().take(reads as usize) {
        drive.read(handle, offset, READ_BYTES as usize, |answer| {
            std::hint::black_box(answer.is_ok());
        });
    }
    let time = begun.elapsed();
    let (calls_now, bytes_now) = allocations::so_far();
    let hits = (metrics.read_cached_bytes.get() - cached) / READ_BYTES;
    if hits != reads {
        return Err(format!("{hits} of {reads} reads were hits").into());
    }
    let counted = serde_json::json!({
        "allocations": calls_now - calls,
        "allocated_bytes": bytes_now - bytes,
        "index_lookups": metrics.index_lookups.get() - lookups,
        "micros": time.as_micros() as u64,
    });
    println!("{counted}");
    Ok(())
}

/// A read that is answered whenever it may be.
fn read(drive: &Arc<Drive>, handle: u64, offset: u64) -> Result<()> {
    let (tell, told) = bounded(1);
    drive.read(handle, offset, READ_BYTES as usize, move |answer| {
        let _ = tell.send(answer.map(<[u8]>::len));
    });
    let len = told.recv_timeout(ANSWER_MAX)?? as u64;
    if ByteRange::at(offset, len).end == offset + READ_BYTES { Ok(()) } else { Err("a short read".into()) }
}

/// The parts of a mount, without the kernel; nothing is fetched that is not asked for.
fn assemble(films: &Path, dir: PathBuf, metrics: &Arc<Metrics>) -> Result<(Drive, Arc<Cache>)> {
    let timeout = ANSWER_MAX;
    let cache = CacheConfig { dir, size_bytes: 1 << 30, min_free_bytes: 0, chunk_size_bytes: 2 << 20 };
    let fetch = FetchConfig { connections: 2, chunk_timeout: timeout, retries: 0, bandwidth_limit: None };
    let read = ReadConfig { lookahead_chunks: 0, fill: Fill::Never, checks_whole: false };
    let drive = DriveConfig { dir_ttl: timeout, uid: 0, gid: 0, umask: 0 };
    let origin = Source::parse(&films.to_string_lossy())?.open(&PlacesConfig::default())?;
    let chunk = cache.chunk_size_bytes;
    let cache = Arc::new(Cache::open(&cache, origin.describe(), Arc::clone(metrics))?);
    let retry = Arc::new(Retry::new(fetch.retries, Arc::clone(metrics)));
    let (again, counted) = (Arc::clone(&retry), Arc::clone(metrics));
    let fetcher = Fetcher::start(Arc::clone(&origin), Arc::clone(&cache), &fetch, chunk, again, counted)?;
    let reader = Reader::start(Arc::clone(&cache), fetcher, &read, timeout, Arc::clone(metrics))?;
    let drive = Drive::start(origin, Arc::clone(&cache), reader, &drive, (timeout, retry), None)?;
    Ok((drive, cache))
}
