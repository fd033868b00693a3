//! What a request is answered with: status, headers and which bytes, from the request, the file and the weather. Pure.
//! Never here: sending it.

use std::time::SystemTime;

use super::http::{self, Method, RangeAsked, Request};
use super::page;
use super::site::{Found, Opened};
use super::weather::Act;
use crate::range::ByteRange;

/// An answer, ready to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    /// What follows the head.
    pub(super) body: Option<(Opened, ByteRange)>,
}

/// The bytes of a file a request asks for, for the log and the weather.
pub(super) fn range_asked(request: &Request, found: &Found) -> Option<ByteRange> {
    match (request.method, found) {
        (Method::Get, Found::File(file)) => match http::parse_range(request.range.as_deref(), file.size_bytes) {
            RangeAsked::Whole => Some(ByteRange::new(0, file.size_bytes)),
            RangeAsked::Part(range) => Some(range),
            RangeAsked::Unsatisfiable => None,
        },
        _ => None,
    }
}

/// Decides the answer. `act` changes what is promised here; what breaks while sending is not decided here.
pub(super) fn answer(request: &Request, found: Found, act: Act) -> Answer {
    if let Act::Status(status, retry_after_seconds) = act {
        let retry_after = retry_after_seconds.map(|seconds| ("Retry-After", seconds.to_string()));
        return Answer::empty(status, retry_after.into_iter().collect());
    }
    if request.method == Method::Other {
        return Answer::empty(405, vec![("Allow", "GET, HEAD".to_owned())]);
    }
    match found {
        Found::File(file) => answer_file(request, file, act),
        Found::Folder(page) => {
            let headers = vec![("Content-Type", "text/html; charset=utf-8".to_owned())];
            let range = ByteRange::new(0, page.size_bytes);
            Answer::with_body(200, headers, page, range, request.method)
        }
        Found::FolderWithoutSlash => {
            Answer::empty(301, vec![("Location", format!("/{}/", page::encode_path(&request.path)))])
        }
        Found::Missing => Answer::empty(404, Vec::new()),
    }
}

fn answer_file(request: &Request, file: Opened, act: Act) -> Answer {
    if !matches!(act, Act::IgnoreIfMatch | Act::OtherVersion(_)) && !preconditions_hold(request, &file) {
        return Answer::empty(412, Vec::new());
    }
    let mut headers =
        vec![("Content-Type", content_type(&request.path).to_owned()), ("Accept-Ranges", "bytes".to_owned())];
    let other = if let Act::OtherVersion(number) = act { Some(format!("\"other-{number}\"")) } else { None };
    headers.extend(other.or_else(|| file.etag.clone()).map(|etag| ("ETag", etag)));
    headers.extend(file.modified.map(|modified| ("Last-Modified", http::format_date(modified))));

    let size_bytes = file.size_bytes;
    let honoured = request.method == Method::Get && act != Act::IgnoreRange && if_range_holds(request, &file);
    match http::parse_range(request.range.as_deref().filter(|_| honoured), size_bytes) {
        RangeAsked::Whole => Answer::with_body(200, headers, file, ByteRange::new(0, size_bytes), request.method),
        RangeAsked::Part(asked) => {
            let shift = if let Act::ShiftRange(bytes) = act { bytes } else { 0 };
            let range = ByteRange::new(asked.start.saturating_add(shift).min(asked.end - 1), asked.end);
            headers.push(("Content-Range", format!("bytes {}-{}/{size_bytes}", range.start, range.end - 1)));
            Answer::with_body(206, headers, file, range, request.method)
        }
        RangeAsked::Unsatisfiable => {
            headers.push(("Content-Range", format!("bytes */{size_bytes}")));
            Answer::empty(416, headers)
        }
    }
}

impl Answer {
    /// Without a body.
    pub(super) fn empty(status: u16, mut headers: Vec<(&'static str, String)>) -> Self {
        headers.push(("Content-Length", "0".to_owned()));
        Self { status, headers, body: None }
    }

    fn with_body(
        status: u16,
        mut headers: Vec<(&'static str, String)>,
        file: Opened,
        range: ByteRange,
        method: Method,
    ) -> Self {
        headers.push(("Content-Length", range.len().to_string()));
        Self { status, headers, body: (method == Method::Get).then_some((file, range)) }
    }
}

/// RFC 9110, 13.2.2, as far as it concerns reading: `If-Match`, and only without it `If-Unmodified-Since`.
fn preconditions_hold(request: &Request, file: &Opened) -> bool {
    if let Some(wanted) = &request.if_match {
        return wanted.trim() == "*" || file.etag.as_deref().is_some_and(|etag| lists(wanted, etag));
    }
    let since = request.if_unmodified_since.as_deref().and_then(http::parse_date);
    match (since, file.modified.and_then(seconds)) {
        (Some(since), Some(modified)) => modified <= since,
        _ => true,
    }
}

/// Whether the version an `If-Range` names is the present one: the same strong `ETag`, or exactly the same time.
fn if_range_holds(request: &Request, file: &Opened) -> bool {
    request.if_range.as_deref().is_none_or(|wanted| match http::parse_date(wanted) {
        Some(date) => file.modified.and_then(seconds) == Some(date),
        None => file.etag.as_deref() == Some(wanted.trim()),
    })
}

/// Our own `ETag`s hold no comma, so that a plain split tells the members apart.
fn lists(header: &str, etag: &str) -> bool {
    header.split(',').any(|member| member.trim() == etag)
}

fn seconds(time: SystemTime) -> Option<i64> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|since| i64::try_from(since.as_secs()).ok())
}

