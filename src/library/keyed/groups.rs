//! Who needs a group of chunks, and how one goes that nobody needs: by hand, in passing, and when it is collected.
//! Never here: names, and what chunks hold.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::asking::LIST_KEYS;
use super::keys::{self, Id};
use super::{GRACE, KeyedLibrary, REQUEST_LIFE};
use crate::error::{Error, Kind, Result};
use crate::library::Swept;
use crate::range::ByteRange;

/// A writer looks at no more groups than so many at a time: it has something else to do.
const SWEPT_IN_PASSING: usize = 20;
/// And removes so many chunks at a time: it can be told to end after each.
const CHUNKS_IN_PASSING: usize = 20;
/// A larger value is no mark of ours.
const MARK_BYTES_MAX: u64 = 16 << 10;

/// What a reference, an entry of the index and a `gone` say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Of the file; empty of a `gone`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// Of the file's group, in the index of tags; none of a file that is one value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// All tags of the file, once it is being purged: what else leads there goes, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Seconds since 1970.
    pub since: u64,
}

/// What a reference is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// The file is there and needs the group.
    Needed,
    /// The file may be on its way in.
    Young,
    /// Left over.
    Stale,
}

impl Mark {
    pub fn now(path: &str, id: Option<Id>) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Self { path: path.to_owned(), id: id.map(|id| id.to_string()), tags: Vec::new(), since }
    }

    pub fn value(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    pub fn id(&self) -> Option<Id> {
        self.id.as_deref().and_then(Id::parse)
    }

    /// By the clock of whoever wrote it.
    pub fn is_older(&self, grace: Duration) -> bool {
        let since = SystemTime::UNIX_EPOCH + Duration::from_secs(self.since);
        // A clock that is ahead: as if it was written now.
        SystemTime::now().duration_since(since).unwrap_or_default() >= grace
    }
}

