//! A bucket, which `OpenDAL` knows how to ask, over HTTP.
//! Never here: which service it is (see `service`), and retries.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use futures_util::StreamExt as _;
use http::header::HOST;
use opendal::{EntryMode, HttpTransporter, Metadata, OperationContext, Operator};
use url::Url;

use super::access::Access;
use super::answer::{Asked, strong_etag};
use super::body::RemoteBody;
use super::connections::Transport;
use super::guard::Guard;
use super::service::Address;
use super::service_answer::{Counted, ListingPages};
use super::{Remote, check_again, checked_key, fault};
use crate::config::S3Config;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::{
    Begun, Body, List, Listed, ListedKind, PAGE_NAMES_MAX, Pages, Paging, Patience, Read, Section, Stat, Version,
    is_safe_name,
};

/// A signed URL is asked at once; clocks may differ.
const SIGNED_FOR: Duration = Duration::from_mins(15);

/// A place below one prefix of a service.
pub struct Place {
    /// What asks: for the service, too.
    remote: Remote,
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
    /// The place at `address`, asked as `access` says. Asks nothing yet.
    pub fn new(address: &Address, s3: &S3Config, access: &Arc<Access>) -> Result<Self> {
        if access.has_unstable_validators() {
            let message =
                "--unstable-validators is for http(s):// and webdav(s)://: a bucket gives one object one ETag";
            return Err(Error::new(Kind::Invalid, message));
        }
        let (operator, described) = (address.operator(s3)?, address.located(s3));
        let (prefix, says_folder) = address.prefix()?;
        let remote = Remote::new(&address.base(s3)?, access)?;
        let place = Self { remote, operator, prefix, says_folder, root: OnceLock::new(), described };
        Ok(Self { operator: place.counted(None), ..place })
    }

    /// The place as it may be shown, and told from others.
    pub fn describe(&self) -> &str {
        &self.described
    }

