//! A library that is mounted read-write: what POSIX promises, what is there after the next mount, after a kill, on a full
//! disk, beside another writer, over a damaged blob.
//! Never here: libraries that nobody mounts (see `puts`).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, SystemTime};

use reelfs::library::local::Local;
use reelfs::library::{Cut, Damage, Finding, INLINE_BYTES_MAX, Library};
use rustix::fs::SeekFrom::{Data, Hole};
use rustix::fs::{CWD, FallocateFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use rustix::process::Signal;

use super::compare::wait_until;
use super::mount::{Mount, Place};
use super::needs::{FUSE, Need, Test};
use super::puts::findings;
use super::steps::watched;
use super::written::run;

/// How often; more for a long look.
const KILLS: &str = "REELFS_TESTS_KILLS";
const KILLS_DEFAULT: u64 = 40;
/// The seed of a run that failed.
const SEED: &str = "REELFS_TESTS_SEED";
/// A life lasts up to so long.
const LIFE_MAX_MS: u64 = 300;
const WRITERS: u64 = 3;
const FILES: u64 = 6;
/// Files of several chunks, and small ones.
const CUT: Cut = Cut { inline_bytes_max: INLINE_BYTES_MAX, chunk_size_bytes: 128 << 10 };
/// Bytes of a disk that is soon full.
const SMALL_DISK: &str = "64m";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("volume::files_and_folders_are_what_was_made_of_them", &[FUSE], made_and_mounted_again),
        Test::new("volume::holes_are_made_and_found", &[FUSE], holes),
        Test::new("volume::nothing_acknowledged_is_lost_by_a_kill", &[FUSE], killed),
        Test::new("volume::a_full_disk_leaves_the_old_version_whole", &[FUSE, Need::Root], full_disk),
        Test::new(
            "volume::what_fails_behind_the_writer_fails_the_close",
            &[FUSE, Need::Program("strace")],
            failed_later,
        ),
        Test::new("volume::read_only_beside_a_writer", &[FUSE], read_only),
        Test::new(
            "volume::who_writes_to_a_file_takes_its_rights_away",
            &[FUSE, Need::Root, Need::Program("setpriv")],
            rights,
        ),
        Test::new("volume::a_damaged_blob_is_never_shown", &[FUSE], damaged),
    ]
}

/// A library, and a place for its mounts.
struct Bench {
    place: Arc<Place>,
    library: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let place = Place::new();
        let library = place.path("library");
        Self::with(place, library)
    }

    fn with(place: Arc<Place>, library: PathBuf) -> Self {
        Local::create(&library, CUT).unwrap();
        Self { place, library }
    }

    fn source(&self) -> String {
        format!("library:{}", self.library.display())
    }

    fn mount(&self) -> Mount {
        Mount::on(&self.place, &self.source(), &[])
    }

    fn findings(&self) -> Vec<Finding> {
        findings(&Local::open(&self.library).unwrap())
    }
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn errno<T>(done: io::Result<T>) -> Option<Errno> {
    done.err().and_then(|error| Errno::from_io_error(&error))
}

