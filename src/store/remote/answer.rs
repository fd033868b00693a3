//! What an HTTP answer's status and headers mean for a drive. Pure.
//! Never here: sockets, bodies.
//!
//! The rule behind all of it: bytes are passed on only if the answer proves that they are the bytes asked for, of the
//! version asked for. A server that leaves out or garbles the proof is refused, not trusted.

use std::time::{Duration, SystemTime};

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, DATE, ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::status::StatusCode;

use crate::error::{Error, Kind, Result};
use crate::range::ByteRange;
use crate::store::{Stat, Version};

/// A file's time that is no older than this when it is told was made for the answer, or is too new to be told from one.
const MADE_FOR_ANSWER: Duration = Duration::from_secs(2);

/// Codings that change no byte: none, none by name, and how a bucket's client framed an upload, which some servers that
/// speak S3 repeat with each download.
const PLAIN_CODINGS: [&[u8]; 3] = [b"", b"identity", b"aws-chunked"];

/// What one ranged request asked for, to hold the answer against.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// Without credentials; for messages.
    pub url: String,
    /// Not empty, within `expected.size_bytes`.
    pub range: ByteRange,
    /// The state of the file whose bytes are wanted.
    pub expected: Stat,
}

/// A status that is no success, as the error it means. Success is 200 or 206 and nothing else.
pub(super) fn check_status(status: StatusCode, headers: &HeaderMap, url: &str, now: SystemTime) -> Result<()> {
    let wait = retry_after(headers, now);
    let (kind, meaning) = match status.as_u16() {
        200 | 206 => return Ok(()),
        401 => (Kind::Denied, log_in(headers)),
        403 => (Kind::Denied, ""),
        407 => (
            Kind::Denied,
            " (of the proxy: set REELFS_PROXY to its URL with user and password, http://USER:PASSWORD@HOST:PORT)",
        ),
        404 | 410 => (Kind::Missing, ""),
        412 | 416 => (Kind::Changed, " (the file has changed)"),
        // Somebody answers for a server that is not there; unless it is only told to come back.
        502..=504 if wait.is_none() => (Kind::Unreachable, ""),
        408 | 429 | 500 | 502..=504 | 506..=599 => (Kind::Busy, ""),
        _ => (Kind::Unsupported, ""),
    };
    let wait = wait.filter(|_| kind == Kind::Busy);
    Err(Error::new(kind, format!("{url}: the server answers {status}{meaning}")).with_retry_after(wait))
}

/// What to do about a server that wants to know who asks.
fn log_in(headers: &HeaderMap) -> &'static str {
    let mut schemes = headers.get_all(WWW_AUTHENTICATE).iter().peekable();
    let takes_password = |value: &HeaderValue| {
        let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        value.contains("basic") || value.contains("digest")
    };
    if schemes.peek().is_some() && !schemes.any(takes_password) {
        return " (it takes no password: give it a token with REELFS_BEARER_TOKEN_FILE, or what it wants with --header)";
    }
    ""
}

/// What an answer says of the version its bytes are of, if it does not say that it is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// The version asked for, as far as any answer of the server could tell.
    Given,
    /// Nothing, where other answers tell more: a server may leave `Last-Modified` out of a 206, or all validators out of
    /// answers to GET. The version has to be asked for.
    Missing,
}

/// Which bytes a successful answer holds: all that were asked for, or fewer from the first of them on; and what it says of
/// their version, which is not another than the one asked for.
pub(super) fn check_range(status: StatusCode, headers: &HeaderMap, asked: &Asked) -> Result<(ByteRange, Proof)> {
    let Asked { url, range, expected } = asked;
    check_encoding(headers, url)?;
    let length = number(headers, &CONTENT_LENGTH);
    // Some servers send the range asked for, and say so in every header but the status.
    let tells_range = headers.contains_key(CONTENT_RANGE) && length == Some(range.len());
    if status == StatusCode::OK && !tells_range {
        // The whole file was asked for and the whole file comes: fine, although no range was heeded.
        let whole = ByteRange::new(0, expected.size_bytes);
        if *range == whole && length == Some(whole.len()) {
            return check_version(headers, asked).map(|proof| (whole, proof));
        }
        return Err(refused(url, "the server ignores Range requests (200 where 206 was asked)"));
    }
    let Some((sent, total)) = text(headers, &CONTENT_RANGE).and_then(content_range) else {
        return Err(refused(url, "the server answers without a valid Content-Range"));
    };
    if let Some(total) = total.filter(|total| *total != expected.size_bytes) {
        let was = expected.size_bytes;
        return Err(Error::new(Kind::Changed, format!("{url}: was {was} bytes long and is {total} now")));
    }
    if total.is_none() && expected.version == Version::size_and_time(expected.size_bytes, None) {
        return Err(refused(url, "the server tells neither the file's size nor anything else it could be known by"));
    }
    let proof = check_version(headers, asked)?;
    if sent.start != range.start || sent.end > range.end {
        return Err(refused(url, &format!("the server sends bytes {sent} where {range} was asked")));
    }
    if let Some(length) = length.filter(|length| *length != sent.len()) {
        return Err(refused(url, &format!("the server announces {length} bytes for the range {sent}")));
    }
    Ok((sent, proof))
}

