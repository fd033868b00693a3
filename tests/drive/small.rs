//! Many small files put into stores by the program: one that fails fails alone, what was said to be kept is kept when the
//! program is killed, and nothing is said before it is synced.
//! Never here: what a library makes of a batch (see `library::keyed`).

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::mount::reelfs;
use super::needs::{Need, Test};
use super::stored::Store;
use super::written::film;

const REDIS: &[Need] = &[Need::Program("redis-server")];
const S3: &[Need] = &[Need::Program("rclone")];
const STRACE: &[Need] = &[Need::Program("strace")];
/// Files of a put that is killed; the variable asks for more.
const FILES: usize = 1_500;
/// On a server that takes each file by itself.
const FILES_IN_A_BUCKET: usize = 600;
const FILES_VARIABLE: &str = "REELFS_TESTS_SMALL_FILES";
const KILLS: usize = 5;
/// From the start, or the last name that is waited for, to the kill.
const KILLED_AFTER_MS: std::ops::Range<u64> = 0..100;
/// The seed of a run that failed.
const SEED: &str = "REELFS_TESTS_SEED";

pub fn tests() -> Vec<Test> {
    vec![
        Test::new("small::killed_in_a_file", &[], || killed(&Store::file(), FILES)),
        Test::new("small::killed_in_a_folder", &[], || killed(&Store::folder(), FILES)),
        Test::new("small::killed_on_redis", REDIS, || killed(&Store::redis(), FILES)),
        Test::new("small::killed_in_a_bucket", S3, || killed(&Store::bucket(), FILES_IN_A_BUCKET)),
        Test::new("small::killed_on_this_machine", &[], || killed(&Store::local(), FILES)),
        Test::new("small::one_that_fails_fails_alone", &[], one_that_fails_fails_alone),
        Test::new("small::nothing_is_said_before_it_is_synced", STRACE, nothing_is_said_before_it_is_synced),
    ]
}

fn bytes(n: usize) -> Vec<u8> {
    film(n as u64, 40 * (n % 100))
}

fn name(n: usize) -> String {
    format!("{:02}/{n:05}.srt", n % 7)
}

/// A folder of small files.
fn made(source: PathBuf, count: usize) -> PathBuf {
    for n in 0..count {
        let path = source.join(name(n));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes(n)).unwrap();
    }
    source
}

/// What of the files is there; each is what was put.
fn there(store: &Store, count: usize) -> BTreeSet<String> {
    let got = store.folder.path().join("got");
    let _ = fs::remove_dir_all(&got);
    if !store.done(&["ls", &store.url]).contains("all") {
        return BTreeSet::new();
    }
    store.done(&["get", "-q", &store.at("all"), got.to_str().unwrap()]);
    (0..count)
        .map(|n| (n, name(n)))
        .filter(|(n, name)| match fs::read(got.join(name)) {
            Ok(there) => {
                assert!(there == bytes(*n), "{name} is not what was put");
                true
            }
            Err(_) => false,
        })
        .map(|(_, name)| format!("all/{name}"))
        .collect()
}

