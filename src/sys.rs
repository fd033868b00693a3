//! System calls the standard library lacks, each wrapped once. The only file that may say `unsafe`.
//! Never here: policy.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

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

/// Asks the kernel to forget its cached pages of a file, so that the next read is asked of the filesystem again.
/// Advice only: pages in use stay.
pub fn drop_page_cache(file: &File) -> io::Result<()> {
    // SAFETY: a plain system call on a descriptor that `file` keeps open; it touches no memory of ours.
    let errno = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
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
