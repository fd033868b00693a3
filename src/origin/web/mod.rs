//! An HTTP(S) folder, read from its index pages, or a single file.
//! Never here: how pages look (`index.rs`) and how bytes are carried (`store/remote`).

mod cells;
mod file_name;
mod folder;
mod html;
mod index;
mod json;
mod markup;
mod times;
mod whole;
mod xml;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use url::Url;

use self::file_name::file_name;
use self::folder::{Folders, is_index};
pub use self::index::{Told, parse};
use self::times::{FolderTimes, Times};
use self::whole::WholeFiles;
use super::{Begun, Body, Listed, ListedKind, Origin, Pages, Patience, Section, Stat, Version};
#[cfg(test)]
use crate::config::WHOLE_FILE_MAX_BYTES;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::Read as _;
use crate::store::credentials;
use crate::store::remote::access::Access;
use crate::store::remote::{Remote, leads_away, sent_on, shown};

/// A source on the web.
pub struct Web {
    described: String,
    remote: Remote,
    /// What the URL turned out to be; asked once, when first needed, so that a drive can start without its server.
    root: OnceLock<Root>,
    /// Of files of which only index pages tell the version.
    times: Times,
    folders: Folders,
    whole_files: WholeFiles,
    /// For a single file: its bytes can be had.
    is_readable: AtomicBool,
}

/// What a URL turned out to be.
enum Root {
    /// Keys are paths below it.
    Folder(Remote),
    /// One file, under the name its URL ends in.
    File(Remote, Box<str>),
}

impl Web {
    /// The source at `url`. Asks nothing yet: what is wrong with it shows at the first `list("")`. Files up to
    /// `whole_file_max_bytes` are read whole where the server can't do otherwise.
    pub fn new(url: &Url, whole_file_max_bytes: u64, access: &Arc<Access>) -> Result<Self> {
        Ok(Self {
            described: shown(url),
            remote: Remote::new(url, access)?,
            root: OnceLock::new(),
            times: Times::new(),
            folders: Folders::new(),
            whole_files: WholeFiles::new(whole_file_max_bytes),
            is_readable: AtomicBool::new(false),
        })
    }

    /// The source at `url`, asked for at once: whether it is there, and whether it is a folder or a file.
    #[cfg(test)]
    pub fn connect(url: &Url, patience: &Patience) -> Result<Self> {
        let web = Self::new(url, WHOLE_FILE_MAX_BYTES, &Access::plain())?;
        web.list("", patience, &mut |_| Ok(()))?;
        Ok(web)
    }