/// Compares what the version rests on. A different validator is a change; a missing one is none, and proves nothing.
fn check_version(headers: &HeaderMap, asked: &Asked) -> Result<Proof> {
    let Asked { url, expected, .. } = asked;
    let compared = |name: &str, now: &str, is_same: bool| {
        let was = &expected.version;
        let message = format!("{url}: the file has changed: it was {was}, and its {name} is {now}");
        if is_same { Ok(Proof::Given) } else { Err(Error::new(Kind::Changed, message)) }
    };
    if let Some(etag) = expected.version.as_etag() {
        let Some(now) = text(headers, &ETAG).and_then(strong_etag) else { return Ok(Proof::Missing) };
        return compared("ETag", now, now.trim_matches('"') == etag.trim_matches('"'));
    }
    // The version itself is compared, not `expected.modified`: a version read back from the index may come without it.
    let of_time = |modified| Version::size_and_time(expected.size_bytes, modified);
    if expected.version.is_size_alone() {
        return Ok(Proof::Given);
    }
    let now = text(headers, &LAST_MODIFIED).and_then(|text| Some((text, http_date(text)?)));
    let Some((now, time)) = now else { return Ok(Proof::Missing) };
    compared("Last-Modified", now, expected.version == of_time(Some(time)))
}

/// `etag`, if it promises the same bytes: in quotes, or as some servers write it, without. A weak one promises the same
/// film, and is none here.
pub(super) fn strong_etag(etag: &str) -> Option<&str> {
    let inside = etag.strip_prefix('"').map_or(Some(etag), |rest| rest.strip_suffix('"'))?;
    let is_bare = inside.len() == etag.len();
    let is_weak = is_bare && etag.get(..2).is_some_and(|start| start.eq_ignore_ascii_case("w/"));
    let is_token = inside.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b','));
    (!is_weak && (!is_bare || (is_token && !inside.is_empty()))).then_some(etag)
}

/// Leaves of an answer's validators those that are the same with each answer: no `ETag`, and no time that was made for this one.
pub(super) fn leave_stable(headers: &mut HeaderMap) {
    headers.remove(ETAG);
    let time = |name| text(headers, name).and_then(http_date);
    if let (Some(modified), Some(answered)) = (time(&LAST_MODIFIED), time(&DATE))
        && modified + MADE_FOR_ANSWER >= answered
    {
        headers.remove(LAST_MODIFIED);
    }
}

/// The file an answer's headers describe, of a size found in them by the caller.
pub(super) fn stat(headers: &HeaderMap, size_bytes: u64) -> Stat {
    let modified = text(headers, &LAST_MODIFIED).and_then(http_date);
    let strong = text(headers, &ETAG).and_then(strong_etag);
    let version = strong.map_or_else(|| Version::size_and_time(size_bytes, modified), Version::etag);
    Stat { size_bytes, modified, version }
}

/// The size of the whole file: of an answer to HEAD or to a plain GET.
pub(super) fn whole_size(headers: &HeaderMap) -> Option<u64> {
    number(headers, &CONTENT_LENGTH)
}

/// The size of the whole file: of an answer to a ranged GET, also when it says that there is no such range.
pub(super) fn total_size(headers: &HeaderMap) -> Option<u64> {
    let text = text(headers, &CONTENT_RANGE)?;
    match text.strip_prefix("bytes */") {
        Some(total) => total.trim().parse().ok(),
        None => content_range(text)?.1,
    }
}

/// The range an answer says it sends, and the size of the whole file.
pub(super) fn sent_range(headers: &HeaderMap) -> Option<(ByteRange, u64)> {
    let (range, total) = content_range(text(headers, &CONTENT_RANGE)?)?;
    total.filter(|total| range.end <= *total).map(|total| (range, total))
}

