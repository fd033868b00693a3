//! The read-write filesystem over a library on this machine, without a kernel: what a program does to files and folders
//! becomes rows of the catalog and blobs.
//! Never here: FUSE, errno, and who may do what (the kernel checks mode bits before it asks).
//!
//! The catalog is the truth. An inode number is the number of a node. Names and attributes are changed in the catalog at
//! once, and are durable a second later, or when somebody asks for it. Of a file that is being written, memory has its
//! size, its times and which chunks differ; their bytes are in scratch files, one for each chunk (small files are in memory
//! whole). A commit hashes them, makes them blobs, and writes all of it in one transaction: before it the old content is
//! there, after it the new one. It comes with fsync and close, and after five seconds.
//!
//! Locks, in the order they are taken: a file's `committing`, its `state`, the catalog's writer, the blobs' pins. The
//! tables of inodes and listings are taken alone. Nothing waits for the network here.

mod attributes;
mod content;
mod disk;
mod file;
mod files;
mod inodes;
mod listing;
mod names;
mod rows;
mod status;
mod upkeep;

use std::ffi::OsStr;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use crate::error::{Error, Kind, Result};
use crate::library::blobs::{BEHIND_BYTES_MAX, Blobs};
use crate::library::catalog::{Catalog, Node};
use crate::refusal::{Outcome, Refusal};
use crate::store::NAME_BYTES_MAX;
use crate::sys;

pub use attributes::{Changes, SetMode};
pub use files::Version;
pub use names::{Made, Replace};
pub use status::{OpenStatus, VolumeStatus, VolumeTimings};

use disk::Disk;
use inodes::Inodes;
use listing::Listings;
use status::Figures;
use upkeep::Upkeep;

/// What must stay free on the disk for the catalog itself, and for what was taken and is still on its way: below it nothing
/// grows, and everything can still be removed.
const FREE_BYTES_MIN: u64 = (8 << 20) + BEHIND_BYTES_MAX;
/// What the kernel was told stays true while nobody else writes: it may remember it for long.
const OWN_TTL: Duration = Duration::from_hours(1);
/// Another process may be writing.
const LOOKING_TTL: Duration = Duration::from_secs(1);

/// Files that the kernel is still to be told of. One that is not among them is shown with the size and time of what was lost
/// until these are asked for again.
const LOST_MAX: usize = 1024;

/// So long blobs that nobody needs are removed while somebody waits for the end; the next start goes on.
const FAREWELL_SWEEP_MAX: Duration = Duration::from_secs(1);

/// A library as a filesystem.
pub struct Volume {
    shared: Arc<Shared>,
    upkeep: Upkeep,
    // Counted for whoever watches. Held while it is counted, so that many who watch count once. Taken alone.
    totals: Mutex<Option<status::Totals>>,
}

/// What the threads of the upkeep need, too.
struct Shared {
    catalog: Catalog,
    blobs: Blobs,
    inodes: Inodes,
    listings: Listings,
    // The library's folder, for asking its disk how much is free.
    root: File,
    // Nodes closed with something that could not be committed, for whoever tells the kernel.
    lost: (Sender<u64>, Receiver<u64>),
    figures: Figures,
}

impl Volume {
    /// The library in `dir`, to be written to by this process alone, or to be looked at. Errors as of [`Catalog::open`].
    pub fn open(dir: &Path, is_read_only: bool) -> Result<Self> {
        let catalog = if is_read_only {
            Catalog::open_to_look(dir)?
        } else {
            Catalog::open(dir).map_err(|error| match error.kind() {
                Kind::Busy => {
                    let message = format!("{error}: end it first, or mount with --read-only");
                    Error::new(Kind::Busy, message)
                }
                _ => error,
            })?
        };
        let blobs = Blobs::open(dir)?;
        if !is_read_only {
            blobs.clear_scratch()?;
        }
        let root = File::open(dir).map_err(|error| Error::io(dir.display(), &error))?;
        let shared = Arc::new(Shared {
            catalog,
            blobs,
            inodes: Inodes::default(),
            listings: Listings::default(),
            root,
            lost: bounded(LOST_MAX),
            figures: Figures::default(),
        });
        let upkeep = if is_read_only { Upkeep::start_to_look(&shared)? } else { Upkeep::start(&shared)? };
        Ok(Self { shared, upkeep, totals: Mutex::default() })
    }

