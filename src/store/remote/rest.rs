//! A range that comes in several answers, as the server sends fewer bytes at once than it is asked for.
//! Never here: whether an answer is the right one.

use bytes::Bytes;

use super::answer::Proof;
use super::body::AnswerBody;
use super::{Answer, Remote};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::{Body, Patience, Stat};

/// Answers that one range may take. A chunk of 2 MiB comes whole from a server that sends 8 KiB at once; one that sends less
/// is of no use for film.
const ANSWERS_MAX: usize = 256;

/// Invariant: bytes handed out + `missing` = bytes asked for; `announced_bytes` of `body` are the first of `missing`.
pub(super) struct InParts {
    remote: Remote,
    key: String,
    expected: Stat,
    patience: Patience,
    body: AnswerBody,
    announced_bytes: u64,
    missing: ByteRange,
    /// Answers so far.
    answers: usize,
}

impl InParts {
    /// The first `announced_bytes` of `range` come in `body`.
    pub fn new(
        remote: &Remote,
        key: &str,
        expected: &Stat,
        patience: &Patience,
        body: AnswerBody,
        (announced_bytes, range): (u64, ByteRange),
    ) -> Self {
        Self {
            remote: remote.clone(),
            key: key.to_owned(),
            expected: expected.clone(),
            patience: patience.clone(),
            body,
            announced_bytes,
            missing: range,
            answers: 1,
        }
    }

    fn ask_for_rest(&mut self) -> Result<()> {
        let failed = |kind, what: &str| Err(Error::new(kind, format!("{}: {what}", self.remote.shown_key(&self.key))));
        if self.answers >= ANSWERS_MAX {
            return failed(Kind::Unsupported, "the server sends too few bytes at once");
        }
        let Answer { sent, proof, body, .. } =
            self.remote.ask(&self.key, &self.expected, self.missing, &self.patience)?;
        if proof == Proof::Missing {
            // Another read of the rest finds that out.
            return failed(Kind::Unreachable, "the rest came without a version");
        }
        self.answers += 1;
        (self.body, self.announced_bytes) = (body, sent.len());
        Ok(())
    }
}

impl Body for InParts {
    fn next(&mut self) -> Result<Option<Bytes>> {
        if self.missing.is_empty() {
            return Ok(None);
        }
        if self.announced_bytes == 0 {
            self.ask_for_rest()?;
        }
        // The body counts: it ends with an error where fewer bytes come than were announced, or more.
        let piece = self.body.next()?;
        let len = piece.as_ref().map_or(0, Bytes::len) as u64;
        self.announced_bytes = self.announced_bytes.saturating_sub(len);
        self.missing.start += len;
        Ok(piece)
    }
}
