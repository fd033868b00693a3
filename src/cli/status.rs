//! `reelfs status`: what running mounts do, asked over their control sockets.
//! Never here: what is told (see `control::Snapshot`), and how it reads (see `status_report`).

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::{printable, status_report, written};
use crate::control::{self, Answer, Request, Snapshot};
use crate::error::{Error, Kind, Result};

/// Show what running mounts do: open files and how their players are served, the far side, the cache.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The mount to ask: its folder, or anything on it. Default: all mounts of this user.
    mountpoint: Option<PathBuf>,
    /// For programs: `{"mounts": […]}`, sizes in bytes, each unit in its name.
    #[arg(long)]
    json: bool,
}

/// Asks, and prints.
pub fn run(args: &StatusArgs, out: &mut dyn Write) -> Result<()> {
    let mounts = ask(args.mountpoint.as_deref())?;
    let told = if args.json {
        let all = serde_json::to_string_pretty(&json!({ "mounts": mounts }));
        all.map_err(|error| Error::new(Kind::Local, error.to_string()))? + "\n"
    } else if mounts.is_empty() {
        "nothing is mounted\n".into()
    } else {
        mounts.iter().map(text).collect::<Vec<_>>().join("\n")
    };
    out.write_all(told.as_bytes()).map_err(|error| written(&error))
}

/// One mount, or all of this user's.
pub(super) fn ask(path: Option<&Path>) -> Result<Vec<Snapshot>> {
    let answers = match path {
        Some(path) => vec![control::ask(path, &Request::Status)?],
        None => control::ask_all(&Request::Status),
    };
    let status = |answer| if let Answer::Status(snapshot) = answer { Some(*snapshot) } else { None };
    let mut mounts: Vec<_> = answers.into_iter().filter_map(status).collect();
    mounts.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok(mounts)
}

fn text(mount: &Snapshot) -> String {
    let mut lines = vec![status_report::heading(mount)];
    lines.extend(status_report::whole(mount).iter().map(|(name, line)| format!("  {name:<7} {line}")));
    for open in mount.library.iter().flat_map(|library| &library.open) {
        lines.push(format!("  {}", printable(&open.path)));
        lines.push(format!("    {}", status_report::open_in_library(open)));
    }
    for file in &mount.files {
        lines.push(format!("  {}", printable(&file.path)));
        let told = [status_report::position(file), status_report::service(file)];
        lines.extend(told.into_iter().filter(|line| !line.is_empty()).map(|line| format!("    {line}")));
    }
    lines
        .extend(Some(status_report::more_files(mount)).filter(|line| !line.is_empty()).map(|line| format!("  {line}")));
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_stand_below_their_mount() {
        let text = text(&status_report::tests::mount());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 14, "{text}");
        assert_eq!((lines[10], lines[13]), ("  films/a film.mkv", "  and 2 more files"));
    }
}
