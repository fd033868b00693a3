//! What a mount does, in lines for a person: shared by `reelfs status` and `reelfs top`.
//! Never here: asking, and drawing.

use jiff::Timestamp;

use super::printable;
use crate::config::format_size;
use crate::control::{
    CacheSnapshot, NoticedSnapshot, OriginSnapshot, ProblemSnapshot, ProcessSnapshot, ReadsSnapshot, Snapshot,
};
use crate::read::FileStatus;
use crate::volume::{OpenStatus, VolumeStatus};

/// Where a mount is, and for how long.
pub(super) fn heading(mount: &Snapshot) -> String {
    let point = printable(&mount.mountpoint.display().to_string());
    format!("{point}  (process {}, for {})", mount.pid, time(mount.uptime_seconds))
}

/// The mount as a whole, each line with a name.
pub(super) fn whole(mount: &Snapshot) -> Vec<(&'static str, String)> {
    let mut lines = vec![("source", printable(&mount.source))];
    lines.extend(mount.problems.iter().map(|problem| ("wrong", wrong(problem))));
    lines.extend(mount.library.as_ref().map(|library| ("library", of_library(library))));
    lines.extend(mount.library.as_ref().filter(|library| !library.is_read_only).map(|it| ("written", written(it))));
    lines.extend(mount.origin.as_ref().map(|told| ("origin", origin(told))));
    lines.extend(mount.origin.as_ref().map(|told| ("hedges", hedges(told))));
    lines.extend(mount.cache.as_ref().map(|told| ("cache", cache(told))));
    lines.extend(mount.cache.as_ref().map(|told| ("index", index(told))));
    lines.extend(mount.reads.as_ref().map(|told| ("reads", reads(told))));
    for (name, timed) in [("waits", &WAITS[..]), ("disk", &DISK[..])] {
        let told = timings(mount, timed);
        lines.extend((!told.is_empty()).then_some((name, told)));
    }
    lines.push(("process", process(&mount.process)));
    lines.extend(mount.last_error.as_ref().map(|error| ("error", last_error(error))));
    lines
}

/// What programs wait for, by its name in a snapshot and for people.
const WAITS: [(&str, &str); 4] =
    [("open", "open"), ("seek", "seek"), ("chunk_first_byte", "first byte"), ("chunk_download", "chunk")];
/// What is done behind them.
const DISK: [(&str, &str); 9] = [
    ("library_write", "write"),
    ("library_commit", "commit"),
    ("library_sync", "sync"),
    ("library_catalog_commit", "catalog"),
    ("index_query", "query"),
    ("index_commit", "commit"),
    ("cache_queue", "queue"),
    ("cache_write", "write"),
    ("cache_sync", "sync"),
];

/// `open 2.0 ms (99 % 8.0 ms), seek …`: of the last minutes.
fn timings(mount: &Snapshot, timed: &[(&str, &str)]) -> String {
    let told = timed.iter().filter_map(|(key, name)| {
        let timing = mount.timings.get(*key)?;
        Some(format!("{name} {} (99 % {})", brief(timing.p50_ms), brief(timing.p99_ms)))
    });
    told.collect::<Vec<_>>().join(", ")
}

/// `7 µs`, `1.2 ms`, `41 ms`, `2.5 s`.
fn brief(ms: f64) -> String {
    match ms {
        ..1.0 => format!("{:.0} µs", ms * 1e3),
        ..10.0 => format!("{ms:.1} ms"),
        ..1_000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1e3),
    }
}

fn process(process: &ProcessSnapshot) -> String {
    format!(
        "{} of memory, {}, {}",
        format_size(process.resident_bytes),
        counted(process.threads, "thread", "threads"),
        counted(process.connections, "connection", "connections"),
    )
}

/// `cache: nothing more is kept: … (for 3 min 5 s, since 2026-11-30 20:41:07 UTC)`.
fn wrong(problem: &ProblemSnapshot) -> String {
    let NoticedSnapshot { message, ago_seconds, at_unix_seconds } = &problem.noticed;
    let since = clock(*at_unix_seconds);
    format!("{}: {} (for {}, since {since})", problem.part, printable(message), time(*ago_seconds))
}

/// `5 min 2 s ago, 2026-11-30 20:41:07 UTC: …`.
fn last_error(error: &NoticedSnapshot) -> String {
    let at = clock(error.at_unix_seconds);
    format!("{} ago, {at}: {}", time(error.ago_seconds), printable(&error.message))
}

