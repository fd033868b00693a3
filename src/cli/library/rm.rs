//! `reelfs rm`: takes names away.
//! Never here: what becomes of the bytes.

use std::process::ExitCode;

use clap::Args;

use super::{LibraryOptions, each_name, each_path, is_folder};
use crate::error::{Error, Kind, Result};
use crate::library::place::{self, Access};
use crate::library::{Library, NamedKind, Query};

/// Remove files from a library.
#[derive(Debug, Args)]
pub struct RmArgs {
    /// Files of a library; with -r folders, too.
    #[arg(value_name = "LIBRARY/PATH", required = true)]
    paths: Vec<String>,
    /// Folders with all that is in them.
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Removes them.
pub fn run(args: RmArgs) -> Result<ExitCode> {
    let places = args.options.places()?;
    Ok(each_path(&args.paths, &mut |text| {
        let opened = place::open(text, &places, Access::Write)?;
        let (library, path) = (&*opened.library, opened.path.as_str());
        if path.is_empty() {
            let message = format!("{}: that is the whole library; remove what is in it", place::shown(text));
            return Err(Error::new(Kind::Invalid, message));
        }
        match library.remove(path) {
            Err(_) if args.recursive && is_folder(library, path) => remove_folder(library, path),
            Err(error) if is_folder(library, path) => Err(error.context("with -r folders are removed, too")),
            removed => removed,
        }?;
        library.flush()
    }))
}

/// What is in it first, folder by folder.
fn remove_folder(library: &dyn Library, folder: &str) -> Result<()> {
    let query = Query { folder: folder.to_owned(), ..Query::default() };
    each_name(library, query, &mut |named| match named.kind {
        NamedKind::Folder => remove_folder(library, &named.path),
        NamedKind::File { .. } | NamedKind::Other => library.remove(&named.path),
    })?;
    match library.remove(folder) {
        // Where folders are only the beginnings of names, it is gone with the last of them.
        Err(error) if error.kind() == Kind::Missing => Ok(()),
        removed => removed,
    }
}
