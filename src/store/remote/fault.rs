//! The one place where errors of the libraries below become ours.
//! Never here: answers that arrived; those are judged in `answer.rs`, as our own errors, and only pass through here.

use std::error::Error as StdError;
use std::iter::successors;

use opendal::ErrorKind;

use crate::error::{Error, Kind};

/// How every refusal of a server's certificate begins.
const BAD_CERTIFICATE: &str = "invalid peer certificate";

/// `OpenDAL`'s error. Ours, if the guard put one in; else what the client below it met.
pub(super) fn from_opendal(url: &str, error: &opendal::Error) -> Error {
    // What is left is OpenDAL's own count of the body against Content-Length: too little or too much came.
    from_below(url, error).unwrap_or_else(|| {
        Error::new(Kind::Unreachable, format!("{url}: the transfer broke off ({})", one_line(error.message())))
    })
}

/// `OpenDAL`'s error where it has read a service's answer itself: of a listing, or a stat.
pub(in crate::store) fn from_service(place: &str, error: &opendal::Error) -> Error {
    if let Some(error) = from_below(place, error) {
        return error;
    }
    let kind = match error.kind() {
        ErrorKind::NotFound | ErrorKind::IsADirectory | ErrorKind::NotADirectory => Kind::Missing,
        ErrorKind::PermissionDenied => Kind::Denied,
        ErrorKind::ConditionNotMatch => Kind::Changed,
        ErrorKind::RateLimited => Kind::Busy,
        ErrorKind::ConfigInvalid => Kind::Invalid,
        _ if error.is_temporary() => Kind::Busy,
        _ => Kind::Unsupported,
    };
    let what = match kind {
        // Services say it in a page of XML.
        Kind::Missing => "not there".to_owned(),
        Kind::Denied => "access denied: are user and password, or the keys, right?".to_owned(),
        // A page for people who browse, of a server in between.
        _ if error.message().trim_start().starts_with('<') => "the server answers with an error page".to_owned(),
        _ => one_line(error.message()),
    };
    Error::new(kind, format!("{place}: {what}"))
}

/// The error that ours, or the client's, was wrapped in.
fn from_below(url: &str, error: &opendal::Error) -> Option<Error> {
    causes(error).find_map(|cause| {
        let ours = cause.downcast_ref::<Error>().cloned();
        ours.or_else(|| cause.downcast_ref::<reqwest::Error>().map(|client| from_reqwest(url, client)))
    })
}

/// Our error, packed so that it comes out of `OpenDAL` unchanged.
pub(super) fn into_opendal(error: Error) -> opendal::Error {
    opendal::Error::new(opendal::ErrorKind::Unexpected, error.to_string()).set_source(error)
}

/// The HTTP client's error: no answer, or one that broke off.
pub(super) fn from_reqwest(url: &str, error: &reqwest::Error) -> Error {
    let deepest = causes(error).last().map_or_else(|| error.to_string(), ToString::to_string);
    let deepest = one_line(&deepest);
    if error.is_timeout() {
        Error::new(Kind::TimedOut, format!("{url}: no connection in time"))
    } else if deepest.contains(BAD_CERTIFICATE) {
        let message = format!(
            "{url}: the server's certificate is not trusted on this machine ({deepest}): if it signed itself, add it to the \
             machine's authorities (update-ca-certificates), or name its file in SSL_CERT_FILE"
        );
        Error::new(Kind::Unsupported, message)
    } else if error.is_connect() {
        Error::new(Kind::Unreachable, format!("{url}: cannot reach the server: {deepest}"))
    } else if error.is_redirect() {
        Error::new(Kind::Unsupported, format!("{url}: cannot follow the server's redirects: {deepest}"))
    } else if error.is_builder() {
        Error::new(Kind::Invalid, format!("{url}: cannot be asked: {deepest}"))
    } else {
        Error::new(Kind::Unreachable, format!("{url}: the connection was lost: {deepest}"))
    }
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    successors(Some(error), |error| (*error).source())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
