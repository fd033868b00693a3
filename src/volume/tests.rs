//! A volume without a kernel: its files beside a model that is only a vector of bytes.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use tempfile::TempDir;

use super::*;
use crate::digest::Digest;
use crate::library::catalog::{self, ChunkRow, NodeKind, ROOT};
use crate::library::{Cut, INLINE_BYTES_MAX};
use crate::range::ByteRange;

const CHUNK: u64 = 4096;
const CUT: Cut = Cut { inline_bytes_max: 1000, chunk_size_bytes: CHUNK };
/// Ten chunks and a bit.
const SIZE_MAX: u64 = 10 * CHUNK + 500;

fn library(cut: Cut) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    Blobs::create(dir.path()).unwrap();
    catalog::create(dir.path(), cut, &|| Ok(())).unwrap();
    dir
}

fn open(dir: &Path) -> Volume {
    Volume::open(dir, false).unwrap()
}

fn made(volume: &Volume, name: &str, kind: NodeKind) -> u64 {
    let made = Made { kind, mode: 0o644, rdev: 0, target: None, owner: (0, 0) };
    volume.make(ROOT, OsStr::new(name), &made).unwrap().node_id
}

fn found(volume: &Volume, name: &str) -> Outcome<Node> {
    volume.lookup(ROOT, OsStr::new(name))
}

fn blobs(dir: &Path) -> usize {
    let mut count = 0;
    let count_one = &mut |_| {
        count += 1;
        Ok(())
    };
    Blobs::open(dir).unwrap().walk(count_one).unwrap();
    count
}

/// One of everything that changes a file, done to it and to the model.
fn act(volume: &Volume, node: u64, model: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let size = model.len() as u64;
    let at = |random: &mut fastrand::Rng| {
        let any = random.u64(0..SIZE_MAX);
        // Edges are where it goes wrong.
        match random.u8(0..4) {
            0 => any / CHUNK * CHUNK,
            1 => size,
            _ => any,
        }
    };
    let mut range = ByteRange::at(at(random), random.u64(1..2 * CHUNK));
    range.end = range.end.min(SIZE_MAX);
    match random.u8(0..12) {
        0..4 if !range.is_empty() => {
            let bytes: Vec<u8> = (0..range.len()).map(|_| random.u8(..)).collect();
            assert_eq!(volume.write(node, range.start, &bytes).unwrap(), bytes.len());
            model.resize(model.len().max(range.end as usize), 0);
            model[range.start as usize..range.end as usize].copy_from_slice(&bytes);
        }
        4 => {
            let changes = Changes { size_bytes: Some(range.start), ..Changes::default() };
            assert_eq!(volume.set_attributes(node, &changes).unwrap().size_bytes, range.start);
            model.resize(range.start as usize, 0);
        }
        5 if !range.is_empty() => {
            let keeps_size = random.bool();
            volume.allocate(node, range, true, keeps_size).unwrap();
            if !keeps_size {
                model.resize(model.len().max(range.end as usize), 0);
            }
            let (start, end) = (range.start.min(model.len() as u64), range.end.min(model.len() as u64));
            model[start as usize..end as usize].fill(0);
        }
        6 => {
            if volume.upkeep_now(node) {
                assert_eq!(&volume.read(node, 0, SIZE_MAX as usize).unwrap(), model);
            }
        }
        7 => volume.sync(node).unwrap(),
        8 => {
            // Data and holes follow each other to the end, and holes are zeros.
            let mut at = 0;
            while at < size {
                let data = volume.seek(node, at, true).unwrap_or(size);
                assert!(model[at as usize..data as usize].iter().all(|byte| *byte == 0));
                at = volume.seek(node, data, false).unwrap_or(size);
                assert!(at > data || data == size);
            }
        }
        // From one place to another that does not overlap it.
        9 | 10 if !range.is_empty() => {
            let to = ByteRange::at(at(random), range.len());
            if to.end <= SIZE_MAX && to.intersect(range).is_empty() {
                let mut done = 0;
                while done < range.len() {
                    let (from, to) = ((node, range.start + done), (node, to.start + done));
                    let copied = volume.copy(from, to, range.len() - done).unwrap() as u64;
                    if copied == 0 {
                        break;
                    }
                    let (from, to) = (from.1 as usize, to.1 as usize);
                    let bytes = model[from..from + copied as usize].to_vec();
                    model.resize(model.len().max(to + bytes.len()), 0);
                    model[to..to + bytes.len()].copy_from_slice(&bytes);
                    done += copied;
                }
            }
        }
        _ => {
            let len = range.len() as usize;
            let read = volume.read(node, range.start, len).unwrap();
            let expected = model.iter().skip(range.start as usize).take(len).copied();
            assert_eq!(read, expected.collect::<Vec<_>>(), "{range}");
        }
    }
    assert_eq!(volume.attributes(node).unwrap().size_bytes, model.len() as u64);
}

