//! Rows 1 to 3: a film that is wholly in the cache, against the same bytes in a plain file beside it.
//! Never here: anything that waits for an origin while it is timed.

use std::fs::File;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use crate::Result;
use crate::bench::{BIG, BIG_SEED, Bench};
use crate::machine::{self, disk_reads, drop_caches};
use crate::mounts::{self, Mount, Place, Program};
use crate::origins::Daemon;
use crate::reading;
use crate::stats::{float, mebibytes, megabytes_per_second, millis, percentile};
use crate::table::{Cost, Line, Target, Unit};

/// For the daemon to find a complete file so after it was opened and closed again.
const SETTLE: Duration = Duration::from_secs(3);
/// Random reads of row 2.
const LOOKS: usize = 2_000;
const LOOKS_SEED: u64 = 2;
const PAGE_BYTES: u64 = 4 << 10;
/// A read counts as one from the disk if this part of its bytes came from there.
const DISK_SHARE_MIN: f64 = 0.9;
/// If the kernel asked the daemon for less than this part of what it would have to, it had a passthrough.
const PASSTHROUGH_SHARE_MAX: f64 = 0.25;
/// The largest request of the kernel's.
const REQUEST_BYTES_MAX: u64 = 1 << 20;

/// The big file on nginx, a mount that holds all of it, and the plain file.
struct Cached {
    mount: Mount,
    native: PathBuf,
    // Outlives the mount.
    _origin: Daemon,
}

impl Cached {
    fn build(bench: &Bench, program: Program, options: &[&str]) -> Result<Self> {
        let size_bytes = bench.settings.size_bytes;
        let native = bench.big_file()?.to_owned();
        let folder = native.parent().ok_or("the big file lies in a folder")?;
        let origin = Daemon::nginx(bench, folder)?;
        let place = Place::new(bench)?;
        let mount = match program {
            Program::Rclone => Mount::rclone(&place, &origin.url())?,
            _ => Mount::ours(bench, &place, &origin.url(), options)?,
        };
        bench.say(&format!("filling the cache of {} …", program.name()))?;
        reading::sequential(&mount.file(BIG), size_bytes)?;
        reading::check(&mount.file(BIG), BIG_SEED, size_bytes)?;
        if program == Program::Ours {
            mount.wait_cached(BIG, size_bytes)?;
        }
        // Opened once more, as the next player does: what is complete may be opened differently from now on.
        reading::check(&mount.file(BIG), BIG_SEED, size_bytes)?;
        thread::sleep(SETTLE);
        let cached = mount.place.cached_file()?;
        let held = std::os::unix::fs::MetadataExt::blocks(&cached.metadata()?) * 512;
        if held < size_bytes {
            return Err(format!("{}'s cache holds {held} bytes of {size_bytes}", program.name()).into());
        }
        Ok(Self { mount, native, _origin: origin })
    }

    fn path(&self, program: Program) -> PathBuf {
        if program == Program::Native { self.native.clone() } else { self.mount.file(BIG) }
    }
}

/// What one side's reads took.
#[derive(Default)]
struct Side {
    cold: Vec<f64>,
    hot: Vec<f64>,
    cold_cost: Cost,
    hot_cost: Cost,
    /// The least part of a cold read that came from the disk.
    disk_share: Option<f64>,
    /// The most requests of the kernel's in a cold read, as a part of the least there must be without a passthrough.
    asked_share: f64,
}

impl Side {
    fn cold_read(&mut self, cached: &Cached, program: Program, size_bytes: u64) -> Result<(f64, ())> {
        drop_caches()?;
        let (path, mount) = (cached.path(program), &cached.mount);
        let before = mount.usage()?;
        let (time, from_disk) = disk_reads(Some(mount.pid()), || reading::sequential(&path, size_bytes))?;
        if program != Program::Native {
            let used = mount.add_cost(&mut self.cold_cost, before)?;
            self.asked_share =
                self.asked_share.max(float(used.read_calls) / float(size_bytes.div_ceil(REQUEST_BYTES_MAX)));
        }
        let share = float(from_disk) / float(size_bytes);
        self.disk_share = Some(self.disk_share.map_or(share, |least| least.min(share)));
        let speed = megabytes_per_second(size_bytes, time);
        self.cold.push(speed);
        Ok((speed, ()))
    }

