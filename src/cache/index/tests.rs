//! The index tried out on real database files: what it answers, what it refuses, and what it does with damage.
//! Never here: chunk bytes (see the cache's own tests).

use std::fs;
use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SLOT: u64 = 2 << 20;
const BLOCK: u64 = 64 << 10;

struct Bench {
    dir: TempDir,
    index: Index,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("index.sqlite")).unwrap();
    Bench { dir, index }
}

impl Bench {
    fn path(&self) -> PathBuf {
        self.dir.path().join("index.sqlite")
    }

    fn entry(&self, path: &str) -> i64 {
        let key = EntryKey { origin: "o", path, version: "v" };
        self.index.add_entry(&key, 100 * SLOT, SLOT, 1).unwrap().0
    }

    fn names_aside(&self) -> usize {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|file| file.unwrap().file_name());
        names
            .filter(|name| name.to_string_lossy().contains("sqlite.damaged-"))
            .filter(|name| !name.to_string_lossy().ends_with("-shm") && !name.to_string_lossy().ends_with("-wal"))
            .count()
    }
}

fn chunk(entry_id: i64, start: u64, end: u64) -> NewChunk {
    NewChunk {
        entry_id,
        range: ByteRange::new(start, end),
        digest: Digest::of(&start.to_le_bytes()),
        is_opening: false,
    }
}

fn ranges(rows: &[ChunkRow]) -> Vec<(u64, u64)> {
    rows.iter().map(|row| (row.range.start, row.range.end)).collect()
}

#[test]
fn the_schema_is_what_the_design_says() {
    let bench = bench();
    let connection = Connection::open(bench.path()).unwrap();
    let pragma = |name: &str| -> String {
        connection
            .pragma_query_value(None, name, |row| row.get::<_, rusqlite::types::Value>(0))
            .map(|value| format!("{value:?}"))
            .unwrap()
    };
    assert_eq!(pragma("user_version"), format!("Integer({SCHEMA})"));
    assert_eq!(pragma("journal_mode"), "Text(\"wal\")");
    let columns = |table: &str| -> Vec<String> {
        let mut query = connection.prepare(&format!("SELECT name FROM pragma_table_info('{table}')")).unwrap();
        query.query_map([], |row| row.get(0)).unwrap().map(std::result::Result::unwrap).collect()
    };
    assert_eq!(columns("cache_chunks"), ["entry_id", "start_byte", "end_byte", "sha256", "accessed_at", "keep"]);
    let entries =
        ["entry_id", "origin", "path", "version", "size_bytes", "chunk_size", "created_at", "accessed_at", "pinned"];
    assert_eq!(columns("cache_entries"), entries);
}

#[test]
fn no_query_reads_a_whole_table() {
    let bench = bench();
    let connection = Connection::open(bench.path()).unwrap();
    let plan = |sql: &str| -> String {
        let mut query = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        let mut rows = query.raw_query();
        let mut lines = String::new();
        while let Some(row) = rows.next().unwrap() {
            lines += &row.get::<_, String>(3).unwrap();
            lines.push('\n');
        }
        lines
    };
    for sql in [covering::COVERING, covering::OLDEST, covering::HELD] {
        let plan = plan(sql);
        assert!(!plan.contains("TEMP B-TREE"), "sorted by hand: {plan}");
        let scans: Vec<_> =
            plan.lines().filter(|line| line.starts_with("SCAN") && !line.contains("cache_chunks_by_age")).collect();
        assert!(scans.is_empty(), "{plan}");
    }
}

#[test]
fn no_connection_plans_a_kept_statement_anew() {
    let bench = bench();
    for slot in 0..50 {
        let film = bench.entry(&format!("film {slot}"));
        bench.index.record(&[chunk(film, slot * SLOT, (slot + 1) * SLOT)], 7).unwrap();
        let range = ByteRange::at(slot * SLOT, BLOCK);
        assert_eq!(bench.index.covering(film, range).unwrap().len(), 1);
        bench.index.oldest(Part::Middle, 0, 10, &[]).unwrap();
        bench.index.set_pinned(film, slot % 2 == 0).unwrap();
        assert_eq!(bench.index.is_pinned(film).unwrap(), slot % 2 == 0);
        let listing = bench.index.begin_listing("o", &format!("folder {slot}")).unwrap();
        bench.index.listed_name(listing, "film").unwrap();
    }
    assert_eq!(bench.index.replans(), 0);
}