impl KeyedLibrary {
    /// What is written under a key of ours; nothing if it is gone, and long ago if it cannot be read.
    pub(super) fn mark(&self, key: &str) -> Result<Option<Mark>> {
        match self.asking.get(key, ByteRange::new(0, MARK_BYTES_MAX)) {
            Ok(value) => {
                let unreadable = Mark { path: String::new(), id: None, tags: Vec::new(), since: 0 };
                Ok(Some(serde_json::from_slice(&value).unwrap_or(unreadable)))
            }
            Err(error) if error.kind() == Kind::Missing => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether it is being removed, or was not long ago.
    pub(super) fn is_swept(&self, id: Id) -> Result<bool> {
        Ok(self.mark(&id.swept())?.is_some())
    }

    pub(super) fn is_gone(&self, id: Id) -> Result<bool> {
        Ok(self.mark(&id.gone())?.is_some())
    }

    pub(super) fn has_refs(&self, id: Id) -> Result<bool> {
        Ok(!self.asking.list(&id.refs(), Bound::Unbounded, 1)?.is_empty())
    }

    /// Says that the file at `path` needs a group, now.
    pub(super) fn refer(&self, id: Id, path: &str) -> Result<()> {
        self.asking.put_one(id.reference(path), Mark::now(path, None).value())
    }

    /// Says that a group is not needed any longer, before the last name that leads there goes.
    pub(super) fn give_up(&self, id: Id) -> Result<()> {
        self.asking.put_one(id.gone(), Mark::now("", None).value())
    }

    /// The file at `path` does not need the group any longer; if another one does, the group is not given up after all.
    pub(super) fn release(&self, id: Id, path: &str) -> Result<()> {
        self.refer_no_longer(id, path)?;
        if self.has_refs(id)? { self.asking.delete(&[id.gone()]) } else { Ok(()) }
    }

    /// Takes a reference away, unless the file needs it; and puts it back if somebody gave the name to this very group
    /// meanwhile: who does looks for the reference afterwards, so that at least one sees the other.
    pub(super) fn refer_no_longer(&self, id: Id, path: &str) -> Result<()> {
        if self.needs(path, id)? {
            return Ok(());
        }
        self.asking.delete(&[id.reference(path)])?;
        if self.needs(path, id)? { self.refer(id, path) } else { Ok(()) }
    }

    /// Whether the file at `path` needs a group. One that cannot be read may: what it says is not known to be nothing.
    pub(super) fn needs(&self, path: &str, id: Id) -> Result<bool> {
        match self.load(path) {
            Ok(file) => Ok(file.id == Some(id)),
            Err(error) if error.kind() == Kind::Missing => Ok(false),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
                log::warn!("{error}: what it may be made of stays");
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Removes all that is left of a group; nothing if a file needs it after all, or may. Says so first, and leaves the word.
    pub(super) fn sweep(&self, id: Id) -> Result<Option<Swept>> {
        self.sweep_while(id, LIST_KEYS, &|| true)
    }

    /// The same, so many chunks at a time, as long as `go_on` says so after each time; nothing if it did not come to the end.
    fn sweep_while(&self, id: Id, at_once: usize, go_on: &dyn Fn() -> bool) -> Result<Option<Swept>> {
        let (mut swept, mut batch, mut said) = (Swept::default(), Vec::new(), None);
        let mut goes_on = self.say_swept(id, &mut said)?;
        if !goes_on {
            return Ok(None);
        }
        self.asking.walk(&format!("{}_chunk_", id.chunk_prefix()), &mut |key| {
            swept.chunks += 1;
            swept.bytes += key.size_bytes.unwrap_or(0);
            batch.push(key.key);
            if batch.len() >= at_once {
                goes_on = self.say_swept(id, &mut said)?;
                if goes_on {
                    self.asking.delete(&std::mem::take(&mut batch))?;
                    goes_on = go_on();
                }
            }
            Ok(goes_on)
        })?;
        if !goes_on || !self.say_swept(id, &mut said)? {
            return Ok(None);
        }
        self.asking.delete(&batch)?;
        let mut refs = Vec::new();
        self.asking.walk(&id.refs(), &mut |key| {
            refs.push(key.key);
            Ok(refs.len() < LIST_KEYS)
        })?;
        self.asking.delete(&refs)?;
        // Last: it leads there if this is broken off.
        self.asking.delete(&[id.gone()])?;
        Ok(Some(swept))
    }

    /// Says that a group is being removed, unless it was `said` not long ago, and whether nobody needs it who could not know.
    fn say_swept(&self, id: Id, said: &mut Option<SystemTime>) -> Result<bool> {
        // By the clock: a machine that slept did not live all the while.
        if said.is_some_and(|said| said.elapsed().is_ok_and(|since| since < REQUEST_LIFE / 2)) {
            return Ok(true);
        }
        *said = Some(SystemTime::now());
        self.asking.put_one(id.swept(), Mark::now("", None).value())?;
        // However little grace there is: who refers to it now may have looked before.
        Ok(!self.is_needed(id, GRACE)?)
    }

    /// Takes the word away that a group was removed, when nothing of that can be on its way any longer; and ends what was
    /// broken off.
    fn end_sweep(&self, id: Id, at_once: usize, go_on: &dyn Fn() -> bool) -> Result<()> {
        let is_over = || Ok(self.mark(&id.swept())?.is_some_and(|swept| swept.is_older(REQUEST_LIFE)));
        if !is_over()? {
            return Ok(());
        }
        let chunks = format!("{}_chunk_", id.chunk_prefix());
        if !self.asking.list(&chunks, Bound::Unbounded, 1)?.is_empty() && !self.is_needed(id, GRACE)? {
            return self.sweep_while(id, at_once, go_on).map(|_| ());
        }
        // Somebody else may be at it again.
        if is_over()? { self.asking.delete(&[id.swept()]) } else { Ok(()) }
    }

    /// Removes some of the groups whose grace is over, wherever a die says, as long as `go_on` does: each writer a few.
    pub(super) fn sweep_some(&self, go_on: &dyn Fn() -> bool) -> Result<()> {
        for prefix in [keys::GONE, keys::SWEPT] {
            let from = format!("{prefix}{}", Id::random());
            let mut some = self.asking.list(prefix, Bound::Included(&from), SWEPT_IN_PASSING)?;
            if some.len() < SWEPT_IN_PASSING {
                some.extend(self.asking.list(prefix, Bound::Unbounded, SWEPT_IN_PASSING - some.len())?);
            }
            for key in some {
                let Some(id) = key.key.strip_prefix(prefix).and_then(Id::parse) else { continue };
                if prefix == keys::GONE {
                    self.sweep_if_over(id, GRACE, CHUNKS_IN_PASSING, go_on)?;
                } else {
                    self.end_sweep(id, CHUNKS_IN_PASSING, go_on)?;
                }
                if !go_on() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Removes a group that was given up long enough ago and that nobody needs.
    fn sweep_if_over(&self, id: Id, grace: Duration, at_once: usize, go_on: &dyn Fn() -> bool) -> Result<()> {
        let is_over = self.mark(&id.gone())?.is_some_and(|gone| gone.is_older(grace));
        if !is_over {
            return Ok(());
        }
        if self.is_needed(id, grace)? {
            // Whoever gave it up did not come to the end.
            return self.asking.delete(&[id.gone()]);
        }
        self.sweep_while(id, at_once, go_on).map(|_| ())
    }

    /// Whether a file needs the group, or one that is on its way in may.
    pub(super) fn is_needed(&self, id: Id, grace: Duration) -> Result<bool> {
        let mut is_needed = false;
        self.asking.walk(&id.refs(), &mut |key| {
            is_needed = self.standing(id, &key.key, grace)? != Standing::Stale;
            Ok(!is_needed)
        })?;
        Ok(is_needed)
    }

    fn standing(&self, id: Id, key: &str, grace: Duration) -> Result<Standing> {
        let Some(mark) = self.mark(key)? else { return Ok(Standing::Stale) };
        if id.reference(&mark.path) != key {
            log::warn!("{}: `{key}` cannot be read: what it refers to stays", self.asking.describe());
            return Ok(Standing::Needed);
        }
        if self.needs(&mark.path, id)? {
            return Ok(Standing::Needed);
        }
        Ok(if mark.is_older(grace) { Standing::Stale } else { Standing::Young })
    }

    /// Removes what no file names and nobody wrote within `grace`.
    pub(super) fn collect(&self, grace: Duration, is_dry_run: bool) -> Result<Swept> {
        let mut swept = Swept::default();
        if !is_dry_run {
            self.collect_refs(grace)?;
            self.collect_tags(grace)?;
            self.collect_plain(grace)?;
        }
        for_each_group(self, &mut |id, chunks| {
            // References that nothing became of are gone by now, unless this is a dry run.
            if if is_dry_run { self.is_needed(id, grace)? } else { self.has_refs(id)? } {
                if !is_dry_run && self.mark(&id.gone())?.is_some_and(|gone| gone.is_older(grace)) {
                    self.asking.delete(&[id.gone()])?;
                }
                return Ok(true);
            }
            match self.mark(&id.gone())? {
                Some(gone) if !gone.is_older(grace) => return Ok(true),
                // Nobody said since when: from now on. Unless all references are older: they say it.
                None if !(grace.is_zero() || is_dry_run && self.has_refs(id)?) => {
                    if !is_dry_run {
                        self.give_up(id)?;
                    }
                    return Ok(true);
                }
                _ => {}
            }
            let of_group = if is_dry_run { Some(chunks) } else { self.sweep(id)? }.unwrap_or_default();
            swept.chunks += of_group.chunks;
            swept.bytes += of_group.bytes;
            Ok(true)
        })?;
        if !is_dry_run {
            self.collect_gone(grace)?;
        }
        Ok(swept)
    }

    /// References that nothing became of.
    fn collect_refs(&self, grace: Duration) -> Result<()> {
        self.asking.walk(keys::REFS, &mut |key| {
            let Some(id) = Id::of_ref(&key.key) else { return Ok(true) };
            if self.standing(id, &key.key, grace)? == Standing::Stale {
                // The group was written when its reference was.
                let Some(mark) = self.mark(&key.key)? else { return Ok(true) };
                let path = mark.path.clone();
                if !self.is_gone(id)? {
                    self.asking.put_one(id.gone(), Mark { path: String::new(), id: None, ..mark }.value())?;
                }
                self.refer_no_longer(id, &path)?;
            }
            Ok(true)
        })
    }

    /// Entries of the index whose file has the tag no longer, or never got it.
    fn collect_tags(&self, grace: Duration) -> Result<()> {
        self.asking.walk(keys::TAGS, &mut |key| {
            let Some(mark) = self.mark(&key.key)? else { return Ok(true) };
            if mark.path.is_empty() {
                log::warn!("{}: `{}` cannot be read", self.asking.describe(), key.key);
                return Ok(true);
            }
            let file = match self.load(&mark.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == Kind::Missing => None,
                Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
                    log::warn!("{error}: its tags stay");
                    return Ok(true);
                }
                Err(error) => return Err(error),
            };
            let has_tag = file
                .is_some_and(|file| file.manifest.meta().tags.iter().any(|tag| keys::tag(tag, &mark.path) == key.key));
            if !has_tag && mark.is_older(grace) {
                self.asking.delete(&[key.key])?;
            }
            Ok(true)
        })
    }

    /// Words about groups that are no more, as far as they are over.
    fn collect_gone(&self, grace: Duration) -> Result<()> {
        self.asking.walk(keys::GONE, &mut |key| {
            if let Some(id) = key.key.strip_prefix(keys::GONE).and_then(Id::parse) {
                self.sweep_if_over(id, grace, LIST_KEYS, &|| true)?;
            }
            Ok(true)
        })?;
        self.asking.walk(keys::SWEPT, &mut |key| {
            if let Some(id) = key.key.strip_prefix(keys::SWEPT).and_then(Id::parse) {
                self.end_sweep(id, LIST_KEYS, &|| true)?;
            }
            Ok(true)
        })
    }
}

/// Every group that has chunks, with how many and how large they are.
pub(super) fn for_each_group(library: &KeyedLibrary, each: &mut dyn FnMut(Id, Swept) -> Result<bool>) -> Result<()> {
    // Chunks of one group stand together.
    let mut group: Option<(Id, Swept)> = None;
    library.asking.walk(keys::CHUNKS, &mut |key| {
        let Some((id, _)) = Id::of_chunk(&key.key) else { return Ok(true) };
        if group.is_some_and(|(before, _)| before != id)
            && let Some((before, chunks)) = group.take()
            && !each(before, chunks)?
        {
            return Ok(false);
        }
        let (_, chunks) = group.get_or_insert((id, Swept::default()));
        chunks.chunks += 1;
        chunks.bytes += key.size_bytes.unwrap_or(0);
        Ok(true)
    })?;
    if let Some((id, chunks)) = group {
        each(id, chunks)?;
    }
    Ok(())
}

/// Which entries a file has in the index of tags.
pub(super) fn tag_entries(tags: &[String], path: &str, id: Option<Id>) -> Vec<(String, Bytes)> {
    let value = Mark::now(path, id).value();
    let entries: BTreeMap<_, _> = tags.iter().map(|tag| (keys::tag(tag, path), value.clone())).collect();
    entries.into_iter().collect()
}

/// The error of whoever took a group that another one is removing.
pub(super) fn is_being_removed(path: &str) -> Error {
    let message = format!("{}: what it is made of is being removed; try again", path.escape_debug());
    Error::new(Kind::Busy, message)
}
