//! One node's place in the library: its rows in the catalog, its blobs, its scratch files.
//! Never here: what is changed.

use std::io;

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::blobs::{Blobs, Scratch};
use crate::library::catalog::{Catalog, ChunkRow};
use crate::range::ByteRange;

/// Where a node's bytes come from and go to.
#[derive(Clone, Copy)]
pub(super) struct Disk<'a> {
    pub catalog: &'a Catalog,
    pub blobs: &'a Blobs,
    pub node_id: u64,
}

impl Disk<'_> {
    pub fn chunk_size(&self) -> u64 {
        self.catalog.cut().chunk_size_bytes
    }

    pub fn inline_max(&self) -> u64 {
        self.catalog.cut().inline_bytes_max
    }

    pub fn inline(&self) -> Result<Vec<u8>> {
        let gone =
            || Error::new(Kind::Changed, format!("the content of node {} is no longer in the catalog", self.node_id));
        let inline = self.catalog.read(|view| view.inline(self.node_id)).inspect_err(|error| log::error!("{error}"));
        inline?.ok_or_else(gone)
    }

    pub fn covering(&self, range: ByteRange) -> Result<Vec<ChunkRow>> {
        self.catalog.read(|view| view.covering(self.node_id, range))
    }

    /// Fills `bytes` from `offset` in the blob on, which holds `chunk` of the file. One that can't be read is told to people.
    pub fn read_blob(&self, blob: Digest, chunk: ByteRange, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.blobs.read_at(blob, chunk.len(), offset, bytes).map_err(|error| {
            let path = self.catalog.read(|view| view.path_of(self.node_id)).ok().flatten();
            let file = path.unwrap_or_else(|| format!("node {}", self.node_id));
            let error = error.context(format!("`{}`, bytes {chunk}", file.escape_debug()));
            log::error!("{error}");
            // What is missing here is no missing name.
            Error::new(if error.kind() == Kind::Missing { Kind::Corrupt } else { error.kind() }, error.to_string())
        })
    }

    pub fn scratch(&self) -> Result<Scratch> {
        self.blobs.scratch()
    }

    pub fn scratch_failed(&self, error: &io::Error) -> Error {
        Error::io(format!("{}: what is being written", self.catalog.dir().display()), error)
    }
}
