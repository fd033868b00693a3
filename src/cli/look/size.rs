//! `reelfs size`: how many files and bytes there are in a source or a library, or in a part of it.
//! Never here: how names are found.

use std::io::Write;

use clap::Args;
use serde_json::json;

use super::{LookOptions, Next, raw};
use crate::cli::library::line;
use crate::config::format_size;
use crate::error::Result;
use crate::origin::ListedKind;

/// Count the files and the bytes of a source or a library, without a mount.
#[derive(Debug, Args)]
pub struct SizeArgs {
    /// A source or a library, or a folder or a file of it (see `reelfs sources`).
    #[arg(value_name = "SOURCE")]
    source: String,
    /// As JSON, for programs: `{"files": 3, "folders": 1, "bytes": 1000}`.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    options: LookOptions,
}

/// Counts.
pub fn run(args: SizeArgs, out: &mut dyn Write) -> Result<()> {
    let place = args.options.open(&args.source)?;
    let (mut files, mut folders, mut bytes) = (0_u64, 0_u64, 0_u64);
    if let Some(path) = place.as_file(&args.source)? {
        (files, bytes) = (1, place.stat(&path)?.0);
    } else {
        place.walk("", 0, &mut |path, listed| {
            match listed.kind {
                ListedKind::Folder => folders += 1,
                ListedKind::Link { .. } => {}
                ListedKind::File { size_bytes } => {
                    files += 1;
                    bytes += size_bytes.map_or_else(|| place.stat(path).map(|(size, _)| size), Ok)?;
                }
            }
            Ok(Next::Into)
        })?;
    }
    if args.json {
        return raw(out, format!("{}\n", json!({ "files": files, "folders": folders, "bytes": bytes })).as_bytes());
    }
    let counted = crate::cli::library::counted;
    line(
        out,
        &format!("{}, {}, {} ({bytes} bytes)", counted(files, "file"), counted(folders, "folder"), format_size(bytes)),
    )
}
