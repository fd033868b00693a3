//! Files put into libraries by the program: killed at every step, on a full disk, with bounded memory.
//! Never here: the read-write mount of a library.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use reelfs::error::Kind;
use reelfs::library::local::Local;
use reelfs::library::writer::Writer;
use reelfs::library::{Content, Cut, Damage, Finding, Library, Meta};

use super::needs::{Need, Test};

/// What writers of libraries ask the system for that changes the disk: they are killed at each. One kind after the other,
/// since each thread has a count of its own.
pub const STEPS: [&str; 13] = [
    "openat",
    "mkdir",
    "write",
    "pwrite64",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "syncfs",
    "sync_file_range",
    "rename",
    "unlink",
    "fchmod",
];
/// A writer is killed at each step so far from the last; 1 for a long look.
const EVERY: &str = "REELFS_TESTS_EVERY";
const EVERY_DEFAULT: u32 = 4;
/// Far more steps than a put takes.
const STEPS_MAX: u32 = 5_000;
/// After so many kills it is tried whether the next put goes on.
const AGAIN_EVERY: u32 = 10;
/// Small chunks: a few of them are enough.
const CUT: Cut = Cut { inline_bytes_max: 64 << 10, chunk_size_bytes: 64 << 10 };
/// What a salvage asks the system for that changes which files there are.
const SALVAGE_STEPS: [&str; 4] = ["link", "linkat", "rename", "unlink"];
/// In the head of a database: whose it is.
const APPLICATION_AT: u64 = 68;
/// Bytes of a disk that is soon full.
const SMALL_DISK: &str = "24m";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("puts::killed_at_every_step", &[Need::Program("strace")], killed_at_every_step),
        Test::new("puts::a_salvage_killed_at_every_step", &[Need::Program("strace")], a_salvage_killed_at_every_step),
        Test::new("puts::tagged_by_what_files_are", &[], tagged_by_what_files_are),
        Test::new("puts::on_a_full_disk", &[Need::Root], on_a_full_disk),
        Test::alone("puts::memory_is_bounded", &[], memory_is_bounded),
    ]
}

/// A library, and what is put.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { folder: tempfile::tempdir().unwrap() };
        bench.init(&bench.library());
        bench
    }

    fn init(&self, library: &Path) {
        assert!(self.run(&["init", library.to_str().unwrap()]).status.success());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn library(&self) -> PathBuf {
        self.path("library")
    }

    fn file(&self, name: &str, len: usize, seed: u64) -> (String, Vec<u8>) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        fs::write(self.path(name), &bytes).unwrap();
        (self.path(name).to_str().unwrap().to_owned(), bytes)
    }

    fn run(&self, typed: &[&str]) -> Output {
        self.command(Command::new(env!("CARGO_BIN_EXE_reelfs")), typed)
    }

    fn command(&self, mut command: Command, typed: &[&str]) -> Output {
        command.args(typed).env("HOME", self.folder.path()).stdin(Stdio::null()).output().unwrap()
    }

    /// Killed when a thread begins its `step`th step of this kind; whether that was before it was done.
    fn is_killed_at(&self, (kind, step): (&str, u32), typed: &[&str]) -> bool {
        let mut command = Command::new("strace");
        let (trace, inject) = (format!("trace={kind}"), format!("inject={kind}:signal=KILL:when={step}"));
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, env!("CARGO_BIN_EXE_reelfs")]);
        !self.command(command, typed).status.success()
    }
}

/// A file, whole and checked.
pub fn get(library: &dyn Library, path: &str) -> Option<Vec<u8>> {
    let manifest = library.manifest(path).ok()?;
    Some(match manifest.content() {
        Content::Inline(bytes) => bytes.to_vec(),
        Content::Chunks(chunks) => {
            (0..chunks.len()).flat_map(|n| library.chunk(path, &manifest, n).unwrap().to_vec()).collect()
        }
    })
}

pub fn put(library: &dyn Library, path: &str, bytes: &[u8]) {
    let mut writer = Writer::new(library.draft(path, None).unwrap(), library.cut());
    writer.write(bytes).unwrap();
    writer.finish(Meta::now()).unwrap();
    library.flush().unwrap();
}

pub fn findings(library: &dyn Library) -> Vec<Finding> {
    let mut all = Vec::new();
    library.verify(&mut |_| true, &mut |finding| all.push(finding)).unwrap();
    all
}

/// The steps that a writer is killed at: other ones in each run, if not all.
pub fn steps(every_default: u32) -> impl Iterator<Item = u32> {
    let every = std::env::var(EVERY).ok().and_then(|every| every.parse().ok()).unwrap_or(every_default).max(1);
    (fastrand::u32(1..=every)..STEPS_MAX).step_by(every as usize)
}

