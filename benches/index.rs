//! The index under load: the covering query at 10 thousand, 1 million and 10 million rows, recording in batches, and
//! hashing a chunk. The target: p99 of the covering query ≤ 20 µs at 10 million rows, and at most twice its time at
//! 10 thousand.
//! Never here: bytes on disk, origins.

use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rusqlite::{Connection, params};

use reelfs::cache::index::{EntryKey, Index, NewChunk};
use reelfs::digest::Digest;
use reelfs::range::ByteRange;

const CHUNK: u64 = 2 << 20;
/// Films of 2 GiB.
const CHUNKS_OF_ENTRY: u64 = 1_000;
/// What the kernel asks for at once.
const READ: u64 = 128 << 10;
/// As many again before them warm the database up.
const QUERIES: usize = 50_000;

/// A database of so many rows, written past the API: one transaction, and the index by age at the end.
fn fill(path: &Path, rows: u64) {
    drop(Index::open(path).expect("a fresh index opens"));
    let mut connection = Connection::open(path).expect("it opens again");
    let write = |connection: &mut Connection| -> rusqlite::Result<()> {
        connection.execute_batch("DROP INDEX cache_chunks_by_age")?;
        let transaction = connection.transaction()?;
        for entry in 1..=rows / CHUNKS_OF_ENTRY {
            transaction
                .prepare_cached(
                    "INSERT INTO cache_entries (origin, path, version, size_bytes, chunk_size, created_at, accessed_at)
                     VALUES ('o', ?1, 'v', ?2, ?3, 1, 1)",
                )?
                .execute(params![
                    format!("films/{entry}.mkv"),
                    (CHUNKS_OF_ENTRY * CHUNK).cast_signed(),
                    CHUNK.cast_signed()
                ])?;
            for chunk in 0..CHUNKS_OF_ENTRY {
                let at = fastrand::i64(..1 << 50);
                let digest: [u8; 32] = std::array::from_fn(|_| fastrand::u8(..));
                let (start, end) = ((chunk * CHUNK).cast_signed(), ((chunk + 1) * CHUNK).cast_signed());
                transaction
                    .prepare_cached("INSERT INTO cache_chunks VALUES (?1, ?2, ?3, ?4, ?5, 0)")?
                    .execute(params![entry.cast_signed(), start, end, digest, at])?;
            }
        }
        transaction.commit()?;
        connection.execute_batch("CREATE INDEX cache_chunks_by_age ON cache_chunks (keep, accessed_at)")
    };
    write(&mut connection).expect("the rows go in");
    drop(connection);
    // Or the kernel writes a gigabyte back while the queries are timed.
    std::fs::File::open(path).and_then(|file| file.sync_all()).expect("it is on the disk");
    // Warm means in the page cache: whatever the kernel took back meanwhile is read in again.
    let read = std::fs::File::open(path).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
    read.expect("it can be read back");
}

fn query(index: &Index, rows: u64, dice: &mut fastrand::Rng) -> usize {
    let entry = dice.i64(1..=(rows / CHUNKS_OF_ENTRY).cast_signed());
    let range = ByteRange::at(dice.u64(..CHUNKS_OF_ENTRY * CHUNK - READ), READ);
    index.covering(entry, range).expect("it answers").len()
}

fn covering(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut group = criterion.benchmark_group("covering");
    for (name, rows) in [("10 thousand", 10_000), ("1 million", 1_000_000), ("10 million", 10_000_000)] {
        let path = dir.path().join(format!("{rows}.sqlite"));
        fill(&path, rows);
        let index = Index::open(&path).expect("it opens");
        let mut dice = fastrand::Rng::with_seed(1);
        for _ in 0..QUERIES {
            black_box(query(&index, rows, &mut dice));
        }
        let mut times: Vec<Duration> = (0..QUERIES)
            .map(|_| {
                let begun = Instant::now();
                assert!(black_box(query(&index, rows, &mut dice)) > 0);
                begun.elapsed()
            })
            .collect();
        times.sort_unstable();
        let micros = |share: usize| times[QUERIES * share / 1_000].as_secs_f64() * 1e6;
        println!(
            "covering, {name} rows: p50 {:.1} µs, p99 {:.1} µs, p99.9 {:.1} µs",
            micros(500),
            micros(990),
            micros(999)
        );
        group.bench_function(name, |bencher| bencher.iter(|| query(&index, rows, &mut dice)));
    }
    group.finish();
}

fn recording(criterion: &mut Criterion) {
    const BATCH: u64 = 64;
    let dir = tempfile::tempdir().expect("a folder");
    let index = Index::open(&dir.path().join("index.sqlite")).expect("a fresh index opens");
    let key = EntryKey { origin: "o", path: "p", version: "v" };
    let (entry_id, _) = index.add_entry(&key, u64::MAX >> 2, CHUNK, 1).expect("an entry");
    let mut next = 0;
    let mut group = criterion.benchmark_group("recording");
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("64 rows a transaction", |bencher| {
        let batch = || -> Vec<NewChunk> {
            next += BATCH;
            let chunk = |number: u64| NewChunk {
                entry_id,
                range: ByteRange::at(number * CHUNK, CHUNK),
                digest: Digest::of(&number.to_le_bytes()),
                is_opening: false,
            };
            (next - BATCH..next).map(chunk).collect()
        };
        bencher.iter_batched(batch, |batch| index.record(&batch, 1).expect("it records"), BatchSize::SmallInput);
    });
    group.finish();
}

fn hashing(criterion: &mut Criterion) {
    let bytes: Vec<u8> = (0..CHUNK).map(|at| at as u8).collect();
    let mut group = criterion.benchmark_group("hashing");
    group.throughput(Throughput::Bytes(CHUNK));
    group.bench_function("2 MiB", |bencher| bencher.iter(|| Digest::of(&bytes)));
    group.finish();
}

criterion_group!(index, covering, recording, hashing);
criterion_main!(index);