    /// Nodes of which something that was written is lost: the attributes that the kernel holds of them are not true.
    pub fn lost(&self) -> Receiver<u64> {
        self.shared.lost.1.clone()
    }

    /// Whether the pages that the kernel holds of a node are what is there. If not, whoever opens the node has them dropped.
    pub fn are_pages_true(&self, node_id: u64) -> bool {
        !self.shared.inodes.has_lost(node_id)
    }

    /// Whether nothing may be changed.
    pub fn is_read_only(&self) -> bool {
        !self.shared.catalog.is_writer()
    }

    /// Has the catalog copied once a day from now on.
    pub fn back_up_daily(&self) -> Result<()> {
        self.upkeep.back_up_daily(&self.shared)
    }

    /// How long the kernel may remember what it is told.
    pub fn ttl(&self) -> Duration {
        if self.is_read_only() { LOOKING_TTL } else { OWN_TTL }
    }

    /// Commits what is open, and ends the threads: the kernel has let go. The last of what went wrong, if anything did:
    /// something that was written is lost then.
    pub fn wind_down(&self) -> Result<()> {
        self.upkeep.stop();
        let mut committed = Ok(());
        for file in self.shared.inodes.files() {
            if let Err(error) = self.shared.commit(&file) {
                log::error!("node {}: {error}", file.node_id());
                committed = Err(error);
            }
        }
        self.shared.catalog.flush()?;
        if !self.is_read_only() {
            let begun = Instant::now();
            let swept = upkeep::sweep(&self.shared, || begun.elapsed() < FAREWELL_SWEEP_MAX);
            let _ = swept.inspect_err(|error| log::warn!("{error}"));
        }
        committed
    }

    fn disk(&self, node_id: u64) -> Disk<'_> {
        self.shared.disk(node_id)
    }

    /// Whoever changes anything asks first.
    fn check_writable(&self) -> Outcome<()> {
        if self.is_read_only() { Err(Refusal::ReadOnly) } else { Ok(()) }
    }

    /// Whether `bytes` more may be written: the catalog's own room is not theirs.
    fn check_room(&self, bytes: u64) -> Outcome<()> {
        self.check_writable()?;
        let dir = self.shared.catalog.dir().display();
        let free = sys::free_bytes(&self.shared.root).map_err(|error| Error::io(&dir, &error))?;
        if free >= FREE_BYTES_MIN.saturating_add(bytes) {
            return Ok(());
        }
        Err(Refusal::Failed(Error::new(Kind::Full, format!("the disk of {dir} is full"))))
    }

    /// The node as it is now, with what is written and not committed.
    fn current(&self, node: Node) -> Outcome<Node> {
        let Some(file) = self.shared.inodes.file(node.node_id) else { return Ok(node) };
        // Read again: what was read before may be from before a commit.
        Ok(file.attributes(&self.disk(node.node_id))?.unwrap_or(node))
    }

    /// A node that lost its last name goes at once, or when nobody holds on to it any more.
    fn unlinked(&self, node: &Node) -> Outcome<()> {
        if node.links == 0 && self.shared.inodes.unlink(node.node_id) {
            self.drop_node(node.node_id)?;
        }
        Ok(())
    }

    fn drop_node(&self, node_id: u64) -> Result<()> {
        self.shared.catalog.change(|change| change.drop_node(node_id))?;
        self.upkeep.sweep();
        Ok(())
    }
}

impl Shared {
    fn disk(&self, node_id: u64) -> Disk<'_> {
        Disk { catalog: &self.catalog, blobs: &self.blobs, node_id }
    }

    /// Commits one file; one without a name is not worth it, as nobody could ever open it again: only whether what was written
    /// is there.
    fn commit(&self, file: &file::OpenFile) -> Result<bool> {
        if self.inodes.is_unlinked(file.node_id()) {
            file.check_written(&self.disk(file.node_id()))?;
            return Ok(false);
        }
        let begun = Instant::now();
        let committed = file.commit(&self.disk(file.node_id()))?;
        if committed {
            self.figures.commit.add(begun.elapsed());
            log::info!("node {}: committed in {:.1?}", file.node_id(), begun.elapsed());
        }
        Ok(committed)
    }
}

/// A name as the catalog takes it.
fn checked(name: &OsStr) -> Outcome<&str> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Refusal::NameTooLong);
    }
    name.to_str().ok_or(Refusal::NotText)
}

#[cfg(test)]
mod tests;
