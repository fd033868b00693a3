//! A server that one logs in to, as a person wrote it: `scheme://[user[:password]@]host[:port]/path`; and how what is on
//! it is called. Pure.
//! Never here: what a scheme makes of user and path.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::{Error, Kind, Result};

/// May hold a password: shown without it, by `Debug` too.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ServerUrl(Url);

impl ServerUrl {
    pub fn new(url: Url) -> Self {
        Self(url)
    }

    /// With whatever password it holds.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// A name, or an address: one of IPv6 without brackets.
    pub fn host(&self) -> Result<String> {
        let host = self.decoded(self.0.host_str().unwrap_or_default())?;
        if host.is_empty() {
            return Err(self.invalid("names no host"));
        }
        Ok(host.trim_matches(['[', ']']).to_owned())
    }

    pub fn port(&self) -> Option<u16> {
        self.0.port()
    }

    pub fn user(&self) -> Result<Option<String>> {
        Some(self.0.username()).filter(|user| !user.is_empty()).map(|user| self.decoded(user)).transpose()
    }

    pub fn password(&self) -> Result<Option<String>> {
        self.0.password().map(|password| self.decoded(password)).transpose()
    }

    /// Decoded, with all its slashes.
    pub fn path(&self) -> Result<String> {
        self.decoded(self.0.path())
    }

    fn decoded(&self, part: &str) -> Result<String> {
        let text = percent_decode_str(part).decode_utf8().map_err(|_| self.invalid("is not UTF-8"))?;
        if text.contains('\0') { Err(self.invalid("has a NUL in it")) } else { Ok(text.into_owned()) }
    }

    pub fn invalid(&self, what: &str) -> Error {
        Error::new(Kind::Invalid, format!("{self} {what}"))
    }
}

/// With the user: two users may see two different folders under one path.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        // Fails only on URLs that can hold none anyway.
        let _ = url.set_password(None);
        url.set_query(None);
        url.set_fragment(None);
        f.write_str(url.as_str())
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerUrl({self})")
    }
}

/// The last component of a path there: the name of what it is, if that is a single file.
pub(super) fn last_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// How what lies under `key` of `place` is called in messages.
pub(super) fn called(place: &str, key: &str) -> String {
    if key.is_empty() { place.to_owned() } else { format!("{place}: {}", key.escape_debug()) }
}
