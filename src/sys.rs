//! Calls that the standard library and rusqlite lack, each wrapped once. The only file that may say `unsafe`.
//! Never here: policy.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::Once;
use std::time::Duration;

use rusqlite::{Connection, ffi};

use crate::range::ByteRange;

/// Gives the blocks of `range` back to the filesystem; the file keeps its length and reads zeros there.
pub fn punch_hole(file: &File, range: ByteRange) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    let (Ok(start), Ok(len)) = (range.start.try_into(), range.len().try_into()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    // SAFETY: a plain system call on a descriptor that `file` keeps open; it touches no memory of ours.
    let done = unsafe {
        libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, start, len)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Real user and group: who invoked us, also where the program is setuid.
pub fn invoking_user() -> (u32, u32) {
    // SAFETY: neither call takes an argument, touches memory or can fail.
    unsafe { (libc::getuid(), libc::getgid()) }
}

/// Whether the kernel treats us as root.
pub fn is_root() -> bool {
    // SAFETY: takes no argument, touches no memory, can't fail.
    unsafe { libc::geteuid() == 0 }
}

/// The time since the machine was started, its sleep included; zero if the kernel does not tell.
pub fn since_boot() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes into `time`, which outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

/// Stats `path` by asking its filesystem, not by what the kernel remembers of it: the root of a dead FUSE mount keeps
/// its attributes until their time is up, and a plain `stat` of it succeeds as long.
pub fn stat_afresh(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut stat = std::mem::MaybeUninit::<libc::statx>::uninit();
    // SAFETY: the path is NUL-terminated and the buffer is large enough; both outlive the call. The buffer isn't read.
    let done = unsafe {
        libc::statx(
            libc::AT_FDCWD,
            path.as_ptr(),
            libc::AT_STATX_FORCE_SYNC | libc::AT_NO_AUTOMOUNT,
            libc::STATX_BASIC_STATS,
            stat.as_mut_ptr(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Takes the topmost mount off `path`; `lazy` also while it is in use: it is gone from the tree at once, and whole when
/// its last file is closed. Needs root.
pub fn unmount(path: &Path, lazy: bool) -> io::Result<()> {
    let path = c_path(path)?;
    let flags = libc::UMOUNT_NOFOLLOW | if lazy { libc::MNT_DETACH } else { 0 };
    // SAFETY: the path is NUL-terminated and outlives the call.
    let done = unsafe { libc::umount2(path.as_ptr(), flags) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends the connection of the FUSE filesystem mounted on `path`: whoever waits for it gets an error. Takes it off, too, if nobody
/// uses it; an error otherwise. Needs root.
pub fn abort_mount(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the path is NUL-terminated and outlives the call.
    let done = unsafe { libc::umount2(path.as_ptr(), libc::MNT_FORCE | libc::UMOUNT_NOFOLLOW) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the program that `command` will start outlive what ends this one: in a session of its own, where neither the
/// terminal's Ctrl-C nor its end is heard, and deaf to polite requests to stop from its first instruction on.
pub fn outlive_us(command: &mut Command) -> &mut Command {
    let detach = || {
        // SAFETY: both calls are async-signal-safe and touch no memory; an ignored signal stays ignored over exec.
        unsafe {
            for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
                libc::signal(signal, libc::SIG_IGN);
            }
            if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        }
    };
    // SAFETY: the closure runs between fork and exec: it allocates nothing, takes no lock and can't panic.
    unsafe { command.pre_exec(detach) }
}

/// Makes the program that `command` will start a session of its own, where neither the terminal's Ctrl-C nor its end is
/// heard, holding nothing of ours but the three usual files: whatever else we were started with, a lock for example, would
/// be held as long as it lives.
pub fn detach(command: &mut Command) -> &mut Command {
    let detach = || {
        // SAFETY: both calls are async-signal-safe and touch no memory. Files are closed by exec, not here: the standard
        // library still needs one of its own.
        unsafe {
            // Kernels before 5.11 don't know it: those files stay open, then.
            libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
            if libc::setsid() < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
        }
    };
    // SAFETY: the closure runs between fork and exec: it allocates nothing, takes no lock and can't panic.
    unsafe { command.pre_exec(detach) }
}

/// Asks the kernel to forget its cached pages of a file, so that the next read is asked of the filesystem again.
/// Advice only: pages in use stay.
pub fn drop_page_cache(file: &File) -> io::Result<()> {
    // A length of 0 is all of it.
    advise_unneeded(file, 0, 0)
}

/// The same for the pages that lie wholly in `range`.
pub fn drop_pages(file: &File, range: ByteRange) -> io::Result<()> {
    match (range.start.try_into(), range.len().try_into()) {
        (Ok(start), Ok(len)) if !range.is_empty() => advise_unneeded(file, start, len),
        _ => Ok(()),
    }
}

fn advise_unneeded(file: &File, start: libc::off_t, len: libc::off_t) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that `file` keeps open; it touches no memory of ours.
    let errno = unsafe { libc::posix_fadvise(file.as_raw_fd(), start, len, libc::POSIX_FADV_DONTNEED) };
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Bytes an unprivileged user may still write on the filesystem that holds `file`.
pub fn free_bytes(file: &File) -> io::Result<u64> {
    Ok(volume(file)?.free_bytes)
}

/// Size and free space of a filesystem, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// All of it.
    pub size_bytes: u64,
    /// What an unprivileged user may still write.
    pub free_bytes: u64,
}

/// The filesystem that holds `file`.
pub fn volume(file: &File) -> io::Result<Volume> {
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the pointer is to a statvfs of ours that lives through the call, the descriptor is open.
    let done = unsafe { libc::fstatvfs(file.as_raw_fd(), stat.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all-zero is a valid statvfs, and the call succeeded in filling it.
    let stat = unsafe { stat.assume_init() };
    Ok(Volume {
        size_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Buffers of at least so many bytes have pages of their own, which go back to the system when the buffer is freed. Pieces
/// of a film come and go in all sizes: in the allocator's heaps they leave holes, a third of what fifty streams held.
#[cfg(target_env = "gnu")]
const OWN_PAGES_BYTES_MIN: libc::c_int = 128 << 10;
/// Heaps of the allocator for all threads; by itself it has one for each.
#[cfg(target_env = "gnu")]
const HEAPS_MAX: libc::c_int = 2;

/// How often `SQLite` planned the kept statements of `connection` anew since they were prepared.
pub fn statement_replans(connection: &Connection) -> u64 {
    let mut replans = 0;
    // SAFETY: `connection` is borrowed, so that its handle and its statements live until the end; no other thread uses it,
    // as it is not `Sync`; the status is read and not reset.
    unsafe {
        let database = connection.handle();
        let mut statement = ffi::sqlite3_next_stmt(database, ptr::null_mut());
        while !statement.is_null() {
            let count = ffi::sqlite3_stmt_status(statement, ffi::SQLITE_STMTSTATUS_REPREPARE, 0);
            replans += u64::try_from(count).unwrap_or(0);
            statement = ffi::sqlite3_next_stmt(database, statement);
        }
    }
    replans
}

/// Has the allocator keep less of what is freed. Best effort; other C libraries than GNU's have nothing to set.
pub fn keep_allocator_lean() {
    // SAFETY: plain calls that set numbers in the allocator.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, HEAPS_MAX);
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_PAGES_BYTES_MIN);
    }
}

/// Lets this process open as many files as it is allowed to ask for. Best effort: the limit it had still holds then.
pub fn raise_open_files_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: plain system calls on a struct of ours that lives through both.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Waits until everything written to the filesystem that holds `file` is on the disk, its folders too. One call for many
/// files costs about what `fsync` costs for one; it waits for what other programs wrote as well.
pub fn sync_filesystem(file: &File) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that `file` keeps open; it touches no memory of ours.
    let done = unsafe { libc::syncfs(file.as_raw_fd()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether `sync_filesystem` keeps what an `fsync` of each file would: on filesystems of this machine that are known for it.
/// A share sends what was written to its server, and does not ask the server to keep it; so does FUSE.
pub fn keeps_all_by_one_sync(file: &File) -> io::Result<bool> {
    Ok(KEPT_BY_ONE_SYNC.contains(&rustix::fs::fstatfs(file)?.f_type))
}

/// As statfs(2) tells them: ext2 to ext4, XFS, btrfs, F2FS, ZFS, bcachefs, tmpfs.
const KEPT_BY_ONE_SYNC: [rustix::fs::FsWord; 7] =
    [0xef53, 0x5846_5342, 0x9123_683e, 0xf2f5_2010, 0x2fc1_2fc1, 0xca45_1a4e, 0x0102_1994];

/// Has the kernel begin to write a file's pages out, without waiting for it: a sync to come finds less to do. Advice only.
pub fn begin_writing_out(file: &File) {
    // SAFETY: a plain system call on a descriptor that `file` keeps open; it touches no memory of ours.
    // A length of 0 is all of it; an error will be told again by the sync.
    let _ = unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
}

/// `BUS_ADRERR` of sigaction(2): the mapped file does not reach so far any longer.
const BEYOND_THE_FILE: i32 = 2;

/// Keeps the process alive when another program cuts the `-shm` file that `SQLite` has mapped: from then on an empty page of our
/// own stands there. Any other such fault ends the process as before.
pub fn survive_cut_shared_memory() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        // SAFETY: an all-zero sigaction is valid, the handler calls what is async-signal-safe only, and both pointers are right.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_bus_error as *const () as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
        }
    });
}

extern "C" fn on_bus_error(signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid siginfo. All calls are async-signal-safe. The page that is replaced can't be read or
    // written as it is, and nothing but `SQLite` uses it.
    unsafe {
        // The thread that was interrupted may be about to look at its own.
        let (errno, interrupted) = (libc::__errno_location(), *libc::__errno_location());
        let address = (*info).si_addr() as usize;
        if (*info).si_code == BEYOND_THE_FILE && is_in_shared_memory(address) {
            let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).unwrap_or(1).max(1);
            let start = (address - address % page) as *mut libc::c_void;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            if libc::mmap(start, page, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) == start {
                *errno = interrupted;
                return;
            }
        }
        // The instruction runs again, and ends the process; where another program sent the signal, there is none.
        libc::signal(signal, libc::SIG_DFL);
        if (*info).si_code <= libc::SI_USER {
            libc::raise(signal);
        }
        *errno = interrupted;
    }
}

/// Whether the address is in a mapped file that `SQLite` shares between connections. Allocates nothing.
fn is_in_shared_memory(address: usize) -> bool {
    let mut finder = MapFinder::new(address);
    let mut buffer = [0_u8; 1024];
    // SAFETY: plain system calls on a descriptor of our own and a buffer that lives through them.
    unsafe {
        let maps = libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        let mut found = None;
        while found.is_none() {
            let Ok(count) = usize::try_from(libc::read(maps, buffer.as_mut_ptr().cast(), buffer.len())) else { break };
            if count == 0 {
                break;
            }
            found = buffer.iter().take(count).find_map(|byte| finder.feed(*byte));
        }
        libc::close(maps);
        found == Some(true)
    }
}

/// Looks for an address in the lines of `/proc/PID/maps`, byte by byte.
struct MapFinder {
    address: usize,
    // The line's first address and the one behind its last; how many of the two are whole.
    bounds: [usize; 2],
    whole: usize,
    last: [u8; SHARED_MEMORY_REMOVED.len()],
}

/// How the names of `SQLite`'s shared memory end, as it is, and once it is removed.
const SHARED_MEMORY: &[u8] = b"-shm";
const SHARED_MEMORY_REMOVED: &[u8] = b"-shm (deleted)";

impl MapFinder {
    fn new(address: usize) -> Self {
        Self { address, bounds: [0; 2], whole: 0, last: [0; SHARED_MEMORY_REMOVED.len()] }
    }

    /// Takes the next byte; at the end of the line with the address, whether its file is `SQLite`'s shared memory.
    fn feed(&mut self, byte: u8) -> Option<bool> {
        let is_here = (self.bounds[0]..self.bounds[1]).contains(&self.address);
        match (byte, self.bounds.get_mut(self.whole)) {
            (b'\n', _) => {
                let is_shared_memory = self.last.ends_with(SHARED_MEMORY) || self.last == SHARED_MEMORY_REMOVED;
                let answer = is_here.then_some(is_shared_memory);
                *self = Self::new(self.address);
                return answer;
            }
            (b'-' | b' ', Some(_)) => self.whole += 1,
            (digit, Some(bound)) => {
                *bound = bound.wrapping_shl(4) | (digit as char).to_digit(16).unwrap_or(0) as usize;
            }
            (_, None) => {
                self.last.rotate_left(1);
                self.last[SHARED_MEMORY_REMOVED.len() - 1] = byte;
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_found_in_the_maps_of_a_process() {
        let maps = "55d0c0de0000-55d0c0df2000 r-xp 00002000 fd:00 131 /usr/bin/reelfs\n\
                    7f00aa000000-7f00aa008000 rw-s 00000000 fd:00 77 /c/index.sqlite-shm (deleted)\n\
                    7f00ab000000-7f00ab008000 rw-p 00000000 00:00 0\n\
                    7f00ac000000-7f00ac008000 rw-s 00000000 fd:00 78 /c/index.sqlite-shm\n\
                    7f00ad000000-7f00ad008000 rw-s 00000000 fd:00 79 /my-shm/film-shm.mkv (deleted)\n";
        let find = |address| {
            let mut finder = MapFinder::new(address);
            maps.bytes().find_map(|byte| finder.feed(byte))
        };
        assert_eq!(find(0x55d0_c0de_0000), Some(false));
        assert_eq!((find(0x7f00_aa00_0000), find(0x7f00_aa00_7fff)), (Some(true), Some(true)));
        assert_eq!((find(0x7f00_ac00_0000), find(0x7f00_ad00_0000)), (Some(true), Some(false)));
        assert_eq!((find(0x7f00_aa00_8000), find(0x7f00_ab00_0001)), (None, Some(false)));
    }
}
