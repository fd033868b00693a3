//! `reelfs put`: puts files and folders into a library, several at a time.
//! Never here: how a stream is cut (see `library::writer`).

mod batch;
mod tag_by;
mod tree;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Args;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;

use self::tag_by::Pattern;
use self::tree::Found;
use super::{Interrupted, LibraryOptions, counted, is_folder, line, name_of};
use crate::cli::exit::Outcome;
use crate::cli::progress::Shown;
use crate::cli::{complain, misuse};
use crate::config::format_size;
use crate::control::Progress;
use crate::error::{Error, Kind, Result};
use crate::library::place::Access;
use crate::library::writer::{self, Writer};
use crate::library::{
    Content, Cut, Draft, Library, Manifest, Meta, Named, NamedKind, PAGE_NAMES_MAX, Query, check_path, check_tags,
    content_type,
};
use crate::store::join;

/// Files found and not begun: found far faster than put.
const FOUND_AHEAD: usize = 1_000;
/// Files of a folder that are looked for where it may have been put before, and files there that are looked for in it.
const FIRST_FILES_MAX: usize = 100;
/// How often the bar is drawn.
const TICK: Duration = Duration::from_millis(100);
/// What is whole is named for good so often: a put that is killed need not read it again.
const FLUSH_EVERY: Duration = Duration::from_secs(1);
/// And so often where the names are to be said.
const NAMES_EVERY: Duration = Duration::from_millis(200);
/// Stands for standard input.
const STDIN: &str = "-";

/// Put files into a library. What is there already, with the same size and time, is skipped; a put that was broken off
/// goes on where it was when it is run again. Like `cp -r`: into the path if that is a folder or ends with `/`, else under
/// that name. The same command always means the same place: a folder that was put under that name goes there again, and not
/// into itself. Times are kept; permissions, links and empty folders are not.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// Files, folders with all below them, or `-` for standard input (then the library's path names the file).
    #[arg(value_name = "FILE", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// The library, and where in it: `library:/path/of/it[/folder]`, `kv+SERVICE://…`.
    #[arg(value_name = "LIBRARY[/PATH]")]
    library: String,
    /// Mark the files with this tag, for `reelfs purge --tag`. May be given more than once.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Mark each file with a tag that is made of its path in the library, its size and its type; no tag where a file has no
    /// such part. May be given more than once. `{folder}` is the folder's path, `{folder:1}` the first folder of it, `{name}` the
    /// file's name without its ending, `{ending}` that in small letters, `{type}` is like video/mp4, `{kind}` like video, `{size}` one
    /// of 1MiB, 10MiB, 100MiB, 1GiB, 10GiB, 100GiB (it has at most so much) and huge. `{{` stands for `{`. For example:
    /// --tag-by 'show={folder:2}' --tag-by '{kind}' --tag-by 'up to {size}'
    #[arg(long, value_name = "PATTERN", value_parser = Pattern::parse)]
    tag_by: Vec<Pattern>,
    /// Put them as other programs of the same store do: under each name a manifest without hashes, and the bytes in
    /// `NAME_chunk_0` and so on. Such a file has no tags and no time, is put anew each time, and is not there for a moment while
    /// it replaces another one. Only into stores (kv+…).
    #[arg(long, conflicts_with_all = ["tags", "tag_by"])]
    plain: bool,
    /// Only say where each file would go, and which are there already.
    #[arg(long)]
    dry_run: bool,
    /// Say the name of each file that was put, on standard output, once it is kept whatever happens.
    #[arg(long)]
    names: bool,
    /// The MIME type to keep with them. Default: what the ending of a name stands for.
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Files put at a time.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Puts them, and says what came of it.
pub fn run(args: PutArgs, is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let tags = check_tags(args.tags)?;
    let access = if args.dry_run { Access::Look } else { Access::Write };
    let opened = args.options.open(&args.library, access)?;
    let library = &*opened.library;
    let is_stream = args.files.iter().any(|file| file.as_os_str() == STDIN);
    let put = Put {
        library,
        // Of a stream nothing has a name before its end, and whoever it came from may have been stopped, too.
        interrupted: if is_stream { None } else { Some(Interrupted::listen()?) },
        tags,
        tag_by: args.tag_by,
        content_type: args.content_type,
        is_plain: args.plain,
        tally: Tally { kept: args.names.then(Mutex::default), ..Tally::default() },
        outcome: Mutex::new(Outcome::Done),
        current: Mutex::default(),
    };
    let begun = Instant::now();
    if is_stream {
        if args.files.len() > 1 || opened.path.is_empty() || opened.is_folder {
            return Err(misuse("standard input is put alone, and under a name: give LIBRARY/PATH"));
        }
        if args.dry_run {
            line(out, &format!("would put standard input as `{}`", opened.path))?;
            return Ok(ExitCode::SUCCESS);
        }
        if !put.tag_by.is_empty() {
            return Err(misuse("--tag-by wants files: what comes from standard input has no size before its end"));
        }
        let content_type = put.content_type.clone().or_else(|| content_type::of_name(&opened.path));
        let meta = Meta { content_type, tags: put.tags.clone(), ..Meta::now() };
        put.stream(&mut io::stdin().lock(), &opened.path, None, meta, &|| Ok(()))?;
    } else {
        let is_into = opened.is_folder
            || args.files.len() > 1
            || (is_folder(library, &opened.path) && !goes_on_there(library, &args.files[0], &opened.path));
        if args.dry_run {
            return put.told(&args.files, &opened.path, is_into, out);
        }
        // A bar would stand between the names.
        put.all(&args.files, &opened.path, is_into, usize::from(args.jobs), is_quiet || args.names, out)?;
    }
    put.keep(out)?;
    line(out, &put.tally.summary(begun.elapsed()))?;
    if put.is_broken_off() {
        line(out, "broken off: run it again for the rest")?;
        return Ok(ExitCode::FAILURE);
    }
    let outcome = *put.outcome.lock();
    Ok(outcome.into())
}

