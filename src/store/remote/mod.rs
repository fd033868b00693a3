//! A place on the network, asked over HTTP: stat, ranged reads, and pages. `OpenDAL` signs and carries what buckets are
//! asked.
//! Never here: retries (they live above, in one place), and what a page says. Nothing async is seen outside this folder.

pub mod access;
mod answer;
mod begin;
mod body;
#[cfg(any(feature = "gcs", feature = "azblob"))]
mod clouds;
mod connections;
mod fault;
mod guard;
mod headers;
mod login;
mod page;
pub mod place;
mod rest;
mod sender;
pub mod service;
mod service_answer;
mod tls;
pub mod webdav;

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant, SystemTime};

use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, IF_MATCH, RANGE};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use self::access::Access;
pub(crate) use self::answer::http_date;
use self::answer::{Asked, Proof};
use self::body::AnswerBody;
use self::connections::Connections;
pub(super) use self::connections::Transport;
pub(super) use self::fault::from_service;
pub use self::page::{Form, Page, PageBody};
use self::rest::InParts;
use self::sender::Sender;
pub(super) use self::service_answer::Counted;
use super::driver::Driver;
use super::{Begun, Body, Patience, Read, Section, Stat};
use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;

/// Everything but RFC 3986's unreserved characters: what no server can take for something else.
const SEGMENT: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An HTTP(S) place. Keys are joined to its base URL; cheap to clone, clones share connections.
#[derive(Clone)]
pub struct Remote {
    driver: Arc<Driver>,
    sender: Sender,
    /// Without credentials and fragment.
    base: Url,
    /// When connections were made ready last.
    warmed: Arc<Mutex<Option<Instant>>>,
    /// HEAD has failed where GET did not: it is not tried any more.
    head_fails: Arc<AtomicBool>,
}

/// What a place answers before any byte of it is read.
pub struct Head {
    /// Where the answer came from in the end, after redirects.
    pub url: Url,
    /// As announced; empty if it was not.
    pub content_type: String,
    /// What the server would have the file called: its `Content-Disposition`, if it sends one.
    pub disposition: Option<String>,
}

/// An answer to a ranged request, before any byte of it is read.
struct Answer {
    asked: Asked,
    /// The bytes that come: all that were asked for, or the first of them.
    sent: ByteRange,
    proof: Proof,
    body: AnswerBody,
}

