//! The one place where an error becomes an errno.
//! Never here: anything else.

use fuser::Errno;

use crate::error::{Error, Kind};

/// What a program on the drive sees of an error.
pub fn errno(error: &Error) -> Errno {
    match error.kind() {
        Kind::Missing => Errno::ENOENT,
        Kind::Denied => Errno::EACCES,
        // The kernel looks the name up again and finds the new version.
        Kind::Changed => Errno::ESTALE,
        Kind::Full => Errno::ENOSPC,
        Kind::Invalid => Errno::EINVAL,
        // A player understands "it can't be read"; the log says why.
        Kind::Corrupt
        | Kind::Unreachable
        | Kind::Away
        | Kind::TimedOut
        | Kind::Busy
        | Kind::Unsupported
        | Kind::Cancelled
        | Kind::Local => Errno::EIO,
    }
}
