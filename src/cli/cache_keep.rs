//! `reelfs cache warm`, `pin`, `unpin`: asks the mounts that the paths lie on, which alone may touch their caches.
//! Never here: what a mount does about it, and what it says when it is done.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::exit::Outcome;
use super::progress::Shown;
use super::{complain, printable};
use crate::control::{self, Answer, Request};
use crate::error::{Error, Kind, Result};

/// What is asked of a mount about one path, relative to its source.
pub type Asking<'a> = &'a dyn Fn(String) -> Request;

/// Asks for each path in turn. One that is refused does not keep the others from being done. `is_quiet`: how it goes on is
/// not shown.
pub fn run(paths: &[PathBuf], request: Asking, is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    each(paths, out, &mut |path| {
        let found = control::find(path)?;
        let request = request(found.path.clone());
        let mut shown = Shown::new(is_quiet);
        let answer = found.ask(&request, &mut |progress| {
            shown.show_job(&progress);
            Ok(())
        });
        shown.clear();
        match answer? {
            Answer::Done { message } => Ok(message),
            _ => Err(Error::new(Kind::Unsupported, "the mount answered something else: mount again with this reelfs")),
        }
    })
}

fn each(paths: &[PathBuf], out: &mut dyn Write, ask: &mut dyn FnMut(&Path) -> Result<String>) -> Result<ExitCode> {
    let mut outcome = Outcome::Done;
    for path in paths {
        match ask(path) {
            Ok(message) => {
                let said = writeln!(out, "{}", printable(&message));
                said.map_err(|error| Error::io("writing the answer", &error))?;
            }
            Err(error) => {
                complain(&error);
                outcome.and(Outcome::of(&error));
            }
        }
    }
    Ok(outcome.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_refused_does_not_stop_the_others() {
        let paths = ["a", "no drive", "b"].map(PathBuf::from);
        let mut out = Vec::new();
        let code = each(&paths, &mut out, &mut |path| {
            if path.ends_with("no drive") {
                return Err(Error::new(Kind::Missing, "no drive: not on a drive"));
            }
            Ok(format!("{}\x1b: pinned", path.display()))
        });
        assert_eq!(code.unwrap(), ExitCode::FAILURE);
        assert_eq!(String::from_utf8(out).unwrap(), "a\\u{1b}: pinned\nb\\u{1b}: pinned\n");
    }
}