fn made_and_mounted_again() {
    let bench = Bench::new();
    let mount = bench.mount();
    let at = |name: &str| mount.file(name);
    fs::create_dir_all(at("films/new")).unwrap();
    let film = bytes(1, 1_000_000);
    fs::write(at("films/film.mkv"), &film).unwrap();
    fs::write(at("note"), "hello").unwrap();
    OpenOptions::new().append(true).open(at("note")).unwrap().write_all(b", world").unwrap();
    // Over, not over, and in place of each other.
    fs::write(at("old"), "old").unwrap();
    fs::rename(at("note"), at("old")).unwrap();
    fs::write(at("note"), "a new one").unwrap();
    let rename = |flags| rustix::fs::renameat_with(CWD, at("note"), CWD, at("old"), flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read(at("note")).unwrap(), b"hello, world");
    assert_eq!(fs::read(at("old")).unwrap(), b"a new one");
    assert_eq!(errno(fs::rename(at("films"), at("films/new/films"))), Some(Errno::INVAL));
    assert_eq!(errno(fs::remove_dir(at("films"))), Some(Errno::NOTEMPTY));
    // An open file lives on.
    let mut open = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(at("gone")).unwrap();
    open.write_all(&film).unwrap();
    fs::remove_file(at("gone")).unwrap();
    open.write_all_at(b"changed", 5).unwrap();
    let mut read = Vec::new();
    open.rewind().unwrap();
    open.read_to_end(&mut read).unwrap();
    assert!(read[..5] == film[..5] && &read[5..12] == b"changed" && read[12..] == film[12..]);
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    drop(open);
    // Links of both kinds, modes, times, attributes of one's own.
    symlink("films/film.mkv", at("link")).unwrap();
    fs::hard_link(at("films/film.mkv"), at("films/new/same")).unwrap();
    fs::set_permissions(at("old"), fs::Permissions::from_mode(0o4750)).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 123_456_789);
    File::options().write(true).open(at("old")).unwrap().set_modified(long_ago).unwrap();
    rustix::fs::setxattr(at("old"), "user.kind", b"short", XattrFlags::CREATE).unwrap();
    let again = rustix::fs::setxattr(at("old"), "user.kind", b"long", XattrFlags::CREATE);
    assert_eq!(again, Err(Errno::EXIST));
    // A new title in the middle, and a tail cut off.
    let open = File::options().write(true).open(at("films/film.mkv")).unwrap();
    open.write_all_at(b"title", 300_000).unwrap();
    open.set_len(900_000).unwrap();
    open.sync_all().unwrap();
    drop(open);
    let name = std::ffi::OsStr::from_bytes(b"not \xff text");
    assert_eq!(errno(fs::write(at("").join(name), "")), Some(Errno::ILSEQ));
    assert_eq!(errno(fs::write(at(&"x".repeat(256)), "")), Some(Errno::NAMETOOLONG));
    for n in 0..700 {
        File::create(at(&format!("films/new/{n}"))).unwrap();
    }

    let mut expected = film;
    expected[300_000..300_005].copy_from_slice(b"title");
    expected.truncate(900_000);
    let check = |mount: &Mount| {
        let at = |name: &str| mount.file(name);
        assert_eq!(fs::read(at("link")).unwrap(), expected);
        let same = fs::metadata(at("films/new/same")).unwrap();
        assert_eq!((same.nlink(), same.len()), (2, 900_000));
        assert_eq!(same.ino(), fs::metadata(at("films/film.mkv")).unwrap().ino());
        assert_eq!(fs::read(at("note")).unwrap(), b"hello, world");
        let old = fs::metadata(at("old")).unwrap();
        assert_eq!((old.mode() & 0o7777, old.modified().unwrap()), (0o4750, long_ago));
        let mut value = [0; 16];
        let len = rustix::fs::getxattr(at("old"), "user.kind", &mut value[..]).unwrap();
        assert_eq!(&value[..len], b"short");
        let mut names: Vec<_> = fs::read_dir(at("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["films", "link", "note", "old"]);
        assert_eq!(fs::read_dir(at("films/new")).unwrap().count(), 701);
        assert_eq!(fs::metadata(at("films")).unwrap().nlink(), 3);
    };
    check(&mount);
    mount.end();
    assert_eq!(bench.findings(), []);
    let mount = bench.mount();
    check(&mount);
    fs::remove_dir_all(mount.file("films")).unwrap();
    mount.end();
    // What nobody needs is gone, or the next mount removes it.
    let mount = bench.mount();
    let blobs = bench.library.join("blobs");
    let folders = || fs::read_dir(&blobs).unwrap().map(|folder| folder.unwrap().path());
    let count = || folders().map(|folder| fs::read_dir(folder).unwrap().count()).sum::<usize>();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while count() != 0 {
        assert!(std::time::Instant::now() < deadline, "{} blobs are left", count());
        thread::sleep(Duration::from_millis(20));
    }
    mount.end();
}

fn holes() {
    let bench = Bench::new();
    let mount = bench.mount();
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(mount.file("f")).unwrap();
    let mib = 1 << 20;
    file.write_all_at(b"end", 4 * mib).unwrap();
    file.write_all_at(&bytes(1, mib as usize), 0).unwrap();
    file.sync_all().unwrap();
    let seek = |to| rustix::fs::seek(&file, to);
    assert_eq!(seek(Hole(0)), Ok(mib));
    assert_eq!(seek(Data(mib)), Ok(4 * mib));
    assert_eq!(seek(Data(4 * mib + 3)), Err(Errno::NXIO));
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 256 << 10, 256 << 10).unwrap();
    assert_eq!((seek(Hole(0)), seek(Data(256 << 10))), (Ok(256 << 10), Ok(512 << 10)));
    let mut read = vec![1; mib as usize];
    file.read_exact_at(&mut read, 0).unwrap();
    let mut expected = bytes(1, mib as usize);
    expected[256 << 10..512 << 10].fill(0);
    assert_eq!(read, expected);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 5 * mib).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5 * mib);
    let collapse = rustix::fs::fallocate(&file, FallocateFlags::COLLAPSE_RANGE, 0, 4096);
    assert_eq!(collapse, Err(Errno::OPNOTSUPP));
    drop(file);
    mount.end();
    assert_eq!(bench.findings(), []);
    assert!(fs::metadata(&bench.library).is_ok());
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

