//! `reelfs refresh`: has running mounts ask for names, sizes and versions anew, over their control sockets.
//! Never here: what that means (see `Drive::refresh`).

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{printable, written};
use crate::control::{self, Answer, Request};
use crate::error::Result;

/// Show at once what has changed at the source, instead of after --dir-ttl; `kill -HUP` does the same to one mount.
#[derive(Debug, Args)]
pub struct RefreshArgs {
    /// A folder or a file on a mounted drive. Default: everything on all mounts of this user.
    path: Option<PathBuf>,
}

/// Asks, and says what was done.
pub fn run(args: &RefreshArgs, out: &mut dyn Write) -> Result<()> {
    let answers = match &args.path {
        Some(path) => {
            let found = control::find(path)?;
            let request = Request::Refresh { path: found.path.clone() };
            vec![found.ask(&request, &mut |_| Ok(()))?]
        }
        None => control::ask_all(&Request::Refresh { path: String::new() }),
    };
    if answers.is_empty() {
        return writeln!(out, "nothing is mounted").map_err(|error| written(&error));
    }
    for answer in answers {
        if let Answer::Done { message } = answer {
            writeln!(out, "{}", printable(&message)).map_err(|error| written(&error))?;
        }
    }
    Ok(())
}
