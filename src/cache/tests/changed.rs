//! Data files that another program changes, cuts, moves, links or removes while the cache runs: no wrong byte is shown, what
//! is right still is not fetched again, and the cache goes on keeping.
//! Never here: the kernel that reads lent files (see `tests/drive`).

use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

const SLOTS: u64 = 4;

struct Bench {
    dir: TempDir,
    cache: Cache,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cache = open(&dir);
        Self { dir, cache }
    }

    fn film(&self) -> Arc<Entry> {
        self.cache.entry("film", &stat(SLOTS * CHUNK, "1")).unwrap()
    }

    /// The film, whole, trusted and recorded.
    fn whole(&self) -> Arc<Entry> {
        let film = self.film();
        (0..SLOTS).for_each(|number| assert_eq!(keep(&self.cache, &film, 1, slot(number)), Kept::Written));
        self.cache.flush();
        assert_eq!(self.shown(&film), [true; SLOTS as usize]);
        film
    }

    fn data_file(&self) -> PathBuf {
        data_files(self.dir.path()).remove(0)
    }

    /// Which slots are shown without their origin; none is shown wrong.
    fn shown(&self, film: &Arc<Entry>) -> Vec<bool> {
        (0..SLOTS).map(|number| self.is_shown(film, slot(number))).collect()
    }

    fn is_shown(&self, film: &Arc<Entry>, range: ByteRange) -> bool {
        // As readers do: what a look finds changed is hashed, and looked at again.
        for _ in 0..3 {
            if let Some(seen) = read(&self.cache, film, range) {
                assert!(seen == bytes(1, range), "wrong bytes in {range}");
                return true;
            }
            for chunk in self.cache.coverage(film, range).unwrap().unchecked {
                self.cache.check(film, &chunk).unwrap();
            }
        }
        false
    }

    /// Whether the cache keeps the film anew, for this run and the next.
    fn assert_keeps_on(self, film: Arc<Entry>) {
        // Opened once more. Until the writer comes to it, a film that was removed is right, and shown.
        let again = self.film();
        self.cache.flush();
        for (number, is_shown) in (0..).zip(self.shown(&film)) {
            if !is_shown {
                assert_eq!(keep(&self.cache, &film, 1, slot(number)), Kept::Written, "slot {number}");
            }
        }
        self.cache.flush();
        assert_eq!(self.shown(&film), [true; SLOTS as usize]);
        assert_eq!(self.cache.used_bytes(), SLOTS * CHUNK);
        drop((film, again, self.cache));
        let again = Self { cache: open(&self.dir), dir: self.dir };
        let film = again.film();
        assert_eq!(again.shown(&film), [true; SLOTS as usize], "after a restart");
    }
}

fn writable(path: &Path) -> fs::File {
    fs::File::options().write(true).open(path).unwrap()
}

type Harm = fn(&Path);

/// What another program does to a data file, and whether the chunks in it are right still.
const HARM: [(&str, Harm, [bool; SLOTS as usize]); 13] = [
    ("removed", |path| fs::remove_file(path).unwrap(), [false; 4]),
    ("cut to nothing", |path| writable(path).set_len(0).unwrap(), [false; 4]),
    ("cut in the middle", |path| writable(path).set_len(2 * CHUNK + 5).unwrap(), [true, true, false, false]),
    (
        "cut and grown",
        |path| {
            let len = fs::metadata(path).unwrap().len();
            writable(path).set_len(0).unwrap();
            writable(path).set_len(len).unwrap();
        },
        [false; 4],
    ),
    ("grown", |path| writable(path).set_len(9 * CHUNK).unwrap(), [true; 4]),
    ("written into", |path| writable(path).write_all_at(b"another", CHUNK + 7).unwrap(), [true, false, true, true]),
    (
        "punched",
        |path| crate::sys::punch_hole(&writable(path), ByteRange::at(2 * CHUNK, 4096)).unwrap(),
        [true, true, false, true],
    ),
    (
        "replaced by another file of that size",
        |path| {
            fs::write(path.with_extension("new"), vec![0x55; (SLOTS * CHUNK) as usize]).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        },
        [false; 4],
    ),
    (
        "replaced by a copy",
        |path| {
            fs::copy(path, path.with_extension("new")).unwrap();
            fs::rename(path.with_extension("new"), path).unwrap();
        },
        [true; 4],
    ),
    ("moved away", |path| fs::rename(path, path.with_extension("moved")).unwrap(), [false; 4]),
    ("touched", |path| fs::set_permissions(path, fs::Permissions::from_mode(0o640)).unwrap(), [true; 4]),
    (
        "replaced by a link",
        |path| {
            fs::rename(path, path.with_extension("moved")).unwrap();
            symlink(path.with_extension("moved"), path).unwrap();
        },
        [false; 4],
    ),
    (
        "replaced by an empty folder tree",
        |path| {
            let entries = path.ancestors().nth(2).unwrap();
            fs::rename(entries, entries.with_extension("moved")).unwrap();
            fs::create_dir(entries).unwrap();
        },
        [false; 4],
    ),
];

