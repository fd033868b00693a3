//! Drives of each kind are killed at random moments of listing, reading, refreshing, writing and renaming: every program on
//! them ends, the mount point is free, and what a close or a sync had promised is there.
//! Never here: what is left in a cache (see `kills`).

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use reelfs::demo::{Server, ServerConfig};
use rustix::process::Signal;

use super::compare::made;
use super::late::Machine;
use super::mount::{Mount, Place, end_connection};
use super::needs::{FUSE, Test};
use super::written::{Store, done, film};

/// How often, over all kinds; many for a long look.
const KILLS: &str = "REELFS_TESTS_KILLS";
const KILLS_DEFAULT: u64 = 9;
/// The seed of a run that failed.
const SEED: &str = "REELFS_TESTS_SEED";
/// A life lasts so long.
const LIFE_MS: std::ops::Range<u64> = 100..300;
/// After so long every program has ended, and the mount point is free.
const END_MAX: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(5);
const WRITERS: u64 = 3;
const NAMES: u64 = 4;
/// Kept whole, kept as chunks, and so many chunks that a put takes a while.
const SIZES: [usize; 3] = [10, 50_000, 1_000_000];
const FAR_NAMES: u64 = 60;

/// What is killed is what other tests' programs would hold open for a moment when they are started: it runs alone.
pub fn tests() -> Vec<Test> {
    vec![Test::alone("killed::every_program_ends_and_nothing_closed_is_lost", &[FUSE], every_program_ends)]
}

/// Versions of the files of one library: the last that was closed, and the last that was begun.
type Written = Arc<Mutex<HashMap<String, (u64, u64)>>>;

/// What a program does again and again.
type Step = Box<dyn FnMut(&mut fastrand::Rng) -> io::Result<()> + Send>;

/// What is mounted, with what was written to it in all its lives.
struct Kind {
    name: &'static str,
    source: String,
    options: &'static [&'static str],
    place: Arc<Place>,
    server: Option<Server>,
    written: Written,
    // Also over a file that is there, from nothing on; else by another name, which is then changed.
    writes_over: bool,
    store: Option<Store>,
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn far_name(number: u64) -> String {
    format!("folder {}/{number}.mkv", number % 3)
}

fn content(name: &str, version: u64) -> Vec<u8> {
    let seed = name.bytes().fold(version, |seed, byte| seed.wrapping_mul(257) + u64::from(byte));
    let mut bytes = format!("{name}:{version}:").into_bytes();
    bytes.extend(film(seed, SIZES[(seed % SIZES.len() as u64) as usize]));
    bytes
}

/// Which version these bytes are, whole.
fn version_of(name: &str, bytes: &[u8]) -> Option<u64> {
    let mut parts = bytes.splitn(3, |byte| *byte == b':');
    let version = parts.nth(1).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok())?;
    (content(name, version) == bytes).then_some(version)
}

impl Kind {
    fn all() -> [Self; 3] {
        let kind = |name, source, options, writes_over| Self {
            name,
            source,
            options,
            place: Place::new(),
            server: None,
            written: Written::default(),
            writes_over,
            store: None,
        };
        let files = (0..FAR_NAMES).map(|number| (far_name(number), made(number, 1 << 20))).collect();
        let server = Server::start(ServerConfig { files, ..ServerConfig::default() }).unwrap();
        let mut far = kind("far", server.url(), &["--dir-ttl", "0"], false);
        far.server = Some(server);
        let store = Store::folder();
        let mut kept = kind("kv+file", store.url.clone(), &["--chunk-timeout", "6"], true);
        kept.store = Some(store);
        let mut here = kind("library", String::new(), &[], false);
        here.source = format!("library:{}", here.place.path("library").display());
        done(&["init", &here.source]);
        [far, kept, here]
    }

    /// What was closed before the last kill is there, whole, or what was begun after it.
    fn check(&self, mount: &Mount) {
        for (name, (closed, begun)) in self.written.lock().iter_mut() {
            let is = match fs::read(mount.file(name)) {
                Ok(bytes) => version_of(name, &bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Some(0),
                Err(error) => panic!("{}: {name}: {error}", self.name),
            };
            let is = is.unwrap_or_else(|| panic!("{}: {name} is no version at all", self.name));
            assert!((*closed..=*begun).contains(&is), "{}: {name} is {is}, closed {closed}, begun {begun}", self.name);
            *closed = is;
        }
    }

    /// The programs on a drive; each ends with the first error after `is_dying`.
    fn programs(&self, mount: &Mount, is_dying: &Arc<AtomicBool>, random: &mut fastrand::Rng) -> Vec<JoinHandle<()>> {
        let mut programs = Vec::new();
        let mut run = |mut step: Step| {
            let (is_dying, mut random) = (Arc::clone(is_dying), random.fork());
            programs.push(thread::spawn(move || {
                while !is_dying.load(Ordering::SeqCst) {
                    if let Err(error) = step(&mut random) {
                        assert!(is_dying.load(Ordering::SeqCst), "a living drive failed: {error}");
                    }
                }
            }));
        };
        let point = mount.point();
        run(Box::new({
            let point = point.clone();
            move |_| list(&point)
        }));
        if self.server.is_some() {
            for _ in 0..WRITERS {
                let point = point.clone();
                run(Box::new(move |random| read_one(&point, random)));
            }
            return programs;
        }
        for writer in 0..WRITERS {
            let (point, written, writes_over) = (point.clone(), Arc::clone(&self.written), self.writes_over);
            run(Box::new(move |random| write_one(&point, (writer, writes_over), &written, random)));
        }
        programs
    }

    fn change(&self, random: &mut fastrand::Rng) {
        let Some(server) = &self.server else { return };
        let number = random.u64(..FAR_NAMES);
        if random.bool() {
            server.replace(&far_name(number), made(random.u64(..), random.u64(1..3 << 20)));
        } else {
            server.remove(&far_name(number));
        }
    }
}

/// What another program does to a file or a folder meanwhile is no error of the drive.
fn unless_changed(error: io::Error) -> io::Result<()> {
    let is_changed = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle);
    if is_changed { Ok(()) } else { Err(error) }
}