    fn root(&self, patience: &Patience) -> Result<&Root> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let root = find_root(&self.remote, patience).map_err(|error| with_hint(&error, &self.described))?;
        Ok(self.root.get_or_init(|| root))
    }

    /// The names on the index page of one folder below `remote`.
    fn list_folder(&self, remote: &Remote, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        if !self.times.is_needed() {
            return self.folders.list(remote, folder, patience, pages);
        }
        let mut times = FolderTimes::new();
        let listed = self.folders.list(remote, folder, patience, &mut |names| {
            times::collect(&mut times, &names);
            pages(names)
        });
        match &listed {
            Ok(()) => self.times.learn(folder, times),
            // Who reads may have called it off: that says nothing of the page.
            Err(error) if error.may_pass() || error.kind() == Kind::Cancelled => {}
            Err(_) => self.times.forget(folder),
        }
        listed
    }

    /// A file below `remote`: where the server's answers about it tell no version, with the time on its folder's page.
    fn with_listed(&self, remote: &Remote, path: &str, stat: Stat, patience: &Patience) -> Result<Stat> {
        if !stat.version.is_size_alone() {
            return Ok(stat);
        }
        self.times.need();
        let time = match self.times.of(path) {
            Some(time) => Some(time),
            None => self.listed_time(remote, path, patience)?,
        };
        Ok(listed_at(stat.size_bytes, time))
    }

    /// The time on a folder's page as it is now; `None` where there is no page, or none with a time of this file: a time
    /// that an earlier page told proves nothing then.
    fn listed_time(&self, remote: &Remote, path: &str, patience: &Patience) -> Result<Option<SystemTime>> {
        let (folder, name) = times::split(path);
        // Of this very page: others that began earlier may end later.
        let mut found: Option<Listed> = None;
        let listed = self.list_folder(remote, folder, patience, &mut |names| {
            if found.is_none() {
                found = names.into_iter().find(|listed| *listed.name == *name);
            }
            Ok(())
        });
        match listed {
            Ok(()) => Ok(found.filter(|listed| listed.kind != ListedKind::Folder).and_then(|listed| listed.modified)),
            Err(error) if error.may_pass() || error.kind() == Kind::Cancelled => Err(error),
            Err(error) => {
                log::debug!("{error}");
                Ok(None)
            }
        }
    }

    /// Refuses a single file that could be opened but never read: too large to be read whole, and its server sends no parts.
    fn check_readable(&self, remote: &Remote, stat: &Stat, patience: &Patience) -> Result<()> {
        if !self.is_readable.load(Ordering::Relaxed) {
            if let Err(refused) = self.whole_files.check(&self.described, stat.size_bytes)
                && remote.ignores_ranges("", patience)?
            {
                return Err(refused);
            }
            self.is_readable.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The bytes of `range` of what is at `key`, as `read` asks for them; in a whole file where the server sends no parts.
    fn read_or_whole(
        &self,
        remote: &Remote,
        (key, path): (&str, &str),
        expected: &Stat,
        range: ByteRange,
        patience: &Patience,
        read: impl Fn(ByteRange, &Patience) -> Result<Box<dyn Body>>,
    ) -> Result<Box<dyn Body>> {
        if let Some(body) = self.whole_files.read_held(key, expected, range, patience) {
            return Ok(body);
        }
        let refused = match read(range, patience) {
            Err(error) if error.kind() == Kind::Unsupported => error,
            answer => return answer,
        };
        if !remote.ignores_ranges(key, patience)? {
            return Err(refused);
        }
        let shown = format!("{}{path}", self.described);
        self.whole_files.read((key, &shown), expected, range, patience, read)
    }

    fn stat_below(&self, remote: &Remote, path: &str, patience: &Patience) -> Result<Stat> {
        let stat = remote.stat(path, patience)?;
        self.with_listed(remote, path, stat, patience)
    }

    /// Which version a file is now, where an answer that brings bytes of `expected` does not tell.
    fn stat_again(&self, remote: &Remote, path: &str, expected: &Stat, patience: &Patience) -> Result<Stat> {
        if self.times.of(path).is_some() {
            let listed = listed_at(expected.size_bytes, self.listed_time(remote, path, patience)?);
            if listed.version == expected.version {
                return Ok(listed);
            }
        }
        self.stat_below(remote, path, patience)
    }
}

impl Origin for Web {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        match self.root(patience)? {
            Root::Folder(remote) => {
                let listed = self.list_folder(remote, folder, patience, pages);
                if folder.is_empty() { listed.map_err(|error| with_hint(&error, &self.described)) } else { listed }
            }
            Root::File(remote, name) if folder.is_empty() => {
                let stat = remote.stat("", patience).map_err(|error| with_hint(&error, &self.described))?;
                self.check_readable(remote, &stat, patience)?;
                pages(vec![Listed::file(name.clone(), &stat)])
            }
            Root::File(..) => Err(missing(&self.described, folder)),
        }
    }

    fn stat(&self, path: &str, patience: &Patience) -> Result<Stat> {
        match self.root(patience)? {
            Root::Folder(remote) => self.stat_below(remote, path, patience),
            Root::File(remote, name) if path == &**name => remote.stat("", patience),
            Root::File(..) => Err(missing(&self.described, path)),
        }
    }

    fn begin(&self, path: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        match self.root(patience)? {
            Root::Folder(remote) => {
                let before = self.times.of(path);
                let Some(begun) = remote.begin(path, section, patience)? else { return Ok(None) };
                if !begun.stat.version.is_size_alone() {
                    return Ok(Some(begun));
                }
                self.times.need();
                // A page that was read before the bytes began, or after, tells of another file if the file was replaced in
                // between: both must tell the same. Where none was read yet, `stat` and `read` do that.
                let after = self.listed_time(remote, path, patience)?;
                let stat = listed_at(begun.stat.size_bytes, after);
                Ok((before == after).then_some(Begun { stat, ..begun }))
            }
            Root::File(remote, name) if path == &**name => remote.begin("", section, patience),
            Root::File(..) => Err(missing(&self.described, path)),
        }
    }

    fn warm(&self, every: Duration) {
        self.remote.warm(every);
    }

    fn doubt(&self, silent_since: Instant) {
        self.remote.doubt(silent_since);
    }

    fn silent_for(&self) -> Duration {
        self.remote.silent_for()
    }

    fn probe(&self, patience: &Patience) -> Result<()> {
        self.remote.head("", patience).map(drop)
    }

    fn read(&self, path: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        match self.root(patience)? {
            Root::Folder(remote) => {
                self.read_or_whole(remote, (path, path), expected, range, patience, |range, patience| {
                    let stat_again = || self.stat_again(remote, path, expected, patience);
                    remote.read_checked(path, expected, range, patience, stat_again)
                })
            }
            Root::File(remote, name) if path == &**name => {
                self.read_or_whole(remote, ("", ""), expected, range, patience, |range, patience| {
                    remote.read("", expected, range, patience)
                })
            }
            Root::File(..) => Err(missing(&self.described, path)),
        }
    }

    fn describe(&self) -> &str {
        &self.described
    }
}