#[test]
fn a_covering_query_unions_neighbours_and_ignores_what_lies_around() {
    let bench = bench();
    let (film, other) = (bench.entry("film"), bench.entry("other"));
    let rows = [(0, BLOCK), (SLOT, 2 * SLOT), (2 * SLOT, 2 * SLOT + BLOCK), (4 * SLOT, 5 * SLOT)];
    let mut chunks: Vec<_> = rows.iter().map(|(start, end)| chunk(film, *start, *end)).collect();
    chunks.push(chunk(other, 3 * SLOT, 4 * SLOT));
    bench.index.record(&chunks, 7).unwrap();
    let covering = |start, end| ranges(&bench.index.covering(film, ByteRange::new(start, end)).unwrap());
    assert_eq!(covering(2 * SLOT - 1, 2 * SLOT + 1), [rows[1], rows[2]], "two rows together");
    assert_eq!(covering(SLOT, 2 * SLOT), [rows[1]], "exactly one");
    assert_eq!(covering(SLOT + 5, SLOT + 6), [rows[1]], "inside one");
    assert_eq!(covering(BLOCK, SLOT), [], "a gap between rows");
    assert_eq!(covering(BLOCK - 1, SLOT + 1), [rows[0], rows[1]], "across a gap");
    assert_eq!(covering(2 * SLOT + BLOCK, 4 * SLOT), [], "the row before ends where the range begins");
    assert_eq!(covering(3 * SLOT, 4 * SLOT), [], "of another entry");
    assert_eq!(covering(5 * SLOT, 99 * SLOT), [], "behind all rows");
    assert_eq!(covering(0, 99 * SLOT), rows);
    assert_eq!(covering(SLOT, SLOT), [], "nothing asked");
    assert_eq!(bench.index.covering(other, ByteRange::new(0, SLOT)).unwrap(), [], "before all rows");
    assert_eq!(bench.index.covering(99, ByteRange::new(0, SLOT)).unwrap(), [], "no such entry");
    let row = &bench.index.covering(other, ByteRange::new(3 * SLOT, 3 * SLOT + 1)).unwrap()[0];
    assert_eq!((row.digest, row.accessed_at), (Digest::of(&(3 * SLOT).to_le_bytes()), 7));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    // A naive scan of all rows is the model.
    #[test]
    fn a_covering_query_finds_what_a_scan_finds(
        cells in prop::collection::vec(prop::collection::btree_set(0u64..64, 0..40), 1..4),
        asks in prop::collection::vec((0usize..4, 0u64..70, 0u64..70), 1..60),
    ) {
        let bench = bench();
        let mut all = Vec::new();
        for (number, cells) in cells.iter().enumerate() {
            let id = bench.entry(&number.to_string());
            let rows: Vec<_> = cells.iter().map(|cell| chunk(id, cell * 10, cell * 10 + 1 + cell % 10)).collect();
            bench.index.record(&rows, 1).unwrap();
            all.push((id, rows));
        }
        for (which, a, b) in asks {
            let (id, rows) = &all[which % all.len()];
            let ask = ByteRange::new(a.min(b) * 9, a.max(b) * 9);
            let found = bench.index.covering(*id, ask).unwrap();
            let expected: Vec<_> = rows.iter().filter(|row| !row.range.intersect(ask).is_empty()).map(|row| (row.range.start, row.range.end)).collect();
            prop_assert_eq!(ranges(&found), expected);
        }
    }
}

#[test]
fn parts_merge_into_one_row_and_only_if_they_are_all_still_there() {
    let bench = bench();
    let film = bench.entry("film");
    let parts = [chunk(film, 0, BLOCK), chunk(film, BLOCK, SLOT)];
    bench.index.record(&parts, 1).unwrap();
    let rows = bench.index.covering(film, ByteRange::new(0, SLOT)).unwrap();
    let whole = chunk(film, 0, SLOT);
    bench.index.remove(&rows[1..]).unwrap();
    assert!(!bench.index.merge(&rows, &whole, 2).unwrap(), "a part is gone");
    assert_eq!(ranges(&bench.index.covering(film, ByteRange::new(0, SLOT)).unwrap()), [(0, BLOCK)]);
    bench.index.record(&parts[1..], 1).unwrap();
    assert!(bench.index.merge(&rows, &whole, 2).unwrap());
    let merged = bench.index.covering(film, ByteRange::new(BLOCK, BLOCK + 1)).unwrap();
    assert_eq!((ranges(&merged), merged[0].digest), (vec![(0, SLOT)], whole.digest));
    assert_eq!(bench.index.held(film).unwrap(), (1, SLOT));
}

