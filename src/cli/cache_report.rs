//! How the `cache` commands print: aligned for people, JSON for programs; both page by page, whatever a cache holds.
//! Never here: what is asked of a cache, and exit codes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::ser::{Error as _, SerializeSeq as _};
use serde::{Serialize, Serializer};

use super::caches::Caches;
use super::{printable, written};
use crate::cache::{BadChunk, CacheStatus, EntryStatus, Purged, Verified};
use crate::config::format_size;
use crate::error::{Error, Kind, Result};

/// All of `dirs` for a person; last uses as seen from `now`.
pub fn text(caches: &dyn Caches, dirs: &[PathBuf], now: SystemTime, out: &mut dyn Write) -> Result<()> {
    if dirs.is_empty() {
        writeln!(out, "nothing is cached yet").map_err(|error| written(&error))?;
    }
    for (nth, dir) in dirs.iter().enumerate() {
        let gap = if nth > 0 { "\n" } else { "" };
        write!(out, "{gap}{}", heading(&caches.status(dir)?)).map_err(|error| written(&error))?;
        let mut is_first = true;
        for_each_entry(caches, dir, &mut |entry| {
            if std::mem::take(&mut is_first) {
                writeln!(out, "{COLUMNS}").map_err(|error| written(&error))?;
            }
            writeln!(out, "{}", row(&entry, now)).map_err(|error| written(&error))
        })?;
    }
    Ok(())
}

/// All of `dirs` for a program: `{"caches": [{…, "entries": […]}]}`.
pub fn json(caches: &dyn Caches, dirs: &[PathBuf], out: &mut dyn Write) -> Result<()> {
    let caches = dirs.iter().map(|dir| Ok(CacheJson::new(caches, dir, caches.status(dir)?)));
    let status = StatusJson { caches: caches.collect::<Result<_>>()? };
    serde_json::to_writer_pretty(&mut *out, &status).map_err(|error| match error.io_error_kind() {
        Some(kind) => written(&kind.into()),
        None => Error::new(Kind::Local, error.to_string()),
    })?;
    writeln!(out).map_err(|error| written(&error))
}

/// A chunk that failed.
pub fn bad_chunk(bad: &BadChunk, out: &mut dyn Write) -> Result<()> {
    let (path, range) = (printable(&bad.path), bad.range);
    writeln!(out, "bad: {path}, bytes {} to {}: dropped", range.start, range.end).map_err(|error| written(&error))
}

/// A cache that was verified.
pub fn verified(dir: &Path, verified: Verified, out: &mut dyn Write) -> Result<()> {
    let Verified { chunks, bytes, bad } = verified;
    let outcome = if bad == 0 { "all good".to_owned() } else { format!("{bad} bad, dropped") };
    writeln!(out, "{}: {chunks} chunks, {}: {outcome}", dir.display(), format_size(bytes))
        .map_err(|error| written(&error))
}

/// What was forgotten, in all caches together.
pub fn purged(purged: Purged, out: &mut dyn Write) -> Result<()> {
    let Purged { entries, bytes, in_use_bytes } = purged;
    let files = if entries == 1 { "file" } else { "files" };
    let in_use = match in_use_bytes {
        0 => String::new(),
        bytes => format!("; {} are being read by the kernel and stay: close them first", format_size(bytes)),
    };
    writeln!(out, "{entries} {files} forgotten, {} freed{in_use}", format_size(bytes)).map_err(|error| written(&error))
}

/// By cursor, so that memory doesn't grow with the cache.
fn for_each_entry(caches: &dyn Caches, dir: &Path, each: &mut dyn FnMut(EntryStatus) -> Result<()>) -> Result<()> {
    let mut after = None;
    loop {
        let page = caches.entries(dir, after)?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.entry_id);
        page.into_iter().try_for_each(&mut *each)?;
    }
}

/// Sizes come before names: columns align however long a name is.
const COLUMNS: &str = "      CACHED          OF    %   CHUNKS     LAST USE  FILE";