#[test]
fn changed_data_file_of_an_open_film_shows_no_wrong_byte_and_is_kept_anew() {
    for (what, harm, right) in HARM {
        println!("{what}");
        let bench = Bench::new();
        let film = bench.whole();
        harm(&bench.data_file());
        let shown = bench.shown(&film);
        for (number, (is_shown, is_right)) in shown.iter().zip(right).enumerate() {
            // The film's own file may still be open, and right.
            assert!(*is_shown || !is_right || what.contains("copy"), "{what}: slot {number} is right, and was dropped");
        }
        bench.assert_keeps_on(film);
    }
}

#[test]
fn changed_data_file_of_a_closed_film_shows_no_wrong_byte_at_the_next_open() {
    for (what, harm, right) in HARM {
        println!("{what}");
        let bench = Bench::new();
        drop(bench.whole());
        harm(&bench.data_file());
        let film = bench.film();
        bench.cache.flush();
        assert_eq!(bench.shown(&film), right, "{what}");
        bench.assert_keeps_on(film);
    }
}

#[test]
fn changed_data_file_is_not_lent_until_it_is_hashed_again() {
    for (what, harm, _) in HARM {
        let bench = Bench::new();
        let film = bench.whole();
        let lent = bench.cache.backing(&film).unwrap().unwrap();
        assert!(lent.is_unchanged());
        harm(&bench.data_file());
        assert!(!lent.is_unchanged() || what.contains("tree"), "{what}: it is given to nobody else");
        if what.contains("tree") {
            // Its own file is whole, and is where it was moved.
            continue;
        }
        drop(lent);
        assert!(bench.cache.backing(&film).unwrap().is_none(), "{what}");
        drop(film);
        let film = bench.film();
        assert!(bench.cache.backing(&film).unwrap().is_none(), "{what}: opened again");
    }
}

/// Whether the kernel's file has a hole where it shows bytes: no byte of the film is zero.
fn shows_zeros(lent: &fs::File) -> bool {
    let mut seen = vec![0; (SLOTS * CHUNK) as usize];
    let len = lent.read_at(&mut seen, 0).unwrap();
    seen[..len].contains(&0)
}

#[test]
fn changed_data_file_that_the_kernel_reads_is_left_alone_and_others_get_a_new_one() {
    for (what, harm, _) in HARM {
        println!("{what}");
        let bench = Bench::new();
        let film = bench.whole();
        let lent = bench.cache.backing(&film).unwrap().unwrap();
        let in_kernel = fs::File::from(lent.as_fd().try_clone_to_owned().unwrap());
        harm(&bench.data_file());
        // These harms make holes themselves.
        let has_holes = shows_zeros(&in_kernel);
        // The second player opens the film.
        let again = bench.film();
        drop(bench.cache.backing(&again).unwrap());
        bench.cache.flush();
        // A chunk that is found wrong takes all others along, as the kernel reads their file.
        bench.shown(&again);
        for (number, is_shown) in (0..).zip(bench.shown(&again)) {
            if !is_shown {
                assert_eq!(keep(&bench.cache, &again, 1, slot(number)), Kept::Written, "{what}: slot {number}");
            }
        }
        bench.cache.flush();
        assert_eq!(bench.shown(&again), [true; SLOTS as usize], "{what}");
        assert_eq!(shows_zeros(&in_kernel), has_holes, "{what}: zeros for the first player");
        drop((lent, again));
        bench.assert_keeps_on(film);
    }
}

