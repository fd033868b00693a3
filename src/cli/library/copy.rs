//! `reelfs copy`: brings what is in one library into another.
//! Never here: where either keeps its bytes.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use clap::Args;

use super::get::{Piece, copy_out};
use super::{Interrupted, LibraryOptions, counted, each_name, is_folder, line, name_of};
use crate::cli::complain;
use crate::cli::exit::Outcome;
use crate::cli::progress::Shown;
use crate::config::format_size;
use crate::control::Progress;
use crate::error::{Error, Kind, Result};
use crate::library::place::{self, Access};
use crate::library::writer::{self, Writer};
use crate::library::{Chunk, Content, Cut, Draft, Library, Manifest, Meta, Named, NamedKind, Proof, Query};
use crate::store::join;

/// Copy files from one library to another, with times, tags and types. Only chunks that the other one lacks are sent; files
/// that it has are skipped. Nothing is removed there. Links and empty folders are counted and left out; so are owners, modes
/// and extended attributes.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// From here: all of a library, a folder of it, or a file.
    #[arg(value_name = "LIBRARY[/PATH]")]
    from: String,
    /// To there: what is below the one path comes below the other.
    #[arg(value_name = "LIBRARY[/PATH]")]
    to: String,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Copies, and says how much was sent.
pub fn run(args: CopyArgs, is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let interrupted = Interrupted::listen()?;
    let places = args.options.places()?;
    let (from, to) = (place::open(&args.from, &places, Access::Look)?, place::open(&args.to, &places, Access::Write)?);
    let mut run = Run { from: &*from.library, to: &*to.library, shown: Shown::new(is_quiet), tally: Tally::default() };
    let mut outcome = Outcome::Done;
    if is_folder(run.from, &from.path) {
        let mut each = |run: &mut Run<'_>, named: Named| {
            if interrupted.is_set() {
                return Err(Error::new(Kind::Local, "broken off: run it again for the rest"));
            }
            let below = named.path.strip_prefix(&from.path).unwrap_or(&named.path).trim_start_matches('/');
            if let Err(error) = run.file(&named.path, &join(&to.path, below)) {
                outcome.and(Outcome::of(&error));
                complain(&error.context(&named.path));
            }
            Ok(())
        };
        run.folder(&from.path, &mut each)?;
    } else {
        let is_into = to.is_folder || is_folder(run.to, &to.path);
        let path = if is_into { join(&to.path, name_of(&from.path)) } else { to.path.clone() };
        run.file(&from.path, &path)?;
    }
    run.to.flush()?;
    run.shown.clear();
    let Tally { files, skipped, bytes, sent_bytes, others, empty_folders } = run.tally;
    let (files, skipped) = (counted(files, "file"), counted(skipped, "file"));
    line(
        out,
        &format!(
            "{files} copied, {}, of which {} were sent; {skipped} there already",
            format_size(bytes),
            format_size(sent_bytes.into_inner())
        ),
    )?;
    if others + empty_folders > 0 {
        let (others, folders) = (counted(others, "special file"), counted(empty_folders, "empty folder"));
        line(out, &format!("left out: {others} (links, pipes, devices), {folders}"))?;
    }
    Ok(outcome.into())
}

struct Run<'a> {
    from: &'a dyn Library,
    to: &'a dyn Library,
    shown: Shown,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    files: u64,
    skipped: u64,
    bytes: u64,
    sent_bytes: AtomicU64,
    // What is no file, and has no place in every home.
    others: u64,
    empty_folders: u64,
}

