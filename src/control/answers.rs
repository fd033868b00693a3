//! What a mount does about each request, and what it says.
//! Never here: sockets.

use super::{Answer, Mount, Progress, Request, Snapshot};
use crate::error::Result;

/// Tells how a long job goes on. An error means that nobody listens any longer: the job ends with it.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Progress) -> Result<()>;

/// The end of the answer; an error is told as such.
#[allow(clippy::unnecessary_wraps, reason = "requests that do something can fail")]
pub(super) fn answer(mount: &Mount, request: &Request, _tell: Tell) -> Result<Answer> {
    match request {
        Request::Status => Ok(Answer::Status(Box::new(Snapshot::of(mount)))),
    }
}
