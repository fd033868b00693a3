//! `reelfs ls` of a source that is no library.
//! Never here: libraries, which are listed page by page (see `cli/library/ls.rs`).

use super::{Next, Place};
use crate::error::Result;
use crate::library::{Named, NamedKind};
use crate::origin::{Listed, ListedKind};

/// Hands the names of the place on, or every file below it, until it is enough (`false`); of a file that is listed without its size, `is_exact` has that asked for.
pub fn names(
    place: &Place,
    is_recursive: bool,
    is_exact: bool,
    each: &mut dyn FnMut(&Named) -> Result<bool>,
) -> Result<()> {
    place.walk("", 0, &mut |path, listed| {
        if is_recursive && listed.kind == ListedKind::Folder {
            return Ok(Next::Into);
        }
        let goes_on = each(&named(place, path, listed, is_exact)?)?;
        Ok(if goes_on { Next::Over } else { Next::End })
    })?;
    Ok(())
}

fn named(place: &Place, path: &str, listed: &Listed, is_exact: bool) -> Result<Named> {
    let (kind, modified) = match listed.kind {
        ListedKind::Folder => (NamedKind::Folder, listed.modified),
        ListedKind::File { size_bytes: None } if is_exact => {
            let (size_bytes, modified) = place.stat(path)?;
            (NamedKind::File { size_bytes: Some(size_bytes) }, listed.modified.or(modified))
        }
        ListedKind::File { size_bytes } => (NamedKind::File { size_bytes }, listed.modified),
        ListedKind::Link { .. } => (NamedKind::Other, listed.modified),
    };
    Ok(Named { path: path.to_owned(), kind, modified })
}
