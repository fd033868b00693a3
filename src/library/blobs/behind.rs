//! Long writes that nobody waits for: a few threads have the disk do several at once, past the page cache, as what is
//! written once and read by nobody soon need not be copied there.
//! Never here: what becomes of the files.
//!
//! Memory: [`BEHIND_BYTES_MAX`] for all files of a library together.

use std::io;
use std::sync::{Arc, OnceLock};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::written::Written;
use crate::error::{Error, Result};

/// What disks and memory are aligned to where the page cache is passed by.
pub(super) const ALIGNED_BYTES: usize = 4096;
/// Written at once.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// Pieces on their way. Who comes with one more waits: the disk is slower than whoever writes.
const PIECES_MAX: usize = 8;
/// Bytes that were taken and may still find no room on the disk.
pub const BEHIND_BYTES_MAX: u64 = (PIECES_MAX * PIECE_BYTES) as u64;
/// Pieces that the disk has at once: one that answers each a little late has half of its speed with one at a time.
const THREADS: usize = 4;

/// The threads, from the first long write on.
#[derive(Debug, Default)]
pub(super) struct Behind {
    // None inside: they could not be started.
    pool: OnceLock<Option<Pool>>,
}

#[derive(Debug)]
struct Pool {
    // In the order in which they set out: a piece may wait for an earlier one of its file, and that is with a thread then.
    // Never full, as there are no more pieces than buffers. The threads end when it is dropped, after what is in it.
    pieces: Sender<Piece>,
    idle: Receiver<Buffer>,
}

struct Piece {
    to: Arc<Written>,
    offset: u64,
    len: usize,
    buffer: Buffer,
}

/// Memory that a disk can be written from; it is there once it was used.
#[derive(Default)]
struct Buffer(Vec<u8>);

impl Behind {
    /// Takes `bytes`, a whole number of blocks and at most [`PIECE_BYTES`], to be written at `offset`, where a block begins.
    /// An error may be that of an earlier write.
    pub fn write(&self, to: &Arc<Written>, bytes: &[u8], offset: u64) -> io::Result<()> {
        to.begin(offset, bytes.len())?;
        let pool = self.pool.get_or_init(|| Pool::start().inspect_err(|error| log::warn!("{error}")).ok());
        let Some((pool, mut buffer)) = pool.as_ref().and_then(|pool| Some((pool, pool.idle.recv().ok()?))) else {
            let written = to.write(bytes, offset, false);
            to.end(Ok(()));
            return written;
        };
        buffer.aligned(bytes.len()).copy_from_slice(bytes);
        let piece = Piece { to: Arc::clone(to), offset, len: bytes.len(), buffer };
        if pool.pieces.send(piece).is_err() {
            to.end(Err(io::Error::other("the threads that write have ended")));
            return to.settle();
        }
        Ok(())
    }
}

impl Pool {
    fn start() -> Result<Self> {
        let (sender, pieces) = bounded::<Piece>(PIECES_MAX);
        let (used, idle) = bounded(PIECES_MAX);
        for _ in 0..PIECES_MAX {
            let _ = used.try_send(Buffer::default());
        }
        for _ in 0..THREADS {
            let (pieces, used) = (pieces.clone(), used.clone());
            let write = move || {
                for Piece { to, offset, len, mut buffer } in pieces {
                    let written = to.write(buffer.aligned(len), offset, true);
                    let _ = used.send(buffer);
                    to.end(written);
                }
            };
            let started = thread::Builder::new().name("write-behind".into()).spawn(write);
            started.map_err(|error| Error::io("starting a thread", &error))?;
        }
        Ok(Self { pieces: sender, idle })
    }
}

impl Buffer {
    fn aligned(&mut self, len: usize) -> &mut [u8] {
        self.0.resize(PIECE_BYTES + ALIGNED_BYTES, 0);
        let start = self.0.as_ptr().align_offset(ALIGNED_BYTES).min(ALIGNED_BYTES);
        &mut self.0[start..start + len]
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::digest::Digest;

    const BLOCK: u64 = ALIGNED_BYTES as u64;

    fn written(file: &File) -> Arc<Written> {
        Arc::new(Written::new(file.try_clone().unwrap(), Some(file.try_clone().unwrap())))
    }

    #[test]
    fn what_was_taken_last_is_there_and_hashed() {
        let behind = Behind::default();
        for turn in 0..=u8::MAX {
            let file = tempfile::tempfile().unwrap();
            let to = written(&file);
            // A long piece is overtaken by short ones, if anything is.
            let mut whole = vec![turn; PIECE_BYTES + 8 * ALIGNED_BYTES];
            for (at, block) in whole[PIECE_BYTES..].chunks_mut(ALIGNED_BYTES).enumerate() {
                block.fill(turn.wrapping_add(at as u8 + 1));
            }
            behind.write(&to, &whole[..PIECE_BYTES], 0).unwrap();
            for (at, block) in (0..).zip(whole[PIECE_BYTES..].chunks(ALIGNED_BYTES)) {
                behind.write(&to, block, PIECE_BYTES as u64 + at * BLOCK).unwrap();
            }
            let len = whole.len() as u64;
            assert_eq!(to.digest(len).unwrap(), Digest::of(&whole));
            for start in [0, PIECE_BYTES - ALIGNED_BYTES] {
                let piece = &mut whole[start..][..PIECE_BYTES.min(len as usize - start)];
                piece.fill(turn ^ 1 ^ start as u8);
                behind.write(&to, piece, start as u64).unwrap();
                piece[..ALIGNED_BYTES].fill(turn ^ 2);
                behind.write(&to, &piece[..ALIGNED_BYTES], start as u64).unwrap();
            }
            let mut read = vec![0; whole.len()];
            to.read_exact_at(&mut read, 0).unwrap();
            assert!(read == whole);
            assert_eq!(to.digest(len).unwrap(), Digest::of(&whole));
            assert_eq!(to.digest(BLOCK).unwrap(), Digest::of(&whole[..ALIGNED_BYTES]));
        }
    }

    #[test]
    fn what_could_not_be_written_is_told_each_time_and_keeps_no_buffer() {
        let behind = Behind::default();
        for _ in 0..3 * PIECES_MAX {
            let to = written(&File::options().read(true).write(true).open("/dev/full").unwrap());
            // Taken, unless an earlier one is known to have failed by now.
            let _ = (0..3).try_for_each(|at| behind.write(&to, &[1; ALIGNED_BYTES], at * BLOCK));
            for _ in 0..2 {
                assert_eq!(to.digest(BLOCK).unwrap_err().kind(), io::ErrorKind::StorageFull);
                assert_eq!(to.read_exact_at(&mut [0], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
            }
            let error = behind.write(&to, &[1; ALIGNED_BYTES], 0).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        }
    }
}
