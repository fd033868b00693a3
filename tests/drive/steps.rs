//! A mounted library whose daemon is killed at every step of what programs do to its files.
//! Never here: kills at any moment, under load (see `volume`), and puts (see `puts`).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reelfs::library::local::Local;
use reelfs::library::{Cut, Damage, Library};
use rustix::fs::FallocateFlags;
use rustix::process::Signal;

use super::compare::wait_until;
use super::mount::{Mount, Place};
use super::needs::{FUSE, Need, Test};
use super::puts::{STEPS, findings, get, put, steps};

/// It is killed at each step so far from the last, unless somebody wants to see more.
const EVERY_DEFAULT: u32 = 16;
/// Small chunks: a few of them are enough.
const CUT: Cut = Cut { inline_bytes_max: 16 << 10, chunk_size_bytes: 64 << 10 };
const NAMES: [&str; 4] = ["film.mkv", "new.mkv", "small.srt", "folder/in.mkv"];

pub fn tests() -> Vec<Test> {
    vec![Test::new("steps::a_mount_killed_at_each_keeps_what_was_synced", &[FUSE, Need::Program("strace")], killed)]
}

/// What the files hold.
type Files = BTreeMap<&'static str, Vec<u8>>;

/// Something a program does, and waits for: when it returns, it is durable.
struct Act {
    what: fn(&Path) -> io::Result<()>,
    /// What a kill on the way may leave, beside what was before; the last is what there is afterwards.
    leaves: fn(&Files) -> Vec<Files>,
}

fn with(files: &Files, name: &'static str, bytes: &[u8]) -> Files {
    let mut files = files.clone();
    files.insert(name, bytes.to_vec());
    files
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn sync_folder(root: &Path) -> io::Result<()> {
    File::open(root)?.sync_all()
}

const ACTS: [Act; 10] = [
    // A new file of several chunks.
    Act {
        what: |root| {
            let file = File::create(root.join("new.mkv"))?;
            file.write_all_at(&bytes(1, 300_000), 0)?;
            file.sync_all()
        },
        leaves: |files| vec![with(files, "new.mkv", &[]), with(files, "new.mkv", &bytes(1, 300_000))],
    },
    // A tag in its middle is changed.
    Act {
        what: |root| {
            let file = open(&root.join("new.mkv"))?;
            file.write_all_at(&bytes(2, 1000), 130_000)?;
            file.sync_all()
        },
        leaves: |files| {
            let mut film = files["new.mkv"].clone();
            film[130_000..131_000].copy_from_slice(&bytes(2, 1000));
            vec![with(files, "new.mkv", &film)]
        },
    },
    // It grows.
    Act {
        what: |root| {
            let file = open(&root.join("new.mkv"))?;
            file.write_all_at(&bytes(3, 100_000), 300_000)?;
            file.sync_data()
        },
        leaves: |files| vec![with(files, "new.mkv", &[files["new.mkv"].clone(), bytes(3, 100_000)].concat())],
    },
    // It is cut off.
    Act {
        what: |root| {
            let file = open(&root.join("new.mkv"))?;
            file.set_len(150_000)?;
            file.sync_all()
        },
        leaves: |files| vec![with(files, "new.mkv", &files["new.mkv"][..150_000])],
    },
    // It gets a hole.
    Act {
        what: |root| {
            let file = open(&root.join("new.mkv"))?;
            rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 60_000, 80_000)?;
            file.sync_all()
        },
        leaves: |files| {
            let mut film = files["new.mkv"].clone();
            film[60_000..140_000].fill(0);
            vec![with(files, "new.mkv", &film)]
        },
    },
    // A small one, which its close makes durable.
    Act {
        what: |root| {
            fs::write(root.join("small.srt"), bytes(4, 5000))?;
            sync_folder(root)
        },
        leaves: |files| vec![with(files, "small.srt", &[]), with(files, "small.srt", &bytes(4, 5000))],
    },
    // A small one becomes a large one.
    Act {
        what: |root| {
            let file = open(&root.join("small.srt"))?;
            file.write_all_at(&bytes(5, 100_000), 5000)?;
            file.sync_all()
        },
        leaves: |files| vec![with(files, "small.srt", &[bytes(4, 5000), bytes(5, 100_000)].concat())],
    },
    // One takes the place of another.
    Act {
        what: |root| {
            fs::rename(root.join("new.mkv"), root.join("film.mkv"))?;
            sync_folder(root)
        },
        leaves: |files| {
            let mut files = files.clone();
            let film = files.remove("new.mkv").unwrap();
            files.insert("film.mkv", film);
            vec![files]
        },
    },
    // A folder, and a file in it.
    Act {
        what: |root| {
            fs::create_dir(root.join("folder"))?;
            let file = File::create(root.join("folder/in.mkv"))?;
            file.write_all_at(&bytes(6, 70_000), 0)?;
            file.sync_all()
        },
        leaves: |files| vec![with(files, "folder/in.mkv", &[]), with(files, "folder/in.mkv", &bytes(6, 70_000))],
    },
    // One goes.
    Act {
        what: |root| {
            fs::remove_file(root.join("film.mkv"))?;
            sync_folder(root)
        },
        leaves: |files| {
            let mut files = files.clone();
            files.remove("film.mkv");
            vec![files]
        },
    },
];