/// A file's content says which version it is; every byte of it does.
fn version(writer: u64, file: u64, version: u64) -> Vec<u8> {
    let seed = (writer << 40) + (file << 20) + version;
    // Some are small, some have many chunks.
    let len = if file.is_multiple_of(2) { 1000 + version as usize } else { 300_000 + 1000 * version as usize };
    let mut bytes = bytes(seed, len);
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes
}

/// Writers write versions of files, in all the ways programs do, and note which are acknowledged. The plug is pulled; what
/// the next mount shows of each file is the acknowledged version, or a later one, whole.
fn killed() {
    let kills = from_env(KILLS).unwrap_or(KILLS_DEFAULT);
    let seed = from_env(SEED).unwrap_or_else(|| fastrand::u64(..));
    println!("{SEED}={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let bench = Bench::new();
    let acknowledged: Vec<Vec<AtomicU64>> =
        (0..WRITERS).map(|_| (0..FILES).map(|_| AtomicU64::new(0)).collect()).collect();
    let begun: Vec<Vec<AtomicU64>> = (0..WRITERS).map(|_| (0..FILES).map(|_| AtomicU64::new(0)).collect()).collect();
    for kill in 0..kills {
        let mount = bench.mount();
        // By this way no path ever leads beside the mount, when it is gone.
        let top = File::open(mount.point()).unwrap();
        let root = PathBuf::from(format!("/proc/self/fd/{}", top.as_raw_fd()));
        let path = |writer: u64, file: u64| root.join(format!("{writer}-{file}"));
        for writer in 0..WRITERS {
            for file in 0..FILES {
                let (least, most) =
                    (&acknowledged[writer as usize][file as usize], &begun[writer as usize][file as usize]);
                let (least, most) = (least.load(Ordering::Relaxed), most.load(Ordering::Relaxed));
                match fs::read(path(writer, file)) {
                    Ok(read) => {
                        // Made and not written yet, or cut off to be written: that is no version, but no broken one.
                        if read.is_empty() && file % 3 == 1 {
                            continue;
                        }
                        let there = u64::from_le_bytes(read[..8].try_into().unwrap());
                        assert!(
                            (least..=most).contains(&there),
                            "kill {kill}: {writer}-{file} is {there}, not {least}..={most}"
                        );
                        assert!(read == version(writer, file, there), "kill {kill}: {writer}-{file} is not whole");
                        begun[writer as usize][file as usize].store(there.max(most), Ordering::Relaxed);
                    }
                    Err(error) => {
                        assert!(error.kind() == io::ErrorKind::NotFound && least == 0, "{writer}-{file}: {error}");
                    }
                }
            }
        }
        let stop = AtomicBool::new(false);
        let life = Duration::from_millis(random.u64(..LIFE_MAX_MS));
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (path, stop, acknowledged, begun) = (&path, &stop, &acknowledged, &begun);
                let mut random = random.fork();
                scope.spawn(move || {
                    while !stop.load(Ordering::Relaxed) {
                        let file = random.u64(..FILES);
                        let next = begun[writer as usize][file as usize].fetch_add(1, Ordering::Relaxed) + 1;
                        if write_version(&path(writer, file), writer, file, next).is_err() {
                            return;
                        }
                        acknowledged[writer as usize][file as usize].store(next, Ordering::Relaxed);
                    }
                });
            }
            thread::sleep(life);
            mount.send(rustix::process::Signal::KILL);
            stop.store(true, Ordering::Relaxed);
        });
        drop(top);
        mount.kill();
        let library = Local::open(&bench.library).unwrap();
        let found = findings(&library);
        let is_harmless = |finding: &Finding| finding.what == Damage::Orphaned;
        assert!(found.iter().all(is_harmless), "kill {kill}: {found:?}");
        library.gc(Duration::ZERO, false).unwrap();
        assert_eq!(findings(&library), [], "kill {kill}: gc leaves nothing");
    }
    let written: u64 = acknowledged.iter().flatten().map(|version| version.load(Ordering::Relaxed)).sum();
    println!("{written} versions acknowledged over {kills} kills");
    assert!(written > 0);
}

