//! Where a folder is that is read over FTP: `ftp://[user[:password]@]host[:port]/path`, as a person wrote it. Pure.
//! Never here: the conversation.

use std::fmt;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::error::{Error, Kind, Result};

/// Whoever names no user is a guest, and says so in these words.
const GUEST: &str = "anonymous";
/// What servers want to hear of guests: something like an address.
const GUEST_PASSWORD: &str = "anonymous@";
const PORT: u16 = 21;

/// A path on a server, and who asks for it. Holds a password: shown without it, by `Debug` too.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: String,
    /// Decoded, without slashes at its end; below the folder one logs in to, unless it begins with a slash.
    pub(super) path: String,
    url: Url,
}

impl Address {
    /// Of an `ftp://` URL. As RFC 1738 has it, its path begins in the folder one logs in to: with two slashes, at the top.
    pub fn new(url: Url) -> Result<Self> {
        let invalid = |what: &str| Error::new(Kind::Invalid, format!("{} {what}", shown(&url)));
        let decode = |text: &str| {
            let text = percent_decode_str(text).decode_utf8().map_err(|_| invalid("is not UTF-8"))?;
            // A line's end would be the end of a command, and what follows another one.
            if text.contains(['\0', '\r', '\n']) {
                Err(invalid("has a line's end in it"))
            } else {
                Ok(text.into_owned())
            }
        };
        let host = url.host_str().unwrap_or_default();
        if host.is_empty() {
            return Err(invalid("names no host"));
        }
        let (user, password) = match (url.username(), url.password()) {
            ("", None) => (GUEST.to_owned(), GUEST_PASSWORD.to_owned()),
            (user, password) => (decode(user)?, decode(password.unwrap_or_default())?),
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let path = decode(url.path())?;
        let path = path.strip_prefix('/').unwrap_or(&path);
        let path = match path.trim_end_matches('/') {
            "" if path.starts_with('/') => "/",
            trimmed => trimmed,
        };
        Ok(Self { host, port: url.port().unwrap_or(PORT), user, password, path: path.to_owned(), url })
    }

    /// The URL it was made of, with whatever password that holds.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The absolute path of a key, when `home` is where one logs in to.
    pub(super) fn join(&self, home: &str, key: &str) -> String {
        let parts = if self.path.starts_with('/') { [&self.path, key, ""] } else { [home, &self.path, key] };
        let parts = parts.map(|part| part.trim_matches('/'));
        let joined = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        format!("/{joined}")
    }

    /// The last component: the name of what it is, if that is a single file.
    pub(super) fn name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }
}

/// With the user: two users may see two different folders under one path.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.url))
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

fn shown(url: &Url) -> String {
    let mut url = url.clone();
    // Fails only on URLs that can hold none anyway.
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Result<Address> {
        Address::new(Url::parse(url).unwrap())
    }

    #[test]
    fn urls_as_people_type_them() {
        for (url, path, whole) in [
            ("ftp://host", "", "/home/me/a/b"),
            ("ftp://host/films/", "films", "/home/me/films/a/b"),
            ("ftp://host//srv/my%20films", "/srv/my films", "/srv/my films/a/b"),
            ("ftp://host/%2Fsrv", "/srv", "/srv/a/b"),
            ("ftp://host//", "/", "/a/b"),
        ] {
            let address = address(url).unwrap();
            assert_eq!((address.path.as_str(), address.join("/home/me", "a/b").as_str()), (path, whole), "{url}");
        }
        assert_eq!(address("ftp://host").unwrap().join("/", ""), "/");
        assert_eq!(address("ftp://host/a/film.mkv").unwrap().name(), "film.mkv");
        let guest = address("ftp://[::1]:2121/").unwrap();
        assert_eq!((guest.host.as_str(), guest.port, guest.user.as_str()), ("::1", 2121, "anonymous"));
        let alice = address("ftp://alice:a%40b@host/").unwrap();
        assert_eq!((alice.user.as_str(), alice.password.as_str(), alice.port), ("alice", "a@b", 21));
    }

    #[test]
    fn no_password_is_shown_and_no_second_command_smuggled_in() {
        let alice = address("ftp://alice:secret@host/films").unwrap();
        assert_eq!(
            (alice.to_string(), format!("{alice:?}")),
            ("ftp://alice@host/films".into(), "Address(ftp://alice@host/films)".into())
        );
        for url in ["ftp://host/a%0d%0aDELE%20b", "ftp://a%0Ab:secret@host/", "ftp://host/%ff"] {
            let error = address(url).unwrap_err();
            assert!(error.kind() == Kind::Invalid && !error.to_string().contains("secret"), "{error}");
        }
    }
}
