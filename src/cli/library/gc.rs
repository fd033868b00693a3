//! `reelfs gc`: removes what no file names.
//! Never here: how a home finds it.

use std::io::Write;
use std::time::Duration;

use clap::Args;

use super::{LibraryOptions, counted, line};
use crate::cli::values::parse_seconds;
use crate::config::format_size;
use crate::error::{Error, Kind, Result};
use crate::library::place::Access;

/// Remove what crashes and replaced files left over.
#[derive(Debug, Args)]
pub struct GcArgs {
    /// The library.
    library: String,
    /// Only say what would go.
    #[arg(long)]
    dry_run: bool,
    /// Leave what was written within this time: somebody may still read it, or be about to name it.
    #[arg(long, value_name = "TIME", default_value = "3600", value_parser = parse_seconds)]
    grace: Duration,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Removes it, and says how much there was.
pub fn run(args: GcArgs, out: &mut dyn Write) -> Result<()> {
    let access = if args.dry_run { Access::Look } else { Access::Write };
    let library = args.options.open(&args.library, access)?.whole()?;
    if let Some(catalog) = library.damaged_catalog().filter(|_| !args.dry_run) {
        let message = format!(
            "{catalog} is a damaged catalog: chunks that no file names may be all that is left of files it named; \
             bring them back first (`reelfs verify` says how), then move it away"
        );
        return Err(Error::new(Kind::Invalid, message));
    }
    let swept = library.gc(args.grace, args.dry_run)?;
    let what = if args.dry_run { "would be removed" } else { "removed" };
    line(out, &format!("{}, {} {what}", counted(swept.chunks, "orphaned chunk"), format_size(swept.bytes)))?;
    let (aside, place) = library.put_aside()?;
    if aside.chunks > 0 {
        let (chunks, bytes) = (counted(aside.chunks, "damaged chunk"), format_size(aside.bytes));
        line(out, &format!("{chunks}, {bytes} put aside by `verify` in {place}: yours to delete"))?;
    }
    Ok(())
}