    fn hot_read(&mut self, cached: &Cached, program: Program, size_bytes: u64) -> Result<(f64, ())> {
        let (path, mount) = (cached.path(program), &cached.mount);
        let before = mount.usage()?;
        let speed = megabytes_per_second(size_bytes, reading::sequential(&path, size_bytes)?);
        if program != Program::Native {
            mount.add_cost(&mut self.hot_cost, before)?;
        }
        self.hot.push(speed);
        Ok((speed, ()))
    }

    fn disk_note(&self, who: &str) -> Option<String> {
        let share = self.disk_share.filter(|share| *share < DISK_SHARE_MIN)?;
        Some(format!("only {:.0} % of {who}'s cold reads came from the disk", share * 100.0))
    }
}

/// What the daemon says of passthrough, and what it did.
fn passthrough_note(mount: &Mount, asked_share: f64) -> String {
    let log = mount.log();
    let mut said = log.lines().filter(|line| line.to_lowercase().contains("passthrough"));
    let said = said.next_back().map_or("the daemon says nothing of passthrough".into(), |line| format!("log: {line}"));
    let is_in_use = asked_share < PASSTHROUGH_SHARE_MAX;
    let seen = if is_in_use { "the daemon was not asked for bytes" } else { "the daemon was asked for the bytes" };
    format!("{said}; {seen}")
}

/// Row 1.
pub fn sequential(bench: &mut Bench) -> Result<()> {
    let size_bytes = bench.settings.size_bytes;
    let cached = Cached::build(bench, Program::Ours, &[])?;
    let (mut ours, mut native) = (Side::default(), Side::default());
    for number in 1..=bench.settings.repeat {
        for program in bench.turns(&[Program::Ours, Program::Native], number) {
            let side = if program == Program::Ours { &mut ours } else { &mut native };
            let unit = Unit::MegabytesPerSecond;
            bench.sample(&format!("{}, page cache dropped", program.name()), number, unit, || {
                side.cold_read(&cached, program, size_bytes)
            })?;
            bench.sample(&format!("{}, hot", program.name()), number, unit, || {
                side.hot_read(&cached, program, size_bytes)
            })?;
        }
    }
    reading::check(&cached.mount.file(BIG), BIG_SEED, size_bytes)?;
    let size_mib = size_bytes >> 20;
    let speed = |what: &str, ours: &[f64], native: &[f64], cost: &Cost| {
        Line::new(1, format!("cached {size_mib} MiB, sequential, {what}"), Unit::MegabytesPerSecond, ours)
            .against("native", native, &Cost::default())
            .target(Target::RatioAtLeast(0.95))
            .cost(cost)
    };
    let mut cold = speed("page cache dropped", &ours.cold, &native.cold, &ours.cold_cost)
        .note(passthrough_note(&cached.mount, ours.asked_share));
    cold.notes.extend([ours.disk_note("ours"), native.disk_note("native")].into_iter().flatten());
    bench.add(cold);
    bench.add(speed("hot, opened again", &ours.hot, &native.hot, &ours.hot_cost));
    for (what, cost) in [("page cache dropped", &ours.cold_cost), ("hot", &ours.hot_cost)] {
        let line = Line::new(1, format!("daemon CPU, {what}"), Unit::Seconds, &cost.cpu_seconds);
        bench.add(line.target(Target::AtMost(0.05)).note("told by the kernel to 10 ms"));
    }
    Ok(())
}

