//! The home of a library on this machine: a catalog that says which files there are, and blobs that hold their bytes.
//! Never here: the catalog's tables, and what a mount makes of the two.

mod check;
mod recut;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::blobs::{Blobs, Pinned, Scratch};
use super::catalog::{self, Catalog, Placed, Salvaged};
use super::{
    Chunk, Content, Cut, Draft, Finding, Library, Manifest, Meta, Page, Proof, Query, Swept, Verified, check_path,
    check_tags,
};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::sys;

pub use recut::Recut;

/// Chunks cut while the disk is busy with earlier ones: what a draft holds in memory beside the writer.
const CHUNKS_AHEAD: usize = 2;
/// Chunks synced together: 128 MiB of the default size, for the price of one sync.
const BATCH_CHUNKS: usize = 64;
/// How long the bytes of a replaced file stay for whoever still reads it, from a process of its own. Those of a file that
/// is removed go with it.
const REPLACED_GRACE: Duration = Duration::from_mins(10);
/// Rows looked at in one step by `verify`, `gc`, `purge` and `recut`.
const STEP: usize = 1_000;
/// Permission bits of files that are put.
const FILE_MODE: u32 = 0o644;

/// A library in a folder of this machine.
pub struct Local {
    catalog: Arc<Catalog>,
    blobs: Arc<Blobs>,
    described: String,
    // Names taken away since the last sweep.
    removed: AtomicUsize,
}

impl Local {
    /// Whether there is one in `dir`.
    pub fn is_at(dir: &Path) -> bool {
        catalog::is_at(dir)
    }

    /// Makes an empty library in `dir`: a new folder, or an empty one.
    pub fn create(dir: &Path, cut: Cut) -> Result<()> {
        // Folders first: with its catalog it is a library.
        catalog::create(dir, cut, &|| Blobs::create(dir))
    }

    /// Opens it for the one process that writes to it.
    pub fn open(dir: &Path) -> Result<Self> {
        let catalog = Catalog::open(dir)?;
        let local = Self::with(dir, catalog)?;
        local.blobs.clear_scratch()?;
        local.sweep(REPLACED_GRACE)?;
        Ok(local)
    }

    /// Makes a new catalog of what can be read of a damaged one, as far as the blobs are there; nothing is changed if `go_on`
    /// says no.
    pub fn salvage(dir: &Path, go_on: &dyn Fn() -> bool) -> Result<Salvaged> {
        let blobs = Blobs::open(dir)?;
        let has_blob = |digest, size_bytes| blobs.pin(digest, size_bytes).map(|pinned| pinned.is_some());
        catalog::salvage(dir, &has_blob, go_on)
    }

    /// Opens it for reading, beside whoever writes to it.
    pub fn open_to_look(dir: &Path) -> Result<Self> {
        Self::with(dir, Catalog::open_to_look(dir)?)
    }

    fn with(dir: &Path, catalog: Catalog) -> Result<Self> {
        let described = format!("library:{}", dir.display());
        Ok(Self {
            catalog: Arc::new(catalog),
            blobs: Arc::new(Blobs::open(dir)?),
            described,
            removed: AtomicUsize::new(0),
        })
    }

    /// For a mount: which files there are.
    pub fn catalog(&self) -> &Arc<Catalog> {
        &self.catalog
    }

    /// For a mount: their bytes.
    pub fn blobs(&self) -> &Arc<Blobs> {
        &self.blobs
    }

    /// Deletes blobs that no file has needed for `grace`.
    fn sweep(&self, grace: Duration) -> Result<Swept> {
        self.removed.store(0, Ordering::Relaxed);
        let before = SystemTime::now().checked_sub(grace).unwrap_or(SystemTime::UNIX_EPOCH);
        let (mut swept, mut after) = (Swept::default(), None);
        loop {
            let remove = |digest: &Digest| self.blobs.remove_unless(*digest, || Ok(false));
            let (gone, next) = self.catalog.sweep_loose(after.as_ref(), before, remove)?;
            swept.chunks += gone.len() as u64;
            swept.bytes += gone.iter().map(|blob| blob.size_bytes).sum::<u64>();
            if next.is_none() {
                return Ok(swept);
            }
            after = next;
        }
    }

    /// As a finding in it is told.
    fn catalog_place(&self) -> String {
        self.catalog.dir().join("catalog.sqlite").display().to_string()
    }

    /// Blobs that no file names and that nobody wrote within `grace`; `each` says whether it took one.
    fn orphans(&self, grace: Duration, each: &mut dyn FnMut(Digest, u64) -> Result<bool>) -> Result<Swept> {
        let now = SystemTime::now();
        let mut swept = Swept::default();
        self.blobs.walk(&mut |blob| {
            let age = now.duration_since(blob.modified).unwrap_or_default();
            // One that was needed until just now may still be read.
            let loose = self.catalog.read(|view| view.loose_since(&blob.sha256))?;
            let age = loose.map_or(age, |since| now.duration_since(since).unwrap_or_default().min(age));
            if age >= grace
                && !self.catalog.read(|view| view.is_used(&blob.sha256))?
                && each(blob.sha256, blob.size_bytes)?
            {
                swept.chunks += 1;
                swept.bytes += blob.size_bytes;
            }
            Ok(())
        })?;
        Ok(swept)
    }
}

