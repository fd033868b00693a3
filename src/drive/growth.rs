//! Files that grow while they are open, as recordings do: their number stays, their size follows, and what was shown of them
//! stays right.
//! Never here: how growth is told from replacement (see `fetch/growth.rs`), and what is known of a number (see `inodes`).
//!
//! A file counts as one that may grow when it was seen to, or when its last change was a moment ago. That is one of the two
//! decisions in which the time of day has a part: a clock that is wrong makes growth show later, and nothing else.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use super::inodes::folder_of;
use super::memo::LoadOnce;
use super::{Drive, Node, NodeKind};
use crate::cache::Entry;
use crate::config::BLOCK_SIZE_BYTES;
use crate::error::Result;
use crate::fetch::{Followed, Taken};
use crate::origin::{Begun, Patience, Section, Stat};
use crate::read::Handle;

/// A file that was changed so lately may be changed again: recorders write every few seconds.
const RECENT: Duration = Duration::from_mins(2);
/// How often the origin is asked about such a file at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Drive {
    /// Whether a file may be growing.
    pub(super) fn may_grow(&self, node: &Node) -> bool {
        let is_recent = |modified| is_recent(modified, SystemTime::now());
        node.kind == NodeKind::File
            && !self.is_writable()
            && (node.modified().is_some_and(is_recent)
                || node.open_entry().is_some_and(|entry| entry.grew_lately(RECENT)))
    }

    /// Has an open file looked at, if that was not done a while ago: if it has grown, the next who asks is told so; if it was
    /// replaced, its name gets a new number. Asks on another thread.
    pub(super) fn look_for_growth(self: &Arc<Self>, node: &Arc<Node>) {
        if node.kind != NodeKind::File || self.is_writable() {
            return;
        }
        let ttl = self.config.dir_ttl;
        let every = if self.may_grow(node) { ttl.min(LOOK_EVERY) } else { ttl };
        // One whose name stands for another file by now has nothing to grow into.
        if !node.is_to_be_looked_at(every) || !self.inodes.is_current(node) {
            return;
        }
        let (drive, node) = (Arc::downgrade(self), Arc::clone(node));
        let asked = self.jobs.ask(
            move |cancel| {
                let (Some(drive), Some(entry)) = (drive.upgrade(), node.open_entry()) else { return };
                let patience = Patience { stall: drive.ask.timeout, cancel: cancel.child() };
                let before = entry.stat();
                match drive.reader.follow(&entry, Taken::Whole, &patience) {
                    Ok(Followed::Same) => {}
                    Ok(Followed::Grown) if entry.stat() != before => {
                        // For the next run, which may find nobody to ask.
                        drive.cache.note_stat(&node.path, &entry.stat());
                    }
                    // Of what it grew into, only the old part can be shown under this number.
                    Ok(Followed::Grown | Followed::Replaced) => drive.was_replaced(&node),
                    Err(error) => log::debug!("{}: {error}", node.path),
                }
            },
            || {},
        );
        if let Err(error) = asked {
            log::debug!("{error}");
        }
    }

    /// The file behind an open number is another one by now.
    pub(super) fn was_replaced(&self, node: &Node) {
        self.inodes.supersede(node);
        self.stats.expire(&node.path);
        self.listings.expire(folder_of(&node.path));
    }

    /// An open found the version `stat` of a file whose number is open as another: goes on with what the number stands for by
    /// now if the file has only grown, else with `stat`, which is another file. May ask the origin, on another thread.
    pub(super) fn grow_first(self: &Arc<Self>, node: Arc<Node>, stat: Stat, go_on: impl FnOnce(Stat) + Send + 'static) {
        let drive = Arc::clone(self);
        let asked = self.jobs.ask(
            move |cancel| {
                let grown = node.open_entry().and_then(|entry| {
                    if !entry.is_or_was(&stat.version) {
                        let patience = Patience { stall: drive.ask.timeout, cancel: cancel.child() };
                        let followed = drive.reader.follow(&entry, Taken::Whole, &patience);
                        followed.inspect_err(|error| log::debug!("{}: {error}", node.path)).ok()?;
                    }
                    let own = entry.stat();
                    let is_later = entry.grows() && own.size_bytes >= stat.size_bytes;
                    (is_later || entry.is_or_was(&stat.version)).then_some(own)
                });
                go_on(grown.unwrap_or(stat));
            },
            || {},
        );
        if let Err(error) = asked {
            log::warn!("{error}");
        }
    }

    /// How to find out what a file is that may grow: by its last bytes. By them it is known again when it has grown; `kept` has
    /// them until it is open.
    pub(super) fn growing_contact(
        self: &Arc<Self>,
        node: &Node,
        kept: &Arc<Mutex<Option<Arc<Entry>>>>,
    ) -> LoadOnce<Stat> {
        let (drive, kept) = (Arc::clone(self), Arc::clone(kept));
        let is_open = node.open_entry().is_some();
        Box::new(move |path, question| {
            if is_open {
                // The open entry follows it, see `grow_first`.
                return drive.ask.of(question, |origin, patience| origin.stat(path, patience));
            }
            let (stat, end) = drive.ask.of(question, |origin, patience| {
                Ok(match origin.begin(path, Section::Last(BLOCK_SIZE_BYTES), patience)? {
                    Some(begun) => (begun.stat.clone(), all_of(begun)?),
                    None => (origin.stat(path, patience)?, Vec::new()),
                })
            })?;
            if !end.is_empty()
                && let Ok(entry) = drive.cache.entry(path, &stat)
            {
                entry.ends_with(&stat.version, &end);
                *kept.lock() = Some(entry);
            }
            Ok(stat)
        })
    }

    /// An open file follows what its entry stands for. By its end it will be known again when it has grown.
    pub(super) fn follow_open(&self, node: &Node, handle: &Arc<Handle>) {
        node.opened_as(handle.entry());
        if handle.entry().end().is_none()
            && let Err(error) = self.reader.hold_end(handle)
        {
            log::warn!("{}: {error}", node.path);
        }
    }

    /// A file that has grown while it was open is closed: what is known of it from before it grew is of no use any longer.
    pub(super) fn closed_growing(&self, node: &Node, entry: &Entry) {
        if entry.grows() {
            self.stats.expire(&node.path);
            self.listings.expire(folder_of(&node.path));
        }
    }
}

fn all_of(mut begun: Begun) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while let Some(piece) = begun.body.next()? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// A clock that is behind the origin's makes what comes from the future.
fn is_recent(modified: SystemTime, now: SystemTime) -> bool {
    now.duration_since(modified).unwrap_or_else(|ahead| ahead.duration()) <= RECENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_changed_a_moment_ago_may_grow() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24);
        assert!(is_recent(now - RECENT, now) && is_recent(now, now) && is_recent(now + RECENT, now));
        assert!(!is_recent(now - 2 * RECENT, now) && !is_recent(now + 2 * RECENT, now));
    }
}
