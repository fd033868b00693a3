//! While a backup copies blobs, no process removes any: a lock of the folder `blobs`, shared by those who copy. It is the
//! kernel's, and goes with its process, however that ends.
//! Never here: which blobs are copied.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Result};

/// A removal takes less than a millisecond; many may follow each other closely.
const WAIT_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// No blob is removed as long as this lives.
pub struct Hold {
    // Its lock goes when it is closed.
    _folder: File,
}

impl Hold {
    /// Waits for a removal that is under way.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let (path, folder) = open(dir)?;
        let give_up_at = Instant::now() + WAIT_MAX;
        loop {
            match folder.try_lock_shared() {
                Ok(()) => return Ok(Self { _folder: folder }),
                Err(TryLockError::WouldBlock) if Instant::now() < give_up_at => thread::sleep(LOOK_EVERY),
                Err(TryLockError::WouldBlock) => {
                    let message = format!("{}: another process keeps removing chunks: try again", path.display());
                    return Err(Error::new(Kind::Busy, message));
                }
                Err(TryLockError::Error(error)) => return Err(Error::io(path.display(), &error)),
            }
        }
    }
}

/// The right to remove one blob; `None`: a backup holds them.
pub(super) struct Removal {
    _folder: File,
}

impl Removal {
    pub fn begin(dir: &Path) -> Result<Option<Self>> {
        let (path, folder) = open(dir)?;
        match folder.try_lock() {
            Ok(()) => Ok(Some(Self { _folder: folder })),
            Err(TryLockError::WouldBlock) => Ok(None),
            // A filesystem without locks: nobody can hold anything there.
            Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                Ok(Some(Self { _folder: folder }))
            }
            Err(TryLockError::Error(error)) => Err(Error::io(path.display(), &error)),
        }
    }
}

fn open(dir: &Path) -> Result<(PathBuf, File)> {
    let path = dir.join("blobs");
    let folder = File::open(&path).map_err(|error| Error::io(path.display(), &error))?;
    Ok((path, folder))
}
