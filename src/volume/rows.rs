//! What is written into the catalog of a file whose chunks were changed. Pure.
//! Never here: the chunks' bytes.

use crate::digest::Digest;
use crate::library::catalog::ChunkRow;
use crate::range::ByteRange;

/// A chunk that was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Changed {
    /// Which, from 0 on.
    pub number: u64,
    /// Its bytes from its start on, and their hash; none: all of it is a hole.
    pub bytes: Option<(u64, Digest)>,
}

/// The rows that replace the old ones when `changed` chunks (in order) of `chunk_size` bytes were written, and the file has
/// `size` bytes now. Up to `kept` the old rows stay, where none of these is; from there on these say everything.
pub(super) fn rows(changed: &[Changed], kept: u64, size: u64, chunk_size: u64) -> Vec<ChunkRow> {
    let mut rows = Rows(Vec::new());
    // Up to here, everything behind `kept` is said.
    let mut at = kept;
    for chunk in changed {
        let start = chunk.number * chunk_size;
        let end = (start + chunk_size).min(size);
        rows.hole(at, start);
        let data_end = start + chunk.bytes.map_or(0, |(len, _)| len).min(end - start);
        if let Some((_, digest)) = chunk.bytes.filter(|_| data_end > start) {
            rows.0.push(ChunkRow { range: ByteRange::new(start, data_end), digest: Some(digest) });
        }
        if end <= kept {
            rows.hole(data_end, end);
        } else {
            // What is missing of it joins the hole behind it.
            at = data_end;
        }
    }
    rows.hole(at, size);
    rows.0
}

struct Rows(Vec<ChunkRow>);

impl Rows {
    fn hole(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        match self.0.last_mut() {
            Some(last) if last.digest.is_none() && last.range.end == start => last.range.end = end,
            _ => self.0.push(ChunkRow { range: ByteRange::new(start, end), digest: None }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(start, end, is a hole)` of each row.
    fn said(changed: &[(u64, u64)], kept: u64, size: u64) -> Vec<(u64, u64, bool)> {
        let digest = Digest::of(b"");
        let changed: Vec<_> = changed
            .iter()
            .map(|(number, len)| Changed { number: *number, bytes: (*len > 0).then_some((*len, digest)) })
            .collect();
        let rows = rows(&changed, kept, size, 10);
        rows.iter().map(|row| (row.range.start, row.range.end, row.digest.is_none())).collect()
    }

    #[test]
    fn what_is_not_data_is_said_to_be_a_hole() {
        assert_eq!(said(&[(0, 10), (1, 4)], 0, 14), [(0, 10, false), (10, 14, false)]);
        assert_eq!(said(&[(2, 5)], 0, 40), [(0, 20, true), (20, 25, false), (25, 40, true)]);
        assert_eq!(said(&[], 0, 7), [(0, 7, true)]);
        assert_eq!(said(&[], 0, 0), []);
    }

    #[test]
    fn what_is_kept_is_not_said_again() {
        assert_eq!(said(&[], 25, 25), []);
        assert_eq!(said(&[(1, 10)], 30, 30), [(10, 20, false)]);
        // The old last chunk was short, and the file has grown behind it.
        assert_eq!(said(&[(4, 10)], 25, 50), [(25, 40, true), (40, 50, false)]);
        assert_eq!(said(&[(2, 8)], 25, 28), [(20, 28, false)]);
        // It was written, but not up to where it ended.
        assert_eq!(said(&[(2, 3)], 25, 60), [(20, 23, false), (23, 60, true)]);
        assert_eq!(said(&[(2, 3), (4, 1)], 25, 41), [(20, 23, false), (23, 40, true), (40, 41, false)]);
        // Holes punched into what is kept.
        assert_eq!(said(&[(0, 0), (1, 0), (2, 10)], 40, 40), [(0, 20, true), (20, 30, false)]);
    }
}