#[test]
fn looking_for_a_data_file_changes_nothing_of_it() {
    let bench = Bench::new();
    let film = bench.whole();
    fs::set_permissions(bench.data_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let was = film.data().stamp().unwrap();
    assert!(bench.cache.shared.is_in_place(&film));
    assert_eq!(film.data().stamp().unwrap(), was);
}

#[test]
fn our_own_writes_and_holes_are_no_change_by_another_program() {
    let bench = Bench::new();
    let film = bench.cache.entry("film", &stat(40 * CHUNK, "1")).unwrap();
    let other = bench.cache.entry("other", &stat(40 * CHUNK, "1")).unwrap();
    // More than the budget holds: each is evicted from, open and closed.
    for number in 0..40 {
        assert_eq!(keep(&bench.cache, &film, 1, slot(number)), Kept::Written);
        assert_eq!(keep(&bench.cache, &other, 1, slot(number)), Kept::Written);
        assert!(read(&bench.cache, &film, slot(number)).is_some(), "trusted at once");
    }
    bench.cache.flush();
    let trusted = bench.cache.trusted(&film, ByteRange::new(0, 40 * CHUNK));
    assert!(!trusted.is_empty());
    drop((film, other));
    let film = bench.cache.entry("film", &stat(40 * CHUNK, "1")).unwrap();
    assert!(bench.cache.trusted(&film, ByteRange::new(0, 40 * CHUNK)) == trusted, "trust outlives a close");
    for range in trusted.iter().flat_map(|range| range.slots(CHUNK)) {
        assert!(read(&bench.cache, &film, range) == Some(bytes(1, range)), "{range}");
    }
}

#[test]
fn planted_files_are_not_followed_or_written_through() {
    for kind in ["link", "dangling link", "hard link", "folder", "FIFO", "folder link"] {
        let dir = tempfile::tempdir().unwrap();
        let precious = dir.path().join("precious");
        fs::write(&precious, "PRECIOUS").unwrap();
        let home = dir.path().join("cache");
        // The first film's.
        let planted = home.join("entries/01/0000000000000001.data");
        fs::create_dir_all(planted.parent().unwrap()).unwrap();
        match kind {
            "link" => symlink(&precious, &planted).unwrap(),
            "dangling link" => symlink(dir.path().join("new"), &planted).unwrap(),
            "hard link" => fs::hard_link(&precious, &planted).unwrap(),
            "folder" => fs::create_dir_all(planted.join("sub")).unwrap(),
            "FIFO" => {
                let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
                rustix::fs::mknodat(rustix::fs::CWD, &planted, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            }
            _ => {
                fs::remove_dir(planted.parent().unwrap()).unwrap();
                fs::create_dir(dir.path().join("elsewhere")).unwrap();
                symlink(dir.path().join("elsewhere"), planted.parent().unwrap()).unwrap();
            }
        }
        let cache = open_with(&config(&home));
        let film = cache.entry("film", &stat(CHUNK, "1")).unwrap();
        // Where a folder stands that is not empty, the film is served only.
        let is_kept = keep(&cache, &film, 1, slot(0)) == Kept::Written;
        assert_eq!((is_kept, is_kept && read(&cache, &film, slot(0)).is_some()), (kind != "folder", kind != "folder"));
        cache.flush();
        drop((film, cache));
        assert_eq!(fs::read(&precious).unwrap(), b"PRECIOUS", "{kind}");
        assert!(!dir.path().join("new").exists(), "{kind}");
        assert_eq!(fs::read_dir(dir.path().join("elsewhere")).map_or(0, Iterator::count), 0, "{kind}");
    }
}

#[test]
fn linked_entries_folder_is_refused_with_the_fix() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("cache");
    fs::create_dir(&home).unwrap();
    symlink(dir.path(), home.join("entries")).unwrap();
    let error = Cache::open(&config(&home), "test:origin", Arc::default()).err().unwrap();
    assert!(error.kind() == Kind::Denied && error.to_string().contains("--cache-dir"), "{error}");
}
