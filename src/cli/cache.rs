//! `reelfs cache`: what is cached, whether it is intact, having it before it is wanted, and forgetting it.
//! Never here: the cache itself (`caches` asks it) and the layout of what is printed (`cache_report`).

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};

use super::caches::{self, Caches, OnDisk};
use super::exit::Outcome;
use super::options::{CacheDirOption, Env, S3EndpointOption};
use super::{cache_dir, cache_keep, cache_report, complain, misuse};
use crate::cache::{BadChunk, Purge, Purged, Verified};
use crate::config::S3Config;
use crate::control::{self, Request};
use crate::error::{Error, Result};
use crate::origin::source::Source;

/// Look into caches, check them, fill them, empty them.
#[derive(Debug, Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// List what is cached, with sizes and last use. Works beside a running mount.
    Status {
        #[command(flatten)]
        which: Which,
        /// As JSON: one object, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Hash every chunk again, drop the bad ones and say which; fails if any was bad (exit code 3). Beside a running mount the mount
    /// does it, and goes on serving.
    Verify {
        #[command(flatten)]
        which: Which,
        /// Files, or folders with all below them, on a mounted drive. Default: all of each cache.
        #[arg(value_name = "PATH", conflicts_with_all = ["cache_dir", "source"])]
        paths: Vec<PathBuf>,
    },
    /// Fetch files before anyone plays them; paths on a mounted drive. It gives way to whoever plays. What is here is not
    /// fetched again: Ctrl-C leaves what came, and the same command goes on from there.
    Warm {
        /// Files, or folders with all below them, on a mounted drive.
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
        /// Of films only what players open them with: head, tail, and the container's index. Of other files nothing.
        #[arg(long)]
        head_tail: bool,
    },
    /// Never evict files; paths on a mounted drive. Also what comes later, over restarts, and of new versions. Refused
    /// when more than three quarters of --cache-size would be pinned.
    Pin {
        /// Files, or folders with all that is below them now, on a mounted drive.
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
    },
    /// Take pins back: what is least recently used is evicted first, as ever. Paths on a mounted drive.
    Unpin {
        /// Files, or folders with all below them, on a mounted drive.
        #[arg(value_name = "PATH", required = true)]
        paths: Vec<PathBuf>,
    },
    /// Forget files, or everything, pinned or not. Beside a running mount the mount does it, and goes on serving.
    Purge {
        #[command(flatten)]
        which: Which,
        /// Files to forget, or folders of them: on a mounted drive, or as `cache status` lists them.
        #[arg(value_name = "PATH", required_unless_present = "all")]
        paths: Vec<String>,
        /// Forget everything.
        #[arg(long, conflicts_with = "paths")]
        all: bool,
    },
}

/// Which caches: one by its directory, else one by its source, else all below the default place.
#[derive(Debug, Args)]
struct Which {
    #[command(flatten)]
    dir: CacheDirOption,
    /// The cache of this source, where a mount of it has it by default. `--cache-dir` wins, as it does there. Without
    /// either: all caches.
    #[arg(long, help_heading = "Cache")]
    source: Option<String>,
    #[command(flatten)]
    s3: S3EndpointOption,
}

impl Which {
    fn dirs(self, env: Env) -> Result<Vec<PathBuf>> {
        match (self.dir.cache_dir, self.source) {
            (Some(dir), _) => caches::one(dir),
            (None, Some(source)) => {
                let s3 = S3Config { endpoint: self.s3.endpoint(env)?, ..S3Config::default() };
                caches::one(cache_dir::of_source(&Source::parse(&source)?, &s3, env)?)
            }
            (None, None) => caches::all_below(&cache_dir::base(env)?),
        }
    }
}