/// From now on, the daemon is killed when one of its threads begins its `step`th step of this kind.
fn killer(mount: &Mount, kind: &str, step: u32) -> Child {
    watched(mount, &["-e", &format!("trace={kind}"), "-e", &format!("inject={kind}:signal=KILL:when={step}")])
}

/// What `strace` does so to all threads of a mount, from now on.
pub fn watched(mount: &Mount, how: &[&str]) -> Child {
    let watcher = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-p", &mount.pid().to_string()])
        .args(how)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let tasks = PathBuf::from(format!("/proc/{}/task", mount.pid()));
    let is_traced = |task: PathBuf| {
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        !status.lines().any(|line| line.split_ascii_whitespace().eq(["TracerPid:", "0"]))
    };
    wait_until("each thread is watched", || fs::read_dir(&tasks).unwrap().all(|task| is_traced(task.unwrap().path())));
    watcher
}

fn killed() {
    let mut kills = 0;
    for kind in STEPS {
        for step in steps(EVERY_DEFAULT) {
            if !is_killed_at(kind, step) {
                break;
            }
            kills += 1;
        }
    }
    println!("killed at {kills} steps");
    assert!(kills > 0);
}

/// One life of a mount; whether it was killed.
fn is_killed_at(kind: &str, step: u32) -> bool {
    let place = Place::new();
    let library = place.path("library");
    Local::create(&library, CUT).unwrap();
    let mut before = Files::from([("film.mkv", bytes(7, 200_000))]);
    put(&Local::open(&library).unwrap(), "film.mkv", &before["film.mkv"]);
    let mut mount = Mount::on(&place, &format!("library:{}", library.display()), &[]);
    let mut killer = killer(&mount, kind, step);
    // By this way no path ever leads beside the mount, when it is gone.
    let top = File::open(mount.point()).unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}", top.as_raw_fd()));
    let mut allowed = vec![before.clone()];
    for act in &ACTS {
        allowed.extend((act.leaves)(&before));
        if (act.what)(&root).is_err() {
            break;
        }
        before = allowed.pop().unwrap();
        allowed = vec![before.clone()];
    }
    drop(top);
    // Also at the steps of its end.
    mount.send(Signal::INT);
    let is_killed = !mount.wait().success();
    killer.wait().unwrap();
    let opened = Local::open(&library).unwrap();
    let look = || NAMES.iter().filter_map(|name| Some((*name, get(&opened, name)?))).collect::<Files>();
    let there = look();
    let sizes = |files: &Files| files.iter().map(|(name, bytes)| (*name, bytes.len())).collect::<Vec<_>>();
    assert!(
        allowed.contains(&there),
        "{kind} {step}: {:?}, not one of {:?}",
        sizes(&there),
        allowed.iter().map(sizes).collect::<Vec<_>>()
    );
    let found = findings(&opened);
    assert!(found.iter().all(|finding| finding.what == Damage::Orphaned), "{kind} {step}: {found:?}");
    opened.gc(Duration::ZERO, false).unwrap();
    assert_eq!(findings(&opened), [], "{kind} {step}: gc leaves nothing");
    assert_eq!(look(), there);
    is_killed
}