    /// The service, its answers counted: those of one listing together.
    fn counted(&self, pages: Option<Arc<ListingPages>>) -> Operator {
        let transport = Transport::over(self.remote.connections(), self.remote.base());
        let counted = Counted { transport, url: self.described.clone(), pages };
        let context = OperationContext::new().with_http_transport(HttpTransporter::new(counted));
        self.operator.clone().with_context(context)
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

    /// A key with the `ETag` that its bucket lists, where the server's answers about it come without.
    fn with_listed(&self, path: &str, told: Stat, patience: &Patience) -> Result<Stat> {
        if told.version.as_etag().is_some() {
            return Ok(told);
        }
        let shown = self.shown(path);
        let operator = self.counted(Some(Arc::new(ListingPages::new(Instant::now()))));
        let first = async {
            let mut lister = operator.lister_with(path).limit(1).await?;
            lister.next().await.transpose()
        };
        let first = async { first.await.map_err(|error: opendal::Error| fault::from_service(&shown, &error)) };
        match self.remote.driver.wait(patience, &shown, first) {
            Ok(Some(entry)) if entry.path() == path && entry.metadata().content_length() == told.size_bytes => {
                let listed = stat(entry.metadata());
                Ok(Stat { modified: told.modified.or(listed.modified), ..listed })
            }
            Err(error) if error.may_pass() => Err(error),
            _ => Ok(told),
        }
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
        let path = self.path(key, patience)?;
        let metadata = self.metadata(&path, patience)?;
        if metadata.mode() == EntryMode::DIR {
            return Err(Error::new(Kind::Missing, format!("{} is a folder, not a file", self.shown(key))));
        }
        self.with_listed(&path, stat(&metadata), patience)
    }

    fn begin(&self, key: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        let path = self.path(key, patience)?;
        let Some(url) = self.signed(&path, patience)? else { return Ok(None) };
        let Some(begun) = self.remote.ask_for_section(&url, section, patience)? else { return Ok(None) };
        let stat = self.with_listed(&path, begun.stat.clone(), patience)?;
        Ok(Some(Begun { stat, ..begun }))
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

    fn read(&self, key: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        let path = self.path(key, patience)?;
        let asked = Asked { url: self.shown(&path), range, expected: expected.clone() };
        let transport = Transport::over(self.remote.connections(), self.remote.base());
        let is_unproved = Arc::new(AtomicBool::new(false));
        let guard = Guard { transport, asked: asked.clone(), is_unproved: Arc::clone(&is_unproved) };
        let context = OperationContext::new().with_http_transport(HttpTransporter::new(guard));
        let operator = self.operator.clone().with_context(context);
        let body = RemoteBody::open(&self.remote, &operator, &path, asked.clone(), patience)?;
        if is_unproved.load(Ordering::Acquire) {
            check_again(&asked, || self.stat(key, patience))?;
        }
        Ok(body)
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
        let listing = Arc::new(ListingPages::new(Instant::now()));
        let operator = self.counted(Some(Arc::clone(&listing)));
        let open = async { operator.lister(&path).await.map_err(failed) };
        // The service's own pages: names that came with one answer are taken without a wait each.
        let mut answers = self.remote.driver.wait(patience, &shown, open)?.ready_chunks(PAGE_NAMES_MAX);
        let (mut skipped, mut is_nothing) = (0, true);
        while let Some(answer) = self.remote.driver.wait(patience, &shown, async { Ok(answers.next().await) })? {
            for entry in answer {
                let entry = entry.map_err(failed)?;
                is_nothing = false;
                match listed(&path, entry.path(), entry.metadata()) {
                    Entry::Name(listed) => {
                        listing.has_name();
                        paging.add(listed).map_err(|error| error.context(&shown))?;
                    }
                    Entry::Itself => {}
                    Entry::Unsafe => {
                        skipped += 1;
                        paging.check_count(skipped).map_err(|error| error.context(&shown))?;
                    }
                }
            }
        }
        if is_nothing && path != "/" {
            // A bucket answers so for any prefix; a folder there is what has names in it.
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
    let version = metadata
        .etag()
        .and_then(strong_etag)
        .map_or_else(|| Version::size_and_time(size_bytes, modified), Version::etag);
    Stat { size_bytes, modified, version }
}

fn modified(metadata: &Metadata) -> Option<SystemTime> {
    metadata.last_modified().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use opendal::MetadataBuilder;

    use super::*;
    use crate::store::remote::tests::{Server, answer, patience};
    use crate::store::whole;

    /// The top of a bucket at `server`.
    fn bucket(server: &Server) -> Place {
        let address = Address::new(Url::parse("s3://films/").unwrap()).unwrap();
        let endpoint = server.url.origin().ascii_serialization();
        Place::new(&address, &S3Config { endpoint: Some(endpoint), ..S3Config::default() }, &Access::plain()).unwrap()
    }

    fn page(keys: &str, next: &str) -> Vec<u8> {
        let more = !next.is_empty();
        let next = if more { format!("<NextContinuationToken>{next}</NextContinuationToken>") } else { String::new() };
        let body = format!(
            "<?xml version=\"1.0\"?><ListBucketResult><Name>films</Name><IsTruncated>{more}</IsTruncated>{next}{keys}\
             </ListBucketResult>"
        );
        answer("200 OK", &format!("Content-Length: {}\r\n", body.len()), body.as_bytes())
    }

    fn key(name: &str) -> String {
        format!(
            "<Contents><Key>{name}</Key><LastModified>2026-11-21T07:26:00.000Z</LastModified><ETag>\"1\"</ETag>\
             <Size>10</Size></Contents>"
        )
    }

    fn list(server: &Server) -> Result<Vec<Listed>> {
        whole(|pages| bucket(server).list("", &patience(), pages))
    }

    #[test]
    fn s3_listing_ends_however_it_goes_on() {
        let whole = Server::start(|head, socket| {
            let is_second = head.contains("continuation-token=next");
            let page = if is_second { page(&key("b.mkv"), "") } else { page(&key("a.mkv"), "next") };
            socket.write_all(&page).unwrap_or(());
        });
        let names: Vec<_> = list(&whole).unwrap().iter().map(|listed| listed.name.to_string()).collect();
        assert_eq!(names, ["a.mkv", "b.mkv"]);

        let again = Server::start(|_, socket| socket.write_all(&page(&key("a.mkv"), "next")).unwrap_or(()));
        let error = list(&again).unwrap_err();
        assert!(error.kind() == Kind::Unsupported && error.to_string().contains("same page"), "{error}");
        assert_eq!(again.heads().len(), 2);

        let body = Server::start(|_, socket| {
            let _ = socket.write_all(&answer("200 OK", "", b"<ListBucketResult>"));
            let keys = key("a.mkv").repeat(1_000);
            while socket.write_all(keys.as_bytes()).is_ok() {}
        });
        assert_eq!(list(&body).unwrap_err().kind(), Kind::Full);
    }

    #[test]
    fn s3_refusal_comes_out_with_its_reason() {
        let body = "<Error><Code>RequestTimeTooSkewed</Code><Message>Too large.</Message></Error>";
        let reply = answer("403 Forbidden", &format!("Content-Length: {}\r\n", body.len()), body.as_bytes());
        let error = list(&Server::start(move |_, socket| socket.write_all(&reply).unwrap_or(()))).unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert!(error.to_string().contains("RequestTimeTooSkewed") && error.to_string().contains("clock"), "{error}");
    }

    #[test]
    fn s3_version_is_found_in_the_listing_where_answers_tell_none() {
        let server = Server::start(|head, socket| {
            let reply = if head.contains("list-type") {
                page(&key("a.mkv"), "")
            } else if head.starts_with("HEAD") {
                answer("200 OK", "Content-Length: 10\r\n", b"")
            } else {
                answer("206 Partial Content", "Content-Range: bytes 0-4/10\r\nContent-Length: 5\r\n", b"01234")
            };
            socket.write_all(&reply).unwrap_or(());
        });
        let place = bucket(&server);
        let stat = place.stat("a.mkv", &patience()).unwrap();
        assert_eq!((stat.size_bytes, &stat.version), (10, &Version::etag("\"1\"")));
        assert!(place.read("a.mkv", &stat, ByteRange::new(0, 5), &patience()).is_ok());
        let older = Stat { version: Version::etag("\"0\""), ..stat };
        let error = place.read("a.mkv", &older, ByteRange::new(0, 5), &patience()).err().unwrap();
        assert_eq!(error.kind(), Kind::Changed);
    }

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
