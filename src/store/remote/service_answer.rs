//! What a service that `OpenDAL` asks answers, counted before it is parsed: the size of each answer, and the pages of a
//! listing. And what its refusals mean for a person.
//! Never here: answers with bytes of a file (`guard.rs`).

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use http::header::{HeaderMap, RANGE};
use http::status::StatusCode;
use http::{Request, Response};
use opendal::{Buffer, HttpBody, HttpTransport};
use parking_lot::Mutex;
use quick_xml::Reader;
use quick_xml::events::Event;

use super::connections::Transport;
use super::fault;
use crate::error::{Error, Kind, Result};

/// Bytes of one answer: a page of a thousand keys, each of 1,024 bytes and written as references, and what is said of it.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// Bytes that are read of a refusal.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// Pages of one listing: a million names, where a server gives half of what is asked for.
const PAGES_MAX: usize = 2_000;
/// Pages without a name that is shown, one after the other; a bucket with many deleted versions has some.
const EMPTY_PAGES_MAX: usize = 200;
/// Time for one listing: a server that gives a page now and then must not keep a thread for names for ever.
const LISTING_TIME_MAX: Duration = Duration::from_mins(10);

/// A transport for what a service is asked.
pub(in crate::store) struct Counted {
    pub transport: Transport,
    /// Without credentials; for messages.
    pub url: String,
    /// The listing that is asked for, if it is one.
    pub pages: Option<Arc<ListingPages>>,
}

impl HttpTransport for Counted {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let is_head = request.method() == http::Method::HEAD;
        let asks_for_range = request.headers().contains_key(RANGE);
        if let Some(pages) = &self.pages
            && let Some(query) = request.uri().query().filter(|query| query.contains("delimiter="))
        {
            pages.ask(query, Instant::now()).map_err(|error| fault::into_opendal(error.context(&self.url)))?;
        }
        let response = self.transport.fetch(request).await?;
        let (parts, body) = response.into_parts();
        if asks_for_range && parts.status.is_success() {
            return Ok(Response::from_parts(parts, body));
        }
        let (url, mut left_bytes) = (self.url.clone(), ANSWER_BYTES_MAX);
        let mut body = body.map_inner(|pieces| {
            Box::new(pieces.map(move |piece| {
                let piece = piece?;
                left_bytes = left_bytes.checked_sub(piece.len() as u64).ok_or_else(|| {
                    let message = format!("{url}: the server's answer is longer than {ANSWER_BYTES_MAX} bytes");
                    fault::into_opendal(Error::new(Kind::Full, message))
                })?;
                Ok(piece)
            }))
        });
        if !matches!(parts.status.as_u16(), 301 | 307 | 400 | 401 | 403) {
            return Ok(Response::from_parts(parts, body));
        }
        let text = if is_head { Buffer::new() } else { body.to_buffer().await? };
        let text = text.slice(..text.len().min(REFUSAL_BYTES_MAX)).to_vec();
        Err(fault::into_opendal(refusal(parts.status, &parts.headers, &text, &self.url)))
    }
}

/// The pages of one listing on its way in.
pub(in crate::store) struct ListingPages {
    ends_at: Instant,
    // Taken alone, for a look.
    state: Mutex<PagesState>,
}

#[derive(Default)]
struct PagesState {
    /// Hashes of what was asked for.
    asked: HashSet<u64>,
    hasher: RandomState,
    empty_in_a_row: usize,
}

impl ListingPages {
    pub fn new(now: Instant) -> Self {
        Self { ends_at: now + LISTING_TIME_MAX, state: Mutex::default() }
    }

    /// A name of the page that came last is shown.
    pub fn has_name(&self) {
        self.state.lock().empty_in_a_row = 0;
    }

    /// The page of `query` is asked for. An error if the listing does not seem to end.
    fn ask(&self, query: &str, now: Instant) -> Result<()> {
        let mut state = self.state.lock();
        let hash = state.hasher.hash_one(query);
        let endless = |why: String| Error::new(Kind::Unsupported, format!("the server's listing does not end: {why}"));
        if !state.asked.insert(hash) {
            return Err(endless("it gives the same page again".to_owned()));
        }
        if state.asked.len() > PAGES_MAX {
            return Err(endless(format!("{PAGES_MAX} pages, and more to come")));
        }
        if state.empty_in_a_row >= EMPTY_PAGES_MAX {
            return Err(endless(format!("{EMPTY_PAGES_MAX} pages in a row without a name")));
        }
        state.empty_in_a_row += 1;
        if now >= self.ends_at {
            return Err(endless(format!("it took {} minutes", LISTING_TIME_MAX.as_secs() / 60)));
        }
        Ok(())
    }
}