/// Enough for a browser to play what the demo serves.
fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("mp4" | "m4v") => "video/mp4",
        Some("mkv") => "video/x-matroska",
        Some("webm") => "video/webm",
        Some("avi") => "video/x-msvideo",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::{Parsed, parse_request};
    use super::super::site::Site;
    use super::*;

    /// Answers a request for a file of 100 bytes, `f.mp4`, whose version is `etag` / `modified`.
    fn ask(line: &str, headers: &[(&str, &str)], act: Act) -> Answer {
        let site = Site::new([("f.mp4".to_owned(), vec![7; 100].into()), ("d e/g".to_owned(), vec![].into())]);
        let headers = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect::<Vec<_>>().concat();
        let Parsed::Complete(request, _) = parse_request(format!("{line} HTTP/1.1\r\n{headers}\r\n").as_bytes()) else {
            panic!("{line}");
        };
        let found = site.find(&request.path);
        answer(&request, found, act)
    }

    fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
        answer.headers.iter().find(|(held, _)| *held == name).map(|(_, value)| value.as_str())
    }

    fn sent(answer: &Answer) -> Option<ByteRange> {
        answer.body.as_ref().map(|(_, range)| *range)
    }

    #[test]
    fn whole_part_and_nothing() {
        let whole = ask("GET /f.mp4", &[], Act::Serve);
        assert_eq!((whole.status, sent(&whole)), (200, Some(ByteRange::new(0, 100))));
        assert_eq!(header(&whole, "Accept-Ranges"), Some("bytes"));
        assert_eq!(header(&whole, "Content-Type"), Some("video/mp4"));
        assert_eq!(header(&whole, "Last-Modified"), Some("Mon, 01 Jan 2024 00:00:00 GMT"));
        let part = ask("GET /f.mp4", &[("Range", "bytes=10-19")], Act::Serve);
        assert_eq!((part.status, sent(&part)), (206, Some(ByteRange::new(10, 20))));
        assert_eq!(header(&part, "Content-Range"), Some("bytes 10-19/100"));
        assert_eq!(header(&part, "Content-Length"), Some("10"));
        let none = ask("GET /f.mp4", &[("Range", "bytes=100-")], Act::Serve);
        assert_eq!((none.status, header(&none, "Content-Range")), (416, Some("bytes */100")));
        let head = ask("HEAD /f.mp4", &[("Range", "bytes=10-19")], Act::Serve);
        assert_eq!((head.status, header(&head, "Content-Length"), sent(&head)), (200, Some("100"), None));
    }

    #[test]
    fn other_paths_and_methods() {
        assert_eq!(ask("GET /none", &[], Act::Serve).status, 404);
        assert_eq!(ask("PUT /f.mp4", &[], Act::Serve).status, 405);
        let moved = ask("GET /d%20e", &[], Act::Serve);
        assert_eq!((moved.status, header(&moved, "Location")), (301, Some("/d%20e/")));
        let folder = ask("GET /d%20e/", &[], Act::Serve);
        assert_eq!((folder.status, header(&folder, "Content-Type")), (200, Some("text/html; charset=utf-8")));
    }

    #[test]
    fn conditions_hold_a_reader_to_its_version() {
        let whole = ask("GET /f.mp4", &[], Act::Serve);
        let etag = header(&whole, "ETag").expect("files have one");
        let date = header(&whole, "Last-Modified").expect("files have one");
        let range = ("Range", "bytes=0-9");
        let list = format!("\"x\", {etag}");
        let earlier = "Sun, 31 Dec 2023 23:59:59 GMT";
        for (name, value, status) in [
            ("If-Match", etag, 206),
            ("If-Match", &list, 206),
            ("If-Match", "*", 206),
            ("If-Match", "\"other\"", 412),
            ("If-Unmodified-Since", date, 206),
            ("If-Unmodified-Since", earlier, 412),
            ("If-Range", etag, 206),
            ("If-Range", date, 206),
            ("If-Range", "\"other\"", 200),
            ("If-Range", earlier, 200),
        ] {
            assert_eq!(ask("GET /f.mp4", &[range, (name, value)], Act::Serve).status, status, "{name}: {value}");
        }
        let ignored = ask("GET /f.mp4", &[range, ("If-Match", "\"other\"")], Act::IgnoreIfMatch);
        assert_eq!(ignored.status, 206);
    }

    #[test]
    fn weather_changes_what_is_promised() {
        let range = [("Range", "bytes=10-19")];
        let busy = ask("GET /f.mp4", &range, Act::Status(429, Some(3)));
        assert_eq!((busy.status, header(&busy, "Retry-After"), sent(&busy)), (429, Some("3"), None));
        let other = ask("GET /f.mp4", &[range[0], ("If-Match", "\"this\"")], Act::OtherVersion(7));
        assert_eq!((other.status, header(&other, "ETag")), (206, Some("\"other-7\"")));
        let ignored = ask("GET /f.mp4", &range, Act::IgnoreRange);
        assert_eq!((ignored.status, sent(&ignored)), (200, Some(ByteRange::new(0, 100))));
        let shifted = ask("GET /f.mp4", &range, Act::ShiftRange(4));
        assert_eq!((shifted.status, header(&shifted, "Content-Range")), (206, Some("bytes 14-19/100")));
        assert_eq!(header(&ask("GET /f.mp4", &range, Act::ShiftRange(99)), "Content-Range"), Some("bytes 19-19/100"));
    }
}
