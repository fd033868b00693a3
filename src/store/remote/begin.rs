//! The first contact with a file, and one that grows: its version and some of its bytes in one answer, over a connection that was
//! made before it was needed.
//! Never here: reads of a version that is known.

use std::time::{Duration, Instant, SystemTime};

use http::Method;
use http::header::{HeaderMap, HeaderValue, RANGE};
use http::status::StatusCode;
use url::Url;

use super::answer::{self, Asked};
use super::body::AnswerBody;
use super::{Remote, shown};
use crate::error::Result;
use crate::store::{Begun, Patience, Section};

/// Connections made ready: for a film's head, its tail, its index and what follows the head.
const WARM_CONNECTIONS: usize = 4;
/// Requests that are on their way to be sent, of an open or a seek, must find the idle connections free.
const WARM_AFTER: Duration = Duration::from_millis(15);
/// Long enough for the slowest handshake that is worth waiting for, on any later use.
const WARM_TIMEOUT: Duration = Duration::from_secs(5);

impl Remote {
    /// Some bytes of the file at `url`, whatever version it is; `None` if the answer does not prove what it is.
    pub(super) fn ask_for_section(&self, url: &Url, section: Section, patience: &Patience) -> Result<Option<Begun>> {
        let shown = shown(url);
        let range = match section {
            Section::First(bytes) => format!("bytes=0-{}", bytes.saturating_sub(1)),
            Section::Last(bytes) => format!("bytes=-{bytes}"),
            Section::At(range) => format!("bytes={}-{}", range.start, range.end.saturating_sub(1)),
        };
        let Ok(range) = HeaderValue::from_str(&range) else { return Ok(None) };
        let response = self.send(Method::GET, url, HeaderMap::from_iter([(RANGE, range)]), patience)?;
        let (status, headers) = (response.status(), response.headers());
        if status != StatusCode::RANGE_NOT_SATISFIABLE {
            // A busy server is not asked a second time at once, nor one that says it has no such file.
            answer::check_status(status, headers, &shown, SystemTime::now())?;
        }
        // Some say what they send and call it 200; the range is checked below either way.
        let is_sent = matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::OK);
        let Some((range, size_bytes)) = answer::sent_range(headers).filter(|_| is_sent) else {
            // An empty file, or a server that does not heed ranges: `stat` finds out which.
            return Ok(None);
        };
        let is_wanted = match section {
            Section::First(bytes) => range.start == 0 && range.end <= bytes,
            Section::Last(bytes) => range.end == size_bytes && range.len() <= bytes,
            Section::At(asked) => range == asked,
        };
        let is_folder = response.url().path().ends_with('/') && !url.path().ends_with('/');
        let stat = answer::stat(headers, size_bytes);
        let asked = Asked { url: shown.clone(), range, expected: stat.clone() };
        if !is_wanted || is_folder || answer::check_range(status, headers, &asked).is_err() {
            return Ok(None);
        }
        let body = AnswerBody::new(self, patience, shown, response, range.len());
        Ok(Some(Begun { stat, range, body: Box::new(body), cancel: patience.cancel.clone() }))
    }

    /// Asks for nothing, several times at once: each request that is under way beside others has a connection of its
    /// own, and they stay.
    pub(super) fn make_ready(&self, every: Duration) {
        {
            let mut warmed = self.warmed.lock();
            if warmed.is_some_and(|at| at.elapsed() < every) {
                return;
            }
            *warmed = Some(Instant::now());
        }
        for _ in 0..WARM_CONNECTIONS {
            let (sender, url) = (self.sender.clone(), self.base.clone());
            self.driver.start(async move {
                tokio::time::sleep(WARM_AFTER).await;
                match tokio::time::timeout(WARM_TIMEOUT, sender.send(Method::HEAD, &url, HeaderMap::new(), None)).await
                {
                    Ok(Err(error)) => log::debug!("no connection made ready: {}", error.without_url()),
                    Err(_) => log::debug!("no connection made ready within {WARM_TIMEOUT:?}"),
                    Ok(Ok(_)) => {}
                }
            });
        }
    }
}
