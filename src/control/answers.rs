//! What a mount does about each request, and what it says.
//! Never here: sockets.

use super::{Answer, Mount, Progress, Request, Snapshot};
use crate::cache::Pinned;
use crate::config::format_size;
use crate::drive::{Extent, Warming, shown};
use crate::error::Result;

/// Tells how a long job goes on. An error means that nobody listens any longer: the job ends with it.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Progress) -> Result<()>;

/// The end of the answer; an error is told as such.
pub(super) fn answer(mount: &Mount, request: &Request, tell: Tell) -> Result<Answer> {
    let mut tell = |warming: Warming<'_>| {
        let Warming { path, done_bytes, total_bytes } = warming;
        tell(Progress { path: path.to_owned(), done_bytes, total_bytes })
    };
    match request {
        Request::Status => Ok(Answer::Status(Box::new(Snapshot::of(mount)))),
        Request::Refresh { path } => {
            mount.drive.refresh(path)?;
            Ok(Answer::Done { message: format!("{}: what is there is asked for anew", shown(path)) })
        }
        Request::Pin { path } => {
            let pinned = mount.drive.pin(path, &mut tell)?;
            Ok(done(path, "pinned", pinned))
        }
        Request::Unpin { path } => Ok(done(path, "unpinned", mount.drive.unpin(path)?)),
        Request::Warm { path, head_tail } => {
            let extent = if *head_tail { Extent::Opening } else { Extent::Whole };
            let warmed = mount.drive.warm(path, extent, &mut tell)?;
            let what = if *head_tail { "what they open with" } else { "all" };
            let message =
                format!("{}: {}, {} here: {what}", shown(path), files(warmed.files), format_size(warmed.bytes));
            Ok(Answer::Done { message })
        }
    }
}

/// `films: 3 files pinned, 4.1 GiB, of which 1.0 GiB is here`.
fn done(path: &str, what: &str, pinned: Pinned) -> Answer {
    let (all, here) = (format_size(pinned.bytes), format_size(pinned.cached_bytes));
    let here = if pinned.cached_bytes < pinned.bytes { format!(", of which {here} is here") } else { String::new() };
    Answer::Done { message: format!("{}: {} {what}, {all}{here}", shown(path), files(pinned.files)) }
}

fn files(count: u64) -> String {
    if count == 1 { "1 file".to_owned() } else { format!("{count} files") }
}
