//! The kernel's side: the mount point, the signals that end a mount, and the adapter between the kernel and the drive.
//! Never here: decisions about files; those are the drive's.

pub mod adapter;
pub mod errno;
mod kernel;
pub mod mount_point;
pub mod mount_table;
pub mod passthrough;
pub mod probe;
mod readahead;
pub mod reaper;
pub mod session;
pub mod signals;
pub mod volume_adapter;