/// A new file, one in the place of another, and a small one.
fn killed_at_every_step() {
    let bench = Bench::new();
    let library = bench.library();
    let at = |name: &str| format!("{}/{name}", library.display());
    let (_, old) = bench.file("old.mkv", 250_000, 1);
    let (new_path, new) = bench.file("new.mkv", 250_000, 2);
    let (small_path, small) = bench.file("small.srt", 3000, 3);
    let mut kills = 0;
    for (from, to, before, after) in [
        (&new_path, "folder/new.mkv", None, &new),
        (&new_path, "film.mkv", Some(&old), &new),
        (&small_path, "small.srt", None, &small),
    ] {
        for kind in STEPS {
            for step in steps(EVERY_DEFAULT) {
                // From the start each time: nothing there, or the old one.
                fs::remove_dir_all(&library).unwrap();
                Local::create(&library, CUT).unwrap();
                if let Some(bytes) = before {
                    put(&Local::open(&library).unwrap(), to, bytes);
                }
                let typed = ["put", "-q", from, &at(to)];
                let is_killed = bench.is_killed_at((kind, step), &typed);
                let opened = Local::open(&library).unwrap();
                let there = get(&opened, to);
                let is_old = there.as_ref() == before;
                assert!(there.as_ref() == Some(after) || is_killed && is_old, "{kind} {step} of {to}");
                let found = findings(&opened);
                assert!(
                    found.iter().all(|finding| finding.what == Damage::Orphaned),
                    "{kind} {step} of {to}: {found:?}"
                );
                opened.gc(std::time::Duration::ZERO, false).unwrap();
                assert_eq!(findings(&opened), [], "{kind} {step} of {to}: gc leaves nothing");
                assert_eq!(get(&opened, to), there);
                drop(opened);
                if !is_killed {
                    break;
                }
                kills += 1;
                if kills % AGAIN_EVERY == 0 {
                    assert!(bench.run(&typed).status.success(), "it goes on");
                    assert_eq!(get(&Local::open(&library).unwrap(), to).as_ref(), Some(after));
                }
            }
        }
    }
    println!("killed at {kills} steps");
    assert!(kills > 0);
}

/// There is a catalog at every moment: the damaged one, of which the next salvage makes a new one, or the new one.
fn a_salvage_killed_at_every_step() {
    let bench = Bench::new();
    let library = bench.library();
    let (_, film) = bench.file("film.mkv", 250_000, 1);
    let mut kills = 0;
    for kind in SALVAGE_STEPS {
        for step in 1..STEPS_MAX {
            fs::remove_dir_all(&library).unwrap();
            Local::create(&library, CUT).unwrap();
            put(&Local::open(&library).unwrap(), "film.mkv", &film);
            let catalog = fs::File::options().write(true).open(library.join("catalog.sqlite")).unwrap();
            catalog.write_all_at(b"none", APPLICATION_AT).unwrap();
            let typed = ["verify", "-q", "--salvage", library.to_str().unwrap()];
            let is_killed = bench.is_killed_at((kind, step), &typed);
            assert!(Local::is_at(&library), "{kind} {step}: no library is left");
            if let Err(error) = Local::open(&library) {
                assert!(is_killed && error.kind() == Kind::Corrupt, "{kind} {step}: {error}");
                assert!(bench.run(&typed).status.success(), "{kind} {step}: it can be made again");
            }
            assert_eq!(get(&Local::open(&library).unwrap(), "film.mkv").as_ref(), Some(&film), "{kind} {step}");
            if !is_killed {
                break;
            }
            kills += 1;
        }
    }
    println!("killed at {kills} steps");
    assert!(kills > 0);
}

fn on_a_full_disk() {
    let bench = Bench::new();
    let disk = bench.path("disk");
    fs::create_dir(&disk).unwrap();
    let size = format!("size={SMALL_DISK}");
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&disk).status();
    assert!(mounted.unwrap().success());
    let _off = Unmounted(disk.clone());
    let library = disk.join("library");
    bench.init(&library);
    let to = format!("{}/film.mkv", library.display());
    let (old_path, old) = bench.file("old.mkv", 2 << 20, 1);
    let (large_path, _) = bench.file("large.mkv", 30 << 20, 2);
    assert!(bench.run(&["put", "-q", &old_path, &to]).status.success());
    let refused = bench.run(&["put", "-q", &large_path, &to]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(!refused.status.success() && said.contains("No space left"), "{said}");
    let opened = Local::open(&library).unwrap();
    assert_eq!(get(&opened, "film.mkv").unwrap(), old, "the old version stays whole");
    opened.gc(std::time::Duration::ZERO, false).unwrap();
    assert_eq!(findings(&opened), []);
    drop(opened);
    let (small_path, small) = bench.file("small.mkv", 3 << 20, 3);
    assert!(bench.run(&["put", "-q", &small_path, &to]).status.success(), "there is room again");
    assert_eq!(get(&Local::open(&library).unwrap(), "film.mkv").unwrap(), small);
}

