//! The library that files are put in. Everything here may wait for a far server, and ends when that has been asked often
//! enough: it is for threads that nobody else needs.
//! Never here: who sees what meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::SystemTime;

use super::staged::Replaces;
use crate::error::{Error, Kind, Result};
use crate::library::writer::{self, Writer};
use crate::library::{Content, Library, Manifest, Meta, Proof, Query, content_type};
use crate::origin::library::Kept;

/// A file that is changed in place is fetched whole first: up to so many bytes, some minutes on a slow line.
pub(in crate::drive) const COPY_BYTES_MAX: u64 = 1 << 30;

/// The library, opened when it is first needed.
pub(in crate::drive) struct Home {
    kept: Arc<Kept>,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::drive) enum There {
    File,
    Folder,
    Nothing,
}

impl Home {
    pub fn new(kept: Arc<Kept>) -> Self {
        Self { kept }
    }

    fn at(&self, path: &str) -> Result<(&dyn Library, String)> {
        self.kept.to_write(path)
    }

    /// Puts `file`, all of it, under the name `path`. What was there keeps its tags; `Changed` if it is not what `replaces` may
    /// take the place of. A library can't do both in one step: who puts at the same moment is not seen.
    pub fn put(&self, path: &str, file: &File, modified: SystemTime, replaces: &mut Replaces) -> Result<()> {
        let (library, path) = self.at(path)?;
        let before = match library.manifest(&path) {
            Ok(manifest) => Some(manifest),
            // What is there and damaged is put anew.
            Err(error) if matches!(error.kind(), Kind::Missing | Kind::Corrupt) => None,
            Err(error) => return Err(error),
        };
        check_ours(&path, before.as_ref())?;
        if !replaces.allows(before.as_ref().map(Manifest::content_id)) {
            let message = format!("{}: somebody else has put it meanwhile, and that stays", path.escape_debug());
            return Err(Error::new(Kind::Changed, message));
        }
        let mut meta = Meta { modified, ..before.map_or_else(Meta::now, Manifest::into_meta) };
        meta.content_type = meta.content_type.or_else(|| content_type::of_name(&path));
        let cut = library.cut();
        let content = writer::chunks_of(&mut FromStart::of(file), cut, &mut |_| Ok(()))?;
        let manifest = Manifest::new(content, meta.clone())?;
        let content_id = manifest.content_id();
        let expected = match manifest.into_content() {
            Content::Chunks(chunks) if library.wants_expected() => Some(chunks),
            _ => None,
        };
        replaces.tries(content_id);
        let mut writer = Writer::new(library.draft(&path, expected.as_deref())?, cut);
        writer.write_all_of(&mut FromStart::of(file), &mut |_| Ok(()))?;
        writer.finish(meta)?;
        library.flush()?;
        *replaces = Replaces::Only(vec![content_id]);
        Ok(())
    }

    /// What the file at `path` is now.
    pub fn manifest(&self, path: &str) -> Result<Manifest> {
        let (library, path) = self.at(path)?;
        library.manifest(&path)
    }

    /// Fetches a file into `file`.
    pub fn fetch(&self, path: &str, manifest: &Manifest, file: &File) -> Result<()> {
        let (library, path) = self.at(path)?;
        check_ours(&path, Some(manifest))?;
        let write = |bytes: &[u8], at| file.write_all_at(bytes, at).map_err(|error| Error::io("staging", &error));
        match manifest.content() {
            Content::Inline(bytes) => write(bytes, 0)?,
            Content::Chunks(chunks) => {
                for (n, chunk) in chunks.iter().enumerate().filter(|(_, chunk)| chunk.proof != Proof::Zeros) {
                    write(&library.chunk(&path, manifest, n)?, chunk.range.start)?;
                }
            }
        }
        file.set_len(manifest.size_bytes()).map_err(|error| Error::io("staging", &error))
    }

    /// Sets the time of a file's last change.
    pub fn set_modified(&self, path: &str, modified: SystemTime) -> Result<()> {
        let (library, path) = self.at(path)?;
        library.set_modified(&path, modified)?;
        library.flush()
    }

    /// Takes a file's name away.
    pub fn remove(&self, path: &str) -> Result<()> {
        let (library, path) = self.at(path)?;
        library.remove(&path)?;
        library.flush()
    }

    /// Gives a file another name.
    pub fn rename(&self, from: &str, to: &str) -> Result<()> {
        let ((library, from), (_, to)) = (self.at(from)?, self.at(to)?);
        library.rename(&from, &to)?;
        library.flush()
    }

    /// What is at `path`, in the library.
    pub fn there(&self, path: &str) -> Result<There> {
        let (library, path) = self.at(path)?;
        let is_folder = |folder: String| match library.list(&Query { folder, limit: 1, ..Query::default() }) {
            Ok(page) => Ok(!page.names.is_empty()),
            Err(error) if error.kind() == Kind::Missing => Ok(false),
            Err(error) => Err(error),
        };
        match library.manifest(&path) {
            Ok(_) => Ok(There::File),
            Err(error) if error.kind() == Kind::Corrupt => Ok(There::File),
            Err(error) if error.kind() == Kind::Missing => Ok(There::Nothing),
            // Or a file of a later format.
            Err(error) if error.kind() == Kind::Unsupported => {
                Ok(if is_folder(path)? { There::Folder } else { There::File })
            }
            Err(error) => Err(error),
        }
    }
}

/// Refuses what would take the place of another program's value.
fn check_ours(path: &str, there: Option<&Manifest>) -> Result<()> {
    if !there.is_some_and(Manifest::is_of_another_program) {
        return Ok(());
    }
    Err(Error::new(Kind::Unsupported, format!("{}: another program's file: it is read-only", path.escape_debug())))
}

/// A file from byte 0 on, wherever somebody else reads it.
struct FromStart<'a> {
    file: &'a File,
    at: u64,
}

impl<'a> FromStart<'a> {
    fn of(file: &'a File) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for FromStart<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