fn play(dir: &Path, name: &str, mut model: Vec<u8>, seed: u64) {
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..6 {
        let volume = open(dir);
        let node = found(&volume, name).unwrap().node_id;
        assert_eq!(volume.read(node, 0, SIZE_MAX as usize).unwrap(), model, "after a restart");
        volume.open_file(node, false).unwrap();
        for _ in 0..60 {
            act(&volume, node, &mut model, &mut random);
        }
        volume.flush(node).unwrap();
        assert_eq!(volume.read(node, 0, SIZE_MAX as usize).unwrap(), model, "after a commit");
        volume.close(node);
        volume.wind_down().unwrap();
        let node = volume.attributes(node).unwrap();
        assert_eq!(node.is_inline, node.size_bytes <= CUT.inline_bytes_max);
    }
}

#[test]
fn a_file_is_what_was_written_whatever_was_done_to_it() {
    for seed in std::iter::repeat_with(|| fastrand::u64(..)).take(2) {
        let dir = library(CUT);
        let volume = open(dir.path());
        made(&volume, "f", NodeKind::File);
        drop(volume);
        play(dir.path(), "f", Vec::new(), seed);
        let volume = open(dir.path());
        volume.unlink(ROOT, OsStr::new("f")).unwrap();
        volume.wind_down().unwrap();
        drop(volume);
        // Whatever the sweeps of the run have not removed, the next does.
        let volume = open(dir.path());
        volume.sweep_now();
        assert_eq!(blobs(dir.path()), 0, "seed {seed}");
    }
}

#[test]
fn a_file_that_was_cut_otherwise_is_written_to_all_the_same() {
    for seed in std::iter::repeat_with(|| fastrand::u64(..)).take(2) {
        let dir = library(CUT);
        let mut random = fastrand::Rng::with_seed(seed);
        let model: Vec<u8> = (0..5 * CHUNK).map(|_| random.u8(..)).collect();
        let volume = open(dir.path());
        let node = made(&volume, "f", NodeKind::File);
        let mut rows = Vec::new();
        let mut start = 0;
        while start < model.len() as u64 {
            let range = ByteRange::new(start, (start + random.u64(1..2 * CHUNK)).min(model.len() as u64));
            let bytes = &model[range.start as usize..range.end as usize];
            let scratch = volume.shared.blobs.scratch().unwrap();
            scratch.write_all_at(bytes, 0).unwrap();
            volume.shared.blobs.keep(vec![(scratch, Digest::of(bytes), range.len())]).unwrap();
            rows.push(ChunkRow { range, digest: Some(Digest::of(bytes)) });
            start = range.end;
        }
        volume.shared.catalog.change(|change| change.set_chunks(node, &rows)).unwrap();
        drop(volume);
        play(dir.path(), "f", model, seed);
    }
}

#[test]
fn an_open_file_outlives_its_name_and_then_goes() {
    let dir = library(CUT);
    let volume = open(dir.path());
    let node = made(&volume, "f", NodeKind::File);
    volume.open_file(node, false).unwrap();
    let bytes = vec![7; 3 * CHUNK as usize];
    volume.write(node, 0, &bytes).unwrap();
    volume.sync(node).unwrap();
    volume.unlink(ROOT, OsStr::new("f")).unwrap();
    assert!(matches!(found(&volume, "f"), Err(Refusal::Missing)));
    volume.sweep_now();
    volume.write(node, 10, b"still here").unwrap();
    assert_eq!(&volume.read(node, 9, 12).unwrap(), b"\x07still here\x07");
    assert_eq!(volume.attributes(node).unwrap().links, 0);
    volume.close(node);
    assert!(volume.attributes(node).is_ok(), "the kernel still knows it");
    volume.forget(node, 1);
    assert!(matches!(volume.attributes(node), Err(Refusal::Missing)));
    volume.sweep_now();
    assert_eq!(blobs(dir.path()), 0);
}