/// Row 2.
pub fn random(bench: &mut Bench) -> Result<()> {
    let size_bytes = bench.settings.size_bytes;
    let cached = Cached::build(bench, Program::Ours, &[])?;
    // By temperature and side: p50 and p99 of each repeat.
    let mut times: [[[Vec<f64>; 2]; 2]; 2] = Default::default();
    let mut cost = Cost::default();
    for number in 1..=bench.settings.repeat {
        let offsets = reading::random_offsets(LOOKS_SEED + number as u64, LOOKS, (0, size_bytes), PAGE_BYTES);
        for program in bench.turns(&[Program::Ours, Program::Native], number) {
            let file = File::open(cached.path(program))?;
            let before = cached.mount.usage()?;
            for (temperature, name) in ["cold", "hot"].into_iter().enumerate() {
                let ((), looks) = bench
                    .sample(&format!("{}, {name}, p50", program.name()), number, Unit::Milliseconds, || {
                        if temperature == 0 {
                            drop_caches()?;
                        }
                        let looks: Vec<_> = reading::looks(&file, &offsets)?.into_iter().map(millis).collect();
                        Ok((percentile(&looks, 0.5), looks))
                    })
                    .map(|(_, looks)| ((), looks))?;
                let side = &mut times[temperature][usize::from(program == Program::Native)];
                side[0].push(percentile(&looks, 0.5));
                side[1].push(percentile(&looks, 0.99));
            }
            if program == Program::Ours {
                cached.mount.add_cost(&mut cost, before)?;
            }
        }
    }
    for (temperature, name) in ["page cache dropped", "hot"].into_iter().enumerate() {
        for (rank, share) in ["p50", "p99"].into_iter().enumerate() {
            let [ours, native] = &times[temperature];
            let mut line =
                Line::new(2, format!("cached, 64 KiB at random, {name}, {share}"), Unit::Milliseconds, &ours[rank])
                    .against("native", &native[rank], &Cost::default());
            if temperature == 0 {
                line = line.target(Target::RatioAtMost(1.1)).cost(&cost);
            }
            bench.add(line);
        }
    }
    Ok(())
}

/// Row 3.
pub fn without_passthrough(bench: &mut Bench) -> Result<()> {
    let size_bytes = bench.settings.size_bytes;
    let ours = Cached::build(bench, Program::Ours, mounts::without_passthrough())?;
    let rclone = if bench.has(Program::Rclone) { Some(Cached::build(bench, Program::Rclone, &[])?) } else { None };
    let mut sides: [Side; 3] = Default::default();
    let [our_side, native_side, rclone_side] = &mut sides;
    for number in 1..=bench.settings.repeat {
        for program in bench.turns(&[Program::Ours, Program::Native, Program::Rclone], number) {
            let (cached, side) = match (program, &rclone) {
                (Program::Rclone, Some(rclone)) => (rclone, &mut *rclone_side),
                (Program::Native, _) => (&ours, &mut *native_side),
                _ => (&ours, &mut *our_side),
            };
            let unit = Unit::MegabytesPerSecond;
            bench.sample(&format!("{}, from the disk", program.name()), number, unit, || {
                side.cold_read(cached, program, size_bytes)
            })?;
            // The bytes below the mount are in memory, the mount's own pages are not.
            if program != Program::Native {
                bench.sample(&format!("{}, entry in the page cache", program.name()), number, unit, || {
                    drop_caches()?;
                    machine::warm(&cached.mount.place.cached_file()?)?;
                    side.hot_read(cached, program, size_bytes)
                })?;
            }
        }
    }
    let has_option = mounts::knows("--passthrough");
    let option = if has_option { "with --passthrough off" } else { "this build has no --passthrough: as it comes" };
    let what = |what: &str| format!("cached {} MiB, sequential, no passthrough, {what}", size_bytes >> 20);
    let unit = Unit::MegabytesPerSecond;
    bench.add(
        Line::new(3, what("entry in the page cache"), unit, &our_side.hot)
            .against("rclone", &rclone_side.hot, &rclone_side.hot_cost)
            .target(Target::RatioAtLeast(3.0))
            .cost(&our_side.hot_cost)
            .note(option),
    );
    let mut disk = Line::new(3, what("from the disk"), unit, &our_side.cold)
        .against("native", &native_side.cold, &Cost::default())
        .target(Target::RatioAtLeast(0.5))
        .cost(&our_side.cold_cost);
    disk.notes.extend([our_side.disk_note("ours"), native_side.disk_note("native")].into_iter().flatten());
    bench.add(disk);
    bench.add(Line::new(3, what("from the disk, beside rclone"), unit, &our_side.cold).against(
        "rclone",
        &rclone_side.cold,
        &rclone_side.cold_cost,
    ));
    let entry = mebibytes(ours.mount.place.cached_file()?.metadata()?.len());
    bench.say(&format!("the entry has {entry:.0} MiB"))
}
