//! A place whose folders `OpenDAL` knows how to list, asked over HTTP: buckets and `WebDAV`.
//! Never here: which service it is (see `service`), and retries.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use http::header::{HOST, HeaderMap};
use opendal::{EntryMode, HttpTransporter, Metadata, OperationContext, Operator};
use opendal_http_transport_reqwest::ReqwestTransport;
use url::Url;

use super::answer::Asked;
use super::body::RemoteBody;
use super::guard::Guard;
use super::service::Address;
use super::{Remote, checked_key, fault};
use crate::config::S3Config;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::{
    Begun, Body, End, List, Listed, ListedKind, PAGE_NAMES_MAX, Pages, Paging, Patience, Read, Stat, Version,
    is_safe_name,
};

/// A signed URL is asked at once; clocks may differ.
const SIGNED_FOR: Duration = Duration::from_mins(15);

/// A place below one prefix of a service.
pub struct Place {
    /// What asks: for the service, too.
    remote: Remote,
    /// Each file has a plain URL below the remote's own: there it is read as any on the web.
    is_web: bool,
    operator: Operator,
    /// In front of every key; without slashes at its ends. The service's own root is not used: it is trimmed of spaces.
    prefix: String,
    says_folder: bool,
    /// What it turned out to be; asked once, when first needed, so that a drive can start without its server.
    root: OnceLock<Root>,
    described: String,
}

/// What a place turned out to be.
enum Root {
    Folder,
    /// One file, under the name its URL ends in.
    File(Box<str>),
}

impl Place {
    /// The place at `address`. Asks nothing yet.
    pub fn new(address: &Address, s3: &S3Config) -> Result<Self> {
        let (operator, described) = (address.operator(s3)?, address.located(s3));
        let (prefix, says_folder) = address.prefix()?;
        let (remote, is_web) = (Remote::new(&address.base(s3)?)?, address.is_web());
        let transport = HttpTransporter::new(ReqwestTransport::new(remote.client.clone()));
        let operator = operator.with_context(OperationContext::new().with_http_transport(transport));
        Ok(Self { remote, is_web, operator, prefix, says_folder, root: OnceLock::new(), described })
    }

    /// The place as it may be shown, and told from others.
    pub fn describe(&self) -> &str {
        &self.described
    }

    fn root(&self, patience: &Patience) -> Result<&Root> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let is_folder = |path: &str| Ok::<_, Error>(self.metadata(path, patience)?.mode() == EntryMode::DIR);
        // With a slash first: without it a server sends on to the folder, which nobody asking for a file understands.
        let root = if self.says_folder || is_folder(&format!("{}/", self.prefix)).unwrap_or(false) {
            Root::Folder
        } else {
            match is_folder(&self.prefix) {
                Ok(false) => Root::File(self.prefix.rsplit('/').next().unwrap_or_default().into()),
                Ok(true) => Root::Folder,
                // A bucket has no folders, only keys that have more behind them.
                Err(error) if error.kind() == Kind::Missing => Root::Folder,
                Err(error) => return Err(error),
            }
        };
        Ok(self.root.get_or_init(|| root))
    }

    /// The web's own key of a key, where there is one.
    fn on_web<'a>(&self, key: &'a str, patience: &Patience) -> Result<Option<(&Remote, &'a str)>> {
        if !self.is_web {
            return Ok(None);
        }
        match self.root(patience)? {
            Root::Folder => Ok(Some((&self.remote, key))),
            Root::File(name) if *key == **name => Ok(Some((&self.remote, ""))),
            Root::File(_) => Err(self.missing(key)),
        }
    }

    /// The service's own path of a key.
    fn path(&self, key: &str, patience: &Patience) -> Result<String> {
        checked_key(key, &self.described)?;
        if let Root::File(name) = self.root(patience)? {
            return if *key == **name { Ok(self.prefix.clone()) } else { Err(self.missing(key)) };
        }
        let path = if self.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.prefix) };
        // OpenDAL would ask for another one.
        if path.trim() == path { Ok(path) } else { Err(self.missing(key)) }
    }

    /// A URL that may be asked as any on the web, for a while; `None` where the service makes none.
    fn signed(&self, path: &str, patience: &Patience) -> Result<Option<Url>> {
        if !self.operator.info().capability().presign_read {
            return Ok(None);
        }
        // Only keys may have to be waited for.
        let work = async { Ok(self.operator.presign_read(path, SIGNED_FOR).await) };
        let signed = match self.remote.driver.wait(patience, self.shown(path), work)? {
            Ok(signed) => signed,
            Err(error) => {
                log::debug!("{}: not signed: {error}", self.described);
                return Ok(None);
            }
        };
        // Headers that would have to be sent along: reads as usual send them.
        let is_plain = signed.header().keys().all(|name| name == HOST);
        Ok(Url::parse(&signed.uri().to_string()).ok().filter(|_| is_plain))
    }

    fn metadata(&self, path: &str, patience: &Patience) -> Result<Metadata> {
        let shown = self.shown(path);
        let work = async { self.operator.stat(path).await.map_err(|error| fault::from_service(&shown, &error)) };
        self.remote.driver.wait(patience, &shown, work)
    }

    fn shown(&self, path: &str) -> String {
        if matches!(path, "" | "/") {
            return self.described.clone();
        }
        format!("{}: {}", self.described, path.escape_debug())
    }

    fn missing(&self, key: &str) -> Error {
        Error::new(Kind::Missing, format!("{}: no such file", self.shown(key)))
    }
}

