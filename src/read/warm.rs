//! Fetching without a reader: a whole file, or what players open it with, in the fill lane. Whoever else wants the link
//! has it at once: what is under way is called off, and begun again when the link is free. Blocks the thread that asks.
//! Never here: which files, and showing how far it is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{RecvTimeoutError, bounded};

use super::ahead::{QUIET, WARM_EVERY};
use super::container::{Piece, survey};
use super::opening::{LOOKS_MAX, ends};
use super::pattern::Access;
use super::{Core, Reader};
use crate::cache::Entry;
use crate::config::BLOCK_SIZE_BYTES;
use crate::error::{Error, Kind, Result};
use crate::fetch::{Interest, Lane};
use crate::range::{ByteRange, RangeSet};

/// Chunks asked for at once, of which the lane takes as many as help: no more than it queues.
const AT_ONCE_MAX: usize = 8;
/// How often it is looked whether somebody else wants the link.
const LOOK: Duration = Duration::from_millis(5);
/// How long nothing is told while a read is waited for.
const WAIT_STEP: Duration = Duration::from_secs(1);
/// Times that a chunk may end without its bytes; then a reader asks for them, which tells why.
const TRIES_MAX: u32 = 2;

/// What has become of some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Come {
    /// They were here before.
    WasHere(u64),
    /// They came now, also in the middle of a chunk. 0: nothing has changed.
    Fetched(u64),
    /// They had come, and their chunk was called off before its end: they come again.
    Lost(u64),
}

/// Hears what has come; called every few milliseconds, and its error ends the fetching.
pub type Tell<'a> = &'a mut dyn FnMut(Come) -> Result<()>;

/// What is missing of one slot, and being fetched.
struct Gap {
    // In order; never empty.
    parts: Vec<ByteRange>,
    interests: Vec<Interest>,
    is_begun: bool,
    tries: u32,
    // Of `parts`, bytes that were told of while they came.
    told_bytes: u64,
}

impl Gap {
    fn new(parts: Vec<ByteRange>) -> Self {
        Self { parts, interests: Vec::new(), is_begun: false, tries: 0, told_bytes: 0 }
    }

    /// Tells what has come of it since it was told last, while it is still coming.
    fn tell_on(&mut self, tell: Tell<'_>) -> Result<()> {
        // Whole blocks: those are kept, also when their flight is called off.
        let whole = |landed: ByteRange| ByteRange::new(landed.start, landed.end - landed.end % BLOCK_SIZE_BYTES);
        let landed = self.interests.iter().map(Interest::landed).filter(|landed| landed.len() >= BLOCK_SIZE_BYTES);
        let landed = landed.map(whole);
        let landed_bytes: u64 =
            landed.map(|landed| self.parts.iter().map(|part| part.intersect(landed).len()).sum::<u64>()).sum();
        // A flight that has ended gives its memory up: what came of it was told.
        let more_bytes = landed_bytes.saturating_sub(self.told_bytes);
        self.told_bytes += more_bytes;
        tell(Come::Fetched(more_bytes))
    }

    /// `come_bytes` of it are in the cache now: corrects what was told.
    fn tell_end(&mut self, come_bytes: u64, tell: Tell<'_>) -> Result<()> {
        let told_bytes = std::mem::take(&mut self.told_bytes);
        match told_bytes.checked_sub(come_bytes) {
            Some(lost_bytes) if lost_bytes > 0 => tell(Come::Lost(lost_bytes)),
            _ => tell(Come::Fetched(come_bytes - told_bytes)),
        }
    }
}

impl Reader {
    /// Fetches what is missing of the whole file; what is here is told at once.
    pub fn warm(&self, entry: &Arc<Entry>, tell: Tell<'_>) -> Result<()> {
        self.core.warm(entry, ByteRange::new(0, entry.size_bytes()), tell)?;
        self.core.cache.flush();
        Ok(())
    }

    /// Fetches what players open a film with: its ends, and its container's index wherever it is.
    pub fn warm_opening(&self, entry: &Arc<Entry>, tell: Tell<'_>) -> Result<()> {
        self.core.warm_opening(entry, tell)?;
        self.core.cache.flush();
        Ok(())
    }
}

impl Core {
    fn warm(self: &Arc<Self>, entry: &Arc<Entry>, part: ByteRange, tell: Tell<'_>) -> Result<()> {
        let mut slots = part.slots(entry.chunk_size_bytes());
        let mut gaps: VecDeque<Gap> = VecDeque::new();
        let mut busy_at = Instant::now().checked_sub(QUIET);
        loop {
            if !self.fetcher.is_idle() {
                busy_at = Some(Instant::now());
                if gaps.iter().any(|gap| !gap.interests.is_empty()) {
                    // Calls off what nobody else waits for; the blocks that came are kept.
                    for gap in &mut gaps {
                        gap.interests.clear();
                        gap.is_begun = false;
                    }
                    // It took its connections along, and whoever came wants one.
                    self.fetcher.warm(WARM_EVERY);
                }
            }
            while gaps.len() < AT_ONCE_MAX
                && let Some(slot) = slots.next()
            {
                let parts = self.cache.coverage(entry, slot)?.gaps;
                tell(Come::WasHere(slot.len() - bytes_of(&parts)))?;
                if !parts.is_empty() {
                    gaps.push_back(Gap::new(parts));
                }
            }
            if gaps.is_empty() {
                // Asked for, and here: not fetched in vain, though nobody reads it yet.
                entry.was_read(&[part].into_iter().collect());
                return Ok(());
            }
            if busy_at.is_none_or(|busy_at| busy_at.elapsed() >= QUIET) {
                for _ in 0..gaps.len() {
                    let Some(gap) = gaps.pop_front() else { break };
                    gaps.extend(self.go_on_with(entry, gap, tell)?);
                }
            }
            tell(Come::Fetched(0))?;
            if !gaps.is_empty() {
                thread::sleep(LOOK);
            }
        }
    }

