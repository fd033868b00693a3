//! A `WebDAV` folder: listed by `PROPFIND`, its files read as any on the web.
//! Never here: XML (`multistatus.rs`), and where links lead (`links.rs`).

mod links;
mod multistatus;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::status::StatusCode;
use log::warn;
use url::Url;

use self::links::{Link, Path, Seen};
use self::multistatus::Resource;
use super::access::Access;
use super::answer;
use super::service::Address;
use super::{PageBody, Remote, fault, leads_away, sent_on, shown, with_slash};
use crate::config::S3Config;
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::credentials;
use crate::store::{
    Begun, Body, List, Listed, ListedKind, Pages, Paging, Patience, Read, Section, Stat, Version, is_safe_name,
};

/// What is asked of each resource.
const PROPFIND: &str = concat!(
    r#"<?xml version="1.0" encoding="utf-8"?><D:propfind xmlns:D="DAV:"><D:prop>"#,
    "<D:resourcetype/><D:getcontentlength/><D:getlastmodified/><D:getetag/></D:prop></D:propfind>"
);
/// Of the resource alone, or also of what is directly in it.
const DEPTH: HeaderName = HeaderName::from_static("depth");

/// Links looked at before the folder's own one is known; nearly every server writes that one first.
const SEEN_MAX: usize = 1_000;

/// A place on a `WebDAV` server.
pub struct WebDav {
    remote: Remote,
    says_folder: bool,
    /// What the place turned out to be; asked once, when first needed, so that a drive can start without its server.
    root: OnceLock<Root>,
    /// The server's properties hold no strong `ETag`: they are not asked for one again.
    has_no_etags: AtomicBool,
    described: String,
}

/// What a place turned out to be.
enum Root {
    Folder,
    /// One file, under the name its URL ends in.
    File(Box<str>),
}

impl WebDav {
    /// The place at `address`, asked as `access` says. Asks nothing yet.
    pub fn new(address: &Address, access: &Arc<Access>) -> Result<Self> {
        let s3 = S3Config::default();
        let remote = Remote::new(&address.base(&s3)?, access)?;
        let (_, says_folder) = address.prefix()?;
        let (root, has_no_etags) = (OnceLock::new(), AtomicBool::new(false));
        Ok(Self { remote, says_folder, root, has_no_etags, described: address.located(&s3) })
    }

    /// The place as it may be shown, and told from others.
    pub fn describe(&self) -> &str {
        &self.described
    }

