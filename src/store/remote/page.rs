//! A page as a server sends it: read piece by piece, never held whole.
//! Never here: what it says.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use http::header::HeaderValue;
use url::Url;

use super::fault;
use crate::error::{Error, Kind, Result};
use crate::store::Patience;
use crate::store::driver::Driver;

/// A million names of 256 bytes: what `LISTING_NAMES_MAX` can need.
const PAGE_BYTES_MAX: u64 = 256 << 20;

/// And a million of them over 1 Mbit/s. A server that trickles must not keep a thread for names for ever.
const PAGE_TIME_MAX: Duration = Duration::from_mins(10);

/// How a folder's page is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON rather than HTML, where the server has both.
    Json,
    /// HTML: the JSON of some servers is for programs of their own.
    Html,
    /// JSON by `?json`: the HTML of some servers is filled by a script.
    JsonQuery,
}

impl Form {
    /// In the order they are tried.
    pub const ALL: [Self; 3] = [Self::Json, Self::Html, Self::JsonQuery];

    /// The `Accept` header.
    pub(super) fn accept(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json | Self::JsonQuery => "application/json, text/html;q=0.9, */*;q=0.5",
            Self::Html => "text/html, */*;q=0.5",
        })
    }

    /// The place as it is asked for in this form.
    pub(super) fn of(self, mut url: Url) -> Url {
        if self == Self::JsonQuery {
            let query = url.query().map_or_else(|| "json".to_owned(), |query| format!("{query}&json"));
            url.set_query(Some(&query));
        }
        url
    }
}

/// A page whose head has come.
pub struct Page {
    /// Where it was asked for.
    pub asked: Url,
    /// Where it came from in the end, after redirects.
    pub url: Url,
    /// As announced; empty if it was not.
    pub content_type: String,
    /// Its text.
    pub body: PageBody,
}

/// The text of a page as it arrives; not more than `PAGE_BYTES_MAX`. An error of `read` holds one of ours.
pub struct PageBody {
    driver: Arc<Driver>,
    patience: Patience,
    /// Without credentials; for messages.
    url: String,
    response: reqwest::Response,
    piece: Bytes,
    room_bytes: u64,
    ends_at: Instant,
}

impl PageBody {
    /// The body of `response`, which announces so many bytes (0: it does not tell). `Full` if they are too many.
    pub(super) fn new(
        driver: &Arc<Driver>,
        patience: &Patience,
        url: String,
        response: reqwest::Response,
        announced_bytes: u64,
    ) -> Result<Self> {
        if announced_bytes > PAGE_BYTES_MAX {
            return Err(too_long(&url));
        }
        let (driver, patience) = (Arc::clone(driver), patience.clone());
        let ends_at = Instant::now() + PAGE_TIME_MAX;
        Ok(Self { driver, patience, url, response, piece: Bytes::new(), room_bytes: PAGE_BYTES_MAX, ends_at })
    }

    fn next(&mut self) -> Result<Option<Bytes>> {
        let (response, url) = (&mut self.response, &self.url);
        if Instant::now() >= self.ends_at {
            let minutes = PAGE_TIME_MAX.as_secs() / 60;
            return Err(Error::new(Kind::TimedOut, format!("{url}: the page has not ended after {minutes} minutes")));
        }
        let next = async { response.chunk().await.map_err(|error| fault::from_reqwest(url, &error)) };
        let piece = self.driver.wait(&self.patience, url, next)?;
        let len = piece.as_ref().map_or(0, Bytes::len) as u64;
        self.room_bytes = self.room_bytes.checked_sub(len).ok_or_else(|| too_long(url))?;
        Ok(piece)
    }
}

impl io::Read for PageBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.next().map_err(io::Error::other)? {
                Some(piece) => self.piece = piece,
                None => return Ok(0),
            }
        }
        let len = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

fn too_long(url: &str) -> Error {
    Error::new(Kind::Full, format!("{url}: a page of more than {PAGE_BYTES_MAX} bytes"))
}
