//! `reelfs tree`: the folders and files of a source or a library, drawn as a tree.
//! Never here: how names are found.

use std::io::Write;

use clap::Args;

use super::{LookOptions, Place};
use crate::cli::library::{counted, line};
use crate::config::format_size;
use crate::error::Result;
use crate::origin::{Listed, ListedKind};
use crate::store::join;

/// Draw the folders and files of a source or a library as a tree, without a mount.
#[derive(Debug, Args)]
pub struct TreeArgs {
    /// A source or a library, or a folder of it (see `reelfs sources`).
    #[arg(value_name = "SOURCE")]
    source: String,
    /// No deeper than so many folders.
    #[arg(short = 'L', long, value_name = "N", default_value = "1000", value_parser = clap::value_parser!(u16).range(1..=1000))]
    depth: u16,
    /// With sizes.
    #[arg(short, long)]
    long: bool,
    #[command(flatten)]
    options: LookOptions,
}

struct Drawing<'a> {
    place: &'a Place,
    out: &'a mut dyn Write,
    depth_max: usize,
    is_long: bool,
    files: u64,
    folders: u64,
}

/// Draws it.
pub fn run(args: TreeArgs, out: &mut dyn Write) -> Result<()> {
    let place = args.options.open(&args.source)?;
    let depth_max = usize::from(args.depth);
    let mut drawing = Drawing { place: &place, out, depth_max, is_long: args.long, files: 0, folders: 0 };
    // Nothing is said before it is known whether there is anything.
    let top = place.list("")?;
    line(drawing.out, &place.describe())?;
    drawing.names(top, "", "")?;
    let total = format!("{}, {}", counted(drawing.folders, "folder"), counted(drawing.files, "file"));
    line(drawing.out, "")?;
    line(drawing.out, &total)
}

impl Drawing<'_> {
    fn names(&mut self, names: Vec<Listed>, folder: &str, indent: &str) -> Result<()> {
        let depth = indent.chars().count() / 4 + 1;
        let count = names.len();
        for (at, listed) in names.into_iter().enumerate() {
            let (branch, stem) = if at + 1 == count { ("└── ", "    ") } else { ("├── ", "│   ") };
            let path = join(folder, &listed.name);
            match listed.kind {
                ListedKind::File { size_bytes } => {
                    self.files += 1;
                    let size = size_bytes.map_or_else(|| "?".to_owned(), format_size);
                    let size = if self.is_long { format!("[{size:>10}]  ") } else { String::new() };
                    line(self.out, &format!("{indent}{branch}{size}{}", listed.name))?;
                }
                ListedKind::Link { .. } => line(self.out, &format!("{indent}{branch}{}", listed.name))?,
                ListedKind::Folder => {
                    self.folders += 1;
                    line(self.out, &format!("{indent}{branch}{}/", listed.name))?;
                    if depth < self.depth_max {
                        let names = self.place.list(&path)?;
                        self.names(names, &path, &format!("{indent}{stem}"))?;
                    }
                }
            }
        }
        Ok(())
    }
}