/// Returns when the version is acknowledged.
fn write_version(path: &Path, writer: u64, file: u64, number: u64) -> io::Result<()> {
    let bytes = version(writer, file, number);
    match file % 3 {
        // Beside, synced, and renamed over, as careful programs do.
        0 => {
            let beside = path.with_extension("new");
            let mut new = File::create(&beside)?;
            new.write_all(&bytes)?;
            new.sync_all()?;
            fs::rename(&beside, path)?;
            File::open(path.parent().unwrap())?.sync_all()
        }
        // From the start on: a crash may leave it empty, or the old one.
        1 => {
            let mut same = File::create(path)?;
            same.write_all(&bytes)?;
            same.sync_all()
        }
        // Beside, closed, renamed over; the close has made it durable, and the name is synced.
        _ => {
            let beside = path.with_extension("new");
            fs::write(&beside, &bytes)?;
            fs::rename(&beside, path)?;
            File::open(path.parent().unwrap())?.sync_all()
        }
    }
}

/// Takes a disk off.
struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn full_disk() {
    let place = Place::new();
    let disk = place.path("disk");
    fs::create_dir(&disk).unwrap();
    let size = format!("size={SMALL_DISK}");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk).status();
    assert!(mounted.unwrap().success());
    let _off = Unmounted(disk.clone());
    let bench = Bench::with(place, disk.join("library"));
    let mount = bench.mount();
    let film = bytes(1, 10 << 20);
    fs::write(mount.file("film"), &film).unwrap();
    let refused = fs::write(mount.file("large"), bytes(2, 100 << 20));
    assert_eq!(errno(refused), Some(Errno::NOSPC));
    fs::remove_file(mount.file("large")).unwrap();
    // The old version, while a new one is written over it that does not fit, and after.
    let over = File::options().write(true).open(mount.file("film")).unwrap();
    let mut at = 0;
    let refused = loop {
        match over.write_all_at(&bytes(at, 1 << 20), at) {
            Ok(()) => at += 1 << 20,
            Err(error) => break error,
        }
    };
    assert_eq!(Errno::from_io_error(&refused), Some(Errno::NOSPC));
    let mount_two = {
        mount.kill();
        bench.mount()
    };
    drop(over);
    let there = fs::read(mount_two.file("film")).unwrap();
    assert!(there.len() >= film.len(), "old or new, but whole");
    // Everything can still be removed, and then there is room again.
    for name in ["film", "large"] {
        let _ = fs::remove_file(mount_two.file(name));
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        match fs::write(mount_two.file("again"), &film) {
            Ok(()) => break,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(fs::read(mount_two.file("again")).unwrap(), film);
    mount_two.end();
    assert!(bench.findings().iter().all(|finding| finding.what == Damage::Orphaned));
}

fn failed_later() {
    let bench = Bench::new();
    let mount = bench.mount();
    let (old, new) = (bytes(1, 3 << 20), bytes(2, 8 << 20));
    fs::write(mount.file("film"), &old).unwrap();
    // Nothing more can be written to the files of what is being written, as on a bad disk; to the catalog it can.
    let scratch = |n: u32| bench.library.join(format!("scratch/{}-{n}.part", mount.pid())).display().to_string();
    let scratches: Vec<_> = (0..400).flat_map(|n| ["-P".to_owned(), scratch(n)]).collect();
    let mut how: Vec<_> = scratches.iter().map(String::as_str).collect();
    how.extend(["-e", "inject=pwrite64:error=EIO"]);
    let mut bad_disk = watched(&mount, &how);
    let over = File::create(mount.file("new")).unwrap();
    let written = new.chunks(1 << 20).try_for_each(|piece| (&over).write_all(piece));
    assert_eq!(errno(written.and_then(|()| over.sync_all())), Some(Errno::IO));
    assert_eq!(errno(over.sync_all()), Some(Errno::IO), "each time");
    drop(over);
    let source = bench.place.path("source");
    fs::write(&source, &new).unwrap();
    let copied = Command::new("cp").arg(&source).arg(mount.file("film")).output().unwrap();
    assert!(!copied.status.success(), "{copied:?}");
    // Changed in place, and looked at: what the kernel has seen of it goes with it.
    let in_place = OpenOptions::new().read(true).write(true).open(mount.file("film")).unwrap();
    let written = in_place.write_all_at(&new, 0);
    let size = in_place.metadata().unwrap().len();
    assert!(written.is_err() || size == new.len() as u64);
    // Without a name, it has to tell, too.
    let nameless = File::create(mount.file("nameless")).unwrap();
    fs::remove_file(mount.file("nameless")).unwrap();
    let written = nameless.write_all_at(&new[..2 << 20], 0).and_then(|()| nameless.sync_all());
    assert_eq!(errno(written), Some(Errno::IO));
    drop((in_place, nameless));
    wait_until("the old bytes are shown", || fs::read(mount.file("film")).is_ok_and(|read| read == old));
    rustix::process::kill_process(rustix::process::Pid::from_child(&bad_disk), Signal::INT).unwrap();
    bad_disk.wait().unwrap();
    assert!(fs::read(mount.file("film")).unwrap() == old);
    assert_eq!(fs::metadata(mount.file("new")).unwrap().len(), 0);
    run("cp", &[&source, &mount.file("film")]);
    assert!(fs::read(mount.file("film")).unwrap() == new);
    mount.end();
    assert!(bench.findings().iter().all(|finding| finding.what == Damage::Orphaned));
    let mount = bench.mount();
    assert!(fs::read(mount.file("film")).unwrap() == new);
    mount.end();
}

fn read_only() {
    let bench = Bench::new();
    let mount = bench.mount();
    fs::write(mount.file("film"), bytes(1, 400_000)).unwrap();
    // Another writer is told who holds it; a reader comes in beside.
    let place = Place::new();
    let second = super::mount::reelfs().args(["mount", &bench.source()]).arg(place.point()).output().unwrap();
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && said.contains(&format!("process {}", mount.pid())), "{said}");
    assert!(said.contains("--read-only"), "{said}");
    let reader = Mount::on(&place, &bench.source(), &["--read-only"]);
    assert_eq!(fs::read(reader.file("film")).unwrap(), bytes(1, 400_000));
    assert_eq!(errno(fs::write(reader.file("new"), "")), Some(Errno::ROFS));
    assert_eq!(errno(fs::remove_file(reader.file("film"))), Some(Errno::ROFS));
    fs::write(mount.file("new"), "new").unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while fs::read(reader.file("new")).ok().as_deref() != Some(b"new") {
        assert!(std::time::Instant::now() < deadline, "a reader never saw the new file");
        thread::sleep(Duration::from_millis(50));
    }
    reader.end();
    mount.end();
}

