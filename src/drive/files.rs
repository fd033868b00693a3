//! Open files: open, read, release, and what a file tells of itself (extended attributes, data and holes).
//! Never here: where bytes come from.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::inodes::folder_of;
use super::names::changed;
use super::{Drive, Late, Node, NodeKind, OpenFile};
use crate::cache::Backing;
use crate::error::{Error, Kind, Result};
use crate::origin::Stat;
use crate::range::ByteRange;

/// Longest read answered at once from a buffer that each thread keeps; the kernel's are 1 MiB at most.
const BUFFER_MAX_BYTES: usize = 1 << 20;

thread_local! {
    // Bytes of hits on their way to the kernel: filled anew for each read, zeroed only once.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where readahead failed, the kernel at once asks again for the first page of it, on behalf of the same reader: that
/// is answered with the same error, or else the reader would wait for two deadlines. Long enough for the kernel's
/// second question, too short for a player's.
const LATE_FOR: Duration = Duration::from_millis(100);

/// The extended attributes every file has.
const XATTRS: [&str; 3] = ["user.reelfs.version", "user.reelfs.cached_bytes", "user.reelfs.source"];

/// A file was opened.
#[derive(Clone, Debug)]
pub struct Opened {
    /// For `read` and `release`.
    pub handle: u64,
    /// The first bytes, where they have only just come: whoever passes the open on may pass them on with it.
    pub head: Option<Vec<u8>>,
    /// Whether it is one film of many that are being looked at: nothing should be read ahead of it.
    pub is_scan: bool,
    /// Whether the kernel may have been told another size before: the file has grown.
    pub is_resized: bool,
    /// Whether it may grow: then it is read past the kernel's page cache, whose last page would be zeros where more has come.
    pub is_followed: bool,
}

impl Drive {
    /// Opens a file: finds out which version it is now. `Changed` if the inode stands for another one; looking the
    /// name up again gives the new one. `can_follow`: the kernel can read it past its page cache, and map it all the same.
    pub fn open(self: &Arc<Self>, ino: u64, can_follow: bool, reply: impl FnOnce(Result<Opened>) + Send + 'static) {
        let node = match self.node(ino) {
            Ok(node) if node.kind == NodeKind::File => node,
            Ok(node) => return reply(Err(Error::new(Kind::Invalid, format!("{} is not a file", node.path)))),
            Err(error) => return reply(Err(error)),
        };
        if let Err(error) = self.check_not_staged(&node) {
            return reply(Err(error));
        }
        let drive = Arc::clone(self);
        let path = Arc::clone(&node.path);
        let asked_at = Instant::now();
        let begun = Arc::<AtomicBool>::default();
        let is_scan = self.run.lock().is_scan(ino, node.size_bytes(), Instant::now());
        let kept = Arc::default();
        let may_follow = can_follow && !is_scan && !self.is_writable();
        let contact = if may_follow && self.may_grow(&node) {
            // What it was a moment ago is of no use.
            self.stats.forget(&path);
            self.growing_contact(&node, &kept)
        } else {
            self.first_contact(&node, &begun, is_scan)
        };
        self.stats.get_by(
            &path,
            Some(contact),
            Box::new(move |stat| {
                let stat = match stat {
                    Ok(stat) => stat,
                    Err(error) => return reply(Err(error)),
                };
                let grown = node.open_entry().is_some_and(|entry| entry.stat().version != stat.version);
                let grown = grown.then(|| Arc::clone(&node));
                let opens = Arc::clone(&drive);
                let open = move |stat: Stat| {
                    let drive = Arc::clone(&opens);
                    // A refused job is dropped with its reply, which the kernel's adapter then answers with EIO.
                    let queued = opens.opens.run(move || {
                        let opened = drive.opened(&node, &stat, (is_scan, may_follow), asked_at);
                        drop(kept);
                        match opened {
                            Ok(opened) if begun.load(Ordering::Acquire) && !is_scan && !opened.is_followed => {
                                drive.give_head(opened, reply);
                            }
                            opened => reply(opened),
                        }
                    });
                    if let Err(error) = queued {
                        log::warn!("{error}");
                    }
                };
                match grown {
                    Some(node) => drive.grow_first(node, stat, open),
                    None => open(stat),
                }
            }),
        );
    }

    fn opened(
        self: &Arc<Self>,
        node: &Arc<Node>,
        stat: &Stat,
        (is_scan, may_follow): (bool, bool),
        asked_at: Instant,
    ) -> Result<Opened> {
        let size_before = node.size_bytes();
        if !node.bind_to_open(stat) {
            // The stat is new; it is the number that is old.
            self.inodes.supersede(node);
            self.listings.expire(folder_of(&node.path));
            return Err(changed(&node.path));
        }
        let entry = self.cache.entry(&node.path, stat)?;
        let handle = if is_scan { self.reader.open_to_scan(entry) } else { self.reader.open(entry) };
        // A scan costs as little as can be, and leaves no page.
        let is_followed = !is_scan && node.opens_past_page_cache(may_follow && self.may_grow(node));
        if is_followed {
            self.follow_open(node, &handle);
        }
        // One that is followed may have grown before this open, and since the kernel was told of it.
        let is_resized = is_followed || size_before.is_some_and(|before| before != stat.size_bytes);
        if size_before.is_some_and(|before| before < stat.size_bytes) {
            self.listings.expire(folder_of(&node.path));
        }
        self.run.lock().opened(node.ino, stat.size_bytes, handle.read_bytes());
        handle.learn_open_took(asked_at.elapsed());
        let (drive, path) = (Arc::downgrade(self), Arc::clone(&node.path));
        handle.when_nearly_played(move || {
            if let Some(drive) = drive.upgrade() {
                drive.prepare_next(&path);
            }
        });
        let file = OpenFile { node: Arc::clone(node), handle, late: Mutex::default(), is_followed };
        let handle = self.files.add(Arc::new(file));
        // Looked at after it counts as open, as a writer looks for opens after it counts as one.
        self.check_not_staged(node).inspect_err(|_| self.files.remove(handle))?;
        Ok(Opened { handle, head: None, is_scan, is_resized, is_followed })
    }

    /// All of an open file as one on this disk, if it is wholly here: for whoever can read it without us.
    pub fn backing(&self, handle: u64) -> Option<Backing> {
        // One that is lent can't grow.
        let file = self.files.get(handle).filter(|file| !file.is_followed)?;
        let backing = self.cache.backing(file.handle.entry()).unwrap_or_else(|error| {
            log::warn!("{}: {error}", file.node.path);
            None
        });
        if backing.is_some() {
            self.run.lock().lent(file.node.ino);
        }
        backing
    }

    /// Closes a file that can't be opened as the inode it was found as, though its name and version are right: from now on
    /// the name leads to another number.
    pub fn renumber(&self, handle: u64) {
        if let Some(file) = self.files.get(handle) {
            self.inodes.supersede(&file.node);
            self.files.remove(handle);
        }
    }

    /// Closes a file; what was only fetched for it is called off.
    pub fn release(&self, handle: u64) {
        if let Some(file) = self.files.get(handle).filter(|file| file.is_followed) {
            self.closed_growing(&file.node, file.handle.entry());
        }
        self.files.remove(handle);
    }

    /// Answers `reply` with up to `len` bytes from `offset` on: on this thread if they are here, else later on
    /// another. Fewer only at the end of the file.
    pub fn read(
        self: &Arc<Self>,
        handle: u64,
        offset: u64,
        len: usize,
        reply: impl FnOnce(Result<&[u8]>) + Send + 'static,
    ) {
        if let Some(staged) = self.staged(handle) {
            let bytes = staged.read(offset, len);
            return reply(bytes.as_deref().map_err(Clone::clone));
        }
        let Some(file) = self.files.get(handle) else {
            return reply(Err(Error::new(Kind::Invalid, "this file is not open")));
        };
        let size = file.handle.entry().size_bytes();
        let range = ByteRange::at(offset, len as u64).intersect(ByteRange::new(0, size));
        if range.is_empty() {
            return reply(Ok(&[]));
        }
        let len = range.len() as usize;
        let reply = if len > BUFFER_MAX_BYTES {
            reply
        } else {
            let left = BUFFER.with_borrow_mut(|buffer| {
                if buffer.len() < len {
                    buffer.resize(len, 0);
                }
                if !self.reader.read_cached(&file.handle, offset, &mut buffer[..len]) {
                    return Some(reply);
                }
                reply(Ok(&buffer[..len]));
                None
            });
            let Some(reply) = left else { return };
            reply
        };
        if let Some(error) = file.was_just_late(range) {
            return reply(Err(error));
        }
        let drive = Arc::downgrade(self);
        let (node, asked) = (Arc::clone(&file.node), Arc::downgrade(&file));
        let chunk = file.handle.entry().slot(range.start);
        self.reader.read(
            &file.handle,
            range,
            Box::new(move |answer| {
                if let Err(error) = &answer {
                    // By its chunk: a program asks for many parts of one. That the origin is away was said when it went.
                    let level = if error.kind() == Kind::Away { log::Level::Info } else { log::Level::Warn };
                    log::log!(level, "{}: reading in {chunk}: {error}", node.path);
                    if error.kind() == Kind::TimedOut
                        && let Some(file) = asked.upgrade()
                    {
                        *file.late.lock() = Some(Late { range, ended_at: Instant::now(), error: error.clone() });
                    }
                    if error.kind() == Kind::Changed
                        && let Some(drive) = drive.upgrade()
                    {
                        drive.was_replaced(&node);
                    }
                }
                reply(answer);
            }),
        );
    }

    /// The next data (`false`) or hole (`true`) from `offset` on. A far file has no holes but the one at its end.
    pub fn seek(&self, handle: u64, offset: u64, hole: bool) -> Result<u64> {
        let size = match (self.staged(handle), self.files.get(handle)) {
            (Some(staged), _) => staged.size_and_time().0,
            (None, Some(file)) => file.handle.entry().size_bytes(),
            (None, None) => return Err(Error::new(Kind::Invalid, "this file is not open")),
        };
        match (offset < size, hole) {
            (true, false) => Ok(offset),
            (true, true) => Ok(size),
            (false, _) => Err(Error::new(Kind::Missing, "beyond the end of the file")),
        }
    }

    /// The names of a file's extended attributes.
    pub fn listxattr(&self, ino: u64) -> Result<&'static [&'static str]> {
        Ok(match self.node(ino)?.kind {
            NodeKind::File => &XATTRS,
            NodeKind::Folder => &XATTRS[2..],
            // The kernel lets nobody ask for a link's.
            NodeKind::Link => &[],
        })
    }

    /// The value of an extended attribute; `None` if there is none of that name. Never asks the origin.
    pub fn getxattr(&self, ino: u64, name: &str) -> Result<Option<String>> {
        let node = self.node(ino)?;
        let stat = || node.stat().or_else(|| self.stats.known(&node.path));
        Ok(match (name, node.kind) {
            ("user.reelfs.source", _) => Some(self.source().to_owned()),
            // Before the first open only an origin's own word would do, and nobody may wait for it here.
            ("user.reelfs.version", NodeKind::File) => {
                let version = match stat() {
                    Some(stat) => Some(stat.version.to_string()),
                    None => self.cache.last_held(&node.path)?.map(|(version, _)| version),
                };
                Some(version.unwrap_or_else(|| "unknown".to_owned()))
            }
            ("user.reelfs.cached_bytes", NodeKind::File) => {
                let held_bytes = match stat() {
                    Some(stat) => self.cache.held_of(&node.path, &stat)?.1,
                    None => self.cache.last_held(&node.path)?.map_or(0, |(_, bytes)| bytes),
                };
                Some(held_bytes.to_string())
            }
            _ => None,
        })
    }
}

impl OpenFile {
    /// The error of a read of the same bytes that ended in it a moment ago.
    fn was_just_late(&self, range: ByteRange) -> Option<Error> {
        let late = self.late.lock();
        let late = late.as_ref().filter(|late| late.ended_at.elapsed() < LATE_FOR)?;
        late.range.contains(range).then(|| late.error.clone())
    }
}