    fn root(&self, patience: &Patience) -> Result<&Root> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let url = self.remote.base();
        // With a slash first: without it a server sends on to the folder.
        let root = if self.says_folder {
            Root::Folder
        } else {
            match self.properties(&with_slash(url), patience) {
                Ok(resource) if resource.is_folder => Root::Folder,
                Err(error) if error.may_pass() || error.kind() == Kind::Denied => return Err(error),
                _ if self.properties(url, patience)?.is_folder => Root::Folder,
                _ => Root::File(self.file_name()?),
            }
        };
        Ok(self.root.get_or_init(|| root))
    }

    fn file_name(&self) -> Result<Box<str>> {
        let path = links::path(self.remote.base().path(), &Path::new());
        let name = path.last().and_then(|name| std::str::from_utf8(name).ok()).filter(|name| is_safe_name(name));
        let invalid = || Error::new(Kind::Invalid, format!("{}: its name can't be a file's name", self.described));
        name.map(Into::into).ok_or_else(invalid)
    }

    /// The key below the URL that stands for `key`.
    fn key<'a>(&self, key: &'a str, patience: &Patience) -> Result<&'a str> {
        match self.root(patience)? {
            Root::Folder => Ok(key),
            Root::File(name) if *key == **name => Ok(""),
            Root::File(_) => {
                let key = key.escape_debug();
                Err(Error::new(Kind::Missing, format!("{} is a single file; it holds no `{key}`", self.described)))
            }
        }
    }

    /// Asks for the properties of `url`, and hands the resources that are told to `each`.
    fn propfind(
        &self,
        url: &Url,
        depth: &'static str,
        patience: &Patience,
        mut each: impl FnMut(Resource) -> Result<()>,
    ) -> Result<()> {
        let address = shown(url);
        let has_etags = !self.remote.connections().access().has_unstable_validators();
        let each = |resource: Resource| each(Resource { etag: resource.etag.filter(|_| has_etags), ..resource });
        let method = Method::from_bytes(b"PROPFIND").expect("a token of letters is a method");
        let headers = HeaderMap::from_iter([
            (DEPTH, HeaderValue::from_static(depth)),
            (CONTENT_TYPE, HeaderValue::from_static("application/xml; charset=utf-8")),
        ]);
        let remote = &self.remote;
        let request = remote.sender.send(method, url, headers, Some(PROPFIND));
        let work = async { request.await.map_err(|error| fault::from_reqwest(&address, &error)) };
        let response = remote.driver.wait(patience, &address, work)?;
        remote.connections().heard();
        check_status(response.status(), response.headers(), &address)?;
        answer::check_encoding(response.headers(), &address)?;
        if leads_away(url, response.url()) {
            return Err(sent_on(url, response.url()));
        }
        let announced_bytes = answer::whole_size(response.headers()).unwrap_or(0);
        let body = PageBody::new(&remote.driver, patience, address.clone(), response, announced_bytes)?;
        let in_place = |error: Error| {
            if error.to_string().starts_with(&address) { error } else { error.context(&address) }
        };
        multistatus::read(body, each).map_err(in_place)
    }

    /// The properties of the one resource at `url`.
    fn properties(&self, url: &Url, patience: &Patience) -> Result<Resource> {
        let asked = links::path(url.path(), &Path::new());
        let mut found: Option<Resource> = None;
        self.propfind(url, "0", patience, |resource| {
            // A server that tells of more than was asked for.
            if found.is_none() || links::path(&resource.href, &asked) == asked {
                found = Some(resource);
            }
            Ok(())
        })?;
        let found = found.ok_or_else(|| nothing_fits(&shown(url)))?;
        check_own(&found, &shown(url))?;
        Ok(found)
    }

    /// The file at `key` as the server tells it, with what only its properties tell: the `ETag`, or else the time, where
    /// answers to GET and HEAD come without.
    fn with_properties(&self, key: &str, stat: Stat, patience: &Patience) -> Result<Stat> {
        let has_time = !stat.version.is_size_alone();
        if stat.version.as_etag().is_some() || (has_time && self.has_no_etags.load(Ordering::Relaxed)) {
            return Ok(stat);
        }
        let told = match self.properties(&self.remote.url(key)?, patience) {
            Ok(resource) => stat_of(&resource, stat.size_bytes),
            Err(error) if error.may_pass() => return Err(error),
            Err(error) => {
                log::debug!("{error}");
                stat.clone()
            }
        };
        if told.version.as_etag().is_some() {
            return Ok(Stat { modified: stat.modified.or(told.modified), ..told });
        }
        self.has_no_etags.store(true, Ordering::Relaxed);
        Ok(if has_time { stat } else { told })
    }

    /// Which version a file is now, where an answer that brings bytes of `expected` does not tell: as a rule, the properties
    /// do, in one question.
    fn stat_again(&self, key: &str, expected: &Stat, patience: &Patience) -> Result<Stat> {
        let told = self.properties(&self.remote.url(key)?, patience).map(|now| stat_of(&now, expected.size_bytes));
        match told {
            Ok(stat) if stat.version == expected.version => Ok(stat),
            Err(error) if error.may_pass() => Err(error),
            _ => self.stat_at(key, patience),
        }
    }

    fn stat_at(&self, key: &str, patience: &Patience) -> Result<Stat> {
        let stat = self.remote.stat(key, patience)?;
        self.with_properties(key, stat, patience)
    }
}