    /// Begins to fetch a gap, or looks what has come of it; what is left to do.
    fn go_on_with(self: &Arc<Self>, entry: &Arc<Entry>, mut gap: Gap, tell: Tell<'_>) -> Result<Option<Gap>> {
        if gap.interests.iter().any(|interest| !interest.has_ended()) {
            gap.tell_on(tell)?;
            return Ok(Some(gap));
        }
        gap.interests.clear();
        let missing = |gap: &Gap| -> Result<Vec<ByteRange>> {
            let (Some(first), Some(last)) = (gap.parts.first(), gap.parts.last()) else { return Ok(Vec::new()) };
            Ok(self.cache.coverage(entry, ByteRange::new(first.start, last.end))?.gaps)
        };
        let mut parts = missing(&gap)?;
        if gap.is_begun && !parts.is_empty() {
            // Landed, maybe, and not written yet.
            self.cache.flush();
            parts = missing(&gap)?;
        }
        let come_bytes = bytes_of(&gap.parts).saturating_sub(bytes_of(&parts));
        gap.tries = if come_bytes > 0 || !gap.is_begun { 0 } else { gap.tries + 1 };
        gap.parts = parts;
        gap.tell_end(come_bytes, tell)?;
        let Some(first) = gap.parts.first() else { return Ok(None) };
        if gap.tries > TRIES_MAX {
            self.read_now(entry, ByteRange::at(first.start, BLOCK_SIZE_BYTES.min(first.len())), tell)?;
            self.cache.flush();
            if self.fetcher.has_no_room() {
                let why = self.cache.why_nothing_is_kept().unwrap_or_else(|| "the cache has no room for it".into());
                return Err(Error::new(Kind::Full, format!("{}: {why}", entry.path())));
            }
            // It passed.
            gap.tries = 0;
        }
        gap.is_begun = true;
        gap.interests = gap.parts.iter().flat_map(|part| self.fetcher.want(entry, *part, Lane::Fill)).collect();
        Ok(Some(gap))
    }

    fn warm_opening(self: &Arc<Self>, entry: &Arc<Entry>, tell: Tell<'_>) -> Result<()> {
        // What was seen to, so that nothing is told twice.
        let mut seen = RangeSet::new();
        let mut warm = |part: ByteRange, tell: Tell<'_>| {
            self.cache.opens_with(entry, part);
            let unseen = seen.gaps(part);
            seen.insert(part);
            unseen.into_iter().try_for_each(|part| self.warm(entry, part, tell))
        };
        ends(entry.size_bytes()).into_iter().try_for_each(|part| warm(part, tell))?;
        let block = |at: u64| ByteRange::new(at, at + 1).align(BLOCK_SIZE_BYTES, entry.size_bytes());
        let mut looked: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut next = Some(block(0)).filter(|first| !first.is_empty());
        while let Some(part) = next.filter(|_| looked.len() < LOOKS_MAX) {
            warm(part, tell)?;
            looked.push((part.start, self.read_now(entry, part, tell)?));
            let pieces: Vec<_> = looked.iter().map(|(offset, bytes)| Piece { offset: *offset, bytes }).collect();
            let found = survey(entry.size_bytes(), &pieces);
            for part in found.index {
                warm(part.align(BLOCK_SIZE_BYTES, entry.size_bytes()), tell)?;
            }
            next = found.next.map(|next| block(next.start));
        }
        Ok(())
    }

    /// Reads as a player would, and waits for it, not without a word.
    fn read_now(self: &Arc<Self>, entry: &Arc<Entry>, range: ByteRange, say: Tell<'_>) -> Result<Vec<u8>> {
        let (tell, told) = bounded(1);
        let reply = Box::new(move |answer: Result<&[u8]>| {
            // Whoever waited may have gone.
            let _ = tell.send(answer.map(<[u8]>::to_vec));
        });
        let read = self.pending(entry, range, (Access::Probe, self.timeout), reply);
        self.look(entry, Access::Probe, &read);
        drop(read);
        let give_up_at = Instant::now() + 2 * self.timeout;
        loop {
            match told.recv_timeout(WAIT_STEP) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if Instant::now() < give_up_at => say(Come::Fetched(0))?,
                Err(_) => return Err(Error::new(Kind::TimedOut, format!("{}: no answer in time", entry.path()))),
            }
        }
    }
}

fn bytes_of(parts: &[ByteRange]) -> u64 {
    parts.iter().map(|part| part.len()).sum()
}