/// Runs a `cache` command; the code is a failure when a chunk was bad or a cache refused.
pub fn run(args: CacheArgs, is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let env: Env = &|name| std::env::var_os(name);
    match args.command {
        CacheCommand::Status { which, json } => {
            let (dirs, now) = (which.dirs(env)?, SystemTime::now());
            let done = if json {
                cache_report::json(&OnDisk, &dirs, out)
            } else {
                cache_report::text(&OnDisk, &dirs, now, out)
            };
            done.map(|()| ExitCode::SUCCESS)
        }
        CacheCommand::Verify { which, paths } if paths.is_empty() => verify(&OnDisk, &which.dirs(env)?, is_quiet, out),
        CacheCommand::Verify { paths, .. } => Ok(verify_mounted(&paths, is_quiet, out)?.into()),
        CacheCommand::Warm { paths, head_tail } => {
            cache_keep::run(&paths, &|path| Request::Warm { path, head_tail }, is_quiet, out)
        }
        CacheCommand::Pin { paths } => cache_keep::run(&paths, &|path| Request::Pin { path }, true, out),
        CacheCommand::Unpin { paths } => cache_keep::run(&paths, &|path| Request::Unpin { path }, true, out),
        CacheCommand::Purge { which, paths, all } => {
            // A path on a mounted drive says itself which cache is meant.
            let is_told = which.dir.cache_dir.is_some() || which.source.is_some();
            let (mounted, listed): (Vec<_>, Vec<_>) =
                paths.into_iter().partition(|path| !is_told && control::find(Path::new(path)).is_ok());
            let mut outcome = forget_mounted(&mounted, out)?;
            if all || !listed.is_empty() {
                let purge = if all { Purge::All } else { Purge::Paths(&listed) };
                outcome.and(forget(&OnDisk, &which.dirs(env)?, purge, out)?);
            }
            Ok(outcome.into())
        }
    }
}

/// Through the mounts that the paths lie on. One that is refused does not keep the others from being done.
fn verify_mounted(paths: &[PathBuf], is_quiet: bool, out: &mut dyn Write) -> Result<Outcome> {
    let mut outcome = Outcome::Done;
    for path in paths {
        let asked = control::find(path).and_then(|mount| {
            let request = Request::Verify { paths: vec![mount.path.clone()] };
            caches::ask(mount, &request, is_quiet)
        });
        let mut bad = Vec::new();
        match asked.and_then(|answer| caches::verified_by_mount(answer, &mut |chunk| bad.push(chunk.clone()))) {
            Ok(verified) => {
                bad.iter().try_for_each(|chunk| cache_report::bad_chunk(chunk, out))?;
                cache_report::verified(path, verified, out)?;
                outcome.and(of(verified));
            }
            Err(error) => outcome.and(refused(&error)),
        }
    }
    Ok(outcome)
}

/// The same for forgetting.
fn forget_mounted(paths: &[String], out: &mut dyn Write) -> Result<Outcome> {
    let (mut outcome, mut total) = (Outcome::Done, Purged::default());
    for path in paths {
        let asked = control::find(Path::new(path)).and_then(|mount| {
            let request = Request::Purge { paths: vec![mount.path.clone()] };
            caches::purged_by_mount(&caches::ask(mount, &request, true)?)
        });
        match asked {
            Ok(purged) => add(&mut total, purged),
            Err(error) => outcome.and(refused(&error)),
        }
    }
    if total != Purged::default() {
        cache_report::purged(total, out)?;
    }
    Ok(outcome)
}

fn add(total: &mut Purged, purged: Purged) {
    total.entries += purged.entries;
    total.bytes += purged.bytes;
    total.in_use_bytes += purged.in_use_bytes;
}

fn of(verified: Verified) -> Outcome {
    if verified.bad == 0 { Outcome::Done } else { Outcome::Damaged }
}

fn verify(caches: &dyn Caches, dirs: &[PathBuf], is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let mut outcome = Outcome::Done;
    for dir in dirs {
        let mut told = Ok(());
        // The checking goes on when nobody listens any longer: what is bad is dropped either way.
        let mut tell = |bad: &BadChunk| {
            if told.is_ok() {
                told = cache_report::bad_chunk(bad, out);
            }
        };
        let verified = caches.verify(dir, is_quiet, &mut tell);
        told?;
        outcome.and(match verified {
            Ok(verified) => {
                cache_report::verified(dir, verified, out)?;
                of(verified)
            }
            Err(error) => refused(&error),
        });
    }
    Ok(outcome.into())
}