#[test]
fn small_changes_of_a_large_file_write_small() {
    let dir = library(Cut { inline_bytes_max: INLINE_BYTES_MAX, chunk_size_bytes: 1 << 20 });
    let volume = open(dir.path());
    let node = made(&volume, "film", NodeKind::File);
    volume.open_file(node, false).unwrap();
    let bytes: Vec<u8> = (0..8 << 20).map(|n: u32| (n >> 15) as u8).collect();
    volume.write(node, 0, &bytes).unwrap();
    volume.flush(node).unwrap();
    let before = blobs(dir.path());
    volume.write(node, 100, b"a new title").unwrap();
    volume.sync(node).unwrap();
    volume.sweep_now();
    assert_eq!(blobs(dir.path()), before, "one came, one went");
    // The same once more, under another name.
    let copy = made(&volume, "copy", NodeKind::File);
    volume.open_file(copy, false).unwrap();
    volume.write(copy, 0, &volume.read(node, 0, bytes.len()).unwrap()).unwrap();
    volume.flush(copy).unwrap();
    assert_eq!(blobs(dir.path()), before);
}

#[test]
fn names_are_refused_as_posix_has_it() {
    let dir = library(CUT);
    let volume = open(dir.path());
    let name = |name: &'static str| OsStr::new(name);
    let folder = made(&volume, "d", NodeKind::Folder);
    made(&volume, "f", NodeKind::File);
    let refused = |done: Outcome<()>, expected: &str| assert_eq!(format!("{:?}", done.unwrap_err()), expected);
    let make = |name: &OsStr| {
        let made = Made { kind: NodeKind::File, mode: 0o644, rdev: 0, target: None, owner: (0, 0) };
        volume.make(folder, name, &made).map(drop)
    };
    refused(make(OsStr::new(&"x".repeat(256))), "NameTooLong");
    refused(make(std::os::unix::ffi::OsStrExt::from_bytes(b"\xff")), "NotText");
    make(name("g")).unwrap();
    refused(make(name("g")), "Exists");
    refused(volume.remove_folder(ROOT, name("d")), "NotEmpty");
    refused(volume.remove_folder(ROOT, name("f")), "NotFolder");
    refused(volume.unlink(ROOT, name("d")), "IsFolder");
    refused(volume.rename((ROOT, name("d")), (folder, name("d")), Replace::Yes), "Invalid");
    refused(volume.rename((ROOT, name("f")), (folder, name("g")), Replace::No), "Exists");
    refused(volume.rename((ROOT, name("f")), (ROOT, name("d")), Replace::Yes), "IsFolder");
    volume.rename((ROOT, name("f")), (ROOT, name("d")), Replace::Exchange).unwrap();
    assert_eq!(found(&volume, "f").unwrap().node_id, folder);
    assert_eq!(found(&volume, "d").unwrap().kind, NodeKind::File);
    let set = |name: &str, mode| volume.set_xattr(folder, OsStr::new(name), b"v", mode);
    refused(set("trusted.x", SetMode::Any), "Unsupported");
    refused(set("user.x", SetMode::Replace), "NoAttribute");
    set("user.x", SetMode::Create).unwrap();
    refused(set("user.x", SetMode::Create), "Exists");
    assert_eq!(volume.xattr(folder, name("user.x")).unwrap(), b"v");
}

#[test]
fn a_folder_whose_names_change_is_read_to_an_end_and_each_file_once() {
    let dir = library(CUT);
    let volume = open(dir.path());
    let nodes: HashSet<u64> = (0..600).map(|n| made(&volume, &format!("f{n}"), NodeKind::File)).collect();
    let handle = volume.open_folder();
    for round in 0..2 {
        volume.begin_folder(handle, ROOT).unwrap();
        let (mut seen, mut after) = (Vec::new(), 0);
        loop {
            let page = volume.entries(handle, ROOT, after).unwrap();
            let Some(last) = page.last() else { break };
            after = last.name_id;
            for entry in &page {
                let new = format!("r{round}-{}", entry.name);
                volume.rename((ROOT, OsStr::new(&entry.name)), (ROOT, OsStr::new(&new)), Replace::Yes).unwrap();
                made(&volume, &format!("new-{new}"), NodeKind::Pipe);
                seen.extend((entry.node.kind == NodeKind::File).then_some(entry.node.node_id));
            }
        }
        assert_eq!((seen.len(), seen.into_iter().collect::<HashSet<_>>()), (nodes.len(), nodes.clone()), "{round}");
    }
    volume.close_folder(handle);
}