/// One run of the command.
struct Put<'a> {
    library: &'a dyn Library,
    interrupted: Option<Interrupted>,
    tags: Vec<String>,
    tag_by: Vec<Pattern>,
    content_type: Option<String>,
    is_plain: bool,
    tally: Tally,
    // Guards what came of the files so far. Taken alone.
    outcome: Mutex<Outcome>,
    // The file begun last, for the bar. Taken alone.
    current: Mutex<String>,
}

/// What was found and done so far.
#[derive(Default)]
struct Tally {
    found_bytes: AtomicU64,
    // Read, or skipped.
    done_bytes: AtomicU64,
    put_files: AtomicU64,
    put_bytes: AtomicU64,
    skipped_files: AtomicU64,
    // Names that were put since the last flush, where they are to be said. Taken alone.
    kept: Option<Mutex<Vec<String>>>,
}

impl Tally {
    /// A file is put, of which so many bytes were not counted when they were read.
    fn put(&self, path: &str, size_bytes: u64, uncounted_bytes: u64) {
        self.done_bytes.fetch_add(uncounted_bytes, Ordering::Relaxed);
        self.put_files.fetch_add(1, Ordering::Relaxed);
        self.put_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        if let Some(kept) = &self.kept {
            kept.lock().push(path.to_owned());
        }
    }

    fn summary(&self, took: Duration) -> String {
        let number = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (files, bytes, skipped) = (number(&self.put_files), number(&self.put_bytes), number(&self.skipped_files));
        let rate = u128::from(bytes) * 1000 / took.as_millis().max(1);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let skipped =
            if skipped == 0 { String::new() } else { format!("; {} there already", counted(skipped, "file")) };
        let took = took.as_secs_f64();
        let files = counted(files, "file");
        format!("{files} put, {} in {took:.1} s ({}/s){skipped}", format_size(bytes), format_size(rate))
    }
}

