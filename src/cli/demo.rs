//! `reelfs demo`: its options; the demo itself is put together in `assemble`.
//! Never here: the embedded origin and what the demo shows.

use std::path::PathBuf;

use clap::Args;

use crate::assemble;
use crate::error::Result;

/// Show how it works: a small film from an embedded far server, mounted, with what happens as it is read.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Where to show it: an empty folder. Default: a new temporary one.
    dir: Option<PathBuf>,
    /// Take a short tour (read, seek, read again), then end.
    #[arg(long)]
    once: bool,
}

/// Runs the demo until Ctrl-C, or for one tour.
pub fn run(args: &DemoArgs) -> Result<()> {
    assemble::demo(args.dir.as_deref(), args.once)
}
