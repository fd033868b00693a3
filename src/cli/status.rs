//! `reelfs status`: what running mounts do, asked over their control sockets.
//! Never here: what is told (see `control::Snapshot`).

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::{printable, written};
use crate::config::format_size;
use crate::control::{self, Answer, Request, Snapshot};
use crate::error::{Error, Kind, Result};

/// Show what running mounts do: open files, the far side, the cache.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The mount to ask: its folder, or anything on it. Default: all mounts of this user.
    mountpoint: Option<PathBuf>,
    /// For programs: `{"mounts": […]}`.
    #[arg(long)]
    json: bool,
}

/// Asks, and prints.
pub fn run(args: &StatusArgs, out: &mut dyn Write) -> Result<()> {
    let answers = match &args.mountpoint {
        Some(path) => vec![control::ask(path, &Request::Status)?],
        None => control::ask_all(&Request::Status),
    };
    let mounts: Vec<Snapshot> = answers.into_iter().filter_map(status).collect();
    if args.json {
        let all = serde_json::json!({ "mounts": mounts });
        serde_json::to_writer_pretty(&mut *out, &all).map_err(|error| Error::new(Kind::Local, error.to_string()))?;
        return writeln!(out).map_err(|error| written(&error));
    }
    if mounts.is_empty() {
        writeln!(out, "nothing is mounted").map_err(|error| written(&error))?;
    }
    for mount in &mounts {
        write!(out, "{}", text(mount)).map_err(|error| written(&error))?;
    }
    Ok(())
}

fn status(answer: Answer) -> Option<Snapshot> {
    if let Answer::Status(snapshot) = answer { Some(*snapshot) } else { None }
}

fn text(mount: &Snapshot) -> String {
    let cache = &mount.cache;
    format!(
        "{}\n  source  {}\n  cache   {} of {}\n",
        printable(&mount.mountpoint.display().to_string()),
        printable(&mount.source),
        format_size(cache.used_bytes),
        format_size(cache.budget_bytes),
    )
}