/// Everything that the drive shows, with sizes.
fn list(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => list(&path).or_else(unless_changed)?,
            told => told.map(drop).or_else(unless_changed)?,
        }
        // A side file that players ask for.
        fs::metadata(path.with_extension("srt")).map(drop).or_else(unless_changed)?;
    }
    Ok(())
}

fn read_one(point: &Path, random: &mut fastrand::Rng) -> io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    let opened = File::open(point.join(far_name(random.u64(..FAR_NAMES))));
    opened.and_then(|mut file| file.read(&mut bytes)).map(drop).or_else(unless_changed)
}

/// A file of this writer's own is written anew, by its name or by another one that it then gets.
fn write_one(
    point: &Path,
    (writer, writes_over): (u64, bool),
    written: &Written,
    random: &mut fastrand::Rng,
) -> io::Result<()> {
    let name = format!("w{writer}-{}", random.u64(..NAMES));
    let version = {
        let mut written = written.lock();
        let (_, begun) = written.entry(name.clone()).or_default();
        *begun += 1;
        *begun
    };
    let (bytes, path) = (content(&name, version), point.join(&name));
    let is_moved = !writes_over || random.bool();
    let at = if is_moved { point.join(format!("{name}.tmp")) } else { path.clone() };
    let mut file = File::create(&at)?;
    file.write_all(&bytes)?;
    // Whether the close failed, only what is there afterwards says.
    drop(file);
    if is_moved {
        fs::rename(&at, &path)?;
        // On this machine's own library, a name is promised by the sync of its folder.
        File::open(point)?.sync_all()?;
    }
    let len = fs::metadata(&path)?.len();
    assert_eq!(len, bytes.len() as u64, "{name}: its name shows what it was before it was closed");
    written.lock().entry(name).and_modify(|(closed, _)| *closed = version);
    Ok(())
}

/// Kills the drive. Whatever still hangs after a while is freed, and the test fails.
fn kill(kind: &Kind, mut mount: Mount, programs: Vec<JoinHandle<()>>) -> Duration {
    let (machine, begun, point) = (Machine::watch(), Instant::now(), mount.point());
    mount.send(Signal::KILL);
    let mut is_over = || mount.has_ended() && programs.iter().all(JoinHandle::is_finished) && !kind.place.is_mounted();
    while !is_over() {
        if begun.elapsed() > END_MAX + machine.late_max() {
            let left = programs.iter().filter(|program| !program.is_finished()).count();
            let state = (mount.has_ended(), kind.place.is_mounted());
            end_connection(&point);
            panic!("{}: {left} programs hang after a kill; (drive ended, still mounted): {state:?}", kind.name);
        }
        thread::sleep(TICK);
    }
    let took = begun.elapsed();
    for program in programs {
        program.join().unwrap();
    }
    took
}

fn every_program_ends() {
    let kills = from_env(KILLS).unwrap_or(KILLS_DEFAULT);
    let seed = from_env(SEED).unwrap_or_else(|| fastrand::u64(..));
    println!("killed: {SEED}={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (kinds, mut longest, begun) = (Kind::all(), Duration::ZERO, Instant::now());
    for number in 0..kills {
        let kind = &kinds[(number % kinds.len() as u64) as usize];
        let mount = Mount::on(&kind.place, &kind.source, kind.options);
        kind.check(&mount);
        let is_dying = Arc::<AtomicBool>::default();
        let programs = kind.programs(&mount, &is_dying, &mut random);
        let end = Instant::now() + Duration::from_millis(random.u64(LIFE_MS));
        while Instant::now() < end {
            kind.change(&mut random);
            if kind.server.is_some() {
                // Everything is asked for anew.
                mount.send(Signal::HUP);
            }
            thread::sleep(TICK);
        }
        is_dying.store(true, Ordering::SeqCst);
        longest = longest.max(kill(kind, mount, programs));
    }
    // And after the last one.
    for kind in &kinds {
        let mount = Mount::on(&kind.place, &kind.source, kind.options);
        kind.check(&mount);
        mount.end();
        if let Some(store) = &kind.store {
            store.is_sound();
        }
    }
    let versions: u64 =
        kinds.iter().flat_map(|kind| kind.written.lock().values().map(|(closed, _)| *closed).collect::<Vec<_>>()).sum();
    println!("{kills} kills in {:.1?}: all ended within {longest:.1?}; {versions} versions written", begun.elapsed());
    assert!(versions > 0);
}
