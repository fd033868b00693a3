//! From a checked configuration to running parts: the one file that names concrete types.
//! Never here: flags, printing, and any work of the parts themselves.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::fuse::signals::End;
use crate::metrics::Metrics;

/// A drive in its place, served by its own threads. Dropping it unmounts, too, and keeps errors to itself.
#[derive(Debug)]
pub struct Mounted {
    never: Infallible,
}

impl Mounted {
    /// The source as it may be shown, without credentials.
    pub fn source(&self) -> &str {
        match self.never {}
    }

    /// Takes the drive off its mount point, if it is still there, and ends its threads.
    pub fn unmount(self) -> Result<()> {
        match self.never {}
    }
}

/// Mounts what `config` describes and returns once the drive answers. `ends` is told `Unmounted` when somebody takes the
/// drive off from outside.
pub fn mount(_config: &Config, _metrics: Arc<Metrics>, _ends: Sender<End>) -> Result<Mounted> {
    Err(not_wired())
}

/// The demo: the embedded origin, mounted on `dir` or on a folder of its own.
pub fn demo(_dir: Option<&Path>, _once: bool) -> Result<()> {
    Err(not_wired())
}

fn not_wired() -> Error {
    Error::new(Kind::Unsupported, "not wired yet")
}
