//! A library, and a path in it, as a person writes them: which home it is, and where in it the path begins.
//! Never here: flags, and what is done there.

use std::path::{Path, PathBuf};

use url::Url;

use super::catalog::{self, Salvaged};
use super::keyed::{KeyedLibrary, Settings, is_value};
use super::local::Local;
use super::{Cut, INLINE_BYTES_MAX, Library, check_path};
use crate::config::{CHUNK_SIZE_BYTES, PlacesConfig};
use crate::error::{Error, Kind, Result};
use crate::modes;
use crate::store::keyed::address::Address;
use crate::store::keyed::folder;
use crate::store::remote;

/// How a library on this machine is written.
const LOCAL: &str = "library:";
/// And one in a store: before what `store::keyed` takes.
const KEYED: &str = "kv+";
/// A command asks a store again this often where what failed may pass: it has nobody above who would.
const RETRIES: u32 = 5;

/// What a library is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Beside whoever writes to it.
    Look,
    /// By one process at a time, where the home is on this machine.
    Write,
}

/// An open library, and the path in it that was meant.
pub struct Opened {
    /// The library.
    pub library: Box<dyn Library>,
    /// From its top; `""` is the top.
    pub path: String,
    /// Whether the path was written as a folder's, with a `/` at its end.
    pub is_folder: bool,
}

impl Opened {
    /// For what is done to a library as a whole. `Invalid` where a path in it was meant: it would reach beyond that.
    pub fn whole(self) -> Result<Box<dyn Library>> {
        if self.path.is_empty() {
            return Ok(self.library);
        }
        let (library, path) = (self.library.describe(), self.path.escape_debug());
        Err(Error::new(
            Kind::Invalid,
            format!("this is done to all of {library}, not to `{path}` alone: name the library"),
        ))
    }
}

/// Makes a new library at `text`, and returns how it describes itself. Sizes that are not given are the home's own.
pub fn create(text: &str, config: &PlacesConfig, cut: (Option<u64>, Option<u64>)) -> Result<String> {
    if let Some(address) = keyed(text)? {
        let home = address.open(config, true)?;
        KeyedLibrary::init(home.into(), Settings::new(cut.0, cut.1), RETRIES)?;
        return Ok(address.shown());
    }
    let dir = absolute(local(text)?)?;
    let cut = Cut {
        inline_bytes_max: cut.0.unwrap_or(INLINE_BYTES_MAX),
        chunk_size_bytes: cut.1.unwrap_or(CHUNK_SIZE_BYTES),
    };
    Local::create(&dir, cut)?;
    Ok(format!("{LOCAL}{}", dir.display()))
}

/// `Unsupported` of a library that a server keeps: it says itself who may read it.
pub fn check_on_disk(text: &str) -> Result<()> {
    let Some(address) = keyed(text)? else { return Ok(()) };
    if address.on_disk()?.is_none() {
        let message = format!("{}: a server keeps it, and says itself who may read it", address.shown());
        return Err(Error::new(Kind::Unsupported, message));
    }
    Ok(())
}

/// Opens the library at `text`, which is there and on this machine, to its group, to be read.
pub fn open_to_group(text: &str) -> Result<()> {
    check_on_disk(text)?;
    let keyed = keyed(text)?.map(|address| address.on_disk()).transpose()?.flatten();
    let (path, opened) = if let Some(path) = keyed {
        let set = if path.is_dir() {
            folder::set_group_read(&path, &is_value)
        } else {
            modes::set_group_read(&path, &[], true)
        };
        (path, set)
    } else {
        return catalog::set_group_read(&absolute(local(text)?)?);
    };
    opened.map_err(|error| Error::io(path.display(), &error))
}

/// Opens the library that `text` lies in.
pub fn open(text: &str, config: &PlacesConfig, access: Access) -> Result<Opened> {
    if let Some(address) = keyed(text)? {
        let (library, path) = open_keyed(&address, config, RETRIES)?;
        return Ok(Opened { library: Box::new(library), path, is_folder: text.ends_with('/') });
    }
    let (dir, path) = split_local(local(text)?)?;
    let library = match access {
        Access::Look => Local::open_to_look(&dir)?,
        Access::Write => Local::open(&dir)?,
    };
    Ok(Opened { library: Box::new(library), path, is_folder: text.ends_with('/') })
}