impl Library for Local {
    fn describe(&self) -> &str {
        &self.described
    }

    fn cut(&self) -> Cut {
        self.catalog.cut()
    }

    fn manifest(&self, path: &str) -> Result<Manifest> {
        check_path(path)?;
        self.catalog.read(|view| view.manifest(path)).map(|(_, manifest)| manifest)
    }

    fn list(&self, query: &Query) -> Result<Page> {
        self.catalog.read(|view| view.list(query))
    }

    fn chunk(&self, path: &str, manifest: &Manifest, n: usize) -> Result<Bytes> {
        let named = |error: Error| error.context(format!("`{}`, chunk {n}", path.escape_debug()));
        let Some(chunk) = manifest.chunks().get(n) else {
            return Err(named(Error::new(Kind::Invalid, "there is no such chunk")));
        };
        let mut bytes = vec![0; chunk.range.len() as usize];
        if let Proof::Sha256(digest) = chunk.proof {
            self.blobs.read_at(digest, chunk.range.len(), 0, &mut bytes).map_err(named)?;
        }
        Ok(bytes.into())
    }

    fn has_folders(&self) -> bool {
        true
    }

    fn is_whole(&self, manifest: &Manifest) -> Result<bool> {
        for chunk in manifest.chunks() {
            if let Proof::Sha256(digest) = chunk.proof
                && self.blobs.pin(digest, chunk.range.len())?.is_none()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn draft(&self, path: &str, _expected: Option<&[Chunk]>) -> Result<Box<dyn Draft + '_>> {
        check_path(path)?;
        if !self.catalog.is_writer() {
            return Err(Error::new(Kind::Denied, format!("{} is open for reading only", self.described)));
        }
        Ok(Box::new(LocalDraft { local: self, path: path.to_owned(), keeping: None, known: Vec::new() }))
    }

    fn flush(&self) -> Result<()> {
        if self.removed.load(Ordering::Relaxed) > 0 {
            self.sweep(REPLACED_GRACE)?;
        }
        self.catalog.flush()
    }

    fn remove(&self, path: &str) -> Result<()> {
        self.catalog.change(|change| change.remove_path(path, SystemTime::now()))?;
        // Many at a time: before blobs may go, the catalog must be synced.
        if self.removed.fetch_add(1, Ordering::Relaxed) + 1 >= STEP {
            self.sweep(REPLACED_GRACE)?;
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let owner = sys::invoking_user();
        self.catalog.change(|change| change.rename_path(from, to, owner, SystemTime::now()))?;
        self.flush()
    }

    fn set_tags(&self, path: &str, tags: &[String]) -> Result<()> {
        let tags = check_tags(tags.to_vec())?;
        self.catalog.change(|change| {
            let node = change.file(path)?;
            change.set_tags(node.node_id, &tags)
        })?;
        self.flush()
    }

    fn purge(&self, tag: &str, go_on: &mut dyn FnMut(Swept) -> bool) -> Result<Swept> {
        let mut swept = Swept::default();
        loop {
            let nodes = self.catalog.read(|view| view.tagged(tag, 0, STEP))?;
            if nodes.is_empty() {
                break;
            }
            for node in nodes {
                // Each of its names; the last takes the node away.
                while let Some(path) = self.catalog.read(|view| view.path_of(node))? {
                    self.catalog.change(|change| change.remove_path(&path, SystemTime::now()))?;
                    swept.files += 1;
                }
                // One that somebody has open without a name goes when it is closed.
                self.catalog.change(|change| change.set_tags(node, &[]).or_else(is_missing))?;
                if !go_on(swept) {
                    self.sweep(REPLACED_GRACE)?;
                    return Ok(swept);
                }
            }
            let gone = self.sweep(REPLACED_GRACE)?;
            swept.chunks += gone.chunks;
            swept.bytes += gone.bytes;
        }
        self.flush()?;
        Ok(swept)
    }

    fn verify(&self, go_on: &mut dyn FnMut(Verified) -> bool, found: &mut dyn FnMut(Finding)) -> Result<Verified> {
        check::verify(self, go_on, found)
    }

    fn repair(&self, finding: &Finding, bytes: &[u8]) -> Result<()> {
        check::repair(self, finding, bytes)
    }

    fn put_aside(&self) -> Result<(Swept, String)> {
        let (chunks, bytes) = self.blobs.quarantined()?;
        Ok((Swept { files: 0, chunks, bytes }, self.catalog.dir().join("quarantine").display().to_string()))
    }

    fn damaged_catalog(&self) -> Option<String> {
        catalog::damaged(self.catalog.dir()).map(|path| path.display().to_string())
    }

    fn gc(&self, grace: Duration, is_dry_run: bool) -> Result<Swept> {
        if is_dry_run {
            return self.orphans(grace, &mut |_, _| Ok(true));
        }
        let swept = self.sweep(grace)?;
        let orphans = self.orphans(grace, &mut |blob, _| {
            self.blobs.remove_unless(blob, || self.catalog.read(|view| view.is_used(&blob)))
        })?;
        let (chunks, bytes) = (swept.chunks + orphans.chunks, swept.bytes + orphans.bytes);
        Ok(Swept { files: 0, chunks, bytes })
    }
}

fn is_missing(error: Error) -> Result<()> {
    if error.kind() == Kind::Missing { Ok(()) } else { Err(error) }
}

/// A scratch file with these bytes.
fn written(blobs: &Blobs, bytes: &[u8]) -> Result<Scratch> {
    let scratch = blobs.scratch()?;
    scratch.write_all_at(bytes, 0).map_err(|error| Error::io("writing a chunk", &error))?;
    scratch.written().begin_writing_out();
    Ok(scratch)
}

/// A file on its way in: a thread of its own writes chunks while the next ones are cut and hashed.
struct LocalDraft<'a> {
    local: &'a Local,
    path: String,
    // Begins with the first chunk: most files have none.
    keeping: Option<Keeping>,
    // Chunks that were here already.
    known: Vec<Pinned>,
}

struct Keeping {
    chunks: Sender<(Bytes, Digest)>,
    // Ends when there are no more chunks; its pins hold them until the file has its name.
    thread: JoinHandle<Result<Vec<Pinned>>>,
}

impl Draft for LocalDraft<'_> {
    fn add_known(&mut self, chunk: &Chunk) -> Result<bool> {
        let Proof::Sha256(digest) = chunk.proof else { return Ok(chunk.proof == Proof::Zeros) };
        let pinned = self.local.blobs.adopt(digest, chunk.range.len())?;
        let is_known = pinned.is_some();
        self.known.extend(pinned);
        Ok(is_known)
    }

