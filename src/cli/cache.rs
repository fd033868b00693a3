//! `reelfs cache`: what is cached, whether it is intact, having it before it is wanted, and forgetting it.
//! Never here: the cache itself (`caches` asks it) and the layout of what is printed (`cache_report`).

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};

use super::caches::{self, Caches, OnDisk};
use super::options::{CacheDirOption, Env, S3EndpointOption};
use super::{cache_dir, cache_keep, cache_report, complain, misuse};
use crate::cache::{BadChunk, Purge, Purged};
use crate::config::S3Config;
use crate::control::Request;
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
    /// Hash every chunk again, drop the bad ones and say which; fails if any was bad. Not beside a running mount.
    Verify {
        #[command(flatten)]
        which: Which,
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
    /// Forget files, or everything, pinned or not. Not beside a running mount.
    Purge {
        #[command(flatten)]
        which: Which,
        /// Files to forget, as `cache status` lists them, or folders of them.
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
        CacheCommand::Verify { which } => verify(&OnDisk, &which.dirs(env)?, out),
        CacheCommand::Warm { paths, head_tail } => {
            cache_keep::run(&paths, &|path| Request::Warm { path, head_tail }, is_quiet, out)
        }
        CacheCommand::Pin { paths } => cache_keep::run(&paths, &|path| Request::Pin { path }, true, out),
        CacheCommand::Unpin { paths } => cache_keep::run(&paths, &|path| Request::Unpin { path }, true, out),
        CacheCommand::Purge { which, paths, all } => {
            let purge = if all { Purge::All } else { Purge::Paths(&paths) };
            forget(&OnDisk, &which.dirs(env)?, purge, out)
        }
    }
}

fn verify(caches: &dyn Caches, dirs: &[PathBuf], out: &mut dyn Write) -> Result<ExitCode> {
    let mut is_good = true;
    for dir in dirs {
        let mut told = Ok(());
        // The checking goes on when nobody listens any longer: what is bad is dropped either way.
        let mut tell = |bad: &BadChunk| {
            if told.is_ok() {
                told = cache_report::bad_chunk(bad, out);
            }
        };
        let verified = caches.verify(dir, &mut tell);
        told?;
        is_good &= match verified {
            Ok(verified) => {
                cache_report::verified(dir, verified, out)?;
                verified.bad == 0
            }
            Err(error) => refused(&error),
        };
    }
    Ok(code(is_good))
}

fn forget(caches: &dyn Caches, dirs: &[PathBuf], purge: Purge, out: &mut dyn Write) -> Result<ExitCode> {
    if matches!(purge, Purge::Paths(_)) && dirs.len() != 1 {
        // The same path may lie in several sources, and another one is meant.
        let message = format!("{} caches: say which with --source or --cache-dir", dirs.len());
        return Err(misuse(message));
    }
    let mut is_good = true;
    let mut total = Purged::default();
    for dir in dirs {
        match caches.purge(dir, purge) {
            Ok(purged) => {
                total.entries += purged.entries;
                total.bytes += purged.bytes;
            }
            Err(error) => is_good = refused(&error),
        }
    }
    if is_good || total.entries > 0 {
        cache_report::purged(total, out)?;
    }
    Ok(code(is_good))
}

/// One cache that refuses (a mount has it open) must not keep the others from being done.
fn refused(error: &Error) -> bool {
    complain(error);
    false
}

fn code(is_good: bool) -> ExitCode {
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cache::{CacheStatus, EntryStatus, Verified};
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

        fn verify(&self, dir: &Path, on_bad: &mut dyn FnMut(&BadChunk)) -> Result<Verified> {
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
            Ok(Purged { entries: 2, bytes: 4096 })
        }
    }

    fn dirs(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn a_bad_chunk_is_named_and_fails_the_command() {
        let mut out = Vec::new();
        assert_eq!(verify(&Double, &dirs(&["good"]), &mut out).unwrap(), ExitCode::SUCCESS);
        assert_eq!(verify(&Double, &dirs(&["held", "bad"]), &mut out).unwrap(), ExitCode::FAILURE);
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
        assert_eq!(forget(&Double, &dirs(&["held", "good"]), Purge::All, &mut out).unwrap(), ExitCode::FAILURE);
        assert_eq!(String::from_utf8(out).unwrap(), "2 files forgotten, 4.0 KiB freed\n");
        let mut out = Vec::new();
        assert_eq!(forget(&Double, &dirs(&["held"]), Purge::All, &mut out).unwrap(), ExitCode::FAILURE);
        assert!(out.is_empty());
    }

    #[test]
    fn a_path_is_forgotten_in_one_cache_only() {
        let paths = ["a.mkv".to_owned()];
        let forget = |names: &[&str]| forget(&Double, &dirs(names), Purge::Paths(&paths), &mut Vec::new());
        assert_eq!(forget(&["good"]).unwrap(), ExitCode::SUCCESS);
        assert_eq!(forget(&["good", "bad"]).unwrap_err().kind(), Kind::Invalid);
        assert_eq!(forget(&[]).unwrap_err().kind(), Kind::Invalid);
    }
}
