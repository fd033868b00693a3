//! The kernel's adapter of a volume: unpack, call, reply.
//! Never here: decisions. What a name, a file or a refusal is, the volume says.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
    TimeOrNow, WriteFlags,
};

use super::errno::refused;
use super::kernel::{self, BLOCK_BYTES, GENERATION, REQUEST_MAX_BYTES, reply_empty, reply_written, set_time};
use crate::library::catalog::{Node, NodeKind};
use crate::range::ByteRange;
use crate::refusal::{Outcome, Refusal};
use crate::store::NAME_BYTES_MAX;
use crate::volume::{Changes, Made, Replace, SetMode, Version, Volume};

/// Programs that size their buffers by `st_blksize`, `cp` for one, read and write so much at once: one request of the kernel's,
/// where its own 128 KiB would make eight.
const PREFERRED_BYTES: u32 = REQUEST_MAX_BYTES;
/// All opens of a file are one: the kernel names the node with each request. Beside another writer the handle is the version
/// that was opened.
const HANDLE: FileHandle = FileHandle(0);
/// `S_ISUID` and `S_ISGID`.
const RUNS_AS_OWNER: u32 = 0o6000;
/// Places in a folder: before `.`, before `..`, before the first name; then, one more, the numbers of the names.
const NAMES_FROM: u64 = 2;

/// The volume as the kernel talks to it.
pub struct VolumeAdapter {
    volume: Arc<Volume>,
    // The kernel drops cached pages of what is written past them (since Linux 6.6).
    writes_direct: bool,
    ended: Box<dyn Fn() + Send + Sync>,
}

impl VolumeAdapter {
    /// `ended` is called when the kernel has let go of it.
    pub fn new(volume: Arc<Volume>, ended: impl Fn() + Send + Sync + 'static) -> Self {
        Self { volume, writes_direct: false, ended: Box::new(ended) }
    }

    /// How the kernel is to treat a file that was opened.
    fn opened(&self, node: &Node, flags: i32) -> (FileHandle, FopenFlags) {
        if self.volume.is_read_only() {
            return (FileHandle(Version::of(node).0), FopenFlags::empty());
        }
        // What the kernel has read stays true: every change comes through it. Not so beside another writer, and not after a
        // write that was lost.
        let are_true = self.volume.are_pages_true(node.node_id);
        let keeps = if are_true { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
        // What is only written comes here as it is, and is not copied into pages that nobody may read.
        let is_write_only = flags & libc::O_ACCMODE == libc::O_WRONLY;
        // A write takes the right to run as somebody else away; past its pages the kernel leaves that to us.
        let is_plain = node.mode & RUNS_AS_OWNER == 0;
        let is_direct = is_write_only && is_plain && self.writes_direct;
        (HANDLE, if is_direct { keeps | FopenFlags::FOPEN_DIRECT_IO } else { keeps })
    }

    fn reply_entry(&self, node: Outcome<Node>, reply: ReplyEntry) {
        match node {
            Ok(node) => reply.entry(&self.volume.ttl(), &file_attr(&node), GENERATION),
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn reply_attr(&self, node: Outcome<Node>, reply: ReplyAttr) {
        match node {
            Ok(node) => reply.attr(&self.volume.ttl(), &file_attr(&node)),
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    /// Hands the entries of a folder from `offset` on to `add`, which says whether it is full.
    fn read_folder(
        &self,
        handle: u64,
        folder: u64,
        mut offset: u64,
        mut add: impl FnMut(u64, u64, &str, Option<&Node>) -> bool,
    ) -> Outcome<()> {
        if offset == 0 {
            self.volume.begin_folder(handle, folder)?;
            offset = 1;
            if add(folder, offset, ".", None) {
                return Ok(());
            }
        }
        if offset == 1 {
            offset = NAMES_FROM;
            if add(self.volume.parent(folder)?, offset, "..", None) {
                return Ok(());
            }
        }
        loop {
            let entries = self.volume.entries(handle, folder, offset - NAMES_FROM)?;
            if entries.is_empty() {
                return Ok(());
            }
            for entry in entries {
                offset = entry.name_id + NAMES_FROM;
                if add(entry.node.node_id, offset, &entry.name, Some(&entry.node)) {
                    return Ok(());
                }
            }
        }
    }
}

/// A node that says nothing.
fn nothing() -> Node {
    Node::new(NodeKind::Folder, 0, (0, 0), SystemTime::UNIX_EPOCH)
}

fn file_attr(node: &Node) -> FileAttr {
    FileAttr {
        ino: INodeNo(node.node_id),
        size: node.size_bytes,
        // Holes take no room: by this number programs tell that there are some.
        blocks: node.size_bytes.saturating_sub(node.hole_bytes).div_ceil(512),
        atime: node.accessed,
        mtime: node.modified,
        ctime: node.changed,
        crtime: node.created,
        kind: file_type(node.kind),
        perm: node.mode as u16,
        nlink: node.links,
        uid: node.uid,
        gid: node.gid,
        rdev: node.rdev,
        blksize: PREFERRED_BYTES,
        flags: 0,
    }
}

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Folder => FileType::Directory,
        NodeKind::File => FileType::RegularFile,
        NodeKind::Link => FileType::Symlink,
        NodeKind::Pipe => FileType::NamedPipe,
        NodeKind::Socket => FileType::Socket,
        NodeKind::Block => FileType::BlockDevice,
        NodeKind::Character => FileType::CharDevice,
    }
}

/// What `mknod` is to make; nothing of a mode that names no kind.
fn node_kind(mode: u32) -> Option<NodeKind> {
    Some(match mode & libc::S_IFMT {
        0 | libc::S_IFREG => NodeKind::File,
        libc::S_IFIFO => NodeKind::Pipe,
        libc::S_IFSOCK => NodeKind::Socket,
        libc::S_IFBLK => NodeKind::Block,
        libc::S_IFCHR => NodeKind::Character,
        _ => return None,
    })
}

impl Filesystem for VolumeAdapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Beside another writer, what the kernel has read is true as long as size and time are.
        let pages = if self.volume.is_read_only() {
            InitFlags::FUSE_AUTO_INVAL_DATA
        } else {
            InitFlags::FUSE_EXPLICIT_INVAL_DATA
        };
        kernel::agree(config, &[InitFlags::FUSE_CACHE_SYMLINKS, pages]);
        self.writes_direct = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).is_ok();
        Ok(())
    }

