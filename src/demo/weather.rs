//! What can go wrong on the way, decided for each request by whoever set the weather.
//! Never here: how a fault is carried out; that is the server's.

use std::sync::Arc;
use std::time::Duration;

use crate::range::ByteRange;

/// A request as the weather sees it, before it is answered.
#[derive(Clone, Debug)]
pub struct RequestInfo {
    /// Decoded, without the leading `/`; a folder ends in `/`, the root is empty.
    pub path: Arc<str>,
    /// Requests of any kind before this one, over the whole server.
    pub number: u64,
    /// Requests of any kind for this path before this one.
    pub number_of_path: u64,
    /// A HEAD, not a GET.
    pub is_head: bool,
    /// The bytes asked for; nothing when it is no file, has no `Range` that makes sense, or is a HEAD.
    pub range: Option<ByteRange>,
}

/// How one request is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// As it should be.
    Serve,
    /// As it should be, this much later.
    Delay(Duration),
    /// No answer ever; the connection stays open until the client or the server ends it.
    Hang,
    /// Silence after so many bytes of the body; the connection stays open.
    StallAfter(u64),
    /// A reset connection (RST) after so many bytes of the body; the last of them may be lost with it.
    ResetAfter(u64),
    /// A clean end after so many bytes of a body that was promised whole.
    TruncateAfter(u64),
    /// This status with an empty body, and `Retry-After` in seconds if given.
    Status(u16, Option<u64>),
    /// 200 and the whole file, whatever range was asked for.
    IgnoreRange,
    /// 206, honestly labelled, but so many bytes behind the start that was asked for.
    ShiftRange(u64),
    /// The byte at this offset of the file is wrong: all its bits are inverted.
    FlipByte(u64),
    /// Another version is served, whatever `If-Match` wants: its `ETag` is made of this number, and all bits of its bytes
    /// are inverted.
    OtherVersion(u64),
    /// The present version is served even if `If-Match` or `If-Unmodified-Since` wants another.
    IgnoreIfMatch,
}

/// Decides the fate of requests. Called on the connection's own thread, once for each request.
pub trait Weather: Send + Sync {
    /// What happens to this one.
    fn on_request(&self, request: &RequestInfo) -> Act;
}

/// Every request is served.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fair;

impl Weather for Fair {
    fn on_request(&self, _: &RequestInfo) -> Act {
        Act::Serve
    }
}

impl<F: Fn(&RequestInfo) -> Act + Send + Sync> Weather for F {
    fn on_request(&self, request: &RequestInfo) -> Act {
        self(request)
    }
}
