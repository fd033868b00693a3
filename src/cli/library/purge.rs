//! `reelfs purge`: removes every file with a tag.
//! Never here: how a home finds them.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::{Interrupted, LibraryOptions, counted, line};
use crate::config::format_size;
use crate::error::Result;
use crate::library::Swept;
use crate::library::place::Access;

/// Remove every file with a tag, and all that only they needed, now. Can be broken off, and run again.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// The library.
    library: String,
    /// Which files.
    #[arg(long, value_name = "TAG")]
    tag: String,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Removes them, and counts what went.
pub fn run(args: PurgeArgs, out: &mut dyn Write) -> Result<ExitCode> {
    let interrupted = Interrupted::listen()?;
    let library = args.options.open(&args.library, Access::Write)?.whole()?;
    let swept = library.purge(&args.tag, &mut |_| !interrupted.is_set())?;
    line(out, &told(&swept))?;
    if interrupted.is_set() {
        line(out, "broken off: run it again for the rest")?;
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

/// `3 files, 12 chunks, 24.0 MiB removed`.
fn told(swept: &Swept) -> String {
    let (files, chunks) = (counted(swept.files, "file"), counted(swept.chunks, "chunk"));
    format!("{files}, {chunks}, {} removed", format_size(swept.bytes))
}