    fn destroy(&mut self) {
        // Told in the log; whoever ends the mount hears of it, too.
        let _ = self.volume.wind_down();
        (self.ended)();
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.volume.lookup(parent.0, name) {
            // An entry without a number is one that is not there, for so long.
            Err(Refusal::Missing) => reply.entry(&self.volume.ttl(), &file_attr(&nothing()), GENERATION),
            found => self.reply_entry(found, reply),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.volume.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.reply_attr(self.volume.attributes(ino.0), reply);
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let changes =
            Changes { mode, uid, gid, size_bytes: size, accessed: atime.map(set_time), modified: mtime.map(set_time) };
        self.reply_attr(self.volume.set_attributes(ino.0, &changes), reply);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.volume.target(ino.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn mknod(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, rdev: u32, reply: ReplyEntry) {
        let Some(kind) = node_kind(mode) else { return reply.error(Errno::EINVAL) };
        let what = Made { kind, mode, rdev, target: None, owner: (req.uid(), req.gid()) };
        self.reply_entry(self.volume.make(parent.0, name, &what), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, _umask: u32, reply: ReplyEntry) {
        let what = Made { kind: NodeKind::Folder, mode, rdev: 0, target: None, owner: (req.uid(), req.gid()) };
        self.reply_entry(self.volume.make(parent.0, name, &what), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (target, owner) = (Some(target.as_os_str()), (req.uid(), req.gid()));
        let what = Made { kind: NodeKind::Link, mode: 0o777, rdev: 0, target, owner };
        self.reply_entry(self.volume.make(parent.0, name, &what), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.volume.unlink(parent.0, name), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.volume.remove_folder(parent.0, name), reply);
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
        let replace = if flags.is_empty() {
            Replace::Yes
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            Replace::No
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            Replace::Exchange
        } else {
            return reply.error(Errno::EINVAL);
        };
        reply_empty(self.volume.rename((parent.0, name), (newparent.0, newname), replace), reply);
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        self.reply_entry(self.volume.link(ino.0, newparent.0, newname), reply);
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.volume.open_file(ino.0, flags.0 & libc::O_TRUNC != 0) {
            Ok(node) => {
                let (handle, flags) = self.opened(&node, flags.0);
                reply.opened(handle, flags);
            }
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let what = Made { kind: NodeKind::File, mode, rdev: 0, target: None, owner: (req.uid(), req.gid()) };
        let created = self.volume.make(parent.0, name, &what).and_then(|node| {
            self.volume.open_file(node.node_id, false)?;
            Ok(node)
        });
        match created {
            Ok(node) => {
                let (handle, flags) = self.opened(&node, flags);
                reply.created(&self.volume.ttl(), &file_attr(&node), GENERATION, handle, flags);
            }
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = if self.volume.is_read_only() {
            self.volume.read_version(ino.0, Version(fh.0), offset, size as usize)
        } else {
            self.volume.read(ino.0, offset, size as usize)
        };
        match read {
            Ok(bytes) => reply.data(&bytes),
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply_written(self.volume.write(ino.0, offset, data), reply);
    }

    fn flush(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply_empty(self.volume.flush(ino.0), reply);
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty(self.volume.sync(ino.0), reply);
    }

    fn release(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.volume.close(ino.0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty(self.volume.sync_names(), reply);
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(self.volume.open_folder()), FopenFlags::empty());
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.volume.close_folder(fh.0);
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let read = self.read_folder(fh.0, ino.0, offset, |ino, next, name, node| {
            reply.add(INodeNo(ino), next, node.map_or(FileType::Directory, |node| file_type(node.kind)), name)
        });
        match read {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let ttl = self.volume.ttl();
        let read = self.read_folder(fh.0, ino.0, offset, |ino, next, name, node| {
            // The kernel takes no attributes of the two dots; it only wants their type.
            let dot = Node { node_id: ino, ..nothing() };
            let ttl = if node.is_some() { ttl } else { Duration::ZERO };
            let is_full = reply.add(INodeNo(ino), next, name, &ttl, &file_attr(node.unwrap_or(&dot)), GENERATION);
            if !is_full && node.is_some() {
                self.volume.remember(ino);
            }
            is_full
        });
        match read {
            Ok(()) => reply.ok(),
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.volume.room().and_then(|room| Ok((room, self.volume.nodes_count()?))) {
            Ok((room, nodes)) => {
                let blocks = |bytes: u64| bytes / u64::from(BLOCK_BYTES);
                let free = blocks(room.free_bytes);
                // As many files as there is room for.
                let (files, names) = (nodes + free, NAME_BYTES_MAX as u32);
                reply.statfs(blocks(room.size_bytes), free, free, files, free, BLOCK_BYTES, names, BLOCK_BYTES);
            }
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let mode = match flags {
            libc::XATTR_CREATE => SetMode::Create,
            libc::XATTR_REPLACE => SetMode::Replace,
            _ => SetMode::Any,
        };
        reply_empty(self.volume.set_xattr(ino.0, name, value, mode), reply);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.volume.xattr(ino.0, name) {
            Ok(value) => kernel::reply_value(&value, size, reply),
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.volume.xattr_names(ino.0) {
            Ok(names) => kernel::reply_names(&names, size, reply),
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(self.volume.remove_xattr(ino.0, name), reply);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let range = ByteRange::at(offset, length);
        let keeps_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let punches = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => false,
            libc::FALLOC_FL_PUNCH_HOLE if keeps_size => true,
            libc::FALLOC_FL_ZERO_RANGE => true,
            _ => return reply.error(Errno::EOPNOTSUPP),
        };
        reply_empty(self.volume.allocate(ino.0, range, punches, keeps_size), reply);
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let found = match (u64::try_from(offset), whence) {
            (Ok(offset), libc::SEEK_DATA) => self.volume.seek(ino.0, offset, true),
            (Ok(offset), libc::SEEK_HOLE) => self.volume.seek(ino.0, offset, false),
            (Err(_), _) => return reply.error(Errno::ENXIO),
            // The kernel does all other kinds itself.
            _ => return reply.error(Errno::EINVAL),
        };
        match found {
            Ok(offset) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
            Err(refusal) => reply.error(refused(&refusal)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply_written(self.volume.copy((ino_in.0, offset_in), (ino_out.0, offset_out), len), reply);
    }
}
