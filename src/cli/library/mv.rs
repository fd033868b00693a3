//! `reelfs mv`: gives what is in a library another name.
//! Never here: bytes; none is moved.

use clap::Args;

use super::{LibraryOptions, is_folder, name_of};
use crate::cli::misuse;
use crate::error::Result;
use crate::library::place::{self, Access};
use crate::store::join;

/// Rename a file of a library. Like `mv`: into a folder that is there, else to that name; what has it is replaced.
#[derive(Debug, Args)]
pub struct MvArgs {
    /// What is there.
    #[arg(value_name = "LIBRARY/PATH")]
    from: String,
    /// Its new name, in the same library.
    #[arg(value_name = "LIBRARY/NEW-PATH")]
    to: String,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Renames it.
pub fn run(args: MvArgs) -> Result<()> {
    let places = args.options.places()?;
    let to = place::open(&args.to, &places, Access::Look)?;
    let (described, to_path, is_into) =
        (to.library.describe().to_owned(), to.path.clone(), to.is_folder || is_folder(&*to.library, &to.path));
    drop(to);
    let from = place::open(&args.from, &places, Access::Write)?;
    if from.library.describe() != described {
        return Err(misuse("both names must be in one library; `reelfs copy` goes from one to another"));
    }
    let to_path = if is_into { join(&to_path, name_of(&from.path)) } else { to_path };
    from.library.rename(&from.path, &to_path)?;
    from.library.flush()
}
