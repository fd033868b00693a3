//! Bytes that look random and are known at every offset: a file of any size that takes no memory.
//! Never here: randomness. The same seed and offset give the same byte on every machine.

/// The words of one file are this far apart in the state of `SplitMix64`: its odd, well-spread increment.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

const WORD_BYTES: u64 = 8;

/// Fills `buffer` with the bytes of the file `seed` names, from `offset` on.
///
/// The little-endian word at `8 * i` is `SplitMix64`'s `i`-th output: independent of all others, so any offset is as
/// cheap as the first, and a compiler turns the loop over whole words into vector code.
pub fn generate(seed: u64, offset: u64, buffer: &mut [u8]) {
    let start = mix(seed);
    let mut index = offset / WORD_BYTES;
    let mut word = || {
        let word = mix(start.wrapping_add(index.wrapping_mul(STEP)));
        index = index.wrapping_add(1);
        word.to_le_bytes()
    };

    let skipped = (offset % WORD_BYTES) as usize;
    let first_len = if skipped == 0 { 0 } else { buffer.len().min(WORD_BYTES as usize - skipped) };
    let (first, rest) = buffer.split_at_mut(first_len);
    if !first.is_empty() {
        first.copy_from_slice(&word()[skipped..skipped + first_len]);
    }
    let (words, last) = rest.as_chunks_mut::<{ WORD_BYTES as usize }>();
    for slot in words {
        *slot = word();
    }
    if !last.is_empty() {
        last.copy_from_slice(&word()[..last.len()]);
    }
}

/// The `len` bytes from `offset` on, for comparing with what was read.
pub fn generated(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    generate(seed, offset, &mut bytes);
    bytes
}

/// `SplitMix64`'s finalizer: every bit of the input reaches every bit of the output.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_piece_is_the_same_bytes_as_the_whole(seed: u64, offset in 0usize..100, len in 0usize..100) {
            prop_assert_eq!(&generated(seed, 0, 200)[offset..offset + len], generated(seed, offset as u64, len));
        }
    }

    #[test]
    fn seeds_and_offsets_differ() {
        assert_ne!(generated(1, 0, 64), generated(2, 0, 64));
        assert_ne!(generated(1, 0, 64), generated(1, 8, 64));
        assert_ne!(generated(1, u64::MAX - 8, 8), [0; 8]);
    }

    #[test]
    fn every_value_is_about_as_frequent_as_any_other() {
        let mut counts = [0u32; 256];
        for byte in generated(7, 0, 1 << 18) {
            counts[usize::from(byte)] += 1;
        }
        assert!(counts.iter().all(|count| (800..1250).contains(count)), "{counts:?}");
    }
}
