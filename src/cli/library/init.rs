//! `reelfs init`: makes an empty library.
//! Never here: what is in it.

use std::io::Write;

use clap::Args;

use super::{LibraryOptions, line};
use crate::config::parse_size;
use crate::error::Result;
use crate::library::place;

/// Make a library: a place of your own where files are put, kept once, and hashed.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// `library:/path` (a new or empty folder), or `kv+SERVICE://…` (see `reelfs sources`).
    library: String,
    /// Keep files of up to this size inside the catalog, where they are read fastest. Default: 64 KiB; on a key-value
    /// store, files of up to 20 MiB are one value.
    #[arg(long, value_name = "SIZE", env = "REELFS_INLINE_MAX", value_parser = parse_size)]
    inline_max: Option<u64>,
    /// Cut larger files into chunks of this size. Default: 2 MiB; on a key-value store 5 MiB.
    #[arg(long, value_name = "SIZE", env = "REELFS_LIBRARY_CHUNK_SIZE", value_parser = parse_size)]
    chunk_size: Option<u64>,
    /// Let your group read it: folders are 0750 and files 0640 then, also those that are made later. Default: the library is
    /// yours alone, 0700 and 0600, whatever the umask. A server says itself who may read.
    #[arg(long)]
    group_read: bool,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Makes it, and says how it is written from now on.
pub fn run(args: InitArgs, out: &mut dyn Write) -> Result<()> {
    if args.group_read {
        place::check_on_disk(&args.library)?;
    }
    let made = place::create(&args.library, &args.options.places()?, (args.inline_max, args.chunk_size))?;
    if args.group_read {
        place::open_to_group(&args.library)?;
    }
    line(out, &format!("made the library {made}; `reelfs put FILE {made}` fills it"))
}
