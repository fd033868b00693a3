//! HTTP/1.1 as far as an origin of plain files needs it: a request's head taken apart, a `Range` header understood, an
//! answer's head written. Pure.
//! Never here: sockets, files, and what is answered.

use std::fmt::Write as _;
use std::time::SystemTime;

use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};
use percent_encoding::percent_decode_str;

use crate::range::ByteRange;

/// A longer head is refused (431): room for a path of many long names, percent-encoded.
pub(super) const HEAD_BYTES_MAX: usize = 32 << 10;

/// More headers than any client sends.
const HEADERS_MAX: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    /// Anything else: an origin of plain files refuses it.
    Other,
}

/// One request's head, without what a plain origin has no use for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Method,
    /// Decoded, without the leading `/` and the query.
    pub(super) path: String,
    pub(super) range: Option<String>,
    pub(super) if_match: Option<String>,
    pub(super) if_range: Option<String>,
    pub(super) if_unmodified_since: Option<String>,
    /// Whether the client may ask again over the same connection.
    pub(super) keep_alive: bool,
}

/// What the bytes received so far hold.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// The beginning of a head.
    Partial,
    /// A head, and its length in bytes: what follows belongs to the next request.
    Complete(Request, usize),
    /// No HTTP we take: answered with this status, then closed.
    Bad(u16),
}

/// Takes the first request's head from `received`.
pub(super) fn parse_request(received: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Request::new(&mut headers);
    let head_bytes = match head.parse(received) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) if received.len() < HEAD_BYTES_MAX => return Parsed::Partial,
        Ok(httparse::Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Parsed::Bad(431),
        Err(_) => return Parsed::Bad(400),
    };
    let target = head.path.unwrap_or_default().split('?').next().unwrap_or_default();
    let Ok(path) = percent_decode_str(target.trim_start_matches('/')).decode_utf8() else {
        return Parsed::Bad(400);
    };
    let header = |name: &str| {
        let found = head.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::to_owned)
    };
    let has_body =
        header("Transfer-Encoding").is_some() || header("Content-Length").is_some_and(|length| length != "0");
    let asks_to_close = header("Connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let request = Request {
        method: match head.method {
            Some("GET") => Method::Get,
            Some("HEAD") => Method::Head,
            _ => Method::Other,
        },
        path: path.into_owned(),
        range: header("Range"),
        if_match: header("If-Match"),
        if_range: header("If-Range"),
        if_unmodified_since: header("If-Unmodified-Since"),
        // A body is never read, so that nothing after it could be taken for a request.
        keep_alive: head.version == Some(1) && !asks_to_close && !has_body,
    };
    Parsed::Complete(request, head_bytes)
}

/// What a `Range` header asks of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RangeAsked {
    /// No header, or one that a server is told to ignore: another unit, bad syntax, several ranges.
    Whole,
    /// These bytes, at least one, cut to the file's size.
    Part(ByteRange),
    /// None of the file's bytes: 416.
    Unsatisfiable,
}

/// Reads a `Range` header (RFC 9110, 14.2) for a file of `size_bytes`.
pub(super) fn parse_range(header: Option<&str>, size_bytes: u64) -> RangeAsked {
    let spec = header.and_then(|value| value.trim().strip_prefix("bytes=")).map(str::trim);
    let Some((first, last)) = spec.and_then(|spec| spec.split_once('-')) else {
        return RangeAsked::Whole;
    };
    // `parse` alone would take a sign.
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok()).flatten();
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => ByteRange::new(first, last.saturating_add(1).min(size_bytes)),
        (Some(first), None) if last.is_empty() => ByteRange::new(first, size_bytes),
        (None, Some(suffix)) if first.is_empty() => ByteRange::new(size_bytes.saturating_sub(suffix), size_bytes),
        _ => return RangeAsked::Whole,
    };
    if range.is_empty() { RangeAsked::Unsatisfiable } else { RangeAsked::Part(range) }
}

/// An answer's head as sent: the status line, `Date`, `headers` in order, `Connection: close` unless `keep_alive`.
pub(super) fn write_head(status: u16, headers: &[(&str, String)], keep_alive: bool) -> String {
    let mut head = format!("HTTP/1.1 {status} {}\r\nDate: {}\r\n", reason(status), format_date(SystemTime::now()));
    for (name, value) in headers {
        // Writing to a String can't fail.
        let _ = write!(head, "{name}: {value}\r\n");
    }
    head.push_str(if keep_alive { "\r\n" } else { "Connection: close\r\n\r\n" });
    head
}

/// `Tue, 15 Nov 1994 08:12:31 GMT`. A time that no calendar holds is shown as 1970.
pub(super) fn format_date(time: SystemTime) -> String {
    let print = |stamp: &Timestamp| DateTimePrinter::new().timestamp_to_rfc9110_string(stamp).ok();
    Timestamp::try_from(time)
        .ok()
        .and_then(|stamp| print(&stamp))
        .unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 GMT".to_owned())
}