/// A file that runs as its owner must not do so with bytes of somebody else.
fn rights() {
    let bench = Bench::new();
    let mount = Mount::on(&bench.place, &bench.source(), &["--allow-other"]);
    let file = mount.file("tool");
    fs::write(&file, bytes(1, 100_000)).unwrap();
    for folder in file.ancestors().skip(2).take_while(|folder| folder.starts_with(std::env::temp_dir())) {
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o755));
    }
    let of = format!("of={}", file.display());
    for arguments in [["conv=notrunc", "bs=64k"], ["conv=notrunc,nocreat", "bs=1"]] {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6777)).unwrap();
        let mut write = Command::new("setpriv");
        write.args(["--reuid=65534", "--regid=65534", "--clear-groups", "dd", "if=/dev/zero", "count=1", &of]);
        assert!(write.args(arguments).output().unwrap().status.success());
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o777);
    }
    mount.end();
    assert_eq!(findings(&Local::open(&bench.library).unwrap()), []);
}

fn damaged() {
    let bench = Bench::new();
    let mount = bench.mount();
    fs::write(mount.file("film"), bytes(1, 400_000)).unwrap();
    fs::write(mount.file("other"), bytes(2, 400_000)).unwrap();
    mount.end();
    let library = Local::open_to_look(&bench.library).unwrap();
    let manifest = library.manifest("film").unwrap();
    let reelfs::library::Proof::Sha256(digest) = manifest.chunks()[1].proof else { panic!("a chunk without a hash") };
    drop(library);
    let blob = bench.library.join("blobs").join(&digest.to_string()[..2]).join(format!("{digest}.blob"));
    let mut permissions = fs::metadata(&blob).unwrap().permissions();
    permissions.set_mode(0o600);
    fs::set_permissions(&blob, permissions).unwrap();
    let open = File::options().read(true).write(true).open(&blob).unwrap();
    let mut one = [0];
    open.read_exact_at(&mut one, 77).unwrap();
    open.write_all_at(&[one[0] ^ 1], 77).unwrap();
    let mount = bench.mount();
    let mut film = File::open(mount.file("film")).unwrap();
    let mut first = vec![0; 64 << 10];
    film.read_exact(&mut first).unwrap();
    assert_eq!(first, bytes(1, 400_000)[..64 << 10]);
    film.seek(SeekFrom::Start(200_000)).unwrap();
    assert_eq!(errno(film.read(&mut first)), Some(Errno::IO));
    assert_eq!(fs::read(mount.file("other")).unwrap(), bytes(2, 400_000));
    let log = mount.place.log();
    assert!(log.contains("film") && log.contains(&digest.to_string()), "{log}");
    mount.end();
}