impl Put<'_> {
    /// Puts all, `jobs` files or batches at a time; failures are told as they come.
    fn all(
        &self,
        files: &[PathBuf],
        to: &str,
        is_into: bool,
        jobs: usize,
        is_quiet: bool,
        out: &mut dyn Write,
    ) -> Result<()> {
        let (sender, found) = bounded::<Found>(FOUND_AHEAD);
        let (alive, ended) = unbounded::<()>();
        let found = &Mutex::new(found);
        thread::scope(|scope| {
            scope.spawn(move || self.find(files, to, is_into, &sender));
            for _ in 0..jobs {
                let alive = alive.clone();
                scope.spawn(move || {
                    self.work(found);
                    drop(alive);
                });
            }
            drop(alive);
            self.watch(&ended, is_quiet, out)
        })
    }

    /// Returns when every name that was put is kept whatever happens, and says those that are to be said.
    fn keep(&self, out: &mut dyn Write) -> Result<()> {
        let names = self.tally.kept.as_ref().map(|kept| std::mem::take(&mut *kept.lock())).unwrap_or_default();
        self.library.flush()?;
        names.iter().try_for_each(|name| line(out, name))
    }

    /// Says where each file would go; nothing is put.
    fn told(&self, files: &[PathBuf], to: &str, is_into: bool, out: &mut dyn Write) -> Result<ExitCode> {
        let (mut put, mut skipped, mut told) = ((0, 0), 0, Ok(()));
        for file in files {
            let walked = tree::walk(file, to, is_into, &mut |found| {
                let said = found.and_then(|found| {
                    check_path(&found.to)?;
                    let (from, to) = (found.from.display(), &found.to);
                    if !self.is_plain && self.library.manifest(to).is_ok_and(|there| is_same(&there, &found)) {
                        skipped += 1;
                        return Ok(format!("there already: {to} (from {from})"));
                    }
                    put = (put.0 + 1, put.1 + found.size_bytes);
                    Ok(format!("would put: {to} (from {from})"))
                });
                match said {
                    Ok(said) => told = line(out, &said),
                    Err(error) => self.failed(&error),
                }
                told.is_ok() && !self.is_broken_off()
            });
            if let Err(error) = walked {
                self.failed(&error);
            }
        }
        told?;
        let (files, bytes, skipped) = (counted(put.0, "file"), format_size(put.1), counted(skipped, "file"));
        line(out, &format!("{files}, {bytes} would be put; {skipped} there already"))?;
        Ok((*self.outcome.lock()).into())
    }

    /// Draws until the last worker has ended, and keeps the names of what was put so far.
    fn watch(&self, ended: &Receiver<()>, is_quiet: bool, out: &mut dyn Write) -> Result<()> {
        let (mut shown, mut flushed, mut kept) = (Shown::new(is_quiet), Instant::now(), Ok(()));
        let every = if self.tally.kept.is_some() { NAMES_EVERY } else { FLUSH_EVERY };
        while ended.recv_timeout(TICK) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
            shown.show(&Progress {
                path: self.current.lock().clone(),
                done_bytes: self.tally.done_bytes.load(Ordering::Relaxed),
                total_bytes: self.tally.found_bytes.load(Ordering::Relaxed),
            });
            if flushed.elapsed() >= every {
                // A flush that fails has failed for the rest, too.
                kept = kept.and_then(|()| self.keep(out));
                flushed = Instant::now();
            }
        }
        shown.clear();
        kept
    }

    fn is_broken_off(&self) -> bool {
        self.interrupted.as_ref().is_some_and(Interrupted::is_set)
    }

    /// `Cancelled` when it is to end.
    fn goes_on(&self) -> Result<()> {
        if self.is_broken_off() { Err(Error::new(Kind::Cancelled, "broken off")) } else { Ok(()) }
    }

    /// Finds what is to be put.
    fn find(&self, files: &[PathBuf], to: &str, is_into: bool, sender: &Sender<Found>) {
        for file in files {
            let walked = tree::walk(file, to, is_into, &mut |found| {
                match found {
                    Ok(found) => {
                        self.tally.found_bytes.fetch_add(found.size_bytes, Ordering::Relaxed);
                        // Taken out as long as there are workers.
                        let _ = sender.send(found);
                    }
                    Err(error) => self.failed(&error),
                }
                !self.is_broken_off()
            });
            if let Err(error) = walked {
                self.failed(&error);
            }
        }
    }

    fn work(&self, found: &Mutex<Receiver<Found>>) {
        let small_bytes_max = batch::SMALL_BYTES_MAX.min(self.library.cut().inline_bytes_max);
        while let Some(taken) = batch::take(found, small_bytes_max) {
            if let Some(file) = taken.small.first() {
                self.current.lock().clone_from(&file.to);
            }
            // The rest is taken out, so that whoever finds it does not wait.
            if !taken.small.is_empty() && !self.is_broken_off() {
                self.batch(taken.small);
            }
            if let Some(file) = taken.large {
                self.one(&file);
            }
        }
    }

    fn one(&self, file: &Found) {
        if self.is_broken_off() {
            return;
        }
        self.current.lock().clone_from(&file.to);
        match self.file(file) {
            Err(error) if error.kind() != Kind::Cancelled => self.failed(&error.context(file.from.display())),
            _ => {}
        }
    }

    fn failed(&self, error: &Error) {
        complain(error);
        self.outcome.lock().and(Outcome::of(error));
    }

    fn file(&self, found: &Found) -> Result<()> {
        check_path(&found.to)?;
        let before = self.library.manifest(&found.to);
        let before = match before {
            Ok(manifest) => Some(manifest),
            // What is there and damaged is put anew.
            Err(error) if matches!(error.kind(), Kind::Missing | Kind::Corrupt) => None,
            Err(error) => return Err(error),
        };
        if before.as_ref().is_some_and(Manifest::is_of_another_program) {
            let message = format!("{}: another program's file is there, and stays", found.to.escape_debug());
            return Err(Error::new(Kind::Unsupported, message));
        }
        let known_type = || before.as_ref()?.meta().content_type.clone();
        let content_type = self.content_type.clone().or_else(known_type).or_else(|| content_type::of_name(&found.to));
        let tags = if self.tags.is_empty() && self.tag_by.is_empty() {
            before.iter().flat_map(|file| file.meta().tags.clone()).collect()
        } else {
            self.tags_of(found, content_type.as_deref())?
        };
        if let Some(before) = before.as_ref().filter(|_| !self.is_plain)
            && is_same(before, found)
            && before.meta().tags == tags
            // One that an earlier version put has none, and is not put again for that.
            && (self.content_type.is_none() || before.meta().content_type == content_type)
            && self.library.is_whole(before)?
        {
            self.tally.done_bytes.fetch_add(found.size_bytes, Ordering::Relaxed);
            self.tally.skipped_files.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let failed = |error: io::Error| Error::io("reading it", &error);
        let mut file = File::open(&found.from).map_err(failed)?;
        let is_read_twice = self.library.wants_expected() && !self.is_plain;
        let expected = is_read_twice.then(|| self.cut(&file)).transpose()?;
        let meta = Meta { content_type, tags, modified: found.modified, ..Meta::now() };
        let reading = file.try_clone().map_err(failed)?;
        self.stream(&mut file, &found.to, expected.as_ref(), meta, &|| still_the_same(&reading, found))
    }

    /// Those that were given, and those that are made of what is known of a file.
    fn tags_of(&self, found: &Found, content_type: Option<&str>) -> Result<Vec<String>> {
        let made = self.tag_by.iter().filter_map(|pattern| pattern.tag(&found.to, found.size_bytes, content_type));
        let tags = check_tags(self.tags.iter().cloned().chain(made).collect());
        // It is the file's path that makes no tag: nothing is wrong with what was typed.
        tags.map_err(|error| Error::new(Kind::Unsupported, error.to_string()))
    }

    /// What a file will be cut into, so that what an earlier run sent need not be sent again.
    fn cut(&self, mut file: &File) -> Result<Content> {
        use std::io::Seek as _;
        let content = writer::chunks_of(&mut file, self.library.cut(), &mut |_| self.goes_on())?;
        file.rewind().map_err(|error| Error::io("reading it again", &error))?;
        Ok(content)
    }

    /// Puts a stream; `is_sound` says at its end whether it may have the name.
    fn stream(
        &self,
        stream: &mut dyn Read,
        to: &str,
        expected: Option<&Content>,
        meta: Meta,
        is_sound: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let chunks = match expected {
            Some(Content::Chunks(chunks)) => Some(chunks.as_slice()),
            _ => None,
        };
        let (draft, cut): (Box<dyn Draft + '_>, _) = if self.is_plain {
            // A manifest in any case: what is short is told from it by nothing else.
            (self.library.plain_draft(to)?, Cut { inline_bytes_max: 0, ..self.library.cut() })
        } else {
            (self.library.draft(to, chunks)?, self.library.cut())
        };
        let mut writer = Writer::new(draft, cut);
        writer.write_all_of(stream, &mut |count| {
            self.tally.done_bytes.fetch_add(count, Ordering::Relaxed);
            self.goes_on()
        })?;
        is_sound()?;
        self.tally.put(to, writer.finish(meta)?.size_bytes(), 0);
        Ok(())
    }
}

