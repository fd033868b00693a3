//! The kernel's adapter: unpack, call, reply.
//! Never here: decisions. What a name, a file or an error is, the drive says; how long it may be remembered, too.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags,
    KernelConfig, LockOwner, Notifier, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::errno::{errno, refused};
use super::kernel::{self, BLOCK_BYTES, GENERATION};
use super::passthrough::Passthrough;
use crate::drive::{Attributes, Changes, Drive, Found, NodeKind};
use crate::error::{Error, Kind, Result};
use crate::refusal::{Outcome, Refusal};
use crate::store::NAME_BYTES_MAX;

/// Reads under way in the kernel's background queue: readahead of a hundred players, a few each.
const BACKGROUND_MAX: u16 = 512;
/// Programs that size their buffers by `st_blksize` read a block of the cache at once.
const PREFERRED_READ_BYTES: u32 = 128 << 10;

/// As the place in a file from which on the kernel is to forget it: no page of it, so that it waits for none.
const ATTRIBUTES_ALONE: i64 = -1;

/// Filesystems below ours, counting the one a lent file is on: an ordinary disk. With two, nothing could be stacked on
/// the drive any more.
const STACK_DEPTH: u32 = 1;

/// The drive as the kernel talks to it.
pub struct Adapter {
    drive: Arc<Drive>,
    // Whether to ask the kernel if it reads cached files by itself.
    lends: bool,
    passthrough: Arc<Passthrough>,
    // Set when there is a session; before that nothing is open.
    notifier: Arc<OnceLock<Notifier>>,
    ended: Box<dyn Fn() + Send + Sync>,
}

impl Adapter {
    /// `lends`: the kernel may read cached files by itself. `ended` is called when it has let go of the drive.
    pub fn new(drive: Arc<Drive>, lends: bool, ended: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            drive,
            lends,
            passthrough: Arc::new(Passthrough::new()),
            notifier: Arc::default(),
            ended: Box::new(ended),
        }
    }
}

fn file_attr(attributes: &Attributes) -> FileAttr {
    let is_folder = attributes.kind == NodeKind::Folder;
    FileAttr {
        ino: INodeNo(attributes.ino),
        size: attributes.size_bytes,
        blocks: attributes.size_bytes.div_ceil(512),
        atime: attributes.modified,
        mtime: attributes.modified,
        ctime: attributes.modified,
        crtime: attributes.modified,
        kind: file_type(attributes.kind),
        perm: attributes.mode,
        nlink: if is_folder { 2 } else { 1 },
        uid: attributes.uid,
        gid: attributes.gid,
        rdev: 0,
        blksize: PREFERRED_READ_BYTES,
        flags: 0,
    }
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Folder => FileType::Directory,
        NodeKind::File => FileType::RegularFile,
        NodeKind::Link => FileType::Symlink,
    }
}

/// For a reply that tells one time to live for both, the name and the attributes.
fn shorter_ttl(drive: &Drive, attributes: &Attributes) -> Duration {
    drive.name_ttl().min(drive.attributes_ttl(attributes))
}

/// Names on the drive are UTF-8; another one can't be there.
fn text(name: &OsStr) -> Result<&str> {
    name.to_str().ok_or_else(|| Error::new(Kind::Missing, "a name that is not UTF-8"))
}

fn answer_empty(reply: ReplyEmpty) -> Box<dyn FnOnce(Outcome<()>) + Send> {
    Box::new(move |done| kernel::reply_empty(done, reply))
}

impl Adapter {
    /// What no library keeps.
    fn unsupported(&self) -> Errno {
        refused(&if self.drive.is_writable() { Refusal::Unsupported } else { Refusal::ReadOnly })
    }

