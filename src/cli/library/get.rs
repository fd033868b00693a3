//! `reelfs get`: takes files and folders out of a library, every chunk checked.
//! Never here: where chunks come from.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{Interrupted, LibraryOptions, counted, each_name, is_folder, line, name_of};
use crate::cli::exit::Outcome;
use crate::cli::progress::Shown;
use crate::cli::{complain, written};
use crate::config::format_size;
use crate::control::Progress;
use crate::error::{Error, Kind, Result};
use crate::library::place::Access;
use crate::library::{Content, Library, Manifest, NamedKind, Proof, Query};
use crate::store::join;

/// What a file is called at the end before it is whole.
const PART_ENDING: &str = ".reelfs-part";
/// Names below a folder that are looked for in the library, to tell whether it was taken out of it.
const ENTRIES_MAX: usize = 1_000;
/// Stands for standard output.
const STDOUT: &str = "-";
/// Zeros of a hole written at once.
const ZEROS_BYTES: u64 = 1 << 20;

/// Take files out of a library. Each is checked against its hashes, and has its name only when it is whole.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// A file of a library, or a folder with all below it.
    #[arg(value_name = "LIBRARY/PATH")]
    library: String,
    /// Where to: into this folder, or under this name; `-` is standard output. A folder that was taken out under this name
    /// goes there again, and not into itself; with `/` at the end it always goes into it.
    #[arg(default_value = ".")]
    to: PathBuf,
    #[command(flatten)]
    options: LibraryOptions,
}

/// Gets them.
pub fn run(args: GetArgs, is_quiet: bool, out: &mut dyn Write) -> Result<ExitCode> {
    let interrupted = Interrupted::listen()?;
    let opened = args.options.open(&args.library, Access::Look)?;
    let (library, path) = (&*opened.library, opened.path.as_str());
    if args.to.as_os_str() == STDOUT {
        let manifest = library.manifest(path)?;
        copy_out(
            library,
            path,
            &manifest,
            &mut |piece| piece.as_bytes(&mut |bytes| out.write_all(bytes).map_err(|error| written(&error))),
            &mut |_| interrupted.check(),
        )?;
        out.flush().map_err(|error| written(&error))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (shown, outcome) = (Shown::new(is_quiet), Outcome::Done);
    let mut run = Run { library, interrupted, shown, done_bytes: 0, total_bytes: 0, files: 0, outcome };
    if is_folder(library, path) {
        let is_into = args.to.is_dir() && !path.is_empty() && !goes_on_there(library, path, &args.to);
        let to = if is_into { args.to.join(name_of(path)) } else { args.to };
        run.folder(path, &to)?;
    } else {
        let to = if args.to.is_dir() { args.to.join(name_of(path)) } else { args.to };
        run.file(path, &to)?;
    }
    run.shown.clear();
    line(out, &format!("{}, {}", counted(run.files, "file"), format_size(run.done_bytes)))?;
    Ok(run.outcome.into())
}

struct Run<'a> {
    library: &'a dyn Library,
    interrupted: Interrupted,
    shown: Shown,
    done_bytes: u64,
    total_bytes: u64,
    files: u64,
    outcome: Outcome,
}

