//! Moves files across the inline threshold: small ones into the catalog, larger ones out of it into blobs.
//! Never here: what a file's bytes are; they stay the same.
//!
//! The threshold is changed first, and then one file after the other: a file that has not had its turn when this ends, by
//! whatever, is read as it was and has its turn the next time. Blobs are synced before a row names them, and a blob whose bytes
//! are in the catalog goes only after the row that holds them is durable.

use bytes::Bytes;

use super::{Local, REPLACED_GRACE, STEP, written};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::blobs::Scratch;
use crate::library::catalog::{ChunkRow, Misplaced};
use crate::library::writer::content_of;
use crate::library::{Content, Cut, Proof};
use crate::range::ByteRange;

/// Files whose blobs are synced together.
const BATCH_FILES: usize = 256;
/// And their blobs.
const BATCH_CHUNKS: usize = 64;

/// How far it is, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct Recut {
    /// Files that are in the catalog now.
    pub taken_in: u64,
    /// Files that are in blobs now.
    pub taken_out: u64,
    /// Files that stay where they were, because their bytes are missing or damaged: their paths, and why.
    pub failed: Vec<(String, Error)>,
    /// More of these, which are only counted.
    pub failed_more: u64,
    /// Bytes of all files that had their turn.
    pub done_bytes: u64,
    /// Bytes of all files that must move.
    pub total_bytes: u64,
    /// It was broken off: not all had their turn.
    pub is_broken_off: bool,
}

/// Files named as failed; more are counted only.
const FAILED_NAMED_MAX: usize = 1_000;

/// Files that are about to leave the catalog: their blobs are written, and not synced.
#[derive(Default)]
struct Leaving {
    files: Vec<(u64, Vec<ChunkRow>)>,
    chunks: Vec<(Scratch, Digest, u64)>,
}

impl Local {
    /// Sets how large a file may be to be kept in the catalog, and moves all files that are on the wrong side of it. `go_on`
    /// hears how far it is, and may end it; done again, it goes on. `Invalid` of a threshold above the size of a chunk.
    pub fn recut(&self, inline_bytes_max: u64, go_on: &mut dyn FnMut(&Recut) -> bool) -> Result<Recut> {
        let cut = Cut { inline_bytes_max, ..self.catalog.cut() };
        self.catalog.change(|change| change.set_cut(cut))?;
        let mut recut = Recut {
            total_bytes: self.catalog.read(|view| view.misplaced_bytes(inline_bytes_max))?,
            ..Recut::default()
        };
        let (mut after, mut leaving) = (0, Leaving::default());
        'files: loop {
            let files = self.catalog.read(|view| view.misplaced(inline_bytes_max, after, STEP))?;
            let Some(last) = files.last() else { break };
            after = last.node_id;
            for file in files {
                let moved = if file.is_inline {
                    self.begin_to_leave(&file, cut, &mut leaving)
                } else {
                    self.take_in(&file).inspect(|()| recut.taken_in += 1)
                };
                match moved {
                    Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Missing) => {
                        self.note_failed(&file, error, &mut recut)?;
                    }
                    moved => moved?,
                }
                if leaving.files.len() >= BATCH_FILES || leaving.chunks.len() >= BATCH_CHUNKS {
                    recut.taken_out += self.leave(&mut leaving)?;
                }
                recut.done_bytes += file.size_bytes;
                if !go_on(&recut) {
                    recut.is_broken_off = true;
                    break 'files;
                }
            }
        }
        recut.taken_out += self.leave(&mut leaving)?;
        self.catalog.flush()?;
        self.sweep(REPLACED_GRACE)?;
        self.catalog.flush()?;
        Ok(recut)
    }

    fn note_failed(&self, file: &Misplaced, error: Error, recut: &mut Recut) -> Result<()> {
        if recut.failed.len() < FAILED_NAMED_MAX {
            let path = self.catalog.read(|view| view.path_of(file.node_id))?;
            recut.failed.push((path.unwrap_or_default(), error));
        } else {
            recut.failed_more += 1;
        }
        Ok(())
    }

    /// From blobs into the catalog: its bytes and the end of its chunks are one change.
    fn take_in(&self, file: &Misplaced) -> Result<()> {
        let mut bytes = vec![0; file.size_bytes as usize];
        if file.size_bytes > 0 {
            let whole = ByteRange::new(0, file.size_bytes);
            for row in self.catalog.read(|view| view.covering(file.node_id, whole))? {
                let Some(digest) = row.digest else { continue };
                let place = row.range.start as usize..row.range.end as usize;
                let too_long = || Error::new(Kind::Corrupt, format!("chunk {} lies beyond the file's end", row.range));
                let bytes = bytes.get_mut(place).ok_or_else(too_long)?;
                self.blobs.read_at(digest, row.range.len(), 0, bytes)?;
            }
        }
        self.catalog.change(|change| change.set_inline(file.node_id, &bytes))
    }

    /// From the catalog into blobs: these are written.
    fn begin_to_leave(&self, file: &Misplaced, cut: Cut, leaving: &mut Leaving) -> Result<()> {
        let inline = self.catalog.read(|view| view.inline(file.node_id))?;
        let missing = || Error::new(Kind::Missing, "its bytes are not in the catalog");
        let bytes = Bytes::from(inline.ok_or_else(missing)?);
        let chunks = match content_of(cut, &mut |writer| writer.write(&bytes))? {
            Content::Chunks(chunks) => chunks,
            // It has another size than its node says.
            Content::Inline(_) => return Err(Error::new(Kind::Corrupt, "it does not have as many bytes as it should")),
        };
        let mut rows = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let Proof::Sha256(digest) = chunk.proof else {
                return Err(Error::new(Kind::Local, "a chunk without a hash"));
            };
            let part = bytes.slice(chunk.range.start as usize..chunk.range.end as usize);
            leaving.chunks.push((written(&self.blobs, &part)?, digest, chunk.range.len()));
            rows.push(ChunkRow { range: chunk.range, digest: Some(digest) });
        }
        leaving.files.push((file.node_id, rows));
        Ok(())
    }

    /// The blobs are synced, and then named. How many files have left.
    fn leave(&self, leaving: &mut Leaving) -> Result<u64> {
        let Leaving { files, chunks } = std::mem::take(leaving);
        let pinned = self.blobs.keep(chunks)?;
        for (node_id, rows) in &files {
            self.catalog.change(|change| change.set_chunks(*node_id, rows))?;
        }
        // Named now: no sweep takes them any more.
        drop(pinned);
        Ok(files.len() as u64)
    }
}