/// By size and time, as backup programs tell.
fn is_same(manifest: &Manifest, found: &Found) -> bool {
    manifest.size_bytes() == found.size_bytes
        && to_the_microsecond(manifest.meta().modified) == to_the_microsecond(found.modified)
}

/// Homes keep times in different grains.
fn to_the_microsecond(time: SystemTime) -> Option<u128> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_micros())
}

/// A file that was written to while it was read may be half old, half new.
fn still_the_same(file: &File, found: &Found) -> Result<()> {
    let metadata = file.metadata().map_err(|error| Error::io("reading it", &error))?;
    if metadata.len() == found.size_bytes && metadata.modified().ok() == Some(found.modified) {
        return Ok(());
    }
    Err(Error::new(Kind::Changed, "it was written to while it was put: put it again"))
}

/// Whether the folder `from` is what the folder `to` of the library was put from, so that it goes there again and not into
/// it: one of its first files is the same there, by size and time, and under another name all that is there is in `from`, too.
/// What has the same name only is another folder, in which nothing is replaced.
fn goes_on_there(library: &dyn Library, from: &Path, to: &str) -> bool {
    if to.is_empty() || !from.is_dir() {
        return false;
    }
    let is_namesake = destination(from, "", true).is_ok_and(|name| name == name_of(to));
    let query = Query { folder: to.to_owned(), limit: PAGE_NAMES_MAX, ..Query::default() };
    let is_ours = |named: &Named| std::fs::symlink_metadata(from.join(name_of(&named.path))).is_ok();
    let Ok(there) = library.list(&query) else { return false };
    if is_namesake && there.names.is_empty() {
        return true;
    }
    if !is_namesake && !there.names.iter().all(is_ours) {
        return false;
    }
    let is_kept = |found: Found| library.manifest(&found.to).is_ok_and(|there| is_same(&there, &found));
    let first = Query { is_recursive: true, limit: FIRST_FILES_MAX, ..query };
    let is_from_there = |named: &Named| {
        let from = from.join(named.path[to.len()..].trim_start_matches('/'));
        matches!(named.kind, NamedKind::File { .. }) && tree::found(&from, named.path.clone()).is_ok_and(is_kept)
    };
    // A put that was broken off has the first files of the folder there, or the first ones that are there are its.
    if library.list(&first).is_ok_and(|page| page.names.iter().any(is_from_there)) {
        return true;
    }
    let (mut left, mut is_there) = (FIRST_FILES_MAX, false);
    let walked = tree::walk(from, to, false, &mut |found| {
        left -= 1;
        is_there = found.is_ok_and(is_kept);
        left > 0 && !is_there
    });
    walked.is_ok() && is_there
}

