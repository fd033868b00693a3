//! `reelfs tag`: shows and changes the tags of files.
//! Never here: what tags are for (see `purge`).

use std::io::Write;
use std::process::ExitCode;

use clap::Args;

use super::{LibraryOptions, each_path, line};
use crate::error::Result;
use crate::library::check_tags;
use crate::library::place::{self, Access};

/// Show the tags of files, add some, take some away.
#[derive(Debug, Args)]
pub struct TagArgs {
    /// Files of a library.
    #[arg(value_name = "LIBRARY/PATH", required = true)]
    paths: Vec<String>,
    /// Add this tag. May be given more than once.
    #[arg(long, value_name = "TAG")]
    add: Vec<String>,
    /// Take this tag away. May be given more than once.
    #[arg(long, value_name = "TAG")]
    remove: Vec<String>,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Changes them, and shows what they are then.
pub fn run(args: TagArgs, out: &mut dyn Write) -> Result<ExitCode> {
    let places = args.options.places()?;
    let changes = !args.add.is_empty() || !args.remove.is_empty();
    let access = if changes { Access::Write } else { Access::Look };
    Ok(each_path(&args.paths, &mut |text| {
        let opened = place::open(text, &places, access)?;
        let mut tags = opened.library.manifest(&opened.path)?.meta().tags.clone();
        if changes {
            tags.extend(args.add.iter().cloned());
            tags.retain(|tag| !args.remove.contains(tag));
            tags = check_tags(tags)?;
            opened.library.set_tags(&opened.path, &tags)?;
        }
        line(
            out,
            &format!("{}: {}", place::shown(text), if tags.is_empty() { "-".to_owned() } else { tags.join(", ") }),
        )
    }))
}
