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

/// The lock of the folder, as long as this lives.
pub struct Hold {
    folder: File,
}

impl Hold {
    /// To copy blobs: none is removed meanwhile. Waits for a removal that is under way.
    pub(super) fn to_copy(dir: &Path) -> Result<Self> {
        let (path, folder) = open(dir)?;
        let give_up_at = Instant::now() + WAIT_MAX;
        loop {
            match folder.try_lock_shared() {
                Ok(()) => return Ok(Self { folder }),
                Err(TryLockError::WouldBlock) if Instant::now() < give_up_at => thread::sleep(LOOK_EVERY),
                Err(TryLockError::WouldBlock) => {
                    let message = format!("{}: another process keeps removing chunks: try again", path.display());
                    return Err(Error::new(Kind::Busy, message));
                }
                Err(TryLockError::Error(error)) => return Err(Error::io(path.display(), &error)),
            }
        }
    }

    /// To remove one blob; `None`: blobs are being copied. One thread at a time may ask: of two, one would take the other for a
    /// backup.
    pub(super) fn to_remove(dir: &Path) -> Result<Option<Self>> {
        let (path, folder) = open(dir)?;
        match folder.try_lock() {
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) if error.kind() != io::ErrorKind::Unsupported => {
                Err(Error::io(path.display(), &error))
            }
            // On a filesystem without locks nobody can hold anything.
            _ => Ok(Some(Self { folder })),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // A program that is just being started has a copy of the descriptor: closing ours would not unlock it.
        let _ = self.folder.unlock();
    }
}

fn open(dir: &Path) -> Result<(PathBuf, File)> {
    let path = dir.join("blobs");
    let folder = File::open(&path).map_err(|error| Error::io(path.display(), &error))?;
    Ok((path, folder))
}