/// Where what is at `from` goes: into the folder `to`, or under that name.
fn destination(from: &Path, to: &str, is_into: bool) -> Result<String> {
    if !is_into {
        return Ok(to.to_owned());
    }
    // `.` and `..` have a name, too.
    let absolute = from.canonicalize().map_err(|error| Error::io(from.display(), &error))?;
    let name = from.file_name().or(absolute.file_name()).and_then(|name| name.to_str());
    let name =
        name.ok_or_else(|| Error::new(Kind::Invalid, format!("{}: names in a library are UTF-8", from.display())))?;
    Ok(join(to, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_cp_does() {
        let temp = tempfile::tempdir().unwrap();
        let film = temp.path().join("film.mkv");
        std::fs::write(&film, "x").unwrap();
        assert_eq!(destination(&film, "a/b", true).unwrap(), "a/b/film.mkv");
        assert_eq!(destination(&film, "", true).unwrap(), "film.mkv");
        assert_eq!(destination(&film, "a/b", false).unwrap(), "a/b");
        let dot = temp.path().join(".");
        assert_eq!(destination(&dot, "", true).unwrap(), temp.path().file_name().unwrap().to_str().unwrap());
    }

    #[test]
    fn folders_put_again_go_on_where_they_were_put_before() {
        let temp = tempfile::tempdir().unwrap();
        let films = temp.path().join("films");
        std::fs::create_dir_all(films.join("a")).unwrap();
        for name in ["one.mkv", "a/two.mkv"] {
            std::fs::write(films.join(name), name).unwrap();
        }
        let home = format!("library:{}", temp.path().join("library").display());
        let run = |options: &[&str], to: &str| {
            let (from, to) = (films.to_str().unwrap(), format!("{home}{to}"));
            let mut said = Vec::new();
            let args = <PutArgs as clap::FromArgMatches>::from_arg_matches(
                &PutArgs::augment_args(clap::Command::new("put"))
                    .get_matches_from([&["put", from, &to][..], options].concat()),
            );
            assert_eq!(super::run(args.unwrap(), true, &mut said).unwrap(), ExitCode::SUCCESS);
            String::from_utf8(said).unwrap()
        };
        let places = crate::config::PlacesConfig::default();
        crate::library::place::create(&home, &places, (None, None)).unwrap();
        let names = || {
            let library = crate::library::place::open(&home, &places, Access::Look).unwrap().library;
            let query = crate::library::Query { is_recursive: true, limit: 100, ..crate::library::Query::default() };
            let names = library.list(&query).unwrap().names.into_iter();
            let put = names.filter(|named| !matches!(named.kind, crate::library::NamedKind::Folder));
            put.map(|named| named.path).collect::<Vec<_>>()
        };
        // Under another name, and under its own; the second time each is there.
        let expected = ["archive/a/two.mkv", "archive/one.mkv", "films/a/two.mkv", "films/one.mkv"];
        for to in ["/archive", "/films"] {
            run(&[], to);
            for _ in 0..2 {
                let said = run(&["--dry-run"], to);
                assert!(said.contains(&format!("there already: {}/one.mkv", &to[1..])), "{said}");
                assert!(run(&[], to).contains("2 files there already"));
            }
        }
        assert_eq!(names(), expected);
        // Also where only one of its files came to be there.
        crate::library::place::open(&home, &places, Access::Write).unwrap().library.remove("archive/one.mkv").unwrap();
        assert!(run(&["--dry-run"], "/archive").contains("would put: archive/one.mkv"));
        run(&[], "/archive");
        assert_eq!(names(), expected);
        // Into another folder that is there, as `cp -r` does, and wherever that is asked for.
        for (to, path) in [("/archive/a/", "archive/a/films/one.mkv"), ("/films/", "films/films/one.mkv")] {
            assert!(run(&["--dry-run"], to).contains(&format!("would put: {path} ")), "{to}");
        }
        assert_eq!(names(), expected, "only said");
        // What has the same name only is another folder: nothing in it is replaced.
        let namesake = temp.path().join("other/films");
        std::fs::create_dir_all(&namesake).unwrap();
        std::fs::write(namesake.join("one.mkv"), "another film").unwrap();
        assert!(!goes_on_there(
            &*crate::library::place::open(&home, &places, Access::Look).unwrap().library,
            &namesake,
            "films"
        ));
        // What holds something else, too, was not made by this put.
        run(&[], "/archive/others/");
        assert!(run(&["--dry-run"], "/archive").contains("would put: archive/films/one.mkv "));
    }

    #[test]
    fn a_summary_counts() {
        let tally = Tally::default();
        tally.put_files.store(1, Ordering::Relaxed);
        tally.put_bytes.store(4 << 20, Ordering::Relaxed);
        assert_eq!(tally.summary(Duration::from_secs(2)), "1 file put, 4.0 MiB in 2.0 s (2.0 MiB/s)");
        tally.skipped_files.store(2, Ordering::Relaxed);
        assert!(tally.summary(Duration::from_secs(2)).ends_with("; 2 files there already"));
    }
}