impl Remote {
    /// The place at `url` (http or https), asked as `access` says. The user and password in the URL, if any, are sent to that
    /// host and never shown. Asks nothing yet.
    pub fn new(url: &Url, access: &Arc<Access>) -> Result<Self> {
        let shown = shown(url);
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(Error::new(Kind::Invalid, format!("{shown} is not an http:// or https:// URL")));
        }
        let (sender, base) = (Sender::new(url, access)?, without_credentials(url));
        let (warmed, head_fails) = (Arc::default(), Arc::default());
        Ok(Self { driver: Arc::new(Driver::new()?), sender, base, warmed, head_fails })
    }

    /// The place at `url`, over the same connections. Another server gets neither the password nor the user's headers.
    #[must_use]
    pub fn at(&self, url: &Url) -> Self {
        Self { base: without_credentials(url), ..self.clone() }
    }

    /// The place itself, without credentials.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Asks what is at `key`, and for none of it.
    pub fn head(&self, key: &str, patience: &Patience) -> Result<Head> {
        self.head_of(&self.url(key)?, patience)
    }

    /// Gets the page at `key`.
    pub fn page(&self, key: &str, form: Form, patience: &Patience) -> Result<Page> {
        let url = form.of(self.url(key)?);
        let shown = shown(&url);
        let response = self.send(Method::GET, &url, HeaderMap::from_iter([(ACCEPT, form.accept())]), patience)?;
        answer::check_status(response.status(), response.headers(), &shown, SystemTime::now())?;
        answer::check_encoding(response.headers(), &shown)?;
        let announced_bytes = answer::whole_size(response.headers()).unwrap_or(0);
        let (asked, url, content_type) = (url, response.url().clone(), content_type(&response));
        let body = PageBody::new(&self.driver, patience, shown, response, announced_bytes)?;
        Ok(Page { asked, url, content_type, body })
    }

    /// Sends one request without a body; the answer may have any status.
    fn send(&self, method: Method, url: &Url, more: HeaderMap, patience: &Patience) -> Result<reqwest::Response> {
        let shown = shown(url);
        let request = self.sender.send(method, url, more, None);
        let work = async { request.await.map_err(|error| fault::from_reqwest(&shown, &error)) };
        self.driver.wait(patience, &shown, work).inspect(|_| self.connections().heard())
    }

    fn connections(&self) -> &Arc<Connections> {
        self.sender.connections()
    }

    /// `read`, for places that know more of a file's version than its own URL tells: where an answer tells none,
    /// `stat_again` is asked. It is asked after the answer has begun: its bytes are those of the file as it was then.
    pub(crate) fn read_checked(
        &self,
        key: &str,
        expected: &Stat,
        range: ByteRange,
        patience: &Patience,
        stat_again: impl FnOnce() -> Result<Stat>,
    ) -> Result<Box<dyn Body>> {
        let Answer { asked, sent, proof, body } = self.ask(key, expected, range, patience)?;
        if proof == Proof::Missing {
            check_again(&asked, stat_again)?;
        }
        if sent == range {
            return Ok(Box::new(body));
        }
        Ok(Box::new(InParts::new(self, key, expected, patience, body, (sent.len(), range))))
    }

    /// Asks for bytes of `range`; the answer may bring fewer. Whether they are of the version expected is told by `proof`.
    fn ask(&self, key: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Answer> {
        let url = self.url(key)?;
        let asked = Asked { url: shown(&url), range, expected: expected.clone() };
        let mut headers = HeaderMap::new();
        let wanted = HeaderValue::from_str(&format!("bytes={}-{}", range.start, range.end - 1));
        headers.insert(RANGE, wanted.expect("digits make a header"));
        // One without quotes is no ETag to a server that would compare it.
        let etag = expected.version.as_etag().filter(|etag| etag.starts_with('"'));
        if let Some(etag) = etag.and_then(|etag| HeaderValue::from_str(etag).ok()) {
            headers.insert(IF_MATCH, etag);
        }
        let response = self.send(Method::GET, &url, headers, patience)?;
        let (status, headers) = (response.status(), response.headers());
        answer::check_status(status, headers, &asked.url, SystemTime::now())?;
        let (sent, proof) = answer::check_range(status, headers, &asked)?;
        let body = AnswerBody::new(self, patience, asked.url.clone(), response, sent.len());
        Ok(Answer { asked, sent, proof, body })
    }

    /// For messages.
    fn shown_key(&self, key: &str) -> String {
        self.url(key).map_or_else(|_| shown(&self.base), |url| shown(&url))
    }

    /// Where `key` is: each component encoded and put behind the base.
    fn url(&self, key: &str) -> Result<Url> {
        if key.is_empty() {
            return Ok(self.base.clone());
        }
        checked_key(key, &self.base)?;
        let encoded: Vec<_> =
            key.split('/').map(|component| utf8_percent_encode(component, &SEGMENT).to_string()).collect();
        let mut url = self.base.clone();
        let folder = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{folder}/{}", encoded.join("/")));
        Ok(url)
    }
}

impl Read for Remote {
    fn stat(&self, key: &str, patience: &Patience) -> Result<Stat> {
        self.stat_of(&self.url(key)?, patience)
    }

    fn begin(&self, key: &str, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        let Some(begun) = self.ask_for_section(&self.url(key)?, section, patience)? else { return Ok(None) };
        if !begun.stat.version.is_size_alone() {
            return Ok(Some(begun));
        }
        // Some tell a version with HEAD alone.
        let before = self.stat(key, patience)?;
        if before.version.is_size_alone() {
            return Ok((before.size_bytes == begun.stat.size_bytes).then_some(Begun { stat: before, ..begun }));
        }
        // It was told after those bytes had begun, and may be that of a file that took the place of theirs: only bytes that
        // begin between two questions are of the version that both tell.
        drop(begun);
        let Some(begun) = self.ask_for_section(&self.url(key)?, section, patience)? else { return Ok(None) };
        let stat = self.stat(key, patience)?;
        Ok((stat == before && stat.size_bytes == begun.stat.size_bytes).then_some(Begun { stat, ..begun }))
    }