impl Run<'_> {
    /// Hands on every file below a folder, and counts what is none; returns how many names are in it.
    fn folder(&mut self, folder: &str, each: &mut dyn FnMut(&mut Self, Named) -> Result<()>) -> Result<u64> {
        let from = self.from;
        // Where folders are but the beginnings of names, one listing of all costs least.
        let is_recursive = !from.has_folders();
        let mut count = 0_u64;
        each_name(from, Query { folder: folder.to_owned(), is_recursive, ..Query::default() }, &mut |named| {
            count += 1;
            match named.kind {
                NamedKind::Folder => {
                    let is_empty = self.folder(&named.path, each)? == 0;
                    self.tally.empty_folders += u64::from(is_empty);
                    Ok(())
                }
                NamedKind::File { .. } => each(self, named),
                NamedKind::Other => {
                    self.tally.others += 1;
                    Ok(())
                }
            }
        })?;
        Ok(count)
    }

    fn file(&mut self, from: &str, to: &str) -> Result<()> {
        let manifest = self.from.manifest(from)?;
        let size_bytes = manifest.size_bytes();
        match self.to.manifest(to) {
            Ok(there) if is_same(&manifest, &there) && self.to.is_whole(&there)? => self.tally.skipped += 1,
            Err(error) if !matches!(error.kind(), Kind::Missing | Kind::Corrupt) => return Err(error),
            _ => {
                self.send(from, &manifest, to)?;
                self.tally.files += 1;
                self.tally.bytes += size_bytes;
            }
        }
        let done_bytes = self.tally.sent_bytes.load(Ordering::Relaxed);
        self.shown.show(&Progress { path: from.to_owned(), done_bytes, total_bytes: self.tally.bytes });
        Ok(())
    }

    fn send(&mut self, from: &str, manifest: &Manifest, to: &str) -> Result<()> {
        let meta = manifest.meta().clone();
        let cut = self.to.cut();
        if !is_cut_alike(cut, manifest) {
            let library = self.from;
            let pour = |writer: &mut Writer<'_>| {
                let write = &mut |piece: Piece<'_>| piece.as_bytes(&mut |bytes| writer.write(bytes));
                copy_out(library, from, manifest, write, &mut |_| Ok(()))
            };
            // Read twice, where that tells what need not be sent.
            let is_known_first = self.to.wants_expected() && manifest.size_bytes() > cut.inline_bytes_max;
            let expected = is_known_first.then(|| writer::content_of(cut, &mut |writer| pour(writer))).transpose()?;
            let chunks = match &expected {
                Some(Content::Chunks(chunks)) => Some(chunks.as_slice()),
                _ => None,
            };
            let draft = Lacking { draft: self.to.draft(to, chunks)?, sent_bytes: &self.tally.sent_bytes };
            let mut writer = Writer::new(Box::new(draft), cut);
            pour(&mut writer)?;
            writer.finish(meta)?;
            return Ok(());
        }
        let mut draft = self.to.draft(to, Some(manifest.chunks()))?;
        let kept = manifest.chunks().iter().enumerate().filter(|(_, chunk)| chunk.proof != Proof::Zeros);
        for (n, chunk) in kept {
            if !draft.add_known(chunk)? {
                draft.add(chunk, self.from.chunk(from, manifest, n)?)?;
                self.tally.sent_bytes.fetch_add(chunk.range.len(), Ordering::Relaxed);
            }
        }
        draft.commit(manifest.content().clone(), meta).map(drop)
    }
}

/// A draft that is given only the chunks it has not, and counts them.
struct Lacking<'a> {
    draft: Box<dyn Draft + 'a>,
    sent_bytes: &'a AtomicU64,
}

impl Draft for Lacking<'_> {
    fn add(&mut self, chunk: &Chunk, bytes: Bytes) -> Result<()> {
        if self.draft.add_known(chunk)? {
            return Ok(());
        }
        self.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.draft.add(chunk, bytes)
    }

    fn commit(self: Box<Self>, content: Content, meta: Meta) -> Result<Manifest> {
        if let Content::Inline(bytes) = &content {
            self.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        self.draft.commit(content, meta)
    }
}

/// By their hashes where both are cut alike; else by size and time, as backup programs tell. Never without hashes: sizes
/// alone say nothing, and who wrote them no time.
fn is_same(one: &Manifest, other: &Manifest) -> bool {
    let (a, b) = (one.meta(), other.meta());
    let ends = |manifest: &Manifest| manifest.chunks().iter().map(|chunk| chunk.range.end).collect::<Vec<_>>();
    let is_same_content = one.content_id() == other.content_id()
        || (one.size_bytes() == other.size_bytes() && a.modified == b.modified && ends(one) != ends(other));
    is_same_content && one.is_proved() && other.is_proved() && a.tags == b.tags && a.content_type == b.content_type
}

