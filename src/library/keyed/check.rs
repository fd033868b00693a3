//! Every chunk hashed, every group that nobody needs found; and good bytes put in the place of bad ones.
//! Never here: what to make of a finding.
//!
//! What leads to a file, and is missing, is put back. Damaged chunks stay where they are: every read hashes what it returns, so nobody is shown them.

use std::num::NonZeroUsize;

use bytes::Bytes;
use lru::LruCache;

use super::groups::{Mark, for_each_group, tag_entries};
use super::keys::{self, Id};
use super::value::{self, HEAD_BYTES};
use super::{GRACE, HEAD, KeyedLibrary, Loaded, place};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::manifest::Kept;
use crate::library::{Content, Damage, Finding, Library as _, Proof, Verified};
use crate::range::ByteRange;

/// Groups that were hashed already: of files with the same content. Beyond it, one may be hashed twice.
const HASHED_MAX: NonZeroUsize = NonZeroUsize::new(100_000).expect("not 0");

/// What is under way.
struct Check<'a> {
    library: &'a KeyedLibrary,
    verified: Verified,
    hashed: LruCache<(Id, Digest), ()>,
    go_on: &'a mut dyn FnMut(Verified) -> bool,
    found: &'a mut dyn FnMut(Finding),
}

/// Hashes all there is.
pub(super) fn verify(
    library: &KeyedLibrary,
    go_on: &mut dyn FnMut(Verified) -> bool,
    found: &mut dyn FnMut(Finding),
) -> Result<Verified> {
    let (verified, hashed) =
        (Verified { total_bytes: kept_bytes(library)?, ..Verified::default() }, LruCache::new(HASHED_MAX));
    let mut check = Check { library, verified, hashed, go_on, found };
    let mut goes_on = true;
    library.asking.walk("", &mut |key| {
        // All of ours stand together, but a key is asked for one by one.
        if !keys::is_ours(&key.key) && !library.is_plain_chunk(&key.key)? {
            goes_on = check.file(&key.key, key.size_bytes.unwrap_or(0))?;
        }
        Ok(goes_on)
    })?;
    if goes_on {
        check.orphans()?;
    }
    Ok(check.verified)
}

/// Bytes of all files and chunks there are, as their listing tells; 0 where it does not. With what is around them: heads and
/// manifests are not counted out, and are small beside them.
fn kept_bytes(library: &KeyedLibrary) -> Result<u64> {
    let (mut sum, mut is_known) = (0_u64, true);
    library.asking.walk("", &mut |key| {
        if Id::of_chunk(&key.key).is_some() || !keys::is_ours(&key.key) {
            is_known &= key.size_bytes.is_some();
            sum = sum.saturating_add(key.size_bytes.unwrap_or(0));
        }
        Ok(is_known)
    })?;
    Ok(if is_known { sum } else { 0 })
}

