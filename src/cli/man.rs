//! `reelfs man`: a manual page for each command, from the same texts as `--help`.
//! Never here: the texts.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};

use crate::error::{Error, Result};

/// Write manual pages into a folder: reelfs.1, and one for each command. The package installs them.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Made if it is not there.
    dir: PathBuf,
}

/// Writes them.
pub fn run(args: &ManArgs, command: Command) -> Result<()> {
    let shown = args.dir.display();
    fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(command, &args.dir))
        .map_err(|error| Error::io(shown, &error))
}
