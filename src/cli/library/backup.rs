//! `reelfs backup`: a copy of a library, or of its catalog alone, also beside a mount that writes to it.
//! Never here: how a copy is made whole.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{Interrupted, counted, line};
use crate::cli::exit::Outcome;
use crate::cli::progress::Shown;
use crate::config::format_size;
use crate::control::Progress;
use crate::error::{Error, Kind, Result};
use crate::library::{backup, catalog, place};

/// Copy a library on this machine as it is at this moment, also while it is mounted and written to. Into a folder the whole of
/// it, which is a library again; once more, only what is new. To a file the catalog alone: all names, and the files that are
/// small.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// The library.
    library: String,
    /// A folder that is there or ends with `/`; else the file for the catalog.
    #[arg(value_name = "FOLDER/|FILE")]
    to: PathBuf,
}

/// Copies, and says what.
pub fn run(args: &BackupArgs, is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let from = place::local_dir(&args.library)?;
    let is_folder = args.to.is_dir() || args.to.as_os_str().as_encoded_bytes().ends_with(b"/");
    if !is_folder {
        catalog::copy(&from, &args.to)?;
        line(out, &format!("the catalog of {} is in {}", args.library, args.to.display()))?;
        return Ok(Outcome::Done.into());
    }
    let interrupted = Interrupted::listen()?;
    let mut shown = Shown::new(is_quiet);
    let done = backup::whole(&from, Path::new(&args.to), &mut |done| {
        let path = counted(done.chunks, "chunk");
        shown.show(&Progress { path, done_bytes: done.bytes, total_bytes: 0 });
        !interrupted.is_set()
    });
    shown.clear();
    let done =
        done.map_err(
            |error| {
                if error.kind() == Kind::Cancelled { Error::new(Kind::Local, error.to_string()) } else { error }
            },
        )?;
    let (files, copied, bytes) = (counted(done.files, "file"), counted(done.chunks, "chunk"), format_size(done.bytes));
    line(out, &format!("{files}: {copied} copied, {bytes}; {} there already", done.there))?;
    if done.damaged == 0 {
        return Ok(Outcome::Done.into());
    }
    let damaged = counted(done.damaged, "chunk");
    line(out, &format!("{damaged} missing or damaged in the library, and so in its copy: `reelfs verify` names them"))?;
    Ok(Outcome::Damaged.into())
}
