//! Every blob hashed, every file's chunks added up; and good bytes put in the place of bad ones.
//! Never here: what to make of a finding.

use std::time::Duration;

use super::{Local, STEP, written};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::library::catalog::{FileNode, UsedBlob, View};
use crate::library::{Damage, Finding, Verified};
use crate::range::ByteRange;

/// Files named for one damaged blob: equal chunks may be in many.
const USES_NAMED_MAX: usize = 100;

/// What is under way.
struct Check<'a> {
    local: &'a Local,
    verified: Verified,
    go_on: &'a mut dyn FnMut(Verified) -> bool,
    found: &'a mut dyn FnMut(Finding),
}

/// Looks at every page of the catalog, every blob, every file.
pub(super) fn verify(
    local: &Local,
    go_on: &mut dyn FnMut(Verified) -> bool,
    found: &mut dyn FnMut(Finding),
) -> Result<Verified> {
    // With a damaged one nothing is certain of what it says.
    local.catalog.check()?;
    let total = |view: &View<'_>| -> Result<Verified> {
        Ok(Verified { total_bytes: view.kept_bytes()?, ..Verified::default() })
    };
    let verified = local.catalog.read(total)?;
    let mut check = Check { local, verified, go_on, found };
    if check.blobs()? && check.files()? {
        check.orphans()?;
    }
    Ok(check.verified)
}

impl Check<'_> {
    /// Whether to go on.
    fn blobs(&mut self) -> Result<bool> {
        let mut after = None;
        loop {
            let blobs = self.local.catalog.read(|view| view.blobs(after.as_ref(), STEP))?;
            let Some(last) = blobs.last() else { return Ok(true) };
            after = Some(last.digest);
            for blob in blobs {
                self.blob(blob)?;
                self.verified.chunks += 1;
                self.verified.bytes += blob.size_bytes_max;
                if !(self.go_on)(self.verified) {
                    return Ok(false);
                }
            }
        }
    }

    fn blob(&mut self, UsedBlob { digest, size_bytes_min, size_bytes_max }: UsedBlob) -> Result<()> {
        match self.local.blobs.check(digest) {
            Ok(size_bytes) if size_bytes_min == size_bytes && size_bytes == size_bytes_max => Ok(()),
            // It is what it was: whoever says that it is longer or shorter is wrong.
            Ok(size_bytes) => self.found(Damage::Damaged, digest, Some(size_bytes)),
            Err(error) if error.kind() == Kind::Missing => self.found(Damage::Missing, digest, None),
            Err(error) if error.kind() == Kind::Corrupt => {
                self.found(Damage::Damaged, digest, None)?;
                if self.local.catalog.is_writer() { self.local.blobs.quarantine(digest) } else { Ok(()) }
            }
            Err(error) => Err(error),
        }
    }

    /// One finding for each place a blob is used in; if its bytes are sound and so many, for each where the catalog says
    /// something else.
    fn found(&mut self, what: Damage, blob: Digest, sound_bytes: Option<u64>) -> Result<()> {
        let catalog = &self.local.catalog;
        let place = match sound_bytes {
            Some(_) => self.local.catalog_place(),
            None => self.local.blobs.path(blob).display().to_string(),
        };
        for used in catalog.read(|view| view.uses(&blob, sound_bytes, USES_NAMED_MAX))? {
            let path = catalog.read(|view| view.path_of(used.node_id))?;
            let (chunk, place) = (Some(used.number), place.clone());
            (self.found)(Finding { what, path, chunk, place, sha256: Some(blob), range: used.range });
        }
        Ok(())
    }

    /// Whether to go on.
    fn files(&mut self) -> Result<bool> {
        let mut after = 0;
        loop {
            let files = self.local.catalog.read(|view| view.files(after, STEP))?;
            let Some(last) = files.last() else { return Ok(true) };
            after = last.node_id;
            for file in files {
                self.file(&file)?;
                self.verified.files += 1;
                self.verified.bytes += if file.inline.is_some() { file.size_bytes } else { 0 };
                if !(self.go_on)(self.verified) {
                    return Ok(false);
                }
            }
        }
    }

    /// One that is kept in the catalog has its hash beside it; the chunks of others must add up.
    fn file(&mut self, file: &FileNode) -> Result<()> {
        let catalog = &self.local.catalog;
        let sha256 = match &file.inline {
            Some(inline) if inline.is_sound => return Ok(()),
            Some(inline) => inline.sha256,
            None => {
                let check = |view: &View<'_>| View::check_chunks(view, file.node_id);
                // Wrong in one state of the catalog, and not between two of them.
                let checked = catalog.read(check).or_else(|_| catalog.read_state(check));
                match checked {
                    Ok(()) => return Ok(()),
                    Err(error) if error.kind() == Kind::Corrupt => log::warn!("{error}"),
                    Err(error) => return Err(error),
                }
                None
            }
        };
        let path = catalog.read(|view| view.path_of(file.node_id))?;
        let (place, range) = (self.local.catalog_place(), ByteRange::at(0, file.size_bytes));
        (self.found)(Finding { what: Damage::Damaged, path, chunk: None, place, sha256, range });
        Ok(())
    }

    fn orphans(&mut self) -> Result<()> {
        let (local, found) = (self.local, &mut *self.found);
        let each = &mut |blob, size_bytes| {
            let (place, range) = (local.blobs.path(blob).display().to_string(), ByteRange::at(0, size_bytes));
            found(Finding { what: Damage::Orphaned, path: None, chunk: None, place, sha256: Some(blob), range });
            Ok(true)
        };
        local.orphans(Duration::ZERO, each).map(drop)
    }
}

/// Puts `bytes` where the finding says.
pub(super) fn repair(local: &Local, finding: &Finding, bytes: &[u8]) -> Result<()> {
    let digest = Digest::of(bytes);
    let refuse = |what: &str| Err(Error::new(Kind::Corrupt, format!("{}: {what}", finding.place)));
    if finding.sha256 != Some(digest) {
        return refuse("these are not its bytes either");
    }
    let Some(_) = finding.chunk else {
        let path = finding.path.as_deref().unwrap_or_default();
        local.catalog.change(|change| change.set_inline(change.file(path)?.node_id, bytes))?;
        return local.catalog.flush();
    };
    let size_bytes = bytes.len() as u64;
    if size_bytes != finding.range.len() {
        return refuse("not the bytes are wrong, but where they stand in the file: put the file again");
    }
    match local.blobs.check(digest) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == Kind::Corrupt => local.blobs.quarantine(digest)?,
        Err(_) => {}
    }
    local.blobs.keep(vec![(written(&local.blobs, bytes)?, digest, size_bytes)]).map(drop)
}