#[test]
fn a_row_is_removed_only_if_it_is_still_the_same() {
    let bench = bench();
    let film = bench.entry("film");
    bench.index.record(&[chunk(film, 0, BLOCK), chunk(film, BLOCK, SLOT)], 1).unwrap();
    let parts = bench.index.covering(film, ByteRange::new(0, SLOT)).unwrap();
    bench.index.merge(&parts, &chunk(film, 0, SLOT), 2).unwrap();
    bench.index.remove(&parts).unwrap();
    assert_eq!(bench.index.held(film).unwrap(), (1, SLOT), "the merged row is another one");
}

#[test]
fn the_least_recently_used_comes_first_and_pinned_entries_never() {
    let bench = bench();
    let (film, pinned) = (bench.entry("film"), bench.entry("pinned"));
    for (at, start) in [(30, 0), (10, SLOT), (20, 2 * SLOT)] {
        bench.index.record(&[chunk(film, start, start + SLOT), chunk(pinned, start, start + SLOT)], at).unwrap();
    }
    bench.index.set_pinned(pinned, true).unwrap();
    let oldest = |skip, limit| -> Vec<u64> {
        let rows = bench.index.oldest(Part::Middle, skip, limit, &[]).unwrap();
        rows.iter().map(|(row, _)| row.range.start / SLOT).collect()
    };
    assert_eq!(oldest(0, 10), [1, 2, 0]);
    assert_eq!(oldest(1, 1), [2]);
    bench.index.touch(&[Touch { entry_id: film, slot: ByteRange::at(SLOT, SLOT), at: 40 }]).unwrap();
    assert_eq!(oldest(0, 10), [2, 0, 1]);
    bench.index.record(&[chunk(pinned, 5 * SLOT, 6 * SLOT)], 1).unwrap();
    assert_eq!(oldest(0, 10), [2, 0, 1], "what comes later is pinned, too");
    bench.index.set_pinned(pinned, false).unwrap();
    assert_eq!(oldest(0, 10), [5, 1, 2, 2, 0, 0, 1], "and all of it goes with the pin");
}

#[test]
fn openings_stand_apart_and_are_counted() {
    let bench = bench();
    let film = bench.entry("film");
    let head = NewChunk { is_opening: true, ..chunk(film, 0, BLOCK) };
    bench.index.record(&[head, chunk(film, BLOCK, SLOT), chunk(film, SLOT, 2 * SLOT)], 1).unwrap();
    let kinds = || {
        let of =
            |part| bench.index.oldest(part, 0, 10, &[]).unwrap().into_iter().map(|(row, _)| row).collect::<Vec<_>>();
        (ranges(&of(Part::Opening)), ranges(&of(Part::Middle)), bench.index.opening_bytes().unwrap())
    };
    assert_eq!(kinds(), (vec![(0, BLOCK)], vec![(BLOCK, SLOT), (SLOT, 2 * SLOT)], BLOCK));
    bench.index.record(&[head], 2).unwrap();
    assert_eq!(kinds().2, BLOCK, "the same once more");
    let parts = bench.index.covering(film, ByteRange::new(0, SLOT)).unwrap();
    assert!(bench.index.merge(&parts, &chunk(film, 0, SLOT), 2).unwrap());
    assert_eq!(kinds(), (vec![(0, SLOT)], vec![(SLOT, 2 * SLOT)], SLOT), "a part of it is an opening");
    bench.index.mark_opening(film, SLOT, ByteRange::new(SLOT + 5, SLOT + 6)).unwrap();
    bench.index.mark_opening(film, SLOT, ByteRange::new(SLOT + 7, SLOT + 8)).unwrap();
    assert_eq!(kinds(), (vec![(SLOT, 2 * SLOT), (0, SLOT)], vec![], 2 * SLOT));
    bench.index.set_pinned(film, true).unwrap();
    assert_eq!(kinds(), (vec![], vec![], 0), "pinned ones have no need of it");
    bench.index.set_pinned(film, false).unwrap();
    assert_eq!(kinds().2, 2 * SLOT, "an opening as before");
    bench.index.remove(&bench.index.covering(film, ByteRange::new(0, 1)).unwrap()).unwrap();
    assert_eq!(kinds().2, SLOT);
    bench.index.remove_entry(film, 4096).unwrap();
    assert_eq!(kinds().2, 0);
}

