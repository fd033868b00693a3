//! What the drive sees of a source: list a folder, stat a file, read a range of one version of it.
//! Never here: caching, retries, threads. An origin answers once, or fails once; who asks again is decided above.

pub mod breaker;
pub mod filter;
pub mod library;
pub mod linked;
pub mod object;
pub mod source;
pub mod web;

use std::time::{Duration, Instant};

pub use self::breaker::Health;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::whole;
pub use crate::store::{Begun, Body, Listed, ListedKind, Pages, Patience, Section, Stat, Version};

/// Lists, stats and reads one source. Paths are relative to it, `/`-separated, decoded; `""` is the source itself.
/// Every call may block up to its `Patience`.
pub trait Origin: Send + Sync {
    /// Hands all names of a folder to `pages`, a page at a time: in any order, unsafe ones left out (and logged); of a
    /// name that comes twice, the first counts. After an error, what was handed over means nothing.
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()>;

    /// All names of a folder that is known to be small, sorted by name, each once.
    fn list_whole(&self, folder: &str, patience: &Patience) -> Result<Vec<Listed>> {
        whole(|pages| self.list(folder, patience, pages))
    }

    /// A file's exact size, time and version.
    fn stat(&self, path: &str, patience: &Patience) -> Result<Stat>;

    /// Some bytes of a file as it is now, with its stat. `None` where that can't be had in one answer, or is no faster.
    fn begin(&self, _path: &str, _section: Section, _patience: &Patience) -> Result<Option<Begun>> {
        Ok(None)
    }

    /// The next listing looks for what other programs have put, too, also where that takes long. Returns at once.
    fn look_anew(&self) {}

    /// Makes a few connections ready for requests to come, unless that was done less than `_every` ago. Returns at once;
    /// what comes of it is not told.
    fn warm(&self, _every: Duration) {}

    /// A request has had no answer since `_silent_since`: unless anything else has come since then, the connections that are
    /// open are not used again, as they may have died unseen.
    fn doubt(&self, _silent_since: Instant) {}

    /// For how long nothing has come over any connection; zero where that does not matter.
    fn silent_for(&self) -> Duration {
        Duration::ZERO
    }

    /// Whether it answers at all, asked as cheaply as can be. Any answer will do; an error that is one, too.
    fn probe(&self, patience: &Patience) -> Result<()> {
        let mut has_answered = false;
        let listed = self.list("", patience, &mut |_| {
            has_answered = true;
            // The first page is answer enough.
            Err(Error::new(Kind::Cancelled, "nobody wants the rest"))
        });
        if has_answered { Ok(()) } else { listed }
    }

    /// Whether it is asked as usual, as far as is known. Asks nothing.
    fn health(&self) -> Health {
        Health::Closed
    }

    /// The bytes of `range` of exactly this state of the file. `Changed` when the origin has another one by now,
    /// `Unsupported` when it ignores ranges. `range` is not empty and ends at or before `expected.size_bytes`.
    fn read(&self, path: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>>;

    /// The source as a person wrote it, without credentials.
    fn describe(&self) -> &str;
}