fn heading(status: &CacheStatus) -> String {
    let used = format_size(status.used_bytes);
    let used = status.budget_bytes.map_or(used.clone(), |budget| format!("{used} of {}", format_size(budget)));
    let pinned = Some(status.pinned_bytes).filter(|bytes| *bytes > 0);
    let pinned = pinned.map(|bytes| format!("  pinned  {}\n", format_size(bytes))).unwrap_or_default();
    let source = status.source.as_deref().map(|source| format!("  source  {}\n", printable(source)));
    let holder = status.holder_pid.map(|pid| format!("  open    by process {pid}\n"));
    let (source, holder) = (source.unwrap_or_default(), holder.unwrap_or_default());
    format!("{}\n{source}  used    {used}\n{pinned}{holder}", status.dir.display())
}

fn row(entry: &EntryStatus, now: SystemTime) -> String {
    format!(
        "{:>12}{:>12}{:>5}{:>9}{:>13}  {}{}",
        format_size(entry.cached_bytes),
        format_size(entry.size_bytes),
        percent(entry.cached_bytes, entry.size_bytes),
        entry.chunks,
        ago(now.duration_since(entry.accessed).unwrap_or_default()),
        printable(&entry.path),
        if entry.pinned { " (pinned)" } else { "" },
    )
}

/// Rounded down: 100 means all of it. An empty file is all here.
fn percent(part: u64, whole: u64) -> u128 {
    if whole == 0 { 100 } else { (u128::from(part) * 100 / u128::from(whole)).min(100) }
}

/// `5 min ago`: one unit is enough to tell old from new.
fn ago(past: Duration) -> String {
    match past.as_secs() {
        0..10 => "just now".to_owned(),
        seconds @ 10..60 => format!("{seconds} s ago"),
        seconds @ 60..3_600 => format!("{} min ago", seconds / 60),
        seconds @ 3_600..86_400 => format!("{} h ago", seconds / 3_600),
        seconds => format!("{} d ago", seconds / 86_400),
    }
}

#[derive(Serialize)]
struct StatusJson<'a> {
    caches: Vec<CacheJson<'a>>,
}

#[derive(Serialize)]
struct CacheJson<'a> {
    dir: String,
    source: Option<String>,
    used_bytes: u64,
    pinned_bytes: u64,
    budget_bytes: Option<u64>,
    holder_pid: Option<u32>,
    entries: Entries<'a>,
}

impl<'a> CacheJson<'a> {
    fn new(caches: &'a dyn Caches, dir: &'a Path, status: CacheStatus) -> Self {
        let CacheStatus { dir: shown, source, used_bytes, pinned_bytes, budget_bytes, holder_pid } = status;
        let entries = Entries { caches, dir };
        Self { dir: shown.display().to_string(), source, used_bytes, pinned_bytes, budget_bytes, holder_pid, entries }
    }
}

/// The entries of a cache, read while they are written.
struct Entries<'a> {
    caches: &'a dyn Caches,
    dir: &'a Path,
}

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(None)?;
        // A serializer's own error, which may be the output's, goes around ours.
        let mut failed = None;
        let done = for_each_entry(self.caches, self.dir, &mut |entry| {
            list.serialize_element(&EntryJson::from(entry)).map_err(|error| {
                failed = Some(error);
                Error::new(Kind::Cancelled, "the output failed")
            })
        });
        match (failed, done) {
            (Some(error), _) => Err(error),
            (None, Err(error)) => Err(S::Error::custom(error)),
            (None, Ok(())) => list.end(),
        }
    }
}

#[derive(Serialize)]
struct EntryJson {
    path: String,
    version: String,
    size_bytes: u64,
    cached_bytes: u64,
    chunks: u64,
    /// Since 1970.
    accessed_unix_seconds: u64,
    pinned: bool,
}

