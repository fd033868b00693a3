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
    } else if let Some(why) = causes(error).find_map(|cause| untrusted(&cause.to_string())) {
        // As one that is away: a login page in between shows a certificate of its own.
        Error::new(Kind::Unreachable, format!("{url}: {why}"))
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

/// What a certificate that was refused means, and what to do; `None`: `cause` tells of no certificate.
fn untrusted(cause: &str) -> Option<String> {
    let why = cause.split_once(BAD_CERTIFICATE)?.1.trim_start_matches([':', ' ']);
    let has = |word: &str| why.contains(word);
    let told = if has("Expired") || has("expired") {
        "its certificate has expired: the server needs a new one, or this machine's clock is wrong"
    } else if has("NotValidYet") || has("not valid yet") {
        "its certificate is not valid yet: is this machine's clock right?"
    } else if has("NotValidForName") || has("not valid for name") {
        "its certificate is for another name: use the name that it is for, in the URL"
    } else if has("CaUsedAsEndEntity") {
        "its certificate is self-signed: if you know it, trust it with --ca-cert FILE, or have this machine trust it"
    } else if has("UnknownIssuer") || has("unknown issuer") || has("SelfSigned") || has("BadSignature") {
        "its certificate is signed by no authority that this machine trusts (is it self-signed?): give the authority's \
         certificate, or the server's own, with --ca-cert FILE, or add it to the machine's \
         (/usr/local/share/ca-certificates, then update-ca-certificates)"
    } else {
        "its certificate is refused"
    };
    Some(format!("cannot trust the server: {told} ({})", one_line(why)))
}

fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    successors(Some(error), |error| (*error).source())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_that_is_refused_is_told_with_what_to_do() {
        for (cause, told) in [
            ("invalid peer certificate: UnknownIssuer", "--ca-cert"),
            ("invalid peer certificate: Expired", "clock"),
            ("invalid peer certificate: certificate expired: verification time 7 (UNIX)", "expired"),
            ("invalid peer certificate: NotValidForName", "another name"),
            ("invalid peer certificate: Other(OtherError(CaUsedAsEndEntity))", "self-signed"),
            ("invalid peer certificate: BadEncoding", "is refused (BadEncoding)"),
        ] {
            let said = untrusted(cause).unwrap();
            assert!(said.contains(told) && !said.contains('\n'), "{said}");
        }
        assert_eq!(untrusted("Connection refused (os error 111)"), None);
    }
}
