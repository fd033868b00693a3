//! The one place where an error becomes an errno.
//! Never here: anything else.

use fuser::Errno;

use crate::error::{Error, Kind};
use crate::refusal::Refusal;

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

/// What a program on the drive sees of a refusal.
pub fn refused(refusal: &Refusal) -> Errno {
    match refusal {
        Refusal::Missing => Errno::ENOENT,
        Refusal::Exists => Errno::EEXIST,
        Refusal::NotFolder => Errno::ENOTDIR,
        Refusal::IsFolder => Errno::EISDIR,
        Refusal::NotEmpty => Errno::ENOTEMPTY,
        Refusal::NotPermitted => Errno::EPERM,
        Refusal::Invalid => Errno::EINVAL,
        Refusal::NameTooLong => Errno::ENAMETOOLONG,
        Refusal::NotText => Errno::EILSEQ,
        Refusal::TooLarge => Errno::EFBIG,
        Refusal::TooManyLinks => Errno::EMLINK,
        Refusal::NoAttribute => Errno::ENODATA,
        Refusal::NoSpaceForAttribute => Errno::ENOSPC,
        Refusal::OtherPlace => Errno::EXDEV,
        Refusal::Unsupported => Errno::EOPNOTSUPP,
        Refusal::ReadOnly => Errno::EROFS,
        Refusal::PastEnd => Errno::ENXIO,
        Refusal::Failed(error) => {
            log::debug!("{error}");
            errno(error)
        }
    }
}