#[test]
fn a_name_that_is_always_there_is_always_listed() {
    let dir = library(CUT);
    let volume = open(dir.path());
    let folder = made(&volume, "d", NodeKind::Folder);
    let name = |n: usize| format!("f{n}");
    for n in 0..300 {
        made(&volume, &name(n), NodeKind::File);
    }
    let handle = volume.open_folder();
    volume.begin_folder(handle, ROOT).unwrap();
    let page = volume.entries(handle, ROOT, 0).unwrap();
    let mut seen: Vec<String> = page.iter().map(|entry| entry.name.clone()).collect();
    let rename = |from: (u64, &str), to: &str, how| {
        volume.rename((from.0, OsStr::new(from.1)), (ROOT, OsStr::new(to)), how).unwrap();
    };
    // Names that are yet to come lead elsewhere: from here, from another folder, exchanged.
    made(&volume, "new", NodeKind::File);
    rename((ROOT, "new"), &name(290), Replace::Yes);
    let elsewhere = Made { kind: NodeKind::File, mode: 0o644, rdev: 0, target: None, owner: (0, 0) };
    volume.make(folder, OsStr::new("new"), &elsewhere).unwrap();
    rename((folder, "new"), &name(291), Replace::Yes);
    rename((ROOT, &name(292)), &name(293), Replace::Exchange);
    rename((ROOT, "d"), &name(294), Replace::Exchange);
    let mut after = page.last().unwrap().name_id;
    while let Some(last) = {
        let page = volume.entries(handle, ROOT, after).unwrap();
        seen.extend(page.iter().map(|entry| entry.name.clone()));
        page.last().map(|entry| entry.name_id)
    } {
        after = last;
    }
    let expected: HashSet<String> = (0..300).map(name).chain(["d".to_owned()]).collect();
    assert_eq!((seen.len(), seen.into_iter().collect::<HashSet<_>>()), (301, expected));
    assert_eq!(found(&volume, &name(294)).unwrap().kind, NodeKind::Folder);
    // 2, and one for each folder in it.
    assert_eq!(volume.attributes(ROOT).unwrap().links, 3);
    assert_eq!(found(&volume, &name(291)).unwrap().links, 1);
}

#[test]
fn beside_a_writer_each_read_is_of_one_version() {
    let dir = library(CUT);
    let writer = open(dir.path());
    let node = made(&writer, "f", NodeKind::File);
    // No two chunks are the same blob.
    let bytes = |version: u64| {
        let mut bytes = vec![0; SIZE_MAX as usize];
        fastrand::Rng::with_seed(version).fill(&mut bytes);
        bytes[..8].copy_from_slice(&version.to_le_bytes());
        bytes
    };
    let replace = |version: u64| {
        writer.open_file(node, true).unwrap();
        writer.write(node, 0, &bytes(version)).unwrap();
        writer.flush(node).unwrap();
        writer.close(node);
        writer.sweep_now();
    };
    replace(0);
    let looking = Volume::open(dir.path(), true).unwrap();
    thread::scope(|scope| {
        let replaced = scope.spawn(|| (1..=100).for_each(replace));
        while !replaced.is_finished() {
            let version = Version::of(&looking.attributes(node).unwrap());
            let (mut parts, half) = (Vec::new(), SIZE_MAX as usize / 2);
            for part in 0..2 {
                match looking.read_version(node, version, (part * half) as u64, half) {
                    Ok(read) => parts.extend(read),
                    Err(Refusal::Failed(error)) if error.kind() == Kind::Changed => break,
                    Err(refusal) => panic!("{refusal:?}"),
                }
            }
            if parts.len() == 2 * half {
                assert!(parts == bytes(u64::from_le_bytes(parts[..8].try_into().unwrap())));
            }
            // Now and then it begins just before a version goes.
            thread::sleep(Duration::from_micros(fastrand::u64(..5000)));
        }
    });
}

