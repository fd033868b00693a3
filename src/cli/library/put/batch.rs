//! Small files taken together: what a store keeps in one step costs little more than one of them.
//! Never here: how a library keeps them.

use std::fs::File;
use std::io::{self, Read as _};

use bytes::Bytes;
use crossbeam_channel::Receiver;
use parking_lot::Mutex;

use super::tree::Found;
use super::{Put, still_the_same};
use crate::error::{Error, Kind, Result};
use crate::library::{Meta, Small, content_type};

/// Files up to this many bytes are small, where the library keeps them whole: for larger ones their bytes are what takes time.
pub const SMALL_BYTES_MAX: u64 = 64 << 10;
/// Files of one batch: what a store takes as one request or transaction.
const BATCH_FILES_MAX: usize = 1_000;
/// Bytes of one batch, held in memory.
const BATCH_BYTES_MAX: u64 = 8 << 20;

/// What a worker takes to do: first the small ones, together, then a larger one that came behind them.
#[derive(Default)]
pub struct Taken {
    pub small: Vec<Found>,
    pub large: Option<Found>,
}

/// Takes the next file, and with a small one all small ones that were found behind it; nothing at the end. Whoever waits
/// waits for one file, never for a batch to fill: while one batch is kept the next one comes together.
pub fn take(found: &Mutex<Receiver<Found>>, small_bytes_max: u64) -> Option<Taken> {
    // Held while the files of a batch are taken, so that files that stand side by side come together.
    let found = found.lock();
    let (mut taken, mut bytes, mut next) = (Taken::default(), 0, Some(found.recv().ok()?));
    while let Some(file) = next {
        if file.size_bytes > small_bytes_max {
            taken.large = Some(file);
            break;
        }
        bytes += file.size_bytes;
        taken.small.push(file);
        let has_room = taken.small.len() < BATCH_FILES_MAX && bytes + small_bytes_max <= BATCH_BYTES_MAX;
        next = if has_room { found.try_recv().ok() } else { None };
    }
    Some(taken)
}

impl Put<'_> {
    /// Puts small files, those whose names are new together.
    pub fn batch(&self, files: Vec<Found>) {
        let paths: Vec<_> = files.iter().map(|file| file.to.as_str()).collect();
        let alone = vec![false; files.len()];
        // In the plain form a file is a value of its own, or several.
        let are_new = if self.is_plain { Ok(alone.clone()) } else { self.library.are_new(&paths) };
        let are_new = match are_new {
            Ok(are_new) => are_new,
            // It was waited for as long as for each of them.
            Err(error) if error.may_pass() => {
                for file in &files {
                    self.failed(&error.clone().context(file.from.display()));
                }
                return;
            }
            // Of one of them: each is told what it is.
            Err(error) => {
                log::debug!("{error}: each file is put alone");
                alone
            }
        };
        let (mut small, mut sources, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for (file, is_new) in files.into_iter().zip(are_new) {
            if self.is_broken_off() {
                return;
            }
            if !is_new {
                others.push(file);
                continue;
            }
            match self.read_small(&file) {
                Ok(read) => {
                    small.push(read);
                    sources.push(file);
                }
                Err(error) => self.failed(&error.context(file.from.display())),
            }
        }
        for (file, put) in sources.iter().zip(self.library.put_new(small)) {
            match put {
                // Only now: what is counted is kept.
                Ok(()) => self.tally.put(&file.to, file.size_bytes, file.size_bytes),
                Err(error) => self.failed(&error.context(file.from.display())),
            }
        }
        for file in &others {
            self.one(file);
        }
    }

    /// A file whose name is new, all of it.
    fn read_small(&self, found: &Found) -> Result<Small> {
        let failed = |error: io::Error| Error::io("reading it", &error);
        let file = File::open(&found.from).map_err(failed)?;
        let mut bytes = Vec::with_capacity(found.size_bytes as usize);
        (&file).take(found.size_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
        still_the_same(&file, found)?;
        if bytes.len() as u64 != found.size_bytes {
            return Err(Error::new(Kind::Changed, "its size is not what the system says: put it alone, from a pipe"));
        }
        let content_type = self.content_type.clone().or_else(|| content_type::of_name(&found.to));
        let tags = self.tags_of(found, content_type.as_deref())?;
        let meta = Meta { content_type, tags, modified: found.modified, ..Meta::now() };
        Ok(Small { path: found.to.clone(), bytes: Bytes::from(bytes), meta })
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use crossbeam_channel::unbounded;

    use super::*;

    #[test]
    fn a_batch_is_what_was_found_and_no_more_than_it_may_be() {
        let sizes = |sizes: &[u64]| {
            let (sender, found) = unbounded();
            for size_bytes in sizes {
                let file = || Found {
                    from: "x".into(),
                    to: "x".into(),
                    size_bytes: *size_bytes,
                    modified: SystemTime::UNIX_EPOCH,
                };
                sender.send(file()).unwrap();
            }
            drop(sender);
            let found = Mutex::new(found);
            let taken = std::iter::from_fn(|| take(&found, SMALL_BYTES_MAX));
            taken.map(|taken| (taken.small.len(), taken.large.map(|file| file.size_bytes))).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), []);
        let large = SMALL_BYTES_MAX + 1;
        assert_eq!(
            sizes(&[1, 0, large, SMALL_BYTES_MAX, large, large, 3]),
            [(2, Some(large)), (1, Some(large)), (0, Some(large)), (1, None)]
        );
        assert_eq!(sizes(&vec![1; 2_500]), [(1_000, None), (1_000, None), (500, None)]);
        let full = (BATCH_BYTES_MAX / SMALL_BYTES_MAX) as usize;
        assert_eq!(sizes(&vec![SMALL_BYTES_MAX; full + 1]), [(full, None), (1, None)]);
    }
}