    fn warm(&self, every: Duration) {
        self.make_ready(every);
    }

    fn doubt(&self, silent_since: Instant) {
        self.connections().doubt(silent_since);
    }

    fn silent_for(&self) -> Duration {
        self.connections().silent_for()
    }

    fn read(&self, key: &str, expected: &Stat, range: ByteRange, patience: &Patience) -> Result<Box<dyn Body>> {
        self.read_checked(key, expected, range, patience, || self.stat(key, patience))
    }
}

/// Refuses bytes whose answer did not tell their version, if the file is another one by now.
fn check_again(asked: &Asked, stat_again: impl FnOnce() -> Result<Stat>) -> Result<()> {
    let now = stat_again()?;
    if now.version == asked.expected.version {
        return Ok(());
    }
    let (url, was, now) = (&asked.url, &asked.expected.version, &now.version);
    Err(Error::new(Kind::Changed, format!("{url}: the file has changed: it was {was}, and is {now}")))
}

/// Refuses a key that would lead out of its place.
fn checked_key(key: &str, place: impl Display) -> Result<()> {
    let climbs = |component: &str| matches!(component, "." | "..") || component.contains('\0');
    if key.starts_with('/') || key.split('/').any(climbs) {
        return Err(Error::new(Kind::Invalid, format!("`{}` is not a path in {place}", key.escape_debug())));
    }
    Ok(())
}

/// Refuses a page in place of a film: a network's login page says nothing of what is there.
fn check_place(asked: &Url, response: &reqwest::Response) -> Result<()> {
    let is_page = |path: &str| [".htm", ".html"].iter().any(|end| path.to_ascii_lowercase().ends_with(end));
    let is_html = content_type(response).to_ascii_lowercase().starts_with("text/html");
    if is_html && !is_page(asked.path()) && leads_away(asked, response.url()) {
        return Err(sent_on(asked, response.url()));
    }
    Ok(())
}

/// Whether an answer from `answered` is about something else than `asked`. Another host or scheme, a mirror's own folder
/// in front and a last slash change nothing.
pub(crate) fn leads_away(asked: &Url, answered: &Url) -> bool {
    let path = |url: &Url| percent_decode_str(url.path()).collect::<Vec<u8>>();
    let (asked, answered) = (path(asked), path(answered));
    let folder = |path: &[u8]| path.strip_suffix(b"/").unwrap_or(path).to_vec();
    let (asked, answered) = (folder(&asked), folder(&answered));
    // Any path ends in that of a server's top.
    if asked.is_empty() { !answered.is_empty() } else { !answered.ends_with(&asked) }
}

/// The error for an answer that `leads_away`.
pub(crate) fn sent_on(asked: &Url, answered: &Url) -> Error {
    let (asked, answered) = (shown(asked), shown(answered));
    Error::new(Kind::Unreachable, format!("{asked}: the server sends on to {answered}: a login page?"))
}

/// A URL as it may be shown and logged: without user, password, query (it may hold a signature) and fragment.
pub fn shown(url: &Url) -> String {
    let mut url = without_credentials(url);
    url.set_query(None);
    url.into()
}

fn without_credentials(url: &Url) -> Url {
    let mut url = url.clone();
    // Both fail only on URLs that can hold no credentials anyway.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_fragment(None);
    url
}

/// The same URL with a slash at its end.
fn with_slash(url: &Url) -> Url {
    let mut folder = url.clone();
    if !folder.path().ends_with('/') {
        folder.set_path(&format!("{}/", url.path()));
    }
    folder
}

fn content_type(response: &reqwest::Response) -> String {
    let value = response.headers().get(CONTENT_TYPE);
    value.and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
