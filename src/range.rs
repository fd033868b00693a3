//! Byte ranges: how they cut into slots and blocks, what two sets of them share or lack. Pure arithmetic.
//! Never here: I/O, and any idea of what the bytes are.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Half-open: `start` is in, `end` is not. Never inverted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte; `>= start`.
    pub end: u64,
}

impl ByteRange {
    /// `[start, end)`; an inverted pair becomes empty at `start`.
    pub fn new(start: u64, end: u64) -> Self {
        Self { start, end: end.max(start) }
    }

    /// `len` bytes from `start`, ending at `u64::MAX` at the latest.
    pub fn at(start: u64, len: u64) -> Self {
        Self { start, end: start.saturating_add(len) }
    }

    /// Bytes in it.
    pub fn len(self) -> u64 {
        self.end - self.start
    }

    /// Whether it holds no byte.
    pub fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// What both hold; empty when they don't meet.
    #[must_use]
    pub fn intersect(self, other: Self) -> Self {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Whether every byte of `other` is in it.
    pub fn contains(self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Grown outward to multiples of `block`, but not past `size`.
    #[must_use]
    pub fn align(self, block: u64, size: u64) -> Self {
        if self.is_empty() {
            return self;
        }
        Self::new(self.start - self.start % block, self.end.next_multiple_of(block).min(size))
    }

    /// The pieces of it that lie in each slot of `slot_size` bytes, in order.
    pub fn slots(self, slot_size: u64) -> impl Iterator<Item = ByteRange> {
        let mut at = self.start;
        std::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let end = (at - at % slot_size).saturating_add(slot_size).min(self.end);
            let piece = ByteRange::new(at, end);
            at = end;
            Some(piece)
        })
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// A set of bytes, kept as few ranges as possible.
///
/// Invariant: ranges are non-empty, sorted, and no two touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet(Vec<ByteRange>);

impl RangeSet {
    /// The empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds every byte of `range`.
    pub fn insert(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|held| held.end < range.start);
        let last = self.0.partition_point(|held| held.start <= range.end);
        let mut merged = range;
        if first < last {
            merged.start = merged.start.min(self.0[first].start);
            merged.end = merged.end.max(self.0[last - 1].end);
        }
        self.0.splice(first..last, [merged]);
    }

    /// Takes every byte of `range` out.
    pub fn remove(&mut self, range: ByteRange) {
        if range.is_empty() {
            return;
        }
        let first = self.0.partition_point(|held| held.end <= range.start);
        let last = self.0.partition_point(|held| held.start < range.end);
        if first >= last {
            return;
        }
        let before = ByteRange::new(self.0[first].start, range.start);
        let after = ByteRange::new(range.end, self.0[last - 1].end);
        let kept = [before, after].into_iter().filter(|rest| !rest.is_empty());
        self.0.splice(first..last, kept.collect::<Vec<_>>());
    }

    /// Whether every byte of `range` is in the set.
    pub fn contains(&self, range: ByteRange) -> bool {
        if range.is_empty() {
            return true;
        }
        let at = self.0.partition_point(|held| held.end <= range.start);
        self.0.get(at).is_some_and(|held| held.contains(range))
    }

    /// The parts of `range` that are not in the set, in order.
    pub fn gaps(&self, range: ByteRange) -> Vec<ByteRange> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        let first = self.0.partition_point(|held| held.end <= range.start);
        for held in &self.0[first..] {
            if held.start >= range.end {
                break;
            }
            if held.start > at {
                gaps.push(ByteRange::new(at, held.start));
            }
            at = held.end;
        }
        if at < range.end {
            gaps.push(ByteRange::new(at, range.end));
        }
        gaps
    }

    /// The parts of `range` that are in the set, in order.
    pub fn overlap(&self, range: ByteRange) -> Vec<ByteRange> {
        let first = self.0.partition_point(|held| held.end <= range.start);
        self.0[first..]
            .iter()
            .take_while(|held| held.start < range.end)
            .map(|held| held.intersect(range))
            .filter(|part| !part.is_empty())
            .collect()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = ByteRange> + '_ {
        self.0.iter().copied()
    }

    /// Bytes in the set.
    pub fn len(&self) -> u64 {
        self.0.iter().map(|range| range.len()).sum()
    }

    /// Whether it holds no byte.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<ByteRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = ByteRange>>(ranges: I) -> Self {
        let mut set = Self::new();
        for range in ranges {
            set.insert(range);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_range_cuts_at_slot_edges() {
        let pieces: Vec<_> = ByteRange::new(3, 21).slots(8).collect();
        assert_eq!(pieces, [ByteRange::new(3, 8), ByteRange::new(8, 16), ByteRange::new(16, 21)]);
        assert_eq!(ByteRange::new(5, 5).slots(8).count(), 0);
        assert_eq!(ByteRange::new(u64::MAX - 1, u64::MAX).slots(8).count(), 1);
    }

    #[test]
    fn aligning_grows_but_stops_at_the_end() {
        assert_eq!(ByteRange::new(5, 9).align(8, 100), ByteRange::new(0, 16));
        assert_eq!(ByteRange::new(97, 99).align(8, 99), ByteRange::new(96, 99));
        assert_eq!(ByteRange::new(97, 97).align(8, 99), ByteRange::new(97, 97));
    }

    proptest! {
        /// Against the plainest model there is: one bool a byte.
        #[test]
        fn a_set_of_ranges_is_a_set_of_bytes(ops in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..64), 0..40), ask in (0u64..64, 0u64..64)) {
            let mut set = RangeSet::new();
            let mut model = [false; 64];
            for (add, a, b) in ops {
                let range = ByteRange::new(a.min(b), a.max(b));
                if add { set.insert(range) } else { set.remove(range) }
                model[range.start as usize..range.end as usize].fill(add);
            }
            let held: Vec<_> = set.iter().collect();
            prop_assert!(held.iter().all(|r| !r.is_empty()));
            prop_assert!(held.windows(2).all(|w| w[0].end < w[1].start));
            prop_assert_eq!(set.len(), model.iter().filter(|b| **b).count() as u64);
            let ask = ByteRange::new(ask.0.min(ask.1), ask.0.max(ask.1));
            let bytes = |ranges: Vec<ByteRange>| ranges.iter().flat_map(|r| r.start..r.end).collect::<Vec<_>>();
            let expected = |want: bool| (ask.start..ask.end).filter(|b| model[*b as usize] == want).collect::<Vec<_>>();
            prop_assert_eq!(bytes(set.gaps(ask)), expected(false));
            prop_assert_eq!(bytes(set.overlap(ask)), expected(true));
            prop_assert_eq!(set.contains(ask), expected(false).is_empty());
        }
    }
}