impl Run<'_> {
    fn folder(&mut self, folder: &str, to: &Path) -> Result<()> {
        fs::create_dir_all(to).map_err(|error| Error::io(to.display(), &error))?;
        let library = self.library;
        let query = Query { folder: folder.to_owned(), is_recursive: true, ..Query::default() };
        each_name(library, query, &mut |named| {
            let below = named.path.strip_prefix(folder).unwrap_or(&named.path).trim_start_matches('/');
            let to = to.join(below);
            let got = match named.kind {
                NamedKind::Folder => fs::create_dir_all(&to).map_err(|error| Error::io(to.display(), &error)),
                NamedKind::File { .. } => self.file(&named.path, &to),
                NamedKind::Other => {
                    Err(Error::new(Kind::Unsupported, format!("{}: neither a file nor a folder", named.path)))
                }
            };
            self.interrupted.check()?;
            if let Err(error) = got {
                complain(&error);
                self.outcome.and(Outcome::of(&error));
            }
            Ok(())
        })
    }

    fn file(&mut self, path: &str, to: &Path) -> Result<()> {
        let manifest = self.library.manifest(path)?;
        self.total_bytes += manifest.size_bytes();
        let above = to.parent().filter(|above| !above.as_os_str().is_empty());
        above.map_or(Ok(()), fs::create_dir_all).map_err(|error| Error::io(to.display(), &error))?;
        // A pipe or a device stays what it is, and takes the bytes; what a link leads to is replaced, and not the link.
        let there = fs::metadata(to).ok();
        if there.is_some_and(|there| !there.is_file() && !there.is_dir()) {
            self.pour(path, &manifest, to)?;
            self.files += 1;
            return Ok(());
        }
        let to = &fs::canonicalize(to).unwrap_or_else(|_| to.to_owned());
        let part = part_of(to);
        let got = self.fill(path, &manifest, &part);
        let named = got.and_then(|()| fs::rename(&part, to).map_err(|error| Error::io(to.display(), &error)));
        if named.is_err() {
            let _ = fs::remove_file(&part);
        }
        self.files += u64::from(named.is_ok());
        named
    }

    /// Into what is there already.
    fn pour(&mut self, path: &str, manifest: &Manifest, to: &Path) -> Result<()> {
        let failed = |error: io::Error| Error::io(to.display(), &error);
        let mut open = OpenOptions::new().write(true).open(to).map_err(failed)?;
        self.copy_out(path, manifest, &mut |piece| piece.as_bytes(&mut |bytes| open.write_all(bytes).map_err(failed)))
    }

    /// All of a file, told as it goes.
    fn copy_out(
        &mut self,
        path: &str,
        manifest: &Manifest,
        write: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    ) -> Result<()> {
        let Self { library, interrupted, shown, done_bytes, total_bytes, .. } = self;
        copy_out(*library, path, manifest, write, &mut |count| {
            *done_bytes += count;
            shown.show(&Progress { path: path.to_owned(), done_bytes: *done_bytes, total_bytes: *total_bytes });
            interrupted.check()
        })
    }

    fn fill(&mut self, path: &str, manifest: &Manifest, part: &Path) -> Result<()> {
        let failed = |error: io::Error| Error::io(part.display(), &error);
        let mut file = File::create_new(part).map_err(failed)?;
        let mut write = |piece: Piece<'_>| match piece {
            Piece::Bytes(bytes) => file.write_all(bytes).map_err(failed),
            // Passed over, it is one here, too; the last one needs the end set.
            Piece::Hole(count) => file.seek(SeekFrom::Current(count.cast_signed())).map(drop).map_err(failed),
        };
        self.copy_out(path, manifest, &mut write)?;
        file.set_len(manifest.size_bytes()).map_err(failed)?;
        file.set_modified(manifest.meta().modified).and_then(|()| file.sync_all()).map_err(failed)
    }
}

/// What comes next in a file.
pub enum Piece<'a> {
    Bytes(&'a [u8]),
    /// So many zeros that are kept nowhere.
    Hole(u64),
}

impl Piece<'_> {
    /// For whoever knows no holes.
    pub fn as_bytes(&self, write: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut left = match self {
            Piece::Bytes(bytes) => return write(bytes),
            Piece::Hole(count) => *count,
        };
        let zeros = vec![0; left.min(ZEROS_BYTES) as usize];
        while left > 0 {
            let count = left.min(ZEROS_BYTES);
            write(&zeros[..count as usize])?;
            left -= count;
        }
        Ok(())
    }
}

/// Hands all of a file to `write`, in order, each chunk checked; `each` hears how many bytes there were.
pub fn copy_out(
    library: &dyn Library,
    path: &str,
    manifest: &Manifest,
    write: &mut dyn FnMut(Piece<'_>) -> Result<()>,
    each: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    match manifest.content() {
        Content::Inline(bytes) => {
            write(Piece::Bytes(bytes))?;
            each(bytes.len() as u64)?;
        }
        Content::Chunks(chunks) => {
            for (n, chunk) in chunks.iter().enumerate() {
                if chunk.proof == Proof::Zeros {
                    write(Piece::Hole(chunk.range.len()))?;
                } else {
                    write(Piece::Bytes(&library.chunk(path, manifest, n)?))?;
                }
                each(chunk.range.len())?;
            }
        }
    }
    Ok(())
}

/// Whether the folder `to` is what the folder `path` of the library was taken out as, so that it goes there again and not
/// into it: some file of it is the same, and none would be replaced by another one. Under another name than the library's,
/// nothing else may be there; under the same one, a folder without any file counts as broken off.
fn goes_on_there(library: &dyn Library, path: &str, to: &Path) -> bool {
    if to.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return false;
    }
    let is_namesake = to.file_name().is_some_and(|name| name == name_of(path));
    let (mut same, mut others, mut looked_at) = (0_u64, 0_u64, 0);
    let mut folders = vec![(to.to_owned(), path.to_owned())];
    while let Some((folder, path)) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { return false };
        for entry in entries.flatten() {
            looked_at += 1;
            if looked_at > ENTRIES_MAX {
                return is_namesake && same > 0;
            }
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
                others += 1;
                continue;
            };
            // Left by one that was killed.
            if name.ends_with(PART_ENDING) {
                continue;
            }
            let there = join(&path, &name);
            let here = entry.metadata();
            match library.manifest(&there) {
                Ok(manifest) => {
                    let is_same = here.is_ok_and(|here| here.is_file() && here.len() == manifest.size_bytes());
                    if !is_same {
                        return false;
                    }
                    same += 1;
                }
                Err(_) if is_folder(library, &there) => {
                    if !here.is_ok_and(|here| here.is_dir()) {
                        return false;
                    }
                    folders.push((entry.path(), there));
                }
                Err(_) => others += 1,
            }
        }
    }
    if is_namesake { same > 0 || others == 0 } else { same > 0 && others == 0 }
}

