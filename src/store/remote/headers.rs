//! What the headers of a place tell, asked for with HEAD, or with a GET of one byte where the server does not answer that.
//! Never here: bytes of files.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use http::Method;
use http::header::{CONTENT_DISPOSITION, CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use http::status::StatusCode;
use url::Url;

use super::{Head, Remote, answer, check_place, content_type, fault, shown};
use crate::error::{Error, Kind, Result};
use crate::store::{Patience, Stat};

/// HEAD is waited for no longer than this part of the time; a server that never answers it may answer GET in the rest.
const HEAD_SHARE: u32 = 2;

impl Remote {
    /// What is at `url`, as its headers tell.
    pub(super) fn head_of(&self, url: &Url, patience: &Patience) -> Result<Head> {
        let head_of = |response: &reqwest::Response| {
            let disposition = response.headers().get(CONTENT_DISPOSITION).map(HeaderValue::as_bytes);
            let disposition = disposition.map(|value| String::from_utf8_lossy(value).into_owned());
            Head { url: response.url().clone(), content_type: content_type(response), disposition }
        };
        if let Some(response) = self.answer_to_head(url, patience)? {
            return Ok(head_of(&response));
        }
        let response = self.get_first_byte(url, patience)?;
        self.head_fails.store(true, Ordering::Relaxed);
        Ok(head_of(&response))
    }

    /// The file at `url`, as its headers tell.
    pub(super) fn stat_of(&self, url: &Url, patience: &Patience) -> Result<Stat> {
        let answer = self.answer_to_head(url, patience)?;
        let has_failed = answer.is_none();
        let told = answer.and_then(|response| Some((answer::whole_size(response.headers())?, response)));
        let Some((size_bytes, response)) = told else {
            // HEAD has failed, or told no length.
            let stat = self.stat_by_get(url, patience)?;
            self.head_fails.fetch_or(has_failed, Ordering::Relaxed);
            return Ok(stat);
        };
        let stat = described(url, &response, size_bytes)?;
        // Some tell a version with GET alone. An empty file has no first byte to ask for.
        if stat.version.is_size_alone() && stat.size_bytes > 0 {
            return match self.stat_by_get(url, patience) {
                Err(error) if error.may_pass() => Err(error),
                told => Ok(told.unwrap_or(stat)),
            };
        }
        Ok(stat)
    }

    /// The same by a GET of the first byte.
    fn stat_by_get(&self, url: &Url, patience: &Patience) -> Result<Stat> {
        let response = self.get_first_byte(url, patience)?;
        let size_bytes = self.size_told(url, &response, patience)?;
        described(url, &response, size_bytes)
    }

    /// Whether the server sends the whole file at `key`, whatever range it is asked for.
    pub fn ignores_ranges(&self, key: &str, patience: &Patience) -> Result<bool> {
        let response = self.get_first_byte(&self.url(key)?, patience)?;
        let is_whole = answer::whole_size(response.headers()) != Some(1);
        Ok(response.status() == StatusCode::OK && !response.headers().contains_key(CONTENT_RANGE) && is_whole)
    }

    /// A good answer to HEAD. `None` where GET may tell more: any other answer but one that GET would get, too, and a
    /// connection that was lost or says nothing. An error where it is no use to ask again at once.
    fn answer_to_head(&self, url: &Url, patience: &Patience) -> Result<Option<reqwest::Response>> {
        if self.head_fails.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let shown = shown(url);
        let patience = Patience { stall: patience.stall / HEAD_SHARE, ..patience.clone() };
        let is_connected = Cell::new(true);
        let work = async {
            self.sender.send(Method::HEAD, url, HeaderMap::new(), None).await.map_err(|error| {
                is_connected.set(!error.is_connect());
                fault::from_reqwest(&shown, &error)
            })
        };
        let answer = self.driver.wait(&patience, &shown, work).inspect(|_| self.connections().heard());
        let response = match answer {
            Ok(response) => response,
            Err(error) if error.kind() == Kind::Cancelled || !is_connected.get() => return Err(error),
            Err(error) => {
                log::debug!("HEAD {error}");
                return Ok(None);
            }
        };
        let Err(error) = answer::check_status(response.status(), response.headers(), &shown, SystemTime::now()) else {
            return Ok(Some(response));
        };
        log::debug!("HEAD {error}");
        let is_for_get = matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS)
            || error.retry_after().is_some();
        if is_for_get { Err(error) } else { Ok(None) }
    }

    /// The answer to a GET of the first byte; it may say that there is none. Its body is not read.
    fn get_first_byte(&self, url: &Url, patience: &Patience) -> Result<reqwest::Response> {
        let first_byte = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-0"))]);
        let response = self.send(Method::GET, url, first_byte, patience)?;
        if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            answer::check_status(response.status(), response.headers(), &shown(url), SystemTime::now())?;
        }
        Ok(response)
    }

    /// The size of the whole file that an answer to a GET of its first byte tells.
    fn size_told(&self, url: &Url, response: &reqwest::Response, patience: &Patience) -> Result<u64> {
        let headers = response.headers();
        let size_bytes = match response.status() {
            StatusCode::RANGE_NOT_SATISFIABLE => match answer::total_size(headers) {
                Some(size_bytes) => Some(size_bytes).filter(|size_bytes| *size_bytes == 0),
                None => self.size_without_range(url, patience)?,
            },
            StatusCode::OK => answer::whole_size(headers),
            _ => answer::total_size(headers),
        };
        size_bytes
            .ok_or_else(|| Error::new(Kind::Unsupported, format!("{}: the server does not tell its size", shown(url))))
    }

    /// The size of a file that has no first byte, or whose server takes no ranges: asked without one. Refused even so, the
    /// file is empty: there is no byte that could be sent.
    fn size_without_range(&self, url: &Url, patience: &Patience) -> Result<Option<u64>> {
        let response = self.send(Method::GET, url, HeaderMap::new(), patience)?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(Some(0));
        }
        answer::check_status(response.status(), response.headers(), &shown(url), SystemTime::now())?;
        Ok(answer::whole_size(response.headers()))
    }
}

/// The file that an answer from `url` describes, of this size.
fn described(url: &Url, response: &reqwest::Response, size_bytes: u64) -> Result<Stat> {
    let shown = shown(url);
    answer::check_encoding(response.headers(), &shown)?;
    check_place(url, response)?;
    if response.url().path().ends_with('/') && !url.path().ends_with('/') {
        return Err(Error::new(Kind::Missing, format!("{shown} is a folder, not a file")));
    }
    Ok(answer::stat(response.headers(), size_bytes))
}
