//! The side that asks: finds the mount that a path lies on, sends one request, and takes the answer.
//! Never here: printing.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use super::place::{Folder, socket_name};
use super::{Answer, JobProgress, Request};
use crate::error::{Error, Kind, Result};

/// A mount that says nothing for so long is stopped, or hangs.
const ANSWER_WAIT: Duration = Duration::from_secs(15);
/// Thousands of open files, each with its ranges.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// A user's mounts.
const MOUNTS_MAX: usize = 1_000;

/// A mount that answers, and where on it a path leads.
pub struct Found {
    /// Where it is mounted: absolute, links resolved.
    pub mountpoint: PathBuf,
    /// What the path names on the drive, relative to the source, without dots; `""` for the mount point itself.
    pub path: String,
    stream: UnixStream,
}

/// Asks the mount that `path` lies on, the mount point or something below it, and waits for the end of its answer. An
/// answer that tells of a failure is returned as that error.
pub fn ask(path: &Path, request: &Request) -> Result<Answer> {
    find(path)?.ask(request, &mut |_| Ok(()))
}

/// Asks all mounts of this user. Those that end meanwhile, and those that fail, are left out; the log says why.
pub fn ask_all(request: &Request) -> Vec<Answer> {
    let folders = Folder::all(&|name| std::env::var_os(name));
    let sockets =
        folders.iter().flat_map(|folder| folder.sockets(MOUNTS_MAX).into_iter().map(|name| folder.file(&name)));
    let ask = |socket: PathBuf| {
        let stream = UnixStream::connect(&socket).map_err(|error| Error::io("the control socket", &error))?;
        exchange(&stream, request, &mut |_| Ok(()))
    };
    let answers = sockets.filter_map(|socket| {
        // What a mount that was killed has left is no news.
        ask(socket).inspect_err(|error| log::debug!("{error}")).ok()
    });
    answers.collect()
}

/// The mount that `path` lies on. `Missing`: none of reelfs's that answers this user. The drive itself is not asked, and
/// what is mounted is not looked into.
pub fn find(path: &Path) -> Result<Found> {
    let shown = path.display();
    let whole = std::path::absolute(path).map_err(|error| Error::io(&shown, &error))?;
    let folders = Folder::all(&|name| std::env::var_os(name));
    let mut from_top: Vec<_> = whole.ancestors().collect();
    from_top.reverse();
    let mut refusal = None;
    for ancestor in from_top {
        // Of a mount that is dead, or a path that ends here.
        let Ok(mountpoint) = std::fs::canonicalize(ancestor) else { break };
        let Some(path) = whole.strip_prefix(ancestor).ok().and_then(plain) else { continue };
        let name = socket_name(&mountpoint);
        for folder in &folders {
            match UnixStream::connect(folder.file(&name)) {
                Ok(stream) => return Ok(Found { mountpoint, path, stream }),
                // Nobody has mounted there, or who did is gone.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
                Err(error) => {
                    refusal = Some(Error::io(format!("{}: its control socket", mountpoint.display()), &error));
                }
            }
        }
    }
    Err(refusal.unwrap_or_else(|| {
        let message = format!("{shown}: no reelfs of yours is mounted here: `reelfs status` lists those that are");
        Error::new(Kind::Missing, message)
    }))
}

/// Without dots; nothing if it climbs out, or is no text.
fn plain(path: &Path) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(name.to_str()?),
            Component::ParentDir => drop(names.pop()?),
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(names.join("/"))
}

impl Found {
    /// Sends the request, once. `on_progress` hears of a long job's; its error ends the asking, and soon the job.
    pub fn ask(self, request: &Request, on_progress: &mut dyn FnMut(JobProgress) -> Result<()>) -> Result<Answer> {
        exchange(&self.stream, request, on_progress).map_err(|error| error.context(self.mountpoint.display()))
    }
}

fn exchange(
    mut stream: &UnixStream,
    request: &Request,
    on_progress: &mut dyn FnMut(JobProgress) -> Result<()>,
) -> Result<Answer> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::new(Kind::TimedOut, "the mount does not answer"),
        _ => Error::io("asking the mount", &error),
    };
    let ended = || Error::new(Kind::Unreachable, "the mount ended before it answered");
    stream.set_read_timeout(Some(ANSWER_WAIT)).map_err(failed)?;
    stream.set_write_timeout(Some(ANSWER_WAIT)).map_err(failed)?;
    let mut line = serde_json::to_vec(request).map_err(|error| Error::new(Kind::Invalid, error.to_string()))?;
    line.push(b'\n');
    match stream.write_all(&line) {
        // It has refused us already, and says why.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        sent => sent.map_err(failed)?,
    }
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = Vec::new();
        lines.by_ref().take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line).map_err(failed)?;
        if !line.ends_with(b"\n") {
            return Err(ended());
        }
        let answer = serde_json::from_slice(&line).map_err(|error| {
            let message = format!("the mount is of another version of reelfs: mount again with this one ({error})");
            Error::new(Kind::Unsupported, message)
        })?;
        match answer {
            Answer::Progress(progress) => on_progress(progress)?,
            Answer::Failed { kind, message } => return Err(Error::new(kind, message)),
            answer => return Ok(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_on_a_drive_without_dots() {
        for (path, on_drive) in
            [("", Some("")), ("a/b.mkv", Some("a/b.mkv")), ("a/./../b", Some("b")), ("..", None), ("a/../../b", None)]
        {
            assert_eq!(plain(Path::new(path)).as_deref(), on_drive, "{path}");
        }
    }
}