/// The whole seconds since 1970 that an HTTP date names.
pub(super) fn parse_date(text: &str) -> Option<i64> {
    DateTimeParser::new().parse_timestamp(text).ok().map(Timestamp::as_second)
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        412 => "Precondition Failed",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Unnamed",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(head: &str) -> Request {
        match parse_request(head.as_bytes()) {
            Parsed::Complete(request, head_bytes) if head_bytes == head.len() => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_as_clients_send_it() {
        let request = parsed(
            "GET /a%20b/%C3%BC.mp4?x=1 HTTP/1.1\r\nhost: h\r\nrange: bytes=0-9\r\nif-match: \"e\"\r\nIF-RANGE: \"f\"\r\n\r\n",
        );
        assert_eq!((request.method, request.path.as_str()), (Method::Get, "a b/ü.mp4"));
        assert_eq!(request.range.as_deref(), Some("bytes=0-9"));
        assert_eq!(request.if_match.as_deref(), Some("\"e\""));
        assert_eq!(request.if_range.as_deref(), Some("\"f\""));
        assert!(request.keep_alive);
        assert!(!parsed("GET / HTTP/1.0\r\n\r\n").keep_alive);
        assert!(!parsed("GET / HTTP/1.1\r\nConnection: Close\r\n\r\n").keep_alive);
        assert!(!parsed("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n").keep_alive);
        assert_eq!(parsed("HEAD / HTTP/1.1\r\n\r\n").method, Method::Head);
        assert_eq!(parsed("DELETE / HTTP/1.1\r\n\r\n").method, Method::Other);
    }

    #[test]
    fn a_head_may_come_in_pieces_and_with_the_next_one_behind_it() {
        let head = b"GET /f HTTP/1.1\r\nRange: bytes=0-1\r\n\r\n";
        for len in 0..head.len() {
            assert_eq!(parse_request(&head[..len]), Parsed::Partial, "{len}");
        }
        assert!(matches!(parse_request(&head.repeat(2)), Parsed::Complete(_, len) if len == head.len()));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        assert_eq!(parse_request(b"\x16\x03\x01 TLS?\r\n\r\n"), Parsed::Bad(400));
        assert_eq!(parse_request(b"GET /%ff HTTP/1.1\r\n\r\n"), Parsed::Bad(400));
        let endless = format!("GET /{} HTTP/1.1\r\n", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(parse_request(endless.as_bytes()), Parsed::Bad(431));
        let crowded = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(parse_request(crowded.as_bytes()), Parsed::Bad(431));
    }

    #[test]
    fn ranges_by_the_rfc() {
        use RangeAsked::{Part, Unsatisfiable, Whole};
        for (header, asked) in [
            ("bytes=0-0", Part(ByteRange::new(0, 1))),
            ("bytes=10-19", Part(ByteRange::new(10, 20))),
            ("bytes=90-200", Part(ByteRange::new(90, 100))),
            ("bytes=99-18446744073709551615", Part(ByteRange::new(99, 100))),
            ("bytes=90-", Part(ByteRange::new(90, 100))),
            ("bytes=-1", Part(ByteRange::new(99, 100))),
            ("bytes=-500", Part(ByteRange::new(0, 100))),
            ("bytes=100-", Unsatisfiable),
            ("bytes=100-200", Unsatisfiable),
            ("bytes=-0", Unsatisfiable),
            ("bytes=5-4", Whole),
            ("bytes=-", Whole),
            ("bytes=", Whole),
            ("bytes=+1-2", Whole),
            ("bytes=0-1,4-5", Whole),
            ("items=0-1", Whole),
            ("bytes=99999999999999999999-", Whole),
        ] {
            assert_eq!(parse_range(Some(header), 100), asked, "{header}");
        }
        assert_eq!(parse_range(None, 100), Whole);
        assert_eq!(parse_range(Some("bytes=0-"), 0), Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_range_that_is_served_lies_within_the_file(first: u64, last: u64, size: u64) {
            if let RangeAsked::Part(range) = parse_range(Some(&format!("bytes={first}-{last}")), size) {
                prop_assert!(range.start == first && range.end <= size && range.end - 1 <= last && !range.is_empty());
            }
        }

        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>, text in "\\PC*") {
            parse_request(&bytes);
            parse_range(Some(&text), 100);
        }
    }

    #[test]
    fn dates_there_and_back() {
        let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(784_887_151);
        assert_eq!(format_date(time), "Tue, 15 Nov 1994 08:12:31 GMT");
        assert_eq!(parse_date("Tue, 15 Nov 1994 08:12:31 GMT"), Some(784_887_151));
        assert_eq!(parse_date("yesterday"), None);
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        let head = write_head(206, &[("Content-Length", "5".to_owned())], true);
        assert!(head.starts_with("HTTP/1.1 206 Partial Content\r\nDate: "));
        assert!(head.ends_with("\r\nContent-Length: 5\r\n\r\n"));
        assert!(write_head(404, &[], false).ends_with("\r\nConnection: close\r\n\r\n"));
    }
}