    /// Where the way to tell the kernel something unasked is to be put.
    pub fn notifier(&self) -> Arc<OnceLock<Notifier>> {
        Arc::clone(&self.notifier)
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        kernel::agree(config, &[InitFlags::FUSE_EXPLICIT_INVAL_DATA]);
        if config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).is_ok() {
            self.passthrough.may_go_past();
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        if self.lends {
            let can = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
                && config.set_max_stack_depth(STACK_DEPTH).is_ok();
            if can {
                self.passthrough.turn_on();
            }
            log::info!(
                "passthrough: {}",
                if can { "on" } else { "off, this kernel does not know it (Linux 6.9 does)" }
            );
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.drive.wind_down();
        (self.ended)();
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let drive = Arc::clone(&self.drive);
        match text(name) {
            Ok(name) => self.drive.lookup(parent.0, name, move |found| match found {
                Ok(Found::Name(attributes)) => reply.entry_with_ttls(
                    &drive.attributes_ttl(&attributes),
                    &drive.name_ttl(),
                    &file_attr(&attributes),
                    GENERATION,
                ),
                // The kernel does not remember that.
                Ok(Found::Nothing) => reply.error(Errno::ENOENT),
                Err(error) => reply.error(errno(&error)),
            }),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.drive.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let drive = Arc::clone(&self.drive);
        self.drive.getattr(ino.0, move |attributes| match attributes {
            Ok(attributes) => reply.attr(&drive.attributes_ttl(&attributes), &file_attr(&attributes)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Owner and mode are the mount's; to set them does nothing, or `cp -p` and `mv` could not bring a file here.
        let drive = Arc::clone(&self.drive);
        let changes = Changes { size_bytes: size, modified: mtime.map(kernel::set_time) };
        let answer = move |set: Outcome<Attributes>| match set {
            Ok(attributes) => reply.attr(&drive.attributes_ttl(&attributes), &file_attr(&attributes)),
            Err(refusal) => reply.error(refused(&refusal)),
        };
        self.drive.set_attributes(ino.0, fh.map(|fh| fh.0), changes, Box::new(answer));
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        _mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let Some(name) = name.to_str() else { return reply.error(Errno::EILSEQ) };
        let drive = Arc::clone(&self.drive);
        let answer = move |created: Outcome<(Attributes, u64)>| match created {
            Ok((attributes, handle)) => reply.created(
                &shorter_ttl(&drive, &attributes),
                &file_attr(&attributes),
                GENERATION,
                FileHandle(handle),
                FopenFlags::FOPEN_DIRECT_IO,
            ),
            Err(refusal) => reply.error(refused(&refusal)),
        };
        self.drive.create(parent.0, name, flags & libc::O_EXCL != 0, Box::new(answer));
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // Where it ends the kernel may know from before somebody else appended.
        let offset = Some(offset).filter(|_| flags.0 & libc::O_APPEND == 0);
        self.drive.write(fh.0, offset, data, Box::new(|written| kernel::reply_written(written, reply)));
    }

    fn mkdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, _mode: u32, _umask: u32, reply: ReplyEntry) {
        let Some(name) = name.to_str() else { return reply.error(Errno::EILSEQ) };
        match self.drive.make_folder(parent.0, name) {
            Ok(attributes) => {
                reply.entry(&shorter_ttl(&self.drive, &attributes), &file_attr(&attributes), GENERATION);
            }
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
        self.drive.remove_folder(parent.0, name, answer_empty(reply));
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
        self.drive.unlink(parent.0, name, answer_empty(reply));
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(name) = name.to_str() else { return reply.error(Errno::ENOENT) };
        let Some(newname) = newname.to_str() else { return reply.error(Errno::EILSEQ) };
        if !(flags.is_empty() || flags == RenameFlags::RENAME_NOREPLACE) {
            return reply.error(Errno::EINVAL);
        }
        let (from, to) = ((parent.0, name), (newparent.0, newname));
        self.drive.rename(from, to, flags.is_empty(), answer_empty(reply));
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        self.drive.target(ino.0, move |target| match target {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn mknod(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, _: u32, _: u32, reply: ReplyEntry) {
        reply.error(self.unsupported());
    }

    fn symlink(&self, _: &Request, _: INodeNo, _: &OsStr, _: &Path, reply: ReplyEntry) {
        reply.error(self.unsupported());
    }

    fn link(&self, _: &Request, _: INodeNo, _: INodeNo, _: &OsStr, reply: ReplyEntry) {
        reply.error(self.unsupported());
    }

    fn setxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: &[u8], _: i32, _: u32, reply: ReplyEmpty) {
        reply.error(self.unsupported());
    }

    fn removexattr(&self, _: &Request, _: INodeNo, _: &OsStr, reply: ReplyEmpty) {
        reply.error(self.unsupported());
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let is_truncated = flags.0 & libc::O_TRUNC != 0;
        if is_truncated || flags.acc_mode() != fuser::OpenAccMode::O_RDONLY {
            let answer = |opened: Outcome<u64>| match opened {
                Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO),
                Err(refusal) => reply.error(refused(&refusal)),
            };
            return self.drive.open_to_write(ino.0, is_truncated, Box::new(answer));
        }
        let (drive, passthrough) = (Arc::clone(&self.drive), Arc::clone(&self.passthrough));
        let notifier = Arc::clone(&self.notifier);
        let is_direct = flags.0 & libc::O_DIRECT != 0;
        self.drive.open(ino.0, self.passthrough.can_go_past(), move |opened| match opened {
            Ok(opened) => {
                let give = || {
                    if let (Some(head), Some(notifier)) = (&opened.head, notifier.get())
                        && let Err(error) = notifier.store(ino, 0, head)
                    {
                        // The kernel asks for them, then.
                        log::debug!("the kernel does not take a file's first bytes: {error}");
                    }
                };
                if let (true, Some(notifier)) = (opened.is_resized, notifier.get())
                    && let Err(error) = notifier.inval_inode(ino, ATTRIBUTES_ALONE, 0)
                {
                    // It asks again when its time is up.
                    log::debug!("the kernel keeps a file's old size: {error}");
                }
                let backing = if passthrough.is_on() { drive.backing(opened.handle) } else { None };
                let way = (is_direct, opened.is_scan || opened.is_followed);
                if let Err(reply) = passthrough.reply(ino.0, opened.handle, way, backing, give, reply) {
                    // The kernel looks the name up again, and opens the number it is given then.
                    drive.renumber(opened.handle);
                    reply.error(Errno::ESTALE);
                }
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.drive.read(fh.0, offset, size as usize, move |answer| match answer {
            Ok(bytes) => reply.data(bytes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn flush(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        self.drive.sync(fh.0, true, answer_empty(reply));
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.drive.sync(fh.0, false, answer_empty(reply));
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if !self.drive.release_written(fh.0) {
            self.drive.release(fh.0);
            self.passthrough.release(ino.0);
        }
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.drive.opendir(ino.0, move |opened| match opened {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let read = self.drive.readdir(fh.0, offset, |entry| {
            reply.add(INodeNo(entry.ino), entry.next_offset, file_type(entry.kind), entry.name)
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn readdirplus(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let read = self.drive.readdir_plus(fh.0, offset, |entry, attributes| {
            // The kernel takes no attributes of the two dots; it only wants their type.
            let dot = Attributes {
                ino: entry.ino,
                kind: entry.kind,
                size_bytes: 0,
                modified: SystemTime::UNIX_EPOCH,
                mode: 0o555,
                uid: 0,
                gid: 0,
                is_complete: false,
                may_grow: false,
            };
            let attributes = attributes.unwrap_or(dot);
            reply.add(
                INodeNo(entry.ino),
                entry.next_offset,
                entry.name,
                &shorter_ttl(&self.drive, &attributes),
                &file_attr(&attributes),
                GENERATION,
            )
        });
        match read {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.drive.releasedir(fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let capacity = self.drive.capacity();
        let blocks = capacity.size_bytes.div_ceil(u64::from(BLOCK_BYTES));
        let free = capacity.free_bytes / u64::from(BLOCK_BYTES);
        let (names, name_bytes) = (capacity.names, NAME_BYTES_MAX as u32);
        reply.statfs(blocks.saturating_add(free), free, free, names, 0, BLOCK_BYTES, name_bytes, BLOCK_BYTES);
    }

    fn access(&self, _req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        if mask.contains(AccessFlags::W_OK) && !self.drive.is_writable() {
            return reply.error(Errno::EROFS);
        }
        // Who may read is told by the mode bits, which the kernel checks itself.
        self.drive.getattr(ino.0, move |attributes| match attributes {
            Ok(_) => reply.ok(),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match text(name).and_then(|name| self.drive.getxattr(ino.0, name)) {
            Ok(Some(value)) => kernel::reply_value(value.as_bytes(), size, reply),
            Ok(None) => reply.error(Errno::ENODATA),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.drive.listxattr(ino.0) {
            Ok(names) => kernel::reply_names(names, size, reply),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let found = match (u64::try_from(offset), whence) {
            (Ok(offset), libc::SEEK_DATA) => self.drive.seek(fh.0, offset, false),
            (Ok(offset), libc::SEEK_HOLE) => self.drive.seek(fh.0, offset, true),
            // The kernel does all other kinds itself.
            _ => return reply.error(Errno::EINVAL),
        };
        match found {
            Ok(offset) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
            Err(error) if error.kind() == Kind::Missing => reply.error(Errno::ENXIO),
            Err(error) => reply.error(errno(&error)),
        }
    }
}
