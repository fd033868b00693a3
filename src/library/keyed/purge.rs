//! Removes every file with a tag, with all that only they needed, now. Broken off at any point, the next run goes on.
//! Never here: grace. Who purges wants the bytes gone.
//!
//! The entry in the tag's index goes last of all, and holds the id of the file's group: as long as anything is left of a
//! file, its entry leads there. Many files go at once, step by step, as stores delete many keys in one request.

use super::groups::{Mark, tag_entries};
use super::keys::{self, Id};
use super::{KeyedLibrary, Loaded};
use crate::error::{Error, Kind, Result};
use crate::library::{Swept, check_tags};
use crate::store::keyed::Swap;

/// Files that go at once. What is known of so many is held in memory, but for their chunks.
const FILES_AT_ONCE: usize = 200;

/// A file of which something may be left.
struct Purged {
    entry: String,
    path: String,
    /// Of the file that is there now, if it has the tag.
    file: Option<Loaded>,
    /// Groups that it needs or, by its entry, needed.
    groups: Vec<Id>,
    /// The same of its tags.
    tags: Vec<String>,
}

/// Removes them, and fails in the end if there are some that cannot be read: they stay. `go_on` hears after each file what went so far, and says whether to go on.
pub(super) fn purge(library: &KeyedLibrary, tag: &str, go_on: &mut dyn FnMut(Swept) -> bool) -> Result<Swept> {
    check_tags(vec![tag.to_owned()])?;
    let (mut swept, mut stays) = (Swept::default(), 0);
    let mut batch = Vec::new();
    let mut is_broken_off = false;
    library.asking.walk(&keys::tagged(tag), &mut |key| {
        batch.push(key.key);
        if batch.len() >= FILES_AT_ONCE {
            is_broken_off = !purge_some(library, tag, &std::mem::take(&mut batch), &mut swept, &mut stays, go_on)?;
        }
        Ok(!is_broken_off)
    })?;
    if !is_broken_off && !batch.is_empty() {
        is_broken_off = !purge_some(library, tag, &batch, &mut swept, &mut stays, go_on)?;
    }
    if stays > 0 && !is_broken_off {
        let (place, tag) = (library.asking.describe(), tag.escape_debug());
        let message =
            format!("{place}: {stays} files under tag `{tag}` can't be read, and stay: see `reelfs verify {place}`");
        return Err(Error::new(Kind::Corrupt, message));
    }
    Ok(swept)
}