impl Read for WebDav {
    fn stat(&self, key: &str, patience: &Patience) -> Result<Stat> {
        self.stat_at(self.key(key, patience)?, patience)
    }

    fn begin(&self, key: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        let key = self.key(key, patience)?;
        let Some(begun) = self.remote.begin(key, section, patience)? else { return Ok(None) };
        let stat = self.with_properties(key, begun.stat.clone(), patience)?;
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
        let key = self.key(key, patience)?;
        self.remote.read_checked(key, expected, range, patience, || self.stat_again(key, expected, patience))
    }
}

impl List for WebDav {
    fn list(&self, folder: &str, patience: &Patience, pages: &mut Pages<'_>) -> Result<()> {
        let mut paging = Paging::new(pages);
        if let Root::File(name) = self.root(patience)? {
            let stat = self.stat_at("", patience)?;
            paging.add(Listed::file(name.clone(), &stat))?;
            return paging.finish();
        }
        let url = with_slash(&self.remote.url(folder)?);
        let address = shown(&url);
        let mut listing = Listing::new(&url, address.clone(), paging);
        self.propfind(&url, "1", patience, |resource| listing.add(resource))?;
        listing.finish()
    }
}

/// A listing on its way in.
struct Listing<'a, 'b> {
    asked: Path,
    /// Without credentials; for messages.
    url: String,
    /// Where the server says that the folder is, once that is known.
    folder: Option<Path>,
    /// What came before that.
    waiting: Vec<(Seen, Resource)>,
    has_own: bool,
    unsafe_names: usize,
    elsewhere: usize,
    paging: Paging<'a, 'b>,
}

impl<'a, 'b> Listing<'a, 'b> {
    fn new(url: &Url, shown: String, paging: Paging<'a, 'b>) -> Self {
        let asked = links::path(url.path(), &Path::new());
        let (unsafe_names, elsewhere) = (0, 0);
        let (folder, waiting, has_own) = (None, Vec::new(), false);
        Self { asked, url: shown, folder, waiting, has_own, unsafe_names, elsewhere, paging }
    }

    fn add(&mut self, resource: Resource) -> Result<()> {
        let path = links::path(&resource.href, &self.asked);
        if let Some(folder) = &self.folder {
            let link = links::link(&path, folder);
            return self.take(link, &resource);
        }
        let is_folder = is_folder(&resource);
        self.waiting.push((Seen { path, is_folder }, resource));
        // Each time anew over a few; a million without the folder's own link are not walked a million times.
        if self.waiting.len() <= 2 || self.waiting.last().is_some_and(|(seen, _)| seen.path == self.asked) {
            let (seen, resources): (Vec<Seen>, _) = std::mem::take(&mut self.waiting).into_iter().unzip();
            return self.decide(links::folder_early(&self.asked, &seen), seen, resources);
        }
        if self.waiting.len() >= SEEN_MAX { self.decide_by_all() } else { Ok(()) }
    }

    /// No more links are waited for.
    fn decide_by_all(&mut self) -> Result<()> {
        let (seen, resources): (Vec<Seen>, _) = std::mem::take(&mut self.waiting).into_iter().unzip();
        let folder = links::folder_of_all(&self.asked, &seen).ok_or_else(|| nothing_fits(&self.url))?;
        self.decide(Some(folder), seen, resources)
    }

    /// Takes what has waited, if it is known by now where the folder is.
    fn decide(&mut self, folder: Option<Path>, seen: Vec<Seen>, resources: Vec<Resource>) -> Result<()> {
        let Some(folder) = folder else {
            self.waiting = seen.into_iter().zip(resources).collect();
            return Ok(());
        };
        let links: Vec<_> = seen.iter().map(|seen| links::link(&seen.path, &folder)).collect();
        self.folder = Some(folder);
        links.into_iter().zip(resources).try_for_each(|(link, resource)| self.take(link, &resource))
    }