impl From<EntryStatus> for EntryJson {
    fn from(entry: EntryStatus) -> Self {
        let EntryStatus { entry_id: _, path, version, size_bytes, cached_bytes, chunks, accessed, pinned } = entry;
        let accessed_unix_seconds = accessed.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { path, version, size_bytes, cached_bytes, chunks, accessed_unix_seconds, pinned }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cache::Purge;

    const NOW: Duration = Duration::from_secs(1_000_000);

    const PAGE: usize = 1000;

    /// A cache of so many entries.
    struct Double(i64);

    impl Caches for Double {
        fn status(&self, dir: &Path) -> Result<CacheStatus> {
            Ok(CacheStatus {
                dir: dir.to_owned(),
                source: Some("http://host/films/".to_owned()),
                used_bytes: 3 << 29,
                pinned_bytes: 0,
                budget_bytes: Some(10 << 30),
                holder_pid: Some(42),
            })
        }

        fn entries(&self, _dir: &Path, after: Option<i64>) -> Result<Vec<EntryStatus>> {
            let ids = (after.unwrap_or(0) + 1)..=self.0;
            let entry = |id: i64| EntryStatus {
                entry_id: id,
                path: format!("film {id}\n.mkv"),
                version: "etag:\"x\"".into(),
                size_bytes: 4 << 30,
                cached_bytes: 3 << 29,
                chunks: 768,
                accessed: SystemTime::UNIX_EPOCH + NOW - Duration::from_mins(5),
                pinned: id == 2,
            };
            Ok(ids.take(PAGE).map(entry).collect())
        }

        fn verify(&self, _dir: &Path, _is_quiet: bool, _on_bad: &mut dyn FnMut(&BadChunk)) -> Result<Verified> {
            unreachable!("not a part of status")
        }

        fn purge(&self, _dir: &Path, _purge: Purge) -> Result<Purged> {
            unreachable!("not a part of status")
        }
    }

    fn printed(print: impl FnOnce(&mut dyn Write) -> Result<()>) -> String {
        let mut out = Vec::new();
        print(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn aligned_for_people() {
        let dirs = [PathBuf::from("/cache/host-films")];
        let text = printed(|out| text(&Double(2), &dirs, SystemTime::UNIX_EPOCH + NOW, out));
        assert_eq!(
            text,
            "\
/cache/host-films
  source  http://host/films/
  used    1.5 GiB of 10.0 GiB
  open    by process 42
      CACHED          OF    %   CHUNKS     LAST USE  FILE
     1.5 GiB     4.0 GiB   37      768    5 min ago  film 1 .mkv
     1.5 GiB     4.0 GiB   37      768    5 min ago  film 2 .mkv (pinned)
"
        );
        assert_eq!(printed(|out| super::text(&Double(0), &[], SystemTime::now(), out)), "nothing is cached yet\n");
    }

    #[test]
    fn stable_for_programs() {
        let dirs = [PathBuf::from("/cache/host-films")];
        let value: serde_json::Value = serde_json::from_str(&printed(|out| json(&Double(1), &dirs, out))).unwrap();
        let expected = serde_json::json!({ "caches": [{
            "dir": "/cache/host-films",
            "source": "http://host/films/",
            "used_bytes": 1_610_612_736_u64,
            "pinned_bytes": 0,
            "budget_bytes": 10_737_418_240_u64,
            "holder_pid": 42,
            "entries": [{
                "path": "film 1\n.mkv",
                "version": "etag:\"x\"",
                "size_bytes": 4_294_967_296_u64,
                "cached_bytes": 1_610_612_736_u64,
                "chunks": 768,
                "accessed_unix_seconds": 999_700,
                "pinned": false,
            }],
        }] });
        assert_eq!(value, expected);
        assert_eq!(printed(|out| json(&Double(1), &[], out)), "{\n  \"caches\": []\n}\n");
    }

    #[test]
    fn every_page_is_listed_once() {
        for count in [0, 1, 999, 1000, 1001, 2500] {
            let mut ids = Vec::new();
            for_each_entry(&Double(count), Path::new(""), &mut |entry| {
                ids.push(entry.entry_id);
                Ok(())
            })
            .unwrap();
            assert!(ids.into_iter().eq(1..=count), "{count}");
        }
    }

    #[test]
    fn a_reader_that_goes_away_is_no_failure() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dirs = [PathBuf::from("/cache")];
        for printed in [json(&Double(5), &dirs, &mut Gone), text(&Double(5), &dirs, SystemTime::now(), &mut Gone)] {
            assert_eq!(printed.unwrap_err().kind(), Kind::Cancelled);
        }
    }

    #[test]
    fn times_and_parts() {
        for (seconds, text) in
            [(0, "just now"), (59, "59 s ago"), (60, "1 min ago"), (7_199, "1 h ago"), (200_000, "2 d ago")]
        {
            assert_eq!(ago(Duration::from_secs(seconds)), text);
        }
        assert_eq!((percent(0, 0), percent(999, 1000), percent(u64::MAX, u64::MAX)), (100, 99, 100));
    }
}
