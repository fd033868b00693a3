//! The one place where errors of the libraries below become ours.
//! Never here: answers that arrived; those are judged in `answer.rs`, as our own errors, and only pass through here.

use std::error::Error as StdError;
use std::iter::successors;

use crate::error::{Error, Kind};

/// `OpenDAL`'s error. Ours, if the guard put one in; else what the client below it met.
pub(super) fn from_opendal(url: &str, error: &opendal::Error) -> Error {
    for cause in causes(error) {
        if let Some(ours) = cause.downcast_ref::<Error>() {
            return ours.clone();
        }
        if let Some(client) = cause.downcast_ref::<reqwest::Error>() {
            return from_reqwest(url, client);
        }
    }
    // What is left is OpenDAL's own count of the body against Content-Length: too little or too much came.
    Error::new(Kind::Unreachable, format!("{url}: the transfer broke off ({})", one_line(error.message())))
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