/// Takes a disk off.
struct Unmounted(PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// `REELFS_PUT_MIB=10240` for the size that the promise was made at.
fn memory_is_bounded() {
    let mib: u64 = std::env::var("REELFS_PUT_MIB").ok().and_then(|mib| mib.parse().ok()).unwrap_or(512);
    let bench = Bench::new();
    let to = format!("{}/film.mkv", bench.library().display());
    let mut put = Command::new(env!("CARGO_BIN_EXE_reelfs"))
        .args(["put", "-q", "-", &to])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stream = put.stdin.take().unwrap();
    let (mut rng, mut piece, mut peak_kib) = (fastrand::Rng::with_seed(7), vec![0; 1 << 20], 0);
    for _ in 0..mib {
        rng.fill(&mut piece);
        stream.write_all(&piece).unwrap();
        peak_kib = peak_kib.max(peak_memory_kib(put.id()));
    }
    drop(stream);
    while put.try_wait().unwrap().is_none() {
        peak_kib = peak_kib.max(peak_memory_kib(put.id()));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    println!("{mib} MiB put with {peak_kib} KiB");
    assert!(put.wait().unwrap().success());
    assert!(peak_kib < 64 << 10, "{peak_kib} KiB for {mib} MiB");
    assert_eq!(Local::open(&bench.library()).unwrap().manifest("film.mkv").unwrap().size_bytes(), mib << 20);
}

/// The most a process has had in memory so far; 0 of one that has ended.
fn peak_memory_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
}

/// Tags that are made of path, size and type are tags like any other; a file whose tag can't be one is told, and others are put.
fn tagged_by_what_files_are() {
    let temp = tempfile::tempdir().unwrap();
    let (films, long) = (temp.path().join("films"), "é".repeat(70));
    for (path, size) in [
        ("Dark {2017}/S1/one & \"two\".MKV", 3 << 20),
        ("Dark {2017}/poster.jpg", 10),
        ("note", 1),
        (&*format!("{long}/film.mkv"), 5),
        ("a\nb/film.mkv", 5),
    ] {
        let file = films.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, vec![7; size]).unwrap();
    }
    let films = films.to_str().unwrap();
    for home in ["library:", "kv+file://", "kv+redb://"] {
        let library = format!("{home}{}", temp.path().join(home.trim_matches([':', '/'])).display());
        let run = |arguments: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_reelfs")).args(arguments).output().unwrap();
            let (out, said) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
            (output.status.code(), out, said)
        };
        assert_eq!(run(&["init", &library]).0, Some(0));
        let by = ["--tag", "all", "--tag-by", "show={folder:2}", "--tag-by", "{kind}", "--tag-by", "up to {size}"];
        let put = |more: &[&str]| run(&[&["put", films, &format!("{library}/shelf")], &by[..], more].concat());
        let (code, out, said) = put(&[]);
        assert!(code == Some(1) && out.contains("3 files put"), "{out}{said}");
        assert!(said.lines().count() == 2 && said.contains("is no tag") && !said.contains("\na"), "{said}");
        let again = put(&[]).1;
        assert!(again.contains("0 files put") && again.contains("3 files there already"), "{again}");
        for (path, tags, content_type) in [
            ("Dark {2017}/S1/one & \"two\".MKV", "all, show=Dark {2017}, up to 10MiB, video", "video/x-matroska"),
            ("Dark {2017}/poster.jpg", "all, image, show=Dark {2017}, up to 1MiB", "image/jpeg"),
            ("note", "all, up to 1MiB", "-"),
        ] {
            let stat = run(&["stat", &format!("{library}/shelf/{path}")]).1;
            let told = format!("type      {content_type}\ntags      {tags}\n");
            assert!(stat.contains(&told), "{home}: {stat}");
        }
        // A put that says nothing of tags and types changes none.
        assert!(run(&["put", films, &format!("{library}/shelf")]).1.contains("3 files there already"));
        assert!(run(&["purge", &library, "--tag", "show=Dark {2017}"]).1.starts_with("2 files"));
        let (code, _, said) = run(&["put", films, &library, "--tag-by", "{year}"]);
        assert!(code == Some(2) && said.contains("there is no {year}, but {folder}"), "{said}");
    }
}