fn killed(store: &Store, count: usize) {
    let count = std::env::var(FILES_VARIABLE).ok().and_then(|count| count.parse().ok()).unwrap_or(count);
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("{SEED}={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let source = made(store.folder.path().join("source"), count);
    store.done(&["init", &store.url]);
    let (mut kills, mut said) = (0, BTreeSet::new());
    for _ in 0..KILLS {
        let mut put = reelfs();
        put.args(["put", "--names", "--tag", "all of them", source.to_str().unwrap(), &store.at("all")]);
        let mut put = put.args(store.options()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut names = BufReader::new(put.stdout.take().unwrap())
            .lines()
            .map_while(Result::ok)
            .filter(|line| line.starts_with("all/"));
        // So many are waited for, so that there is something to lose; or none, as all may be there before the first is said.
        let waited_for = if random.bool() { random.usize(1..count / KILLS / 2) } else { 0 };
        said.extend(names.by_ref().take(waited_for));
        thread::sleep(Duration::from_millis(random.u64(KILLED_AFTER_MS)));
        put.kill().unwrap();
        kills += usize::from(!put.wait().unwrap().success());
        said.extend(names);
        let there = there(store, count);
        let lost: Vec<_> = said.difference(&there).collect();
        assert!(lost.is_empty(), "said and lost: {lost:?}");
        println!("{} said, {} there", said.len(), there.len());
    }
    store.done(&["put", source.to_str().unwrap(), &store.at("all"), "--tag", "all of them"]);
    assert_eq!(there(store, count).len(), count);
    store.done(&["gc", "--grace", "0", &store.url]);
    store.done(&["verify", &store.url]);
    store.done(&["purge", &store.url, "--tag", "all of them"]);
    assert_eq!(store.done(&["ls", "-r", &store.url]).matches(".srt").count(), 0, "each had its tag");
    println!("killed {kills} times");
}

fn one_that_fails_fails_alone() {
    for store in [Store::file(), Store::folder(), Store::local()] {
        let source = made(store.folder.path().join("all"), 60);
        store.done(&["init", &store.url]);
        // In its way: a file where a folder is to be.
        fs::write(store.folder.path().join("file"), "a file").unwrap();
        store.done(&["put", store.folder.path().join("file").to_str().unwrap(), &store.at("all/conflict")]);
        fs::create_dir(source.join("conflict")).unwrap();
        fs::write(source.join("conflict/x"), "not there").unwrap();
        // Its read fails, whoever reads it.
        symlink("/proc/self/mem", source.join("03/unreadable")).unwrap();
        fs::write(source.join("03/large"), film(1, 3_000_000)).unwrap();
        let put = store.run(&["put", "--names", source.to_str().unwrap(), &store.at("")]);
        let (said, told) = (String::from_utf8(put.stdout).unwrap(), String::from_utf8(put.stderr).unwrap());
        assert!(!put.status.success() && said.contains("61 files put"), "{said}{told}");
        let complaints: Vec<_> = told.lines().collect();
        assert_eq!(complaints.len(), 2, "{told}");
        assert!(complaints.iter().any(|line| line.contains("conflict/x: ") && line.contains("is ")), "{told}");
        assert!(complaints.iter().any(|line| line.contains("03/unreadable") && line.contains("error")), "{told}");
        assert!(said.contains("all/03/large\n") && !said.contains("unreadable"), "{said}");
        assert_eq!(there(&store, 60).len(), 60);
        let again = store.run(&["put", source.to_str().unwrap(), &store.at("")]);
        assert!(String::from_utf8(again.stdout).unwrap().contains("0 files put"), "nothing is put twice");
        store.done(&["verify", &store.url]);
    }
}

/// In a folder: bytes are synced before the file has its name, and folders before the name is said.
fn nothing_is_said_before_it_is_synced() {
    const COUNT: usize = 40;
    let store = Store::folder();
    let source = made(store.folder.path().join("source"), COUNT);
    store.done(&["init", &store.url]);
    let log = store.folder.path().join("log");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-qq", "-y", "-s", "100000", "-o", log.to_str().unwrap()]);
    strace.args(["-e", "trace=rename,write,fsync,syncfs", env!("CARGO_BIN_EXE_reelfs")]);
    strace.args(["put", "--names", source.to_str().unwrap(), &store.at("all")]);
    assert!(strace.env("HOME", store.folder.path()).stdout(Stdio::null()).status().unwrap().success());
    let log = fs::read_to_string(log).unwrap();
    let (mut unsynced, mut unnamed, mut to_sync, mut said) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), 0);
    for line in log.lines().filter(|line| !line.contains(" resumed>")) {
        let path = |line: &str| line.split_once('<').and_then(|(_, rest)| Some(rest.split_once('>')?.0.to_owned()));
        let call = line.split_whitespace().nth(1).unwrap_or_default();
        if call.starts_with("write(1<") {
            assert!(to_sync.is_empty() && unsynced.is_empty() && unnamed.is_empty(), "{line}: {to_sync:?}");
            said += line.matches(".srt").count();
        } else if call.starts_with("write(") && line.contains("/scratch/") {
            unsynced.insert(path(call).unwrap());
        } else if call.starts_with("syncfs(") {
            unnamed.append(&mut unsynced);
            to_sync.clear();
        } else if call.starts_with("fsync(") {
            let path = path(call).unwrap();
            to_sync.remove(&path);
            if unsynced.remove(&path) {
                unnamed.insert(path);
            }
        } else if call.starts_with("rename(") {
            let scratch = line.split('/').nth(5).unwrap().split('"').next().unwrap();
            let is_synced = unnamed.iter().any(|path| path.ends_with(scratch));
            assert!(is_synced, "{line}: named before it was synced");
            unnamed.retain(|path| !path.ends_with(scratch));
            let name = line.rsplit('"').nth(1).unwrap().rsplit('/').next().unwrap();
            let number: usize = name.trim_end_matches(".srt").parse().unwrap();
            to_sync.insert(store.folder.path().join(format!("films/all/{:02}", number % 7)).display().to_string());
        }
    }
    assert_eq!(said, COUNT);
}