#[test]
fn an_index_of_the_first_schema_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.sqlite");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(MIGRATIONS[0]).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    old.execute_batch(
        "INSERT INTO cache_entries VALUES (1, 'o', 'film', 'v', 100, 50, 1, 1, 0);
         INSERT INTO cache_chunks VALUES (1, 0, 50, zeroblob(32), 1)",
    )
    .unwrap();
    drop(old);
    let index = Index::open(&path).unwrap();
    assert_eq!((index.held(1).unwrap(), index.opening_bytes().unwrap()), ((1, 50), 0));
    index.mark_opening(1, 50, ByteRange::new(0, 10)).unwrap();
    assert_eq!(index.opening_bytes().unwrap(), 50, "with its film's next open");
}

#[test]
fn an_id_is_never_used_again() {
    let bench = bench();
    let first = bench.entry("a");
    bench.index.remove_entry(first, 4096).unwrap();
    assert_ne!(bench.entry("b"), first, "trust and data files go by it");
}

#[test]
fn the_same_version_is_the_same_entry() {
    let bench = bench();
    let key = EntryKey { origin: "o", path: "p", version: "1" };
    let (id, chunk_size) = bench.index.add_entry(&key, 10, SLOT, 1).unwrap();
    assert_eq!(bench.index.add_entry(&key, 10, 2 * SLOT, 2).unwrap(), (id, chunk_size), "and keeps its chunk size");
    let next = EntryKey { version: "2", ..key };
    let (other, _) = bench.index.add_entry(&next, 10, SLOT, 3).unwrap();
    assert_ne!(id, other);
    let others = bench.index.other_versions(&next).unwrap();
    assert_eq!(others.iter().map(|row| row.entry_id).collect::<Vec<_>>(), [id]);
    assert_eq!(bench.index.find_entry(&key).unwrap().unwrap().accessed_at, 2);
}

#[test]
fn pages_go_on_where_the_last_ended() {
    let bench = bench();
    let film = bench.entry("film");
    let many = covering::PAGE_MAX as u64 + 10;
    let rows: Vec<_> = (0..many).map(|at| chunk(film, at * BLOCK, (at + 1) * BLOCK)).collect();
    bench.index.record(&rows, 1).unwrap();
    let first = bench.index.chunks(film, 0).unwrap();
    assert_eq!(first.len(), covering::PAGE_MAX);
    assert_eq!(bench.index.chunks(film, first.last().unwrap().range.end).unwrap().len(), 10);
    bench.index.remove_entry(film, 4096).unwrap();
    assert_eq!(bench.index.held(film).unwrap(), (0, 0));
    assert!(!bench.index.has_entry(film).unwrap());
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let bench = bench();
    bench.entry("film");
    bench.index.writer().pragma_update(None, "user_version", SCHEMA + 1).unwrap();
    for opened in [Index::open(&bench.path()), Index::open_to_look(&bench.path())] {
        let error = opened.err().unwrap();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains(&format!("schema {}", SCHEMA + 1)), "{error}");
    }
    assert_eq!(bench.names_aside(), 0);
    bench.index.writer().pragma_update(None, "user_version", SCHEMA).unwrap();
    assert_eq!(Index::open(&bench.path()).unwrap().entries(0).unwrap().len(), 1);
}

/// A closed database with enough rows for several pages.
fn closed() -> Bench {
    let Bench { dir, index } = bench();
    let path = dir.path().join("index.sqlite");
    let key = EntryKey { origin: "o", path: "film", version: "v" };
    let (film, _) = index.add_entry(&key, 100 * SLOT, SLOT, 1).unwrap();
    let rows: Vec<_> = (0..2_000).map(|at| chunk(film, at * BLOCK, (at + 1) * BLOCK)).collect();
    index.record(&rows, 1).unwrap();
    drop(index);
    // The last writer has brought everything into the one file.
    assert!(fs::metadata(&path).unwrap().len() > 100_000);
    let index = Index::open(&dir.path().join("other.sqlite")).unwrap();
    Bench { dir, index }
}