/// A service's refusal as a person needs it: what it says, in one line, and what to do.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8], url: &str) -> Error {
    let told = Told::read(body);
    let region = headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let region = region.or(told.region);
    let is_elsewhere = matches!(status.as_u16(), 301 | 307)
        || matches!(&*told.code, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")
        || (region.is_some() && status == StatusCode::BAD_REQUEST);
    let what_to_do = match &*told.code {
        "RequestTimeTooSkewed" | "RequestExpired" => {
            "set this machine's clock: it differs from the server's".to_owned()
        }
        "SignatureDoesNotMatch" => "is AWS_SECRET_ACCESS_KEY right, letter by letter, and the clock?".to_owned(),
        "InvalidAccessKeyId" => "the server knows no such AWS_ACCESS_KEY_ID".to_owned(),
        "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired" => "get a new session token".to_owned(),
        _ if is_elsewhere => match (region, told.endpoint) {
            (Some(region), _) => format!("the bucket is in another region: give --s3-region {region}"),
            (None, Some(endpoint)) => {
                format!("the bucket is at another address: give --s3-endpoint https://{endpoint}")
            }
            (None, None) => {
                "the bucket is in another region or at another address: give --s3-region or --s3-endpoint".to_owned()
            }
        },
        "" if status == StatusCode::FORBIDDEN => {
            "access denied, without a reason: are the keys right, and may they list \
             and get, and is the clock right?"
                .to_owned()
        }
        _ if status == StatusCode::FORBIDDEN => {
            "the keys, or anybody without, must be allowed to list and get there".to_owned()
        }
        _ => String::new(),
    };
    let kind = match status.as_u16() {
        401 | 403 => Kind::Denied,
        _ if matches!(&*told.code, "ExpiredToken" | "InvalidToken" | "TokenRefreshRequired") => Kind::Denied,
        _ => Kind::Unsupported,
    };
    let parts = [format!("the server answers {status}"), told.code, told.message, what_to_do];
    let parts: Vec<_> = parts.iter().map(|part| part.trim()).filter(|part| !part.is_empty()).collect();
    Error::new(kind, format!("{url}: {}", parts.join("; ")))
}

/// The page of XML that services which speak S3 send with a refusal.
#[derive(Default)]
struct Told {
    code: String,
    message: String,
    region: Option<String>,
    endpoint: Option<String>,
}

impl Told {
    /// What is there; of anything else, nothing.
    fn read(body: &[u8]) -> Self {
        let (mut told, mut reader, mut buffer) = (Self::default(), Reader::from_reader(body), Vec::new());
        let mut within: Vec<String> = Vec::new();
        loop {
            buffer.clear();
            match reader.read_event_into(&mut buffer) {
                Ok(Event::Start(tag)) => within.push(AsRef::<str>::as_ref(&tag.local_name()).to_owned()),
                Ok(Event::End(_)) => drop(within.pop()),
                Ok(Event::Text(text)) => {
                    let path: Vec<_> = within.iter().map(String::as_str).collect();
                    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
                    match path[..] {
                        ["Error", "Code"] => told.code = text,
                        ["Error", "Message"] => told.message = text,
                        ["Error", "Region"] => told.region = Some(text),
                        ["Error", "Endpoint"] => told.endpoint = Some(text),
                        _ => {}
                    }
                }
                Ok(Event::Eof) | Err(_) => return told,
                Ok(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s3_listing_that_does_not_end_is_refused() {
        let start = Instant::now();
        let pages = ListingPages::new(start);
        let ask = |token: usize, name: bool| {
            let asked = pages.ask(&format!("delimiter=/&continuation-token={token}"), start);
            if name {
                pages.has_name();
            }
            asked.map_err(|error| error.to_string())
        };
        assert!(ask(1, true).is_ok() && ask(2, true).is_ok());
        assert!(ask(1, true).unwrap_err().contains("same page"));
        let ended = (10..).find_map(|token| ask(token, true).err().map(|error| (token, error))).unwrap();
        assert!(ended.0 <= 10 + PAGES_MAX && ended.1.contains("pages"), "{ended:?}");

        let pages = ListingPages::new(start);
        let ask = |token: usize| pages.ask(&token.to_string(), start).err().map(|error| (token, error.to_string()));
        let ended = (0..).find_map(ask).unwrap();
        assert!(ended.0 <= EMPTY_PAGES_MAX && ended.1.contains("without a name"), "{ended:?}");

        let late = ListingPages::new(start).ask("a", start + LISTING_TIME_MAX).unwrap_err();
        assert!(late.to_string().contains("minutes"), "{late}");
    }

    #[test]
    fn s3_refusals_say_what_the_server_says_and_what_to_do() {
        let of = |status: u16, region: Option<&str>, code: &str| {
            let headers = region.map(|region| ("x-amz-bucket-region".parse().unwrap(), region.parse().unwrap()));
            let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>No\nway.</Message></Error>");
            let status = StatusCode::from_u16(status).unwrap();
            let error = refusal(status, &headers.into_iter().collect(), body.as_bytes(), "s3://films/");
            let text = error.to_string();
            assert!(text.starts_with("s3://films/: ") && !text.contains('\n'), "{text}");
            assert!(code.is_empty() || (text.contains(code) && text.contains("No way.")), "{text}");
            (error.kind(), text)
        };
        for (status, region, code, kind, hint) in [
            (403, None, "RequestTimeTooSkewed", Kind::Denied, "clock"),
            (403, None, "SignatureDoesNotMatch", Kind::Denied, "AWS_SECRET_ACCESS_KEY"),
            (403, None, "InvalidAccessKeyId", Kind::Denied, "AWS_ACCESS_KEY_ID"),
            (400, None, "ExpiredToken", Kind::Denied, "token"),
            (403, None, "AccessDenied", Kind::Denied, "allowed to list"),
            (301, Some("eu-west-1"), "PermanentRedirect", Kind::Unsupported, "--s3-region eu-west-1"),
            (400, Some("eu-west-1"), "AuthorizationHeaderMalformed", Kind::Unsupported, "--s3-region eu-west-1"),
            (301, None, "", Kind::Unsupported, "--s3-region or --s3-endpoint"),
            (403, None, "", Kind::Denied, "are the keys right"),
        ] {
            let (told, text) = of(status, region, code);
            assert!(told == kind && text.contains(hint), "{text}");
        }
        let page = refusal(StatusCode::FORBIDDEN, &HeaderMap::new(), b"<html><p>Hello", "s3://films/");
        assert!(page.kind() == Kind::Denied && !page.to_string().contains('<'), "{page}");
    }
}
