//! The hybrid writer: makes a file of a library from a stream. Short ones stay in memory and go inline; longer ones are
//! cut into chunks, hashed as they pass, and handed on. Memory is bounded whatever the file's size.
//! Never here: where chunks are kept.

use std::io::{ErrorKind, Read};

use bytes::{Bytes, BytesMut};

use super::{Chunk, Content, Cut, Draft, Manifest, Meta, Proof};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::range::ByteRange;

/// Read of a stream at once.
const PIECE_BYTES: usize = 256 << 10;

/// Cuts one stream. Memory: `inline_bytes_max` until that many came, then one chunk, and what the draft holds.
pub struct Writer<'a> {
    draft: Box<dyn Draft + 'a>,
    cut: Cut,
    // What is not handed on yet. Shorter than a chunk once there are chunks; else all there is.
    held: BytesMut,
    // As long as there are none, the file may still become inline.
    chunks: Vec<Chunk>,
}

impl<'a> Writer<'a> {
    /// Into `draft`, cut as its home wants it.
    pub fn new(draft: Box<dyn Draft + 'a>, cut: Cut) -> Self {
        Self { draft, cut, held: BytesMut::new(), chunks: Vec::new() }
    }

    /// Takes the next bytes in.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.held.extend_from_slice(bytes);
        self.hand_on()
    }

    /// Takes all that is left of a stream in. `each` hears how many bytes came.
    pub fn write_all_of(&mut self, stream: &mut dyn Read, each: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        loop {
            let before = self.held.len();
            self.held.resize(before + PIECE_BYTES, 0);
            let read = stream.read(&mut self.held[before..]);
            self.held.truncate(before + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    self.hand_on()?;
                    each(count as u64)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("reading what is put", &error)),
            }
        }
    }

    /// The stream is over: gives the file its name.
    pub fn finish(mut self, meta: Meta) -> Result<Manifest> {
        if self.chunks.is_empty() && self.held.len() as u64 <= self.cut.inline_bytes_max {
            return self.draft.commit(Content::Inline(self.held.freeze()), meta);
        }
        while !self.held.is_empty() {
            let length = self.held.len().min(self.cut.chunk_size_bytes as usize);
            let bytes = self.held.split_to(length).freeze();
            self.add(bytes)?;
        }
        self.draft.commit(Content::Chunks(self.chunks), meta)
    }

    fn hand_on(&mut self) -> Result<()> {
        let size = self.cut.chunk_size_bytes as usize;
        if self.chunks.is_empty() && self.held.len() as u64 <= self.cut.inline_bytes_max {
            return Ok(());
        }
        while self.held.len() >= size {
            let bytes = self.held.split_to(size).freeze();
            self.add(bytes)?;
        }
        Ok(())
    }

    fn add(&mut self, bytes: Bytes) -> Result<()> {
        let start = self.chunks.last().map_or(0, |chunk| chunk.range.end);
        let proof = Proof::Sha256(Digest::of(&bytes));
        let chunk = Chunk { range: ByteRange::at(start, bytes.len() as u64), proof };
        self.draft.add(&chunk, bytes)?;
        self.chunks.push(chunk);
        Ok(())
    }
}

/// What a stream is made of, without keeping any of it: for a file that can be read twice.
pub fn chunks_of(stream: &mut dyn Read, cut: Cut, each: &mut dyn FnMut(u64) -> Result<()>) -> Result<Content> {
    content_of(cut, &mut |writer| writer.write_all_of(stream, each))
}

/// The same of what `write` writes.
pub fn content_of(cut: Cut, write: &mut dyn FnMut(&mut Writer<'_>) -> Result<()>) -> Result<Content> {
    /// Forgets every chunk.
    struct Nowhere;
    impl Draft for Nowhere {
        fn add(&mut self, _: &Chunk, _: Bytes) -> Result<()> {
            Ok(())
        }
        fn commit(self: Box<Self>, content: Content, meta: Meta) -> Result<Manifest> {
            Manifest::new(content, meta)
        }
    }
    let mut writer = Writer::new(Box::new(Nowhere), cut);
    write(&mut writer)?;
    Ok(writer.finish(Meta::now())?.into_content())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::error::Kind;

    const CUT: Cut = Cut { inline_bytes_max: 100, chunk_size_bytes: 64 };

    /// Keeps what it is given, and refuses what comes after `left` chunks.
    struct Kept {
        bytes: Arc<Mutex<Vec<u8>>>,
        left: usize,
    }

    impl Draft for Kept {
        fn add(&mut self, chunk: &Chunk, bytes: Bytes) -> Result<()> {
            self.left = self.left.checked_sub(1).ok_or_else(|| Error::new(Kind::Full, "no room"))?;
            assert_eq!(chunk.proof, Proof::Sha256(Digest::of(&bytes)));
            let mut kept = self.bytes.lock().unwrap();
            assert_eq!((chunk.range.start, chunk.range.len()), (kept.len() as u64, bytes.len() as u64));
            kept.extend_from_slice(&bytes);
            Ok(())
        }

        fn commit(self: Box<Self>, content: Content, meta: Meta) -> Result<Manifest> {
            Manifest::new(content, meta)
        }
    }

    fn written(len: usize, step: usize, left: usize) -> Result<(Manifest, Vec<u8>)> {
        let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let kept = Arc::default();
        let mut writer = Writer::new(Box::new(Kept { bytes: Arc::clone(&kept), left }), CUT);
        for piece in bytes.chunks(step) {
            writer.write(piece)?;
            let most = if writer.chunks.is_empty() { CUT.inline_bytes_max } else { CUT.chunk_size_bytes - 1 };
            assert!(writer.held.len() as u64 <= most);
        }
        let manifest = writer.finish(Meta::now())?;
        let kept = std::mem::take(&mut *kept.lock().unwrap());
        match manifest.content() {
            Content::Inline(inline) => assert!(kept.is_empty() && *inline == bytes),
            Content::Chunks(_) => assert_eq!(kept, bytes),
        }
        Ok((manifest, bytes))
    }

    #[test]
    fn at_every_edge() {
        for step in [1, 7, 64, 1000] {
            for len in [0, 1, 63, 64, 65, 99, 100] {
                assert!(matches!(written(len, step, 0).unwrap().0.content(), Content::Inline(_)), "{len}");
            }
            for len in [101, 127, 128, 129, 191, 192, 193, 1000] {
                let (manifest, bytes) = written(len, step, usize::MAX).unwrap();
                assert_eq!(manifest.chunks().len(), len.div_ceil(64), "{len}");
                assert_eq!(manifest.size_bytes(), len as u64);
                let again = chunks_of(&mut bytes.as_slice(), CUT, &mut |_| Ok(())).unwrap();
                assert_eq!(*manifest.content(), again);
            }
        }
    }

    #[test]
    fn a_broken_stream_or_a_full_home_ends_it() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
                self.0 = self.0.checked_sub(1).ok_or_else(|| std::io::Error::other("the pipe broke"))?;
                let count = into.len().min(50);
                into[..count].fill(1);
                if self.0.is_multiple_of(2) { Err(ErrorKind::Interrupted.into()) } else { Ok(count) }
            }
        }
        let kept = Kept { bytes: Arc::default(), left: usize::MAX };
        let mut writer = Writer::new(Box::new(kept), CUT);
        let error = writer.write_all_of(&mut Broken(9), &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("the pipe broke"), "{error}");
        assert_eq!(written(1000, 7, 3).unwrap_err().kind(), Kind::Full);
        assert_eq!(written(129, 1000, 2).unwrap_err().kind(), Kind::Full);
    }
}