fn forget(caches: &dyn Caches, dirs: &[PathBuf], purge: Purge, out: &mut dyn Write) -> Result<Outcome> {
    if matches!(purge, Purge::Paths(_)) && dirs.len() != 1 {
        // The same path may lie in several sources, and another one is meant.
        let message = format!("{} caches: say which with --source or --cache-dir", dirs.len());
        return Err(misuse(message));
    }
    let (mut outcome, mut total) = (Outcome::Done, Purged::default());
    for dir in dirs {
        match caches.purge(dir, purge) {
            Ok(purged) => add(&mut total, purged),
            Err(error) => outcome.and(refused(&error)),
        }
    }
    if outcome == Outcome::Done || total != Purged::default() {
        cache_report::purged(total, out)?;
    }
    Ok(outcome)
}

/// One cache that refuses (another process has it open) must not keep the others from being done.
fn refused(error: &Error) -> Outcome {
    complain(error);
    Outcome::of(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::{CacheStatus, EntryStatus};
    use crate::error::{Error, Kind};
    use crate::range::ByteRange;

    /// `good`, `bad` (one chunk of it) and `held` (by a mount).
    struct Double;

    fn held(dir: &Path) -> Result<()> {
        if dir.ends_with("held") { Err(Error::new(Kind::Busy, "in use by process 7")) } else { Ok(()) }
    }

    impl Caches for Double {
        fn status(&self, _dir: &Path) -> Result<CacheStatus> {
            unreachable!("status has its own tests")
        }

        fn entries(&self, _dir: &Path, _after: Option<i64>) -> Result<Vec<EntryStatus>> {
            unreachable!("status has its own tests")
        }

        fn verify(&self, dir: &Path, _is_quiet: bool, on_bad: &mut dyn FnMut(&BadChunk)) -> Result<Verified> {
            held(dir)?;
            let bad = u64::from(dir.ends_with("bad"));
            if bad > 0 {
                let range = ByteRange::new(0, 2048);
                on_bad(&BadChunk { path: "a\x1b.mkv".into(), version: "etag:\"x\"".into(), range });
            }
            Ok(Verified { chunks: 3, bytes: 4096, bad })
        }

        fn purge(&self, dir: &Path, _purge: Purge) -> Result<Purged> {
            held(dir)?;
            Ok(Purged { entries: 2, bytes: 4096, in_use_bytes: 0 })
        }
    }

    fn dirs(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_bad_chunk_is_named_and_fails_the_command() {
        let mut out = Vec::new();
        let mut code = |names: &[&str]| verify(&Double, &dirs(names), true, &mut out).unwrap();
        assert_eq!(code(&["good"]), Outcome::Done.into());
        assert_eq!(code(&["held", "bad"]), Outcome::Damaged.into());
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "good: 3 chunks, 4.0 KiB: all good\n\
             bad: a\\u{1b}.mkv, bytes 0 to 2048: dropped\n\
             bad: 3 chunks, 4.0 KiB: 1 bad, dropped\n"
        );
    }

    #[test]
    fn forgetting_goes_on_past_a_cache_that_is_held() {
        let mut out = Vec::new();
        assert_eq!(forget(&Double, &dirs(&["held", "good"]), Purge::All, &mut out).unwrap(), Outcome::Busy);
        assert_eq!(String::from_utf8(out).unwrap(), "2 files forgotten, 4.0 KiB freed\n");
        let mut out = Vec::new();
        assert_eq!(forget(&Double, &dirs(&["held"]), Purge::All, &mut out).unwrap(), Outcome::Busy);
        assert!(out.is_empty());
    }

    #[test]
    fn a_path_is_forgotten_in_one_cache_only() {
        let paths = ["a.mkv".to_owned()];
        let forget = |names: &[&str]| forget(&Double, &dirs(names), Purge::Paths(&paths), &mut Vec::new());
        assert_eq!(forget(&["good"]).unwrap(), Outcome::Done);
        assert_eq!(forget(&["good", "bad"]).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(forget(&[]).unwrap_err().kind(), Kind::Invalid);
    }
}