impl Read for Place {
    fn stat(&self, key: &str, patience: &Patience) -> Result<Stat> {
        if let Some((web, key)) = self.on_web(key, patience)? {
            return web.stat(key, patience);
        }
        let metadata = self.metadata(&self.path(key, patience)?, patience)?;
        if metadata.mode() == EntryMode::DIR {
            return Err(Error::new(Kind::Missing, format!("{} is a folder, not a file", self.shown(key))));
        }
        Ok(stat(&metadata))
    }

    fn begin(&self, key: &str, end: End, patience: &Patience) -> Result<Option<Begun>> {
        if let Some((web, key)) = self.on_web(key, patience)? {
            return web.begin(key, end, patience);
        }
        match self.signed(&self.path(key, patience)?, patience)? {
            Some(url) => self.remote.ask_for_end(&url, end, patience),
            None => Ok(None),
        }
    }

    fn warm(&self, every: Duration) {
        self.remote.warm(every);
    }

    fn read(&self, key: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        if let Some((web, key)) = self.on_web(key, patience)? {
            return web.read(key, expected, range, patience);
        }
        let path = self.path(key, patience)?;
        let asked = Asked { url: self.shown(&path), range, expected: expected.clone() };
        let transport = ReqwestTransport::new(self.remote.client.clone());
        let guard = Guard { transport, target: None, headers: HeaderMap::new(), asked: asked.clone() };
        let context = OperationContext::new().with_http_transport(HttpTransporter::new(guard));
        RemoteBody::open(&self.remote.driver, &self.operator.clone().with_context(context), &path, asked, patience)
    }
}

impl List for Place {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        let mut paging = Paging::new(pages);
        if let Root::File(name) = self.root(patience)? {
            let stat = stat(&self.metadata(&self.prefix, patience)?);
            paging.add(Listed::file(name.clone(), &stat))?;
            return paging.finish();
        }
        let path = match self.path(folder, patience)? {
            path if path.is_empty() || path == "/" => String::from("/"),
            path => format!("{}/", path.trim_end_matches('/')),
        };
        let shown = self.shown(&path);
        let failed = |error: opendal::Error| fault::from_service(&shown, &error);
        let open = async { self.operator.lister(&path).await.map_err(failed) };
        // The service's own pages: names that came with one answer are taken without a wait each.
        let mut answers = self.remote.driver.wait(patience, &shown, open)?.ready_chunks(PAGE_NAMES_MAX);
        let (mut skipped, mut is_nothing) = (0, true);
        while let Some(answer) = self.remote.driver.wait(patience, &shown, async { Ok(answers.next().await) })? {
            for entry in answer {
                let entry = entry.map_err(failed)?;
                is_nothing = false;
                match listed(&path, entry.path(), entry.metadata()) {
                    Entry::Name(listed) => paging.add(listed).map_err(|error| error.context(&shown))?,
                    Entry::Itself => {}
                    Entry::Unsafe => skipped += 1,
                }
            }
        }
        if is_nothing && (path != "/" || self.is_web) {
            // A bucket answers so for any prefix; a folder there is what has names in it. One of WebDAV lists itself at
            // least: what does not is a 404, which OpenDAL takes for an empty folder.
            return Err(Error::new(Kind::Missing, format!("{shown}: no such folder")));
        }
        if skipped > 0 {
            log::warn!("{shown}: {skipped} names left out: unsafe, too long, or with spaces at their ends");
        }
        paging.finish()
    }
}

/// What one line of a listing is.
enum Entry {
    Name(Listed),
    /// The folder lists itself, too.
    Itself,
    Unsafe,
}

fn listed(folder: &str, path: &str, metadata: &Metadata) -> Entry {
    let relative = path.strip_prefix(folder.trim_start_matches('/')).unwrap_or(path);
    let name = relative.strip_suffix('/').unwrap_or(relative);
    if name.is_empty() {
        return Entry::Itself;
    }
    if !is_safe_name(name) || path.trim() != path || name.trim_end() != name {
        return Entry::Unsafe;
    }
    let kind = match metadata.mode() {
        EntryMode::DIR => ListedKind::Folder,
        EntryMode::FILE => ListedKind::File { size_bytes: Some(metadata.content_length()) },
        EntryMode::Unknown => ListedKind::File { size_bytes: None },
    };
    Entry::Name(Listed { name: name.into(), kind, modified: modified(metadata) })
}

fn stat(metadata: &Metadata) -> Stat {
    let (size_bytes, modified) = (metadata.content_length(), modified(metadata));
    // A weak one promises the same film, not the same bytes.
    let strong = metadata.etag().filter(|etag| etag.len() >= 2 && etag.starts_with('"') && etag.ends_with('"'));
    let version = strong.map_or_else(|| Version::size_and_time(size_bytes, modified), Version::etag);
    Stat { size_bytes, modified, version }
}

fn modified(metadata: &Metadata) -> Option<SystemTime> {
    metadata.last_modified().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use opendal::MetadataBuilder;

    use super::*;

    #[test]
    fn a_listing_line_is_a_name_itself_or_unsafe() {
        let file = MetadataBuilder::file(7).build();
        let name = |folder: &str, path: &str| match listed(folder, path, &file) {
            Entry::Name(listed) => Some(listed.name.to_string()),
            Entry::Itself => Some(String::new()),
            Entry::Unsafe => None,
        };
        assert_eq!(name("/", "film.mkv").as_deref(), Some("film.mkv"));
        assert_eq!(name("/", "/").as_deref(), Some(""));
        assert_eq!(name("a/b/", "a/b/").as_deref(), Some(""));
        assert_eq!(name("a/b/", "a/b/c d.mkv").as_deref(), Some("c d.mkv"));
        for bad in ["a/b/..", "a/b/c/d", "a/b/ends with space ", &format!("a/b/{}", "x".repeat(256))] {
            assert_eq!(name("a/b/", bad), None, "{bad:?}");
        }
    }
}