/// Whether to go on; `stays` counts what cannot be read.
fn purge_some(
    library: &KeyedLibrary,
    tag: &str,
    entries: &[String],
    swept: &mut Swept,
    stays: &mut u64,
    go_on: &mut dyn FnMut(Swept) -> bool,
) -> Result<bool> {
    let asking = &library.asking;
    let mut files = Vec::new();
    for entry in entries {
        if let Some(file) = look(library, tag, entry, stays)? {
            files.push(file);
        }
    }
    // First: they lead there if this is broken off.
    let gone = Mark::now("", None).value();
    let groups = || files.iter().flat_map(|file| file.groups.iter().map(move |id| (file, *id)));
    asking.put(&groups().map(|(_, id)| (id.gone(), gone.clone())).collect::<Vec<_>>())?;
    // Its manifest says it no longer in a moment.
    let noted = files.iter().filter(|file| file.file.is_some() && file.tags.len() > 1).map(|file| {
        let id = file.file.as_ref().and_then(|loaded| loaded.id);
        (file.entry.clone(), Mark { tags: file.tags.clone(), ..Mark::now(&file.path, id) }.value())
    });
    asking.put(&noted.collect::<Vec<_>>())?;
    let files = take_names(library, files)?;
    let groups = || files.iter().flat_map(|file| file.groups.iter().map(move |id| (file, *id)));
    asking.delete(&groups().map(|(file, id)| id.reference(&file.path)).collect::<Vec<_>>())?;
    let other_tags = files
        .iter()
        .flat_map(|file| file.tags.iter().map(|tag| keys::tag(tag, &file.path)).filter(|entry| *entry != file.entry));
    asking.delete(&other_tags.collect::<Vec<_>>())?;
    for file in &files {
        // Somebody may have put another file there meanwhile, whose references and tags' entries went.
        put_back(library, file)?;
        for id in &file.groups {
            if library.has_refs(*id)? {
                // Another file has the same content.
                asking.delete(&[id.gone()])?;
            } else if let Some(group) = library.sweep(*id)? {
                swept.chunks += group.chunks;
                swept.bytes += group.bytes;
            }
        }
        asking.delete(std::slice::from_ref(&file.entry))?;
        put_back(library, file)?;
        // One whose name went in a run that was broken off is done now.
        if file.file.is_some() || !file.groups.is_empty() {
            swept.files += 1;
        }
        // Chunks are counted as they go.
        if let Some(loaded) = file.file.as_ref().filter(|loaded| loaded.id.is_none()) {
            swept.bytes += loaded.manifest.size_bytes();
        }
        if !go_on(*swept) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Puts back what leads to a file, or is led to, that has the name by now.
fn put_back(library: &KeyedLibrary, file: &Purged) -> Result<()> {
    let Some(now) = library.load_any(&file.path)? else { return Ok(()) };
    if let Some(id) = now.id.filter(|id| file.groups.contains(id)) {
        library.refer(id, &file.path)?;
    }
    library.index_again(tag_entries(&now.manifest.meta().tags, &file.path, now.id))
}

/// Takes the names away that still lead to what they did, and returns those files. Of one that does not, what was given up is
/// taken back where it is needed.
fn take_names(library: &KeyedLibrary, files: Vec<Purged>) -> Result<Vec<Purged>> {
    let swap = |file: &Purged| {
        file.file.as_ref().map(|loaded| Swap { key: file.path.clone(), seen: loaded.seen, value: None })
    };
    let mut done = library.asking.swap(&files.iter().filter_map(swap).collect::<Vec<_>>())?.into_iter();
    let mut taken = Vec::new();
    for file in files {
        if file.file.is_none() || done.next() == Some(true) {
            taken.push(file);
        } else {
            file.groups.iter().try_for_each(|id| library.release(*id, &file.path))?;
        }
    }
    Ok(taken)
}

fn has(file: &Loaded, tag: &str) -> bool {
    file.manifest.meta().tags.iter().any(|has| has == tag)
}

/// What an entry leads to; nothing if it cannot be read, or it is of a file that is on its way in.
fn look(library: &KeyedLibrary, tag: &str, entry: &str, stays: &mut u64) -> Result<Option<Purged>> {
    let Some(mark) = library.mark(entry)? else { return Ok(None) };
    if keys::tag(tag, &mark.path) != entry {
        log::warn!("{}: `{}` cannot be read: it stays", library.asking.describe(), entry.escape_debug());
        *stays += 1;
        return Ok(None);
    }
    let path = mark.path.clone();
    let known = mark.id();
    let file = match library.load(&path) {
        Ok(file) => Some(file),
        Err(error) if error.kind() == Kind::Missing => None,
        // It may have the tag, or not.
        Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
            log::warn!("{error}: it stays");
            *stays += 1;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let has_tag = file.as_ref().is_some_and(|file| has(file, tag));
    let now = file.as_ref().and_then(|file| file.id);
    // Another file may have the name by now, and tags of its own.
    let mut tags = mark.tags.clone();
    if let Some(file) = &file {
        if has_tag {
            tags.clone_from(&file.manifest.meta().tags);
        } else {
            tags.retain(|tag| !file.manifest.meta().tags.contains(tag));
        }
    }
    let file = file.filter(|_| has_tag);
    let mut groups: Vec<_> = file.as_ref().and_then(|file| file.id).into_iter().collect();
    // The group that the entry names is another one than the file's: of a purge that was broken off, or of a file that is
    // on its way in. The one said so, the other did not.
    if let Some(known) = known.filter(|known| Some(*known) != now) {
        if library.is_gone(known)? {
            groups.push(known);
        } else if library.mark(&known.reference(&path))?.is_some() && file.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(Purged { entry: entry.to_owned(), path, file, groups, tags }))
}