/// Beside the file it will be, so that it can be renamed; another one each time: who else gets the file writes its own.
fn part_of(to: &Path) -> PathBuf {
    let name = to.file_name().unwrap_or_default().to_string_lossy();
    let begin: String = name.chars().take(60).collect();
    to.with_file_name(format!(".{begin}.{:016x}{PART_ENDING}", fastrand::u64(..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_taken_out_again_go_on_where_they_were() {
        let temp = tempfile::tempdir().unwrap();
        let home = format!("library:{}", temp.path().join("library").display());
        let places = crate::config::PlacesConfig::default();
        crate::library::place::create(&home, &places, (None, None)).unwrap();
        let library = crate::library::place::open(&home, &places, Access::Write).unwrap().library;
        for name in ["films/one.mkv", "films/a/two.mkv"] {
            let draft = library.draft(name, None).unwrap();
            let meta = crate::library::Meta::now();
            draft.commit(Content::Inline(name.as_bytes().to_vec().into()), meta).unwrap();
        }
        let to = temp.path().join("out");
        fs::create_dir_all(to.join("a")).unwrap();
        let goes_on = |to: &Path| goes_on_there(&*library, "films", to);
        assert!(!goes_on(&to), "nothing says that it was");
        fs::write(to.join("one.mkv"), "films/one.mkv").unwrap();
        fs::write(to.join(".two.mkv.0123.reelfs-part"), "half").unwrap();
        assert!(goes_on(&to));
        assert!(!goes_on(&to.join("")), "with a slash it goes into it");
        fs::write(to.join("other.mkv"), "other").unwrap();
        assert!(!goes_on(&to), "it holds something else");
        fs::create_dir(temp.path().join("films")).unwrap();
        assert!(goes_on(&temp.path().join("films")), "broken off before the first file");
        // The name alone says nothing: nothing of another folder is replaced.
        let films = temp.path().join("films");
        fs::create_dir(films.join("a")).unwrap();
        assert!(goes_on(&films));
        fs::write(films.join("mine.mkv"), "mine").unwrap();
        assert!(!goes_on(&films), "all that is there is another one's");
        fs::write(films.join("a/two.mkv"), "films/a/two.mkv").unwrap();
        assert!(goes_on(&films), "one file below is the same");
        fs::write(films.join("one.mkv"), "another film").unwrap();
        assert!(!goes_on(&films), "one file would be replaced");
    }

    #[test]
    fn damage_in_a_folder_is_told_by_the_exit_code() {
        fn parsed<T: Args + clap::FromArgMatches>(args: [&str; 2]) -> T {
            let command = T::augment_args(clap::Command::new("x").no_binary_name(true));
            T::from_arg_matches(&command.get_matches_from(args)).unwrap()
        }
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("library");
        let (home, other) = (format!("library:{}", dir.display()), format!("library:{}-2", dir.display()));
        let places = crate::config::PlacesConfig::default();
        for home in [&home, &other] {
            crate::library::place::create(home, &places, (Some(0), Some(4096))).unwrap();
        }
        let library = crate::library::place::open(&home, &places, Access::Write).unwrap().library;
        let mut writer =
            crate::library::writer::Writer::new(library.draft("films/one.mkv", None).unwrap(), library.cut());
        writer.write(&[1; 4096]).unwrap();
        writer.finish(crate::library::Meta::now()).unwrap();
        library.flush().unwrap();
        drop(library);
        for folder in fs::read_dir(dir.join("blobs")).unwrap() {
            for blob in fs::read_dir(folder.unwrap().path()).unwrap().map(|blob| blob.unwrap().path()) {
                fs::remove_file(&blob).unwrap();
                fs::write(&blob, [2; 4096]).unwrap();
            }
        }
        let to = temp.path().join("out");
        let (home, mut said) = (format!("{home}/films"), Vec::new());
        let got = run(parsed([&home, to.to_str().unwrap()]), true, &mut said).unwrap();
        let copied = super::super::copy::run(parsed([&home, &other]), true, &mut said).unwrap();
        assert_eq!([got, copied], [Outcome::Damaged.into(), Outcome::Damaged.into()]);
    }

    #[test]
    fn two_gets_of_one_file_write_two_parts() {
        let to = Path::new("films/one.mkv");
        let (one, other) = (part_of(to), part_of(to));
        assert_ne!(one, other);
        assert_eq!((one.parent(), other.parent()), (to.parent(), to.parent()));
        let name = part_of(&Path::new("films").join("é".repeat(120)));
        assert!(name.file_name().is_some_and(|name| name.len() <= 255), "{}", name.display());
    }
}
