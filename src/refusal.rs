//! Why a filesystem does not do what a program asks: the cases that POSIX tells apart.
//! Never here: errno (see `fuse::errno`).

use crate::error::{Error, Kind};

/// What a program is told.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// There is no such name, or what it named is no more.
    Missing,
    /// There is something by this name.
    Exists,
    /// A folder is wanted.
    NotFolder,
    /// No folder is wanted.
    IsFolder,
    /// The folder still holds names.
    NotEmpty,
    /// Nobody may do this.
    NotPermitted,
    /// It makes no sense.
    Invalid,
    /// A longer name than there can be.
    NameTooLong,
    /// A name or a target that is not UTF-8.
    NotText,
    /// A larger file than there can be.
    TooLarge,
    /// More names of one file than there can be.
    TooManyLinks,
    /// There is no such attribute.
    NoAttribute,
    /// A larger attribute than there can be, or too many.
    NoSpaceForAttribute,
    /// It is given another name file by file, as between two drives.
    OtherPlace,
    /// This can't be done here.
    Unsupported,
    /// Nothing may be changed.
    ReadOnly,
    /// Neither data nor a hole is there.
    PastEnd,
    /// It went wrong.
    Failed(Error),
}

/// What a program asked for, or why not.
pub type Outcome<T> = std::result::Result<T, Refusal>;

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error.kind() {
            Kind::Missing => Self::Missing,
            Kind::Unsupported => Self::Unsupported,
            _ => Self::Failed(error),
        }
    }
}
