//! What both adapters tell the kernel alike: at the start, and in their replies.
//! Never here: what they differ in, and decisions.

use std::time::SystemTime;

use fuser::{Errno, Generation, InitFlags, KernelConfig, ReplyEmpty, ReplyWrite, ReplyXattr, TimeOrNow};

use super::errno::refused;
use crate::refusal::Outcome;

/// Longest request: the kernel's own limit (256 pages).
pub(super) const REQUEST_MAX_BYTES: u32 = 1 << 20;
/// What `df` counts in, and programs read in if they ask.
pub(super) const BLOCK_BYTES: u32 = 4096;
/// Inode numbers are not used twice while the kernel knows them.
pub(super) const GENERATION: Generation = Generation(0);

/// What every drive of ours wants of the kernel.
const WANTED: [InitFlags; 5] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
];

/// Agrees with the kernel on what it does, that and `also`, and on how large a request may be.
pub(super) fn agree(config: &mut KernelConfig, also: &[InitFlags]) {
    // Older kernels lack some of these; a drive works without any.
    for wanted in WANTED.iter().chain(also) {
        if let Err(missing) = config.add_capabilities(*wanted) {
            log::debug!("this kernel's FUSE lacks {missing:?}");
        }
    }
    // Each setter answers with the nearest value that is allowed.
    if let Err(most) = config.set_max_write(REQUEST_MAX_BYTES) {
        let _ = config.set_max_write(most);
    }
    if let Err(most) = config.set_max_readahead(REQUEST_MAX_BYTES) {
        let _ = config.set_max_readahead(most);
    }
}

/// The time that a program wants set.
pub(super) fn set_time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

pub(super) fn reply_empty(done: Outcome<()>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(refusal) => reply.error(refused(&refusal)),
    }
}

pub(super) fn reply_written(written: Outcome<usize>, reply: ReplyWrite) {
    match written {
        Ok(written) => reply.written(written as u32),
        Err(refusal) => reply.error(refused(&refusal)),
    }
}

/// An attribute's value, or only its size where no more was asked.
pub(super) fn reply_value(value: &[u8], size: u32, reply: ReplyXattr) {
    match size {
        0 => reply.size(value.len() as u32),
        size if value.len() <= size as usize => reply.data(value),
        _ => reply.error(Errno::ERANGE),
    }
}

/// The names of a node's attributes, likewise.
pub(super) fn reply_names(names: &[impl AsRef<str>], size: u32, reply: ReplyXattr) {
    let list: String = names.iter().flat_map(|name| [name.as_ref(), "\0"]).collect();
    reply_value(list.as_bytes(), size, reply);
}
