//! `reelfs cat`: writes files of any source or library to standard output, whole or in part.
//! Never here: how they are read.

use std::io::Write;

use clap::Args;

use super::{LookOptions, raw};
use crate::config::parse_size;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;

/// Write a file of a source or a library to standard output, without a mount.
#[derive(Debug, Args)]
pub struct CatArgs {
    /// A file: on this machine, on the web, in a bucket, in a library (see `reelfs sources`).
    #[arg(value_name = "SOURCE/FILE")]
    file: String,
    /// From this byte on: 1000, 64KiB, 1G.
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = parse_size)]
    offset: u64,
    /// So many bytes at most. Default: up to its end.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    count: Option<u64>,
    #[command(flatten)]
    options: LookOptions,
}

/// Writes it.
pub fn run(args: CatArgs, out: &mut dyn Write) -> Result<()> {
    let place = args.options.open(&args.file)?;
    let Some(path) = place.as_file(&args.file)? else {
        let described = place.describe();
        return Err(Error::new(Kind::Invalid, format!("{described} is a folder: `reelfs ls` tells what is in it")));
    };
    let end = args.count.map_or(u64::MAX, |count| args.offset.saturating_add(count));
    place.read(&path, ByteRange::new(args.offset, end.max(args.offset)), &mut |bytes| raw(out, bytes))?;
    out.flush().map_err(|error| crate::cli::written(&error))
}
