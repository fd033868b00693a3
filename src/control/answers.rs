//! What a mount does about each request, and what it says.
//! Never here: sockets.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::{Answer, BadRange, JobProgress, Mount, Progress, Request, Served, Snapshot};
use crate::cache::{BadChunk, Cache, Pinned, Purge, Verified};
use crate::config::format_size;
use crate::drive::{self, Drive, Extent, Warmed, Warming, shown};
use crate::error::{Error, Kind, Result};

/// Bad chunks named in one answer: more are counted.
const BAD_MAX: usize = 1_000;
/// How often a check is told of: often enough for a bar that moves.
const TELL_EVERY: Duration = Duration::from_millis(200);

/// How much longer than it was told the kernel may remember something: its clock ticks a hundred times a second, or more often.
const KERNEL_CLOCK: Duration = Duration::from_millis(30);

/// Tells how a long job goes on. An error means that nobody listens any longer: the job ends with it.
pub(super) type Tell<'a> = &'a mut dyn FnMut(JobProgress) -> Result<()>;

/// The end of the answer; an error is told as such.
pub(super) fn answer(mount: &Mount, request: &Request, tell: Tell) -> Result<Answer> {
    match (&mount.served, request) {
        (_, Request::Status) => Ok(Answer::Status(Box::new(Snapshot::of(mount)?))),
        (Served::Drive { drive, cache, .. }, request) => of_drive(drive, cache, request, tell),
        (Served::Volume { source, .. }, Request::Refresh { .. }) => {
            Ok(Answer::Done { message: format!("{source}: shows what is there, always: nothing to be asked anew") })
        }
        (Served::Volume { source, .. }, _) => {
            let message = format!("{source} is a library on this machine: nothing of it is cached");
            Err(Error::new(Kind::Unsupported, message))
        }
    }
}

fn of_drive(drive: &Arc<Drive>, cache: &Cache, request: &Request, tell: Tell) -> Result<Answer> {
    let mut tell = |warming: Warming<'_>| {
        let Warming { path, done_bytes, total_bytes, here_bytes } = warming;
        let progress = Progress { path: path.to_owned(), done_bytes, total_bytes };
        tell(JobProgress { progress, here_bytes })
    };
    match request {
        Request::Status => Err(Error::new(Kind::Local, "a status is answered elsewhere")),
        Request::Verify { paths } => verify(cache, paths, &mut tell),
        Request::Purge { paths } => {
            let purge = if paths.is_empty() { Purge::All } else { Purge::Paths(paths) };
            let total_bytes = cache.used_bytes();
            let purged = cache.purge_beside(purge, &mut |path, done_bytes| {
                tell(Warming { path, done_bytes, total_bytes, here_bytes: 0 })
            })?;
            Ok(Answer::Purged { files: purged.entries, bytes: purged.bytes, in_use_bytes: purged.in_use_bytes })
        }
        Request::Refresh { path } => {
            drive.refresh(path)?;
            // What the kernel remembers of names it forgets by then: who asked for this finds what is there.
            thread::sleep(drive.name_ttl() + KERNEL_CLOCK);
            Ok(Answer::Done { message: format!("{}: what is there is asked for anew", shown(path)) })
        }
        Request::Pin { path } => {
            let pinned = drive.pin(path, &mut tell)?;
            // A pin is kept, also where nothing else is; but what it is for will not come.
            let why = cache.why_nothing_is_kept().filter(|_| pinned.cached_bytes < pinned.bytes);
            let why = why.map(|why| format!("; for now {why}")).unwrap_or_default();
            Ok(Answer::Done { message: done(path, "pinned", pinned) + &why })
        }
        Request::Unpin { path } => Ok(Answer::Done { message: done(path, "unpinned", drive.unpin(path)?) }),
        Request::Warm { path, head_tail } => {
            let extent = if *head_tail { Extent::Opening } else { Extent::Whole };
            Ok(Answer::Done { message: warmed(path, extent, drive.warm(path, extent, &mut tell)?) })
        }
    }
}

fn verify(cache: &Cache, paths: &[String], tell: drive::Tell<'_>) -> Result<Answer> {
    let mut bad = Vec::new();
    let mut told_at = Instant::now();
    let total_bytes = cache.used_bytes();
    let verified = cache.verify_beside(
        paths,
        &mut |chunk| {
            if bad.len() < BAD_MAX {
                let BadChunk { path, version, range } = chunk.clone();
                bad.push(BadRange { path, version, start_byte: range.start, end_byte: range.end });
            }
        },
        &mut |path, done_bytes| {
            // Called for each chunk.
            if told_at.elapsed() < TELL_EVERY {
                return Ok(());
            }
            told_at = Instant::now();
            tell(Warming { path, done_bytes, total_bytes, here_bytes: 0 })
        },
    )?;
    let Verified { chunks, bytes, bad: bad_chunks } = verified;
    Ok(Answer::Verified { chunks, bytes, bad_chunks, bad })
}

/// `films: 3 files, 4.1 GiB here: all; 1.0 GiB of it was here before`.
fn warmed(path: &str, extent: Extent, warmed: Warmed) -> String {
    let what = if extent == Extent::Opening { "what they open with" } else { "all" };
    let before = match warmed.here_bytes {
        0 => String::new(),
        here if here == warmed.bytes => "; it was here before".to_owned(),
        here => format!("; {} of it was here before", format_size(here)),
    };
    format!("{}: {}, {} here: {what}{before}", shown(path), files(warmed.files), format_size(warmed.bytes))
}

/// `films: 3 files pinned, 4.1 GiB, of which 1.0 GiB is here`.
fn done(path: &str, what: &str, pinned: Pinned) -> String {
    let (all, here) = (format_size(pinned.bytes), format_size(pinned.cached_bytes));
    let here = if pinned.cached_bytes < pinned.bytes { format!(", of which {here} is here") } else { String::new() };
    format!("{}: {} {what}, {all}{here}", shown(path), files(pinned.files))
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}