/// Sizes and ranges of an encoded body are not those of the file. We ask for none; some servers don't listen. The header
/// may come more than once, and list several codings.
pub(super) fn check_encoding(headers: &HeaderMap, url: &str) -> Result<()> {
    let codings =
        headers.get_all(CONTENT_ENCODING).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let mut codings = codings.map(<[u8]>::trim_ascii);
    let Some(coding) = codings.find(|coding| !PLAIN_CODINGS.iter().any(|plain| plain.eq_ignore_ascii_case(coding)))
    else {
        return Ok(());
    };
    let coding = coding.escape_ascii();
    Err(refused(
        url,
        &format!("the server sends it encoded ({coding}), and its bytes can't be told: turn that off for video there"),
    ))
}

/// `bytes 0-499/1234` or `bytes 0-499/*`: the range and the whole size, if told.
fn content_range(text: &str) -> Option<(ByteRange, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last): (u64, u64) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    if first > last {
        return None;
    }
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((ByteRange::new(first, last.checked_add(1)?), total))
}

/// How long the server asks us to wait: seconds, or until a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = text(headers, &RETRY_AFTER)?.trim();
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => Some(http_date(text)?.duration_since(now).unwrap_or_default()),
    }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, the one form servers may send today.
pub(crate) fn http_date(text: &str) -> Option<SystemTime> {
    let zoned = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(SystemTime::from(zoned.timestamp()))
}