/// Whether a path of this machine lies in a library, or is one. `Corrupt` of one that has lost its catalog.
pub fn is_within(text: &str) -> Result<bool> {
    if text.contains("://") {
        return Ok(false);
    }
    let (dir, _) = split_local(local(text)?)?;
    match catalog::check_is_there(&dir) {
        Err(error) if error.kind() == Kind::Corrupt => Err(error),
        there => Ok(there.is_ok()),
    }
}

/// Makes a new catalog of what can be read of a damaged one, unless `go_on` says no. `Unsupported` of a library in a store: it has none.
pub fn salvage(text: &str, go_on: &dyn Fn() -> bool) -> Result<Salvaged> {
    if keyed(text)?.is_some() {
        return Err(Error::new(
            Kind::Unsupported,
            format!("{} has no catalog: each file there says what it is made of", shown(text)),
        ));
    }
    Local::salvage(&absolute(local(text)?)?, go_on)
}

/// A place as it may be shown: as it was written, but without credentials.
pub fn shown(text: &str) -> String {
    if !text.contains("://") {
        return text.to_owned();
    }
    if let Ok(Some(address)) = keyed(text) {
        return address.shown();
    }
    let (kind, url) = text.strip_prefix(KEYED).map_or(("", text), |url| (KEYED, url));
    // What cannot be read may be anything.
    Url::parse(url).map_or_else(|_| "this URL".to_owned(), |url| format!("{kind}{}", remote::shown(&url)))
}

/// Where in a store a library is, if `text` names a store.
pub fn keyed(text: &str) -> Result<Option<Address>> {
    let Some(rest) = text.strip_prefix(KEYED) else { return Ok(None) };
    Address::parse(rest).map(Some)
}

/// Opens the library in a store that `address` lies in, and says where in it: the nearest one on the way up, past what only
/// looks like one. A request that fails is made again up to `retries` times.
pub fn open_keyed(address: &Address, config: &PlacesConfig, retries: u32) -> Result<(KeyedLibrary, String)> {
    let mut damaged = None;
    for (address, path) in address.above()? {
        let opened = address.open(config, false).and_then(|home| KeyedLibrary::open(home.into(), retries));
        match opened {
            Err(error) if error.kind() == Kind::Missing => {}
            // A file of a library may be called as the settings of one are.
            Err(error) if error.kind() == Kind::Corrupt => damaged = damaged.or(Some(error)),
            Err(error) => return Err(error),
            Ok(library) => {
                if !path.is_empty() {
                    check_path(&path)?;
                }
                return Ok((library, path));
            }
        }
    }
    let shown = address.shown();
    let missing = || Error::new(Kind::Missing, format!("{shown}: no library is there; make one: reelfs init {shown}"));
    Err(damaged.unwrap_or_else(missing))
}

/// Where the library on this machine is that `text` names. `Unsupported` of one in a store.
pub fn local_dir(text: &str) -> Result<PathBuf> {
    if keyed(text)?.is_some() {
        let message = format!("{} is in a store, where this is not possible: `reelfs copy` copies it", shown(text));
        return Err(Error::new(Kind::Unsupported, message));
    }
    absolute(local(text)?)
}

/// A plain path is one of this machine, as everywhere.
fn local(text: &str) -> Result<&Path> {
    match text.strip_prefix(LOCAL) {
        Some("") => Err(Error::new(Kind::Invalid, "library: names no folder: write library:/path/of/it")),
        Some(path) => Ok(Path::new(path)),
        None if text.contains("://") => {
            let message = format!("{} is no library: write library:/path or kv+SERVICE://…", shown(text));
            Err(Error::new(Kind::Invalid, message))
        }
        None => Ok(Path::new(text)),
    }
}

