//! `reelfs recut`: moves files across the inline threshold of a library.
//! Never here: how a file is moved.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::{Interrupted, counted, line};
use crate::cli::exit::Outcome;
use crate::cli::progress::Shown;
use crate::config::{format_size, parse_size};
use crate::control::Progress;
use crate::error::Result;
use crate::library::local::Local;
use crate::library::place;

/// Set how large a file may be to be kept inside the catalog, and move the files that are there already: small ones into the
/// catalog, larger ones out of it. The library must not be mounted for writing. If it is broken off, run it again.
#[derive(Debug, Args)]
pub struct RecutArgs {
    /// The library, on this machine.
    library: String,
    /// Keep files of up to this size inside the catalog; not more than a chunk.
    #[arg(long, value_name = "SIZE", env = "REELFS_INLINE_MAX", value_parser = parse_size)]
    inline_max: u64,
}

/// Moves them, and says how many.
pub fn run(args: &RecutArgs, is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let library = Local::open(&place::local_dir(&args.library)?)?;
    let interrupted = Interrupted::listen()?;
    let mut shown = Shown::new(is_quiet);
    let recut = library.recut(args.inline_max, &mut |recut| {
        let path = counted(recut.taken_in + recut.taken_out, "file");
        shown.show(&Progress { path, done_bytes: recut.done_bytes, total_bytes: recut.total_bytes });
        !interrupted.is_set()
    });
    shown.clear();
    let recut = recut?;
    for (path, error) in &recut.failed {
        line(out, &format!("not moved: `{path}`: {error}"))?;
    }
    let (moved_in, moved_out) = (counted(recut.taken_in, "file"), counted(recut.taken_out, "file"));
    line(
        out,
        &format!(
            "files of up to {} are kept in the catalog: {moved_in} moved into it, {moved_out} out of it",
            format_size(args.inline_max)
        ),
    )?;
    if recut.is_broken_off {
        line(out, "broken off: run it again, and it goes on")?;
        return Ok(ExitCode::FAILURE);
    }
    let failed = recut.failed.len() as u64 + recut.failed_more;
    if failed == 0 {
        return Ok(Outcome::Done.into());
    }
    line(
        out,
        &format!("{} not moved: their bytes are missing or damaged, as `reelfs verify` tells", counted(failed, "file")),
    )?;
    Ok(Outcome::Damaged.into())
}