fn refused(url: &str, why: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{url}: {why}"))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    text(headers, name)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHEN: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().expect("a header"))).collect()
    }

    fn asked(version: Option<&str>) -> Asked {
        let modified = http_date(WHEN);
        let version = version.map_or_else(|| Version::size_and_time(100, modified), Version::etag);
        let expected = Stat { size_bytes: 100, modified, version };
        Asked { url: "http://host/a".into(), range: ByteRange::new(10, 20), expected }
    }

    fn kind<T>(result: Result<T>) -> Option<Kind> {
        result.err().map(|error| error.kind())
    }

    #[test]
    fn content_ranges() {
        let range = |start, end| ByteRange::new(start, end);
        assert_eq!(content_range("bytes 0-499/1234"), Some((range(0, 500), Some(1234))));
        assert_eq!(content_range("bytes 5-5/*"), Some((range(5, 6), None)));
        for bad in ["", "bytes", "bytes */5", "bytes 9-5/10", "lines 0-1/2", "bytes 0-18446744073709551615/*"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
        assert_eq!(total_size(&headers(&[(CONTENT_RANGE, "bytes */0")])), Some(0));
        assert_eq!(total_size(&headers(&[(CONTENT_RANGE, "bytes 0-0/7")])), Some(7));
    }

    #[test]
    fn statuses_become_kinds() {
        let now = SystemTime::UNIX_EPOCH;
        for (status, expected) in [
            (200, None),
            (206, None),
            (204, Some(Kind::Unsupported)),
            (401, Some(Kind::Denied)),
            (403, Some(Kind::Denied)),
            (404, Some(Kind::Missing)),
            (410, Some(Kind::Missing)),
            (405, Some(Kind::Unsupported)),
            (408, Some(Kind::Busy)),
            (412, Some(Kind::Changed)),
            (416, Some(Kind::Changed)),
            (429, Some(Kind::Busy)),
            (501, Some(Kind::Unsupported)),
            (503, Some(Kind::Unreachable)),
        ] {
            let code = StatusCode::from_u16(status).expect("a status");
            assert_eq!(kind(check_status(code, &HeaderMap::new(), "u", now)), expected, "{status}");
        }
        let wait = |value: &str| {
            let headers = headers(&[(RETRY_AFTER, value)]);
            let answer = check_status(StatusCode::SERVICE_UNAVAILABLE, &headers, "u", now);
            answer.err().filter(|error| error.kind() == Kind::Busy).and_then(|error| error.retry_after())
        };
        assert_eq!(wait("7"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Thu, 01 Jan 1970 00:01:30 GMT"), Some(Duration::from_secs(90)));
        assert_eq!(wait("soon"), None);
    }

    #[test]
    fn of_validators_that_are_made_for_each_answer_none_is_left() {
        let left = |modified: &str| {
            let mut headers = headers(&[(ETAG, "\"node1\""), (LAST_MODIFIED, modified), (DATE, WHEN)]);
            leave_stable(&mut headers);
            stat(&headers, 100).version
        };
        let hour_before = "Sun, 06 Nov 1994 07:49:37 GMT";
        assert_eq!(left(hour_before), Version::size_and_time(100, http_date(hour_before)));
        for made in [WHEN, "Sun, 06 Nov 1994 08:49:36 GMT", "Sun, 06 Nov 1994 08:59:37 GMT"] {
            assert!(left(made).is_size_alone(), "{made}");
        }
    }

    #[test]
    fn only_the_asked_bytes_of_the_asked_version_pass() {
        let partial = StatusCode::PARTIAL_CONTENT;
        let (e1, e2) = ((ETAG, "\"1\""), (ETAG, "\"2\""));
        let good = (CONTENT_RANGE, "bytes 10-19/100");
        let tagged = asked(Some("\"1\""));
        let check =
            |status, asked: &Asked, pairs: &[(HeaderName, &str)]| kind(check_range(status, &headers(pairs), asked));

        assert_eq!(check(partial, &tagged, &[good.clone(), e1.clone(), (CONTENT_LENGTH, "10")]), None);
        assert_eq!(check(partial, &tagged, &[(CONTENT_RANGE, "bytes 10-19/*"), e1.clone()]), None);
        assert_eq!(check(partial, &tagged, &[good.clone(), e2]), Some(Kind::Changed));
        assert_eq!(check(partial, &tagged, &[(CONTENT_RANGE, "bytes 10-19/99"), e1.clone()]), Some(Kind::Changed));
        assert_eq!(check(partial, &tagged, &[(CONTENT_RANGE, "bytes 0-9/100"), e1.clone()]), Some(Kind::Unsupported));
        let fewer = headers(&[(CONTENT_RANGE, "bytes 10-14/100"), e1.clone(), (CONTENT_LENGTH, "5")]);
        let sent = check_range(partial, &fewer, &tagged).map(|(sent, _)| sent);
        assert_eq!(sent.ok(), Some(ByteRange::new(10, 15)));
        for other in ["bytes 11-14/100", "bytes 10-20/100", "bytes 9-14/100"] {
            assert_eq!(
                check(partial, &tagged, &[(CONTENT_RANGE, other), e1.clone()]),
                Some(Kind::Unsupported),
                "{other}"
            );
        }
        assert_eq!(
            check(partial, &tagged, &[good.clone(), e1.clone(), (CONTENT_LENGTH, "11")]),
            Some(Kind::Unsupported)
        );
        assert_eq!(
            check(partial, &tagged, &[good.clone(), e1.clone(), (CONTENT_ENCODING, "gzip")]),
            Some(Kind::Unsupported)
        );
        assert_eq!(check(partial, &tagged, std::slice::from_ref(&e1)), Some(Kind::Unsupported));
        assert_eq!(check(StatusCode::OK, &tagged, &[e1.clone(), (CONTENT_LENGTH, "100")]), Some(Kind::Unsupported));

        let whole = Asked { range: ByteRange::new(0, 100), ..tagged };
        assert_eq!(check(StatusCode::OK, &whole, &[e1.clone(), (CONTENT_LENGTH, "100")]), None);
        assert_eq!(check(StatusCode::OK, &whole, &[e1.clone(), (CONTENT_LENGTH, "101")]), Some(Kind::Unsupported));
        assert_eq!(check(StatusCode::OK, &whole, &[e1]), Some(Kind::Unsupported));

        let timed = asked(None);
        assert_eq!(check(partial, &timed, &[good.clone(), (LAST_MODIFIED, WHEN)]), None);
        let later = (LAST_MODIFIED, "Sun, 06 Nov 1994 08:49:38 GMT");
        assert_eq!(check(partial, &timed, &[good.clone(), later]), Some(Kind::Changed));
        let sized = Version::size_and_time(100, None);
        let sized = Asked { expected: Stat { modified: None, version: sized, size_bytes: 100 }, ..timed.clone() };
        assert_eq!(check(partial, &sized, std::slice::from_ref(&good)), None);
        assert_eq!(check(partial, &sized, &[(CONTENT_RANGE, "bytes 10-19/*")]), Some(Kind::Unsupported));
        let stored = Asked { expected: Stat { modified: None, ..timed.expected.clone() }, ..timed };
        assert_eq!(check(partial, &stored, &[good, (LAST_MODIFIED, WHEN)]), None);
    }

    #[test]
    fn versions_with_a_missing_validator_are_neither_proved_nor_changed() {
        let partial = StatusCode::PARTIAL_CONTENT;
        let good = (CONTENT_RANGE, "bytes 10-19/100");
        let proof = |asked: &Asked, more: &[(HeaderName, &str)]| {
            let pairs = [std::slice::from_ref(&good), more].concat();
            check_range(partial, &headers(&pairs), asked).map(|(_, proof)| proof).map_err(|error| error.kind())
        };
        let (tagged, bare, timed) = (asked(Some("\"1\"")), asked(Some("1-a")), asked(None));
        let sized = Version::size_and_time(100, None);
        let sized = Asked { expected: Stat { modified: None, version: sized, size_bytes: 100 }, ..timed.clone() };
        let stored = Asked { expected: Stat { modified: None, ..timed.expected.clone() }, ..timed.clone() };
        for (asked, more, expected) in [
            (&tagged, &[][..], Ok(Proof::Missing)),
            (&tagged, &[(ETAG, "W/\"1\"")], Ok(Proof::Missing)),
            (&tagged, &[(LAST_MODIFIED, WHEN)], Ok(Proof::Missing)),
            (&tagged, &[(ETAG, "\"1\"")], Ok(Proof::Given)),
            (&tagged, &[(ETAG, "1")], Ok(Proof::Given)),
            (&tagged, &[(ETAG, "2")], Err(Kind::Changed)),
            (&bare, &[(ETAG, "1-a")], Ok(Proof::Given)),
            (&bare, &[(ETAG, "\"1-a\"")], Ok(Proof::Given)),
            (&bare, &[(ETAG, "1-b")], Err(Kind::Changed)),
            (&bare, &[], Ok(Proof::Missing)),
            (&timed, &[], Ok(Proof::Missing)),
            (&timed, &[(LAST_MODIFIED, "yesterday")], Ok(Proof::Missing)),
            (&timed, &[(ETAG, "\"1\"")], Ok(Proof::Missing)),
            (&timed, &[(LAST_MODIFIED, WHEN)], Ok(Proof::Given)),
            (&stored, &[], Ok(Proof::Missing)),
            (&sized, &[], Ok(Proof::Given)),
        ] {
            assert_eq!(proof(asked, more), expected, "{} {more:?}", asked.expected.version);
        }
    }

    #[test]
    fn logging_in_as_the_server_does_not_allow_is_said() {
        let told = |schemes: &[&str]| {
            let mut map = HeaderMap::new();
            for scheme in schemes {
                map.append(WWW_AUTHENTICATE, scheme.parse().expect("a header"));
            }
            let error = check_status(StatusCode::UNAUTHORIZED, &map, "u", SystemTime::UNIX_EPOCH).unwrap_err();
            assert_eq!(error.kind(), Kind::Denied);
            error.to_string().contains("takes no password")
        };
        assert!(told(&["Bearer realm=\"x\""]) && told(&["Negotiate", "NTLM"]));
        assert!(
            !told(&[])
                && !told(&["Basic realm=\"x\""])
                && !told(&["Digest realm=\"x\""])
                && !told(&["Digest realm=\"x\", BASIC realm=\"x\""])
        );
    }

    #[test]
    fn encodings_are_refused_in_whatever_header_and_case() {
        let check = |values: &[&str]| {
            let pairs: Vec<_> = values.iter().map(|value| (CONTENT_ENCODING, *value)).collect();
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.append(name, value.parse().expect("a header"));
            }
            kind(check_encoding(&map, "u"))
        };
        for plain in [&[][..], &[""], &["identity"], &["Identity, AWS-chunked"], &["aws-chunked"], &["identity", ""]] {
            assert_eq!(check(plain), None, "{plain:?}");
        }
        for encoded in
            [&["gzip"][..], &["identity", "gzip"], &["aws-chunked,GZip"], &["x"], &["br", "identity"], &["\u{e9}"]]
        {
            assert_eq!(check(encoded), Some(Kind::Unsupported), "{encoded:?}");
        }
    }

    #[test]
    fn a_weak_etag_is_no_version() {
        assert_eq!(stat(&headers(&[(ETAG, "\"a\"")]), 5).version, Version::etag("\"a\""));
        let plain = Version::size_and_time(5, http_date(WHEN));
        assert_eq!(stat(&headers(&[(ETAG, "W/\"a\""), (LAST_MODIFIED, WHEN)]), 5).version, plain);
        assert_eq!(stat(&headers(&[(ETAG, "bare")]), 5).version, Version::etag("bare"));
        for odd in ["", "\"", "w/bare", "a b", "a\"b", "a,b"] {
            assert_eq!(stat(&headers(&[(ETAG, odd)]), 5).version, Version::size_and_time(5, None), "{odd}");
        }
    }
}