    fn take(&mut self, link: Link, resource: &Resource) -> Result<()> {
        let name = match link {
            Link::Itself => {
                self.has_own = true;
                return check_own(resource, &self.url);
            }
            Link::Name(name) => name,
            Link::Elsewhere => {
                self.elsewhere += 1;
                return self.check_count();
            }
        };
        // Gone since the server looked.
        if matches!(resource.status, Some(404 | 410)) {
            return Ok(());
        }
        let Some(name) = std::str::from_utf8(&name).ok().filter(|name| is_safe_name(name)) else {
            self.unsafe_names += 1;
            return self.check_count();
        };
        let kind =
            if is_folder(resource) { ListedKind::Folder } else { ListedKind::File { size_bytes: resource.size_bytes } };
        self.paging.add(Listed { name: name.into(), kind, modified: resource.modified })
    }

    /// What is left out counts, too.
    fn check_count(&self) -> Result<()> {
        self.paging.check_count(self.unsafe_names + self.elsewhere)
    }

    fn finish(mut self) -> Result<()> {
        if self.folder.is_none() {
            self.decide_by_all()?;
        }
        if self.elsewhere > 0 && self.paging.count() + self.unsafe_names == 0 {
            return Err(nothing_fits(&self.url));
        }
        if self.unsafe_names > 0 {
            warn!("{}: {} names left out: unsafe, too long, or not UTF-8", self.url, self.unsafe_names);
        }
        if self.elsewhere > 0 {
            warn!("{}: {} links left out: they lead out of the folder", self.url, self.elsewhere);
        }
        if !self.has_own {
            log::debug!("{}: the server does not list the folder itself", self.url);
        }
        self.paging.finish()
    }
}

/// A collection says so; one that says nothing of what it is has a slash at its link's end.
fn is_folder(resource: &Resource) -> bool {
    resource.is_folder || resource.href.ends_with('/')
}

/// What a listing's own status says of the whole.
fn check_own(resource: &Resource, url: &str) -> Result<()> {
    let status = resource.status.and_then(|status| StatusCode::from_u16(status).ok());
    match status.filter(|status| !status.is_success()) {
        Some(status) => check_status(status, &HeaderMap::new(), url),
        None => Ok(()),
    }
}

/// The file that its properties describe, of a size that is told elsewhere.
fn stat_of(resource: &Resource, size_bytes: u64) -> Stat {
    let modified = resource.modified;
    let etag = resource.etag.as_deref().and_then(answer::strong_etag);
    let version = etag.map_or_else(|| Version::size_and_time(size_bytes, modified), Version::etag);
    Stat { size_bytes, modified, version }
}

/// The status of an answer to `PROPFIND`.
fn check_status(status: StatusCode, headers: &HeaderMap, url: &str) -> Result<()> {
    match status.as_u16() {
        200 | 207 => Ok(()),
        400 | 405 | 501 => {
            let message = format!(
                "{url}: the server does not speak WebDAV there ({status}): is this the path of its WebDAV folder? \
                 A folder of a plain web server is mounted by http:// or https://"
            );
            Err(Error::new(Kind::Unsupported, message))
        }
        _ => match answer::check_status(status, headers, url, SystemTime::now()) {
            Ok(()) => Err(Error::new(Kind::Unsupported, format!("{url}: the server answers {status} to PROPFIND"))),
            // A server that takes no password at all was told of already.
            Err(error) if status == StatusCode::UNAUTHORIZED && !error.to_string().contains("REELFS_") => {
                let hint = credentials::HINT;
                Err(Error::new(error.kind(), format!("{error}; {hint}")))
            }
            error => error,
        },
    }
}

fn nothing_fits(url: &str) -> Error {
    let message = "the server's list holds no link into the folder: its links name another path than the one asked for";
    Error::new(Kind::Unsupported, format!("{url}: {message}"))
}

#[cfg(test)]
mod tests;
