//! An origin over a store in which one object is one file: what it lists is what the drive shows.
//! Never here: any store by name.

use std::time::{Duration, Instant};

use super::{Begun, Body, Origin, Pages, Patience, Section, Stat};
use crate::error::Result;
use crate::range::ByteRange;
use crate::store::List;

/// A store, seen as a source.
pub struct Object<S> {
    store: S,
    described: String,
}

impl<S: List> Object<S> {
    /// `described` is the source as a person wrote it, without credentials.
    pub fn new(store: S, described: impl Into<String>) -> Self {
        Self { store, described: described.into() }
    }
}

impl<S: List> Origin for Object<S> {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        self.store.list(folder, patience, pages)
    }

    fn stat(&self, path: &str, patience: &Patience) -> Result<Stat> {
        self.store.stat(path, patience)
    }

    fn begin(&self, path: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        self.store.begin(path, section, patience)
    }

    fn warm(&self, every: Duration) {
        self.store.warm(every);
    }

    fn doubt(&self, asked_at: Instant) {
        self.store.doubt(asked_at);
    }

    fn silent_for(&self) -> Duration {
        self.store.silent_for()
    }

    fn read(&self, path: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        self.store.read(path, expected, range, patience)
    }

    fn describe(&self) -> &str {
        &self.described
    }
}