impl Check<'_> {
    /// Whether to go on.
    fn file(&mut self, path: &str, size_bytes: u64) -> Result<bool> {
        let file = match self.library.load(path) {
            Ok(file) => file,
            // Removed meanwhile.
            Err(error) if error.kind() == Kind::Missing => return Ok(true),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Unsupported) => {
                if error.kind() == Kind::Unsupported && value::is_foreign(&self.library.asking.get(path, HEAD)?) {
                    log::debug!("{error}");
                    return Ok((self.go_on)(self.verified));
                }
                log::warn!("{error}");
                (self.found)(Finding {
                    what: Damage::Damaged,
                    path: Some(path.to_owned()),
                    chunk: None,
                    place: path.to_owned(),
                    sha256: None,
                    range: ByteRange::new(0, size_bytes),
                });
                return Ok((self.go_on)(self.verified));
            }
            Err(error) => return Err(error),
        };
        self.put_back(path, &file)?;
        let Loaded { manifest, id, .. } = file;
        self.verified.files += 1;
        if let Content::Inline(bytes) = manifest.content() {
            // Hashed as it was read.
            self.verified.chunks += 1;
            self.verified.bytes += bytes.len() as u64;
            return Ok((self.go_on)(self.verified));
        }
        if let Some(id) = id {
            // Of one group two manifests may say two things, where one of them is damaged.
            let group = (id, manifest.content_id());
            if self.hashed.contains(&group) {
                return Ok((self.go_on)(self.verified));
            }
            self.hashed.put(group, ());
        }
        for (n, chunk) in manifest.chunks().iter().enumerate() {
            if chunk.proof == Proof::Zeros {
                continue;
            }
            let checked = self.library.checked_chunk(path, &manifest, n);
            if let (Err(error), Proof::Size) = (&checked, chunk.proof) {
                // Of what others wrote, sizes are all there is to tell.
                log::warn!("{error}");
            }
            let what = match checked {
                Ok(_) => None,
                Err(error) if error.kind() == Kind::Missing => Some(Damage::Missing),
                Err(error) if error.kind() == Kind::Corrupt => Some(Damage::Damaged),
                Err(error) => return Err(error),
            };
            self.verified.chunks += 1;
            self.verified.bytes += chunk.range.len();
            if let Some(what) = what {
                // One that was replaced meanwhile looks like a damaged one.
                let now = self.library.load_any(path)?;
                if now.is_none_or(|now| {
                    now.manifest.kept() != manifest.kept() || now.manifest.chunks() != manifest.chunks()
                }) {
                    return Ok((self.go_on)(self.verified));
                }
                let sha256 = if let Proof::Sha256(digest) = chunk.proof { Some(digest) } else { None };
                (self.found)(Finding {
                    what,
                    path: Some(path.to_owned()),
                    chunk: Some(n),
                    place: place(path, &manifest, n),
                    sha256,
                    range: chunk.range,
                });
            }
            if !(self.go_on)(self.verified) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Puts back what leads to a file, where it is missing: no purge would find it, or a collector would take it for nobody's.
    fn put_back(&mut self, path: &str, file: &Loaded) -> Result<()> {
        let mut leads = tag_entries(&file.manifest.meta().tags, path, file.id);
        leads.extend(file.id.map(|id| (id.reference(path), Mark::now(path, None).value())));
        for (key, value) in leads {
            if self.library.mark(&key)?.is_some() {
                continue;
            }
            if self.library.load_any(path)?.is_none_or(|now| now.seen != file.seen) {
                return Ok(());
            }
            log::warn!("{}: `{key}`, which leads there, was missing: put back", path.escape_debug());
            if let Err(error) = self.library.asking.put_one(key.clone(), value) {
                log::warn!("{error}");
                let (what, path) = (Damage::Missing, Some(path.to_owned()));
                let range = ByteRange::new(0, 0);
                (self.found)(Finding { what, path, chunk: None, place: key, sha256: None, range });
            }
        }
        Ok(())
    }

    /// Groups that no file needs, nor one that is on its way in.
    fn orphans(&mut self) -> Result<()> {
        let Self { library, verified, go_on, found, .. } = self;
        for_each_group(library, &mut |id, _| {
            if !library.is_needed(id, GRACE)? {
                library.asking.walk(&format!("{}_chunk_", id.chunk_prefix()), &mut |key| {
                    found(Finding {
                        what: Damage::Orphaned,
                        path: None,
                        chunk: None,
                        place: key.key,
                        sha256: None,
                        range: ByteRange::new(0, key.size_bytes.unwrap_or(0)),
                    });
                    Ok(true)
                })?;
            }
            Ok(go_on(*verified))
        })
    }
}

/// Puts good bytes in the place of a chunk.
pub(super) fn repair(library: &KeyedLibrary, finding: &Finding, bytes: &[u8]) -> Result<()> {
    let (Some(path), Some(n)) = (&finding.path, finding.chunk) else {
        let message = format!("{}: nothing says what it was: put the file again", finding.place.escape_debug());
        return Err(Error::new(Kind::Unsupported, message));
    };
    let wrong = |what: &str| Error::new(Kind::Invalid, format!("{}: chunk {n}: {what}", path.escape_debug()));
    let manifest = library.manifest(path)?;
    let chunk = manifest.chunks().get(n).filter(|chunk| chunk.range == finding.range);
    let Some(chunk) = chunk.filter(|_| place(path, &manifest, n) == finding.place) else {
        return Err(Error::new(Kind::Changed, format!("{}: replaced meanwhile", path.escape_debug())));
    };
    if !chunk.fits(bytes) {
        return Err(wrong("these bytes are not the ones that were put"));
    }
    let Kept::Within { start_byte } = manifest.kept() else {
        return library.asking.put_one(finding.place.clone(), Bytes::copy_from_slice(bytes));
    };
    let mut mended = library.whole(path)?.to_vec();
    let (start, end) = ((start_byte + chunk.range.start) as usize, (start_byte + chunk.range.end) as usize);
    // It may have been cut off.
    mended.resize(mended.len().max(end), 0);
    mended[start..end].copy_from_slice(bytes);
    mended.truncate((start_byte + manifest.size_bytes()) as usize);
    let header = Bytes::copy_from_slice(&mended[..mended.len().min(HEAD_BYTES as usize)]);
    let is_same = value::read_frame(path, &header)
        .is_ok_and(|now| now.size_bytes() == manifest.size_bytes() && now.content_id() == manifest.content_id());
    if !is_same {
        return Err(Error::new(Kind::Changed, format!("{}: replaced meanwhile", path.escape_debug())));
    }
    library.asking.put_one(path.clone(), mended.into())
}