type Harm = fn(&Path);

#[test]
fn damage_is_set_aside_and_a_new_index_begun() {
    let harm: [(&str, Harm); 4] = [
        ("garbage", |path| fs::write(path, vec![0xa5; 100_000]).unwrap()),
        ("a few bytes", |path| fs::write(path, b"no database").unwrap()),
        ("truncated", |path| {
            let len = fs::metadata(path).unwrap().len();
            fs::File::options().write(true).open(path).unwrap().set_len(len / 2).unwrap();
        }),
        ("flipped pages", |path| {
            let file = fs::File::options().write(true).open(path).unwrap();
            for page in 3..8 {
                file.write_all_at(&[0xff; 200], page * 4096).unwrap();
            }
        }),
    ];
    for (what, harm) in harm {
        let bench = closed();
        harm(&bench.path());
        let index = Index::open(&bench.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(index.entries(0).unwrap(), [], "{what}");
        assert_eq!(bench.names_aside(), 1, "{what}");
        let key = EntryKey { origin: "o", path: "film", version: "v" };
        index.add_entry(&key, 1, SLOT, 1).unwrap();
        drop(index);
        assert_eq!(Index::open(&bench.path()).unwrap().entries(0).unwrap().len(), 1, "{what}: the new one stays");
        assert_eq!(bench.names_aside(), 1, "{what}");
    }
}

#[test]
fn damage_found_in_use_is_set_aside_at_the_next_start() {
    let bench = closed();
    let index = Index::open(&bench.path()).unwrap();
    let file = fs::File::options().write(true).open(bench.path()).unwrap();
    for page in 1..fs::metadata(bench.path()).unwrap().len() / 4096 {
        file.write_all_at(&[0xff; 4096], page * 4096).unwrap();
    }
    let error = index.covering(1, ByteRange::new(0, 100 * SLOT)).unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    drop(index);
    let index = Index::open(&bench.path()).unwrap();
    assert_eq!((index.entries(0).unwrap(), bench.names_aside()), (Vec::new(), 1));
    drop(index);
    Index::open(&bench.path()).unwrap();
    assert_eq!(bench.names_aside(), 1, "once");
}

#[test]
fn a_row_that_only_damage_could_have_written_is_not_there() {
    let bench = bench();
    let film = bench.entry("film");
    bench.index.record(&[chunk(film, 0, BLOCK)], 1).unwrap();
    for harm in ["end_byte = 1 << 50", "end_byte = 0", "start_byte = -1", "sha256 = x'00'", "sha256 = 'text'"] {
        bench.index.writer().execute(&format!("UPDATE cache_chunks SET {harm}"), []).unwrap();
        assert_eq!(bench.index.covering(film, ByteRange::new(0, SLOT)).unwrap(), [], "{harm}");
        assert_eq!(bench.index.chunks(film, 0).unwrap(), [], "{harm}");
        bench.index.writer().execute("DELETE FROM cache_chunks", []).unwrap();
        bench.index.record(&[chunk(film, 0, BLOCK)], 1).unwrap();
    }
}

#[test]
fn looking_changes_nothing_and_works_beside_the_owner() {
    let bench = bench();
    bench.entry("film");
    let looking = Index::open_to_look(&bench.path()).unwrap();
    assert_eq!(looking.entries(0).unwrap().len(), 1);
    bench.entry("another");
    assert_eq!(looking.entries(0).unwrap().len(), 2);
    let key = EntryKey { origin: "o", path: "x", version: "v" };
    assert!(looking.add_entry(&key, 1, SLOT, 1).is_err());
}

#[test]
fn damage_of_an_index_that_gave_way_is_none_of_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let index = Index::open(&dir.path().join("index.sqlite")).unwrap();
    let damaged = || rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT), None);
    let read = index.read::<()>(|_| {
        index.renew().unwrap();
        Err(damaged())
    });
    assert_eq!(read.unwrap_err().kind(), Kind::Corrupt);
    assert!(!index.is_damaged());
    assert!(index.read::<()>(|_| Err(damaged())).is_err() && index.is_damaged());
}