#[test]
fn one_that_is_only_looked_at_changes_nothing() {
    let dir = library(CUT);
    let writer = open(dir.path());
    let node = made(&writer, "f", NodeKind::File);
    writer.write(node, 0, b"bytes").unwrap();
    let busy = Volume::open(dir.path(), false).map(drop).unwrap_err();
    assert!(busy.to_string().contains("--read-only"), "{busy}");
    writer.sync_names().unwrap();
    let looking = Volume::open(dir.path(), true).unwrap();
    let node = found(&looking, "f").unwrap().node_id;
    let version = Version::of(&looking.open_file(node, false).unwrap());
    assert_eq!(looking.read_version(node, version, 0, 9).unwrap(), b"bytes");
    writer.write(node, 5, b" and more").unwrap();
    writer.sync(node).unwrap();
    let stale = looking.read_version(node, version, 0, 9).unwrap_err();
    assert!(matches!(stale, Refusal::Failed(error) if error.kind() == Kind::Changed));
    assert!(matches!(looking.write(node, 0, b"x"), Err(Refusal::ReadOnly)));
    assert!(matches!(looking.unlink(ROOT, OsStr::new("f")), Err(Refusal::ReadOnly)));
    assert!(matches!(looking.set_attributes(node, &Changes::default()), Err(Refusal::ReadOnly)));
}

#[test]
fn times_are_those_of_the_last_change() {
    let dir = library(CUT);
    let volume = open(dir.path());
    let node = made(&volume, "f", NodeKind::File);
    let long_ago = SystemTime::UNIX_EPOCH;
    let set = Changes { modified: Some(long_ago), accessed: Some(long_ago), ..Changes::default() };
    volume.open_file(node, false).unwrap();
    volume.write(node, 0, b"x").unwrap();
    // Between a write and its commit, as `cp -p` does.
    volume.set_attributes(node, &set).unwrap();
    volume.flush(node).unwrap();
    volume.close(node);
    volume.wind_down().unwrap();
    drop(volume);
    let node = found(&open(dir.path()), "f").unwrap();
    assert_eq!((node.modified, node.accessed, node.size_bytes), (long_ago, long_ago, 1));
}

impl Volume {
    /// What the upkeep does with a file of many chunks, now. Whether there was any.
    fn upkeep_now(&self, node_id: u64) -> bool {
        let Some(file) = self.shared.inodes.file(node_id) else { return false };
        file.keep_some(&self.disk(node_id), 0).unwrap();
        true
    }

    fn sweep_now(&self) {
        upkeep::sweep(&self.shared, || true).unwrap();
    }
}

#[test]
fn holes_of_a_file_take_no_blocks_once_it_is_committed() {
    const LEN: u64 = 100 * CHUNK;
    let dir = library(CUT);
    let volume = open(dir.path());
    let node = made(&volume, "sparse", NodeKind::File);
    let kept = |volume: &Volume| {
        let at_once = volume.attributes(node).unwrap();
        volume.sync(node).unwrap();
        let committed = volume.attributes(node).unwrap();
        let [at_once, committed] = [at_once, committed].map(|node| node.size_bytes - node.hole_bytes);
        // What is not committed yet may be counted twice, and never left out.
        assert!(at_once >= committed, "{at_once} {committed}");
        committed
    };
    volume.set_attributes(node, &Changes { size_bytes: Some(LEN), ..Changes::default() }).unwrap();
    assert_eq!(kept(&volume), 0);
    volume.write(node, 50 * CHUNK + 7, b"x").unwrap();
    assert!((1..=CHUNK).contains(&kept(&volume)));
    volume.write(node, 0, &vec![1; 10 * CHUNK as usize]).unwrap();
    assert!((10 * CHUNK..=11 * CHUNK).contains(&kept(&volume)));
    volume.allocate(node, ByteRange::new(2 * CHUNK, 6 * CHUNK), true, true).unwrap();
    let sparse = kept(&volume);
    assert!((6 * CHUNK..=7 * CHUNK).contains(&sparse), "{sparse}");
    volume.set_attributes(node, &Changes { size_bytes: Some(CHUNK), ..Changes::default() }).unwrap();
    assert_eq!(kept(&volume), CHUNK);
    // Listed as looked up, and small files are all data.
    let small = made(&volume, "small", NodeKind::File);
    volume.write(small, 500, b"x").unwrap();
    assert_eq!(found(&volume, "small").unwrap().hole_bytes, 0);
    drop(volume);
    // An earlier version has made no index of holes.
    let index = "file_chunks_holes";
    let open_database = || rusqlite::Connection::open(dir.path().join("catalog.sqlite")).unwrap();
    open_database().execute_batch(&format!("DROP INDEX {index}")).unwrap();
    let volume = open(dir.path());
    assert_eq!(kept(&volume), CHUNK);
    let count = "SELECT count(*) FROM sqlite_schema WHERE name = ?1";
    let made: u32 = open_database().query_row(count, [index], |row| row.get(0)).unwrap();
    assert_eq!(made, 1);
}