fn clock(unix_seconds: u64) -> String {
    let time = i64::try_from(unix_seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map_or_else(|| "?".to_owned(), |time| time.strftime("%F %T UTC").to_string())
}

fn of_library(library: &VolumeStatus) -> String {
    let how = if library.is_read_only { "read-only" } else { "read-write" };
    format!(
        "{how}, {}, {}; {} free on its disk; {} open",
        counted(library.files, "file", "files"),
        format_size(library.content_bytes),
        format_size(library.disk_free_bytes),
        counted(library.files_open as u64, "file", "files"),
    )
}

fn written(library: &VolumeStatus) -> String {
    format!(
        "{} in {}; {} not committed, {} to be hashed, {} held; {} in the journal; {} removed ({})",
        format_size(library.written_bytes),
        counted(library.commits, "commit", "commits"),
        format_size(library.uncommitted_bytes),
        counted(library.queued_chunks as u64, "chunk", "chunks"),
        counted(library.pinned_blobs as u64, "blob", "blobs"),
        format_size(library.wal_bytes),
        counted(library.gc_blobs, "blob", "blobs"),
        format_size(library.gc_bytes),
    )
}

/// An open file of a library on this machine.
pub(super) fn open_in_library(open: &OpenStatus) -> String {
    let committed = if open.is_committed { "" } else { ", not committed yet" };
    format!("{}{committed}", format_size(open.size_bytes))
}

fn origin(origin: &OriginSnapshot) -> String {
    let away = origin.away_seconds.map_or(String::new(), |seconds| format!("has not answered for {}; ", time(seconds)));
    let latency = match (origin.latency_p50_ms, origin.latency_p99_ms) {
        (Some(p50), Some(p99)) => format!("answers in {p50:.0} ms, 99 % in {p99:.0} ms"),
        _ => "no answers yet".into(),
    };
    format!(
        "{away}{}, {} in {}; {latency}; {}, {}",
        rate(origin.rate_bytes_per_second),
        format_size(origin.bytes),
        counted(origin.requests, "request", "requests"),
        counted(origin.errors, "error", "errors"),
        counted(origin.retries, "retry", "retries"),
    )
}

fn cache(cache: &CacheSnapshot) -> String {
    let corrupt = match cache.corrupt_chunks {
        0 => String::new(),
        chunks => format!(", {} bad", counted(chunks, "chunk", "chunks")),
    };
    format!(
        "{} of {}, {} evicted, {} fetched and never read{corrupt}",
        format_size(cache.used_bytes),
        format_size(cache.budget_bytes),
        format_size(cache.evicted_bytes),
        format_size(cache.wasted_bytes),
    )
}

fn hedges(origin: &OriginSnapshot) -> String {
    format!(
        "{} for late answers, {} were first; {} called off",
        counted(origin.hedges, "second request", "second requests"),
        origin.hedge_wins,
        counted(origin.flights_cancelled, "fetch", "fetches"),
    )
}

/// The machinery behind the cache.
fn index(cache: &CacheSnapshot) -> String {
    format!(
        "{}, {}, {} in its journal; {} for the disk",
        counted(cache.index_lookups, "lookup", "lookups"),
        counted(cache.index_replans, "statement planned anew", "statements planned anew"),
        format_size(cache.index_wal_bytes),
        counted(cache.queued_jobs as u64, "job waits", "jobs wait"),
    )
}

fn reads(reads: &ReadsSnapshot) -> String {
    let hits = reads.hit_rate.map_or("none yet".into(), |share| format!("{} from the cache", percent(share)));
    let errors = match reads.errors {
        0 => String::new(),
        errors => format!(", {}", counted(errors, "error", "errors")),
    };
    format!("{hits}, {}{errors}", stalls(reads.stalls, reads.stalled_seconds))
}

/// Where the reader of a file stands.
pub(super) fn position(file: &FileStatus) -> String {
    let at = share(file.position_byte, file.size_bytes);
    let at = format!("at {} of {}", percent(at), format_size(file.size_bytes));
    if file.is_lent {
        return format!("{} cached, the kernel reads it", format_size(file.cached_bytes));
    }
    let ahead = match file.ahead_seconds {
        Some(seconds) => format!("{} ahead ({})", time(seconds), format_size(file.ahead_bytes)),
        None => format!("{} ahead", format_size(file.ahead_bytes)),
    };
    let pace = file.rate_bytes_per_second.map_or(String::new(), |bytes| format!(", plays {}", rate(bytes)));
    format!("{at}, {ahead}{pace}, {} cached", percent(share(file.cached_bytes, file.size_bytes)))
}

/// How the reader of a file is served; empty while there is nothing to tell.
pub(super) fn service(file: &FileStatus) -> String {
    let Some(hits) = file.hit_rate.filter(|_| !file.is_lent) else { return String::new() };
    let first = file.first_byte_ms.map_or(String::new(), |ms| format!(", first byte {ms:.0} ms"));
    let wasted = match file.wasted_bytes {
        0 => String::new(),
        bytes => format!(", {} fetched and never read", format_size(bytes)),
    };
    format!("{} hits{first}, {}{wasted}", percent(hits), stalls(file.stalls, file.stalled_seconds))
}

/// What is not told one by one; empty if all is.
pub(super) fn more_files(mount: &Snapshot) -> String {
    let told = mount.files.len() + mount.library.as_ref().map_or(0, |library| library.open.len());
    match mount.files_open.saturating_sub(told) {
        0 => String::new(),
        more => format!("and {}", counted(more as u64, "more file", "more files")),
    }
}

fn stalls(stalls: u64, seconds: f64) -> String {
    match stalls {
        0 => "no stalls".into(),
        stalls => format!("{} ({seconds:.1} s)", counted(stalls, "stall", "stalls")),
    }
}

fn share(part: u64, whole: u64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a percentage is shown")]
    let share = part as f64 / whole.max(1) as f64;
    share
}

/// All of it only if it is all of it.
fn percent(share: f64) -> String {
    format!("{:.1} %", (share * 1000.0).floor() / 10.0)
}

fn rate(bytes_per_second: u64) -> String {
    format!("{}/s", format_size(bytes_per_second))
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// `31 s`, `12 min 5 s`, `3 h 7 min`, `4 d 2 h`.
fn time(seconds: f64) -> String {
    #[allow(clippy::cast_sign_loss, reason = "saturates, and shows whole seconds")]
    let whole = seconds as u64;
    let (minutes, hours, days) = (whole / 60, whole / 3600, whole / 86_400);
    match whole {
        0..60 => format!("{whole} s"),
        60..3_600 => format!("{minutes} min {} s", whole % 60),
        3_600..86_400 => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::{Breaker, TimingSnapshot};
    use crate::range::ByteRange;

    /// A film of 100 MiB, played to its tenth part.
    pub(in crate::cli) fn film() -> FileStatus {
        FileStatus {
            path: "films/a film.mkv".into(),
            size_bytes: 100 << 20,
            position_byte: 10 << 20,
            ahead_bytes: 20 << 20,
            ahead_seconds: Some(40.0),
            rate_bytes_per_second: Some(512 << 10),
            reads: 100,
            reads_waited: 2,
            hit_rate: Some(0.98),
            first_byte_ms: Some(92.4),
            stalls: 1,
            stalled_seconds: 0.5,
            wasted_bytes: 0,
            is_lent: false,
            cached_bytes: 30 << 20,
            cached: vec![ByteRange::new(0, 30 << 20)],
            in_flight: vec![ByteRange::new(30 << 20, 40 << 20)],
            readers: vec![10 << 20],
        }
    }

    pub(in crate::cli) fn mount() -> Snapshot {
        Snapshot {
            mountpoint: "/home/me/films".into(),
            source: "http://host/films/".into(),
            pid: 7,
            uptime_seconds: 3_725.0,
            problems: Vec::new(),
            last_error: None,
            timings: BTreeMap::from([
                ("open".to_owned(), TimingSnapshot { count: 2, p50_ms: 1.234, p90_ms: 2.0, p99_ms: 40.1 }),
                ("index_query".to_owned(), TimingSnapshot { count: 2, p50_ms: 0.007, p90_ms: 0.01, p99_ms: 2_500.0 }),
            ]),
            process: ProcessSnapshot { resident_bytes: 40 << 20, threads: 21, open_files: 30, connections: 1 },
            reads: Some(ReadsSnapshot {
                reads: 100,
                waited: 2,
                errors: 0,
                hit_rate: Some(0.98),
                stalls: 1,
                stalled_seconds: 0.5,
            }),
            origin: Some(OriginSnapshot {
                rate_bytes_per_second: 3 << 20,
                bytes: 30 << 20,
                requests: 16,
                breaker: Breaker::Closed,
                away_seconds: None,
                latency_p50_ms: Some(41.0),
                latency_p99_ms: Some(130.0),
                errors: 1,
                retries: 1,
                hedges: 3,
                hedge_wins: 2,
                flights_cancelled: 4,
            }),
            cache: Some(CacheSnapshot {
                used_bytes: 30 << 20,
                budget_bytes: 10 << 30,
                evicted_bytes: 0,
                wasted_bytes: 1 << 20,
                corrupt_chunks: 0,
                index_lookups: 3,
                index_replans: 0,
                index_wal_bytes: 1 << 20,
                queued_jobs: 0,
            }),
            library: None,
            files_open: 3,
            files: vec![film()],
        }
    }

    #[test]
    fn a_mount_in_lines() {
        let mount = mount();
        assert_eq!(heading(&mount), "/home/me/films  (process 7, for 1 h 2 min)");
        let told = |mount: &Snapshot| -> Vec<String> {
            whole(mount).iter().map(|(name, line)| format!("{name}: {line}")).collect()
        };
        let lines = told(&mount);
        assert_eq!(
            lines,
            [
                "source: http://host/films/",
                "origin: 3.0 MiB/s, 30.0 MiB in 16 requests; answers in 41 ms, 99 % in 130 ms; 1 error, 1 retry",
                "hedges: 3 second requests for late answers, 2 were first; 4 fetches called off",
                "cache: 30.0 MiB of 10.0 GiB, 0 B evicted, 1.0 MiB fetched and never read",
                "index: 3 lookups, 0 statements planned anew, 1.0 MiB in its journal; 0 jobs wait for the disk",
                "reads: 98.0 % from the cache, 1 stall (0.5 s)",
                "waits: open 1.2 ms (99 % 40 ms)",
                "disk: query 7 µs (99 % 2.5 s)",
                "process: 40.0 MiB of memory, 21 threads, 1 connection",
            ]
        );
        assert_eq!(more_files(&mount), "and 2 more files");
        let away = OriginSnapshot { away_seconds: Some(31.0), breaker: Breaker::Open, ..mount.origin.clone().unwrap() };
        assert!(origin(&away).starts_with("has not answered for 31 s; "));
        let noticed =
            NoticedSnapshot { message: "full\u{1b}".into(), ago_seconds: 65.0, at_unix_seconds: 1_000_000_000 };
        let problems = vec![ProblemSnapshot { part: "cache".into(), noticed: noticed.clone() }];
        let lines = told(&Snapshot { problems, last_error: Some(noticed), ..mount });
        assert_eq!(lines[1], "wrong: cache: full\\u{1b} (for 1 min 5 s, since 2001-09-09 01:46:40 UTC)");
        assert_eq!(lines[10], "error: 1 min 5 s ago, 2001-09-09 01:46:40 UTC: full\\u{1b}");
    }

    #[test]
    fn a_library_in_lines() {
        let open = OpenStatus { path: "a.mkv".into(), size_bytes: 1 << 20, is_committed: false };
        let library = VolumeStatus {
            is_read_only: false,
            files: 3,
            content_bytes: 3 << 20,
            commits: 1,
            written_bytes: 4 << 20,
            uncommitted_bytes: 1 << 20,
            queued_chunks: 1,
            wal_bytes: 64 << 10,
            replans: 0,
            pinned_blobs: 2,
            gc_blobs: 1,
            gc_bytes: 1 << 20,
            disk_free_bytes: 1 << 30,
            files_open: 1,
            open: vec![open.clone()],
        };
        let mount = Snapshot { source: "library:/l".into(), library: Some(library), files_open: 1, ..mount() };
        let mount =
            Snapshot { timings: BTreeMap::new(), reads: None, origin: None, cache: None, files: Vec::new(), ..mount };
        assert_eq!(
            whole(&mount),
            [
                ("source", "library:/l".to_owned()),
                ("library", "read-write, 3 files, 3.0 MiB; 1.0 GiB free on its disk; 1 file open".to_owned()),
                (
                    "written",
                    "4.0 MiB in 1 commit; 1.0 MiB not committed, 1 chunk to be hashed, 2 blobs held; \
                     64.0 KiB in the journal; 1 blob removed (1.0 MiB)"
                        .to_owned(),
                ),
                ("process", "40.0 MiB of memory, 21 threads, 1 connection".to_owned()),
            ]
        );
        assert_eq!((open_in_library(&open).as_str(), more_files(&mount).as_str()), ("1.0 MiB, not committed yet", ""));
    }

    #[test]
    fn a_file_in_lines() {
        let mut film = film();
        assert_eq!(position(&film), "at 10.0 % of 100.0 MiB, 40 s ahead (20.0 MiB), plays 512.0 KiB/s, 30.0 % cached");
        assert_eq!(service(&film), "98.0 % hits, first byte 92 ms, 1 stall (0.5 s)");
        film.is_lent = true;
        assert_eq!((position(&film).as_str(), service(&film).as_str()), ("30.0 MiB cached, the kernel reads it", ""));
    }

    #[test]
    fn nothing_is_whole_that_is_not() {
        assert_eq!(percent(0.9999), "99.9 %");
        assert_eq!(percent(1.0), "100.0 %");
    }

    #[test]
    fn times_for_people() {
        let told = [0.4, 59.9, 61.0, 3_600.0, 90_000.0].map(time);
        assert_eq!(told, ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }
}