/// A file of which nothing is known but its size and the time on a page.
fn listed_at(size_bytes: u64, modified: Option<SystemTime>) -> Stat {
    Stat { size_bytes, modified, version: Version::size_and_time(size_bytes, modified) }
}

/// Folder or file? A URL that ends in `/` is a folder. Any other is one if the server redirects it to itself and `/`,
/// answers it with an index page, or knows it only with a `/`.
fn find_root(remote: &Remote, patience: &Patience) -> Result<Root> {
    let url = remote.base();
    if url.path().ends_with('/') {
        // A film behind a query (`/?file=film.mkv`) says that it is to be saved under a name.
        let head = match url.query().map(|_| remote.head("", patience)) {
            // What is found out now stays: an answer that is not there yet must not make a folder of a film.
            Some(Err(error)) if error.may_pass() || error.kind() == Kind::Cancelled => return Err(error),
            head => head.and_then(Result::ok),
        };
        return match head.and_then(|head| head.disposition).filter(|text| text.contains("filename")) {
            Some(disposition) => file_root(remote, url, Some(&disposition)),
            None => Ok(Root::Folder(remote.clone())),
        };
    }
    let as_folder = with_slash(url);
    let head = match remote.head("", patience) {
        Err(error) if error.kind() == Kind::Missing => {
            let folder = remote.at(&as_folder);
            return match is_index(&folder, patience) {
                Ok(true) => Ok(Root::Folder(folder)),
                Err(unknown) if unknown.may_pass() => Err(unknown),
                Ok(false) | Err(_) => Err(error),
            };
        }
        // A server that refuses HEAD: what it says to GET counts, and that is asked for with the file's stat.
        Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Denied) => return file_root(remote, url, None),
        answer => answer?,
    };
    if head.url.path().ends_with('/') {
        return Ok(Root::Folder(remote.at(&head.url)));
    }
    if head.content_type.to_ascii_lowercase().starts_with("text/html") {
        if leads_away(url, &head.url) {
            return Err(sent_on(url, &head.url));
        }
        if is_index(remote, patience)? {
            return Ok(Root::Folder(remote.at(&as_folder)));
        }
    }
    file_root(remote, url, head.disposition.as_deref())
}

fn file_root(remote: &Remote, url: &Url, disposition: Option<&str>) -> Result<Root> {
    match file_name(url, disposition) {
        Some(name) => Ok(Root::File(remote.clone(), name.into())),
        None => Err(Error::new(Kind::Invalid, format!("{}: its name can't be a file's name", shown(url)))),
    }
}

fn with_slash(url: &Url) -> Url {
    let mut folder = url.clone();
    folder.set_path(&format!("{}/", url.path()));
    folder
}

fn missing(described: &str, path: &str) -> Error {
    Error::new(Kind::Missing, format!("{described} is a single file; it holds no `{}`", path.escape_debug()))
}

fn no_index(error: &Error, url: &str) -> Error {
    if error.to_string().starts_with(url) {
        return error.clone();
    }
    let hint = if error.kind() == Kind::Unsupported { " (are the server's index pages turned on?)" } else { "" };
    Error::new(error.kind(), format!("{url}: {error}{hint}"))
}

/// For errors of the source as a whole: what a person can do about them.
fn with_hint(error: &Error, described: &str) -> Error {
    let text = error.to_string();
    let hint = match error.kind() {
        // It says already what to do.
        _ if text.contains("certificate") || text.contains("REELFS_") => {
            return error.clone();
        }
        Kind::Missing => "is the path right, letter by letter?",
        Kind::Unreachable | Kind::TimedOut => "is the server up, and its name and port right?",
        Kind::Denied if text.contains("answers 403") => {
            "may this user read it, and are the server's index pages turned on?"
        }
        Kind::Denied => credentials::HINT,
        _ => return error.clone(),
    };
    let text = if text.starts_with(described) { text } else { format!("{described}: {text}") };
    Error::new(error.kind(), format!("{text}; {hint}")).with_retry_after(error.retry_after())
}

#[cfg(test)]
mod tests;