    fn add(&mut self, chunk: &Chunk, bytes: Bytes) -> Result<()> {
        let Proof::Sha256(digest) = chunk.proof else { return Ok(()) };
        let keeping = match self.keeping.take() {
            Some(keeping) => self.keeping.insert(keeping),
            None => self.keeping.insert(Keeping::begin(&self.local.blobs)?),
        };
        if keeping.chunks.send((bytes, digest)).is_ok() {
            return Ok(());
        }
        // It ended before its time: it says why.
        match self.keeping.take().map(Keeping::end) {
            Some(Err(error)) => Err(error),
            _ => Err(Error::new(Kind::Local, "the thread that keeps chunks ended")),
        }
    }

    fn commit(mut self: Box<Self>, content: Content, meta: Meta) -> Result<Manifest> {
        let pinned = self.keeping.take().map(Keeping::end).transpose()?;
        self.local.blobs.sync_names(&self.known)?;
        // What would be refused as a manifest must not take the place of what is there.
        let manifest = Manifest::new(content, meta)?;
        let (content, meta) = (manifest.content(), manifest.meta());
        let placed = Placed { content, meta, owner: sys::invoking_user(), mode: FILE_MODE };
        self.local.catalog.change(|change| change.place(&self.path, &placed, SystemTime::now()))?;
        // Named now: no sweep takes them any more.
        drop(pinned);
        Ok(manifest)
    }
}

impl Drop for LocalDraft<'_> {
    fn drop(&mut self) {
        // What was written stays as it is: the same file, put again, finds it.
        let _ = self.keeping.take().map(Keeping::end);
    }
}

impl Keeping {
    fn begin(blobs: &Arc<Blobs>) -> Result<Self> {
        let (sender, chunks) = bounded(CHUNKS_AHEAD);
        let blobs = Arc::clone(blobs);
        let thread = thread::Builder::new().name("keep".into()).spawn(move || keep(&blobs, &chunks));
        Ok(Self { chunks: sender, thread: thread.map_err(|error| Error::io("starting a thread", &error))? })
    }

    fn end(self) -> Result<Vec<Pinned>> {
        drop(self.chunks);
        self.thread.join().unwrap_or_else(|_| Err(Error::new(Kind::Local, "the thread that keeps chunks panicked")))
    }
}

/// Writes chunks as they come, and syncs them by the batch.
fn keep(blobs: &Blobs, chunks: &Receiver<(Bytes, Digest)>) -> Result<Vec<Pinned>> {
    let (mut kept, mut adopted) = (Vec::new(), Vec::new());
    let mut batch = Vec::new();
    for (bytes, digest) in chunks {
        let size_bytes = bytes.len() as u64;
        if let Some(pinned) = blobs.adopt(digest, size_bytes)? {
            adopted.push(pinned);
            continue;
        }
        batch.push((written(blobs, &bytes)?, digest, size_bytes));
        if batch.len() >= BATCH_CHUNKS {
            kept.extend(blobs.keep(std::mem::take(&mut batch))?);
        }
    }
    kept.extend(blobs.keep(batch)?);
    blobs.sync_names(&adopted)?;
    kept.append(&mut adopted);
    Ok(kept)
}

#[cfg(test)]
mod tests;