/// Whether the chunks can be taken over as they are: the other home would cut the file just so. Holes stay holes.
fn is_cut_alike(to: Cut, manifest: &Manifest) -> bool {
    let Content::Chunks(chunks) = manifest.content() else { return false };
    let size_bytes = to.chunk_size_bytes;
    manifest.size_bytes() > to.inline_bytes_max
        && chunks.iter().enumerate().all(|(n, chunk)| match chunk.proof {
            Proof::Zeros => true,
            Proof::Size => false,
            Proof::Sha256(_) => {
                let is_last = chunks.get(n + 1).is_none_or(|next| next.proof == Proof::Zeros);
                chunk.range.start.is_multiple_of(size_bytes)
                    && (chunk.range.len() == size_bytes || is_last && chunk.range.len() <= size_bytes)
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::range::ByteRange;

    #[test]
    fn chunks_that_are_there_are_not_sent_again_however_they_are_cut() {
        let temp = tempfile::tempdir().unwrap();
        let places = crate::config::PlacesConfig::default();
        let open = |text: &str, access| place::open(text, &places, access).unwrap().library;
        let made = |name: &str, chunk: u64| {
            let text = format!("{name}{}", temp.path().join(name.trim_end_matches("://").replace(':', "")).display());
            place::create(&text, &places, (Some(4096), Some(chunk))).unwrap();
            text
        };
        let from = made("library:", 8192);
        let film: Vec<u8> = (0..100_000_u32).map(|at| (at / 7 % 251) as u8).collect();
        {
            let library = open(&from, Access::Write);
            let mut writer = Writer::new(library.draft("film", None).unwrap(), library.cut());
            writer.write(&film).unwrap();
            writer.finish(Meta::now()).unwrap();
            library.flush().unwrap();
        }
        // Cut alike, and otherwise.
        for to in [made("kv+file://", 8192), made("kv+redb://", 12_288)] {
            let sent = || {
                let (from, to) = (open(&from, Access::Look), open(&to, Access::Write));
                let (shown, tally) = (Shown::new(true), Tally::default());
                let mut run = Run { from: &*from, to: &*to, shown, tally };
                run.file("film", "film").unwrap();
                run.to.flush().unwrap();
                run.tally.sent_bytes.into_inner()
            };
            assert_eq!(sent(), 100_000, "{to}");
            assert_eq!(sent(), 0, "{to}: it is there");
            // Its name is lost, as in a copy that is broken off; its chunks stay for a while.
            open(&to, Access::Write).remove("film").unwrap();
            assert_eq!(sent(), 0, "{to}: its chunks are there");
            let library = open(&to, Access::Look);
            let manifest = library.manifest("film").unwrap();
            let mut read = Vec::new();
            let write = &mut |piece: Piece<'_>| {
                piece.as_bytes(&mut |bytes| {
                    read.extend_from_slice(bytes);
                    Ok(())
                })
            };
            copy_out(&*library, "film", &manifest, write, &mut |_| Ok(())).unwrap();
            assert_eq!(read, film);
        }
    }

    #[test]
    fn holes_are_taken_over_as_holes() {
        const SIZE: u64 = 4096;
        let to = Cut { inline_bytes_max: 100, chunk_size_bytes: SIZE };
        let (some, none) = (Proof::Sha256(Digest::of(b"x")), Proof::Zeros);
        for (chunks, is_alike) in [
            (&[(SIZE, some), (SIZE, some), (9, some)][..], true),
            (&[(100 * SIZE, none), (SIZE, some), (5 * SIZE, none)], true),
            (&[(SIZE, some), (9, some), (SIZE - 9, none), (SIZE, some)], true),
            (&[(9, some), (SIZE, some)], false),
            (&[(9, none), (SIZE, some)], false),
            (&[(2 * SIZE, some)], false),
            (&[(SIZE, Proof::Size)], false),
            (&[(50, some)], false),
        ] {
            let mut start = 0;
            let chunks = chunks.iter().map(|(len, proof)| {
                let range = ByteRange::at(start, *len);
                start = range.end;
                Chunk { range, proof: *proof }
            });
            let manifest = Manifest::new(Content::Chunks(chunks.collect()), Meta::now()).unwrap();
            assert_eq!(is_cut_alike(to, &manifest), is_alike, "{:?}", manifest.chunks());
        }
    }
}