/// Where the library is, and what is left of the path: the nearest folder on the way up that is one.
fn split_local(path: &Path) -> Result<(PathBuf, String)> {
    let whole = absolute(path)?;
    let mut at = whole.as_path();
    loop {
        if Local::is_at(at) {
            let inner = whole.strip_prefix(at).ok().and_then(Path::to_str);
            let inner = inner.ok_or_else(|| Error::new(Kind::Invalid, "names in a library are UTF-8"))?;
            if !inner.is_empty() {
                check_path(inner)?;
            }
            return Ok((at.to_owned(), inner.to_owned()));
        }
        // One that is not there yet is meant as a whole.
        at = match at.parent() {
            Some(above) => above,
            None => return Ok((whole, String::new())),
        };
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    // Components: without a last slash.
    let absolute = std::path::absolute(path).map_err(|error| Error::io(path.display(), &error))?;
    Ok(absolute.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_called_as_settings_are_is_no_library() {
        let folder = tempfile::tempdir().unwrap();
        let config = PlacesConfig { ssh_command: Vec::new(), connections: 1, ..PlacesConfig::default() };
        let home = format!("kv+file://{}/films", folder.path().display());
        create(&home, &config, (None, None)).unwrap();
        let nested = folder.path().join("films/a/b/.reelfs");
        std::fs::create_dir_all(&nested).unwrap();
        std::fs::write(nested.join("library.json"), "REELFS1\nof a file").unwrap();
        let opened = open(&format!("{home}/a/b/c"), &config, Access::Look).unwrap();
        assert_eq!((opened.library.describe(), &opened.path[..]), (&home[..], "a/b/c"));
        // One that is damaged, and nothing above it.
        std::fs::write(folder.path().join("films/.reelfs/library.json"), "?").unwrap();
        assert_eq!(open(&format!("{home}/x"), &config, Access::Look).err().unwrap().kind(), Kind::Corrupt);
    }

    #[test]
    fn libraries_in_folders_of_others_change_no_mode_of_theirs() {
        use std::fs::{self, Permissions};
        use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
        let temp = tempfile::tempdir().unwrap();
        let config = PlacesConfig { ssh_command: Vec::new(), connections: 1, ..PlacesConfig::default() };
        let films = temp.path().join("films");
        let mode = |path: &str| fs::metadata(films.join(path)).unwrap().mode() & 0o7777;
        let chmod =
            |path: &str, mode: u32| fs::set_permissions(films.join(path), Permissions::from_mode(mode)).unwrap();
        let home = format!("kv+file://{}", films.display());
        fs::create_dir_all(films.join("old")).unwrap();
        fs::write(films.join("old/film.mkv"), "of another user").unwrap();
        for (path, mode) in [("old/film.mkv", 0o644), ("old", 0o755), ("", 0o755)] {
            chmod(path, mode);
        }
        create(&home, &config, (None, None)).unwrap();
        open_to_group(&home).unwrap();
        for access in [Access::Look, Access::Write] {
            let library = open(&home, &config, access).unwrap().library;
            let content = crate::library::Content::Inline("a film".into());
            library.draft("new.mkv", None).unwrap().commit(content, crate::library::Meta::now()).unwrap();
        }
        assert_eq!(["", "old", "old/film.mkv"].map(mode), [0o755, 0o755, 0o644]);
        assert_eq!([".reelfs", ".reelfs/library.json", "new.mkv"].map(mode), [0o700, 0o600, 0o600]);
        // A library alone, as an earlier version left it: closed, and opened to the group if asked.
        fs::remove_dir_all(films.join("old")).unwrap();
        for (path, mode) in [("new.mkv", 0o644), (".reelfs/library.json", 0o644), (".reelfs", 0o755)] {
            chmod(path, mode);
        }
        open(&home, &config, Access::Look).unwrap();
        assert_eq!(["", ".reelfs", ".reelfs/library.json"].map(mode), [0o700, 0o700, 0o600]);
        open_to_group(&home).unwrap();
        assert_eq!(["", ".reelfs", ".reelfs/library.json", "new.mkv"].map(mode), [0o750, 0o750, 0o640, 0o640]);
    }

    #[test]
    fn what_is_shown_has_no_credentials() {
        for (text, expected) in [
            ("library:/srv/films", "library:/srv/films"),
            ("films/a b.mkv", "films/a b.mkv"),
            ("kv+redis://me:secret@host/0/films", "kv+redis://host/0/films"),
            ("kv+redis://me:secret@host/0/Film #1.mkv", "kv+redis://host/0/Film #1.mkv"),
            ("https://me:secret@host/films?token=secret", "https://host/films"),
            ("KV+redis://me:secret@host/0", "kv+redis://host/0"),
            ("://me:secret@host", "this URL"),
        ] {
            assert_eq!(shown(text), expected);
        }
        let error = local("s3://me:secret@bucket").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
