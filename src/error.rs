//! What can go wrong, told apart where callers treat it apart. Every room returns this one `Error`.
//! Never here: errno (that mapping lives in `fuse/errno.rs`) and printing.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Why something failed. A caller branches on this and on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The origin says it is not there (404, ENOENT).
    Missing,
    /// The origin refuses us (401, 403, EACCES).
    Denied,
    /// Bytes differ from their recorded hash.
    Corrupt,
    /// The file is no longer the version this handle was opened on (412, new `ETag`, new mtime).
    Changed,
    /// No answer from the origin at all: refused, no route, no such host, connection lost; or another's word that it is
    /// not there (502, 503, 504).
    Unreachable,
    /// Not asked, as the origin has not answered for a while (see `origin::breaker`).
    Away,
    /// An answer that came too late.
    TimedOut,
    /// The origin asks us to slow down or is failing for now (408, 429, 500, or any with `Retry-After`).
    Busy,
    /// No room: disk full, or a stated limit is reached.
    Full,
    /// The other side can't do what a drive needs (ignores Range, unknown scheme).
    Unsupported,
    /// The user's input is wrong.
    Invalid,
    /// Nobody wants the answer any more.
    Cancelled,
    /// The local machine failed us: an I/O error, a broken index.
    Local,
}

/// One failure: its kind, one line for a person, and when the origin said to come back.
/// Cheap to clone: every reader that waits on one flight gets its own copy.
#[derive(Clone, Debug)]
pub struct Error {
    kind: Kind,
    message: Arc<str>,
    retry_after: Option<Duration>,
}

/// `Result` with the crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind`; `message` is one line that says what failed, on what, and what to do.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into().into(), retry_after: None }
    }

    /// The same error, with the wait the origin asked for (`Retry-After`).
    #[must_use]
    pub fn with_retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// The same error with `what` in front: `what: message`.
    #[must_use]
    pub fn context(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message).into();
        self
    }

    /// A local I/O error on `what`, its kind taken from the system's.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound | Io::NotADirectory => Kind::Missing,
            Io::PermissionDenied => Kind::Denied,
            Io::StorageFull | Io::QuotaExceeded | Io::FileTooLarge => Kind::Full,
            Io::TimedOut => Kind::TimedOut,
            Io::HostUnreachable | Io::NetworkUnreachable | Io::StaleNetworkFileHandle => Kind::Unreachable,
            _ => Kind::Local,
        };
        Self::new(kind, format!("{what}: {error}"))
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How long the origin asked us to wait, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the same request may succeed if simply asked again.
    pub fn may_pass(&self) -> bool {
        matches!(self.kind, Kind::Unreachable | Kind::Away | Kind::TimedOut | Kind::Busy)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
