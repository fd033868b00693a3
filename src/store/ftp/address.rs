//! Where a folder is that is read over FTP: `ftp://[user[:password]@]host[:port]/path`, as a person wrote it. Pure.
//! Never here: the conversation.

use std::fmt;

use url::Url;

use crate::error::Result;
use crate::store::server::{ServerUrl, last_name};

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
    url: ServerUrl,
}

impl Address {
    /// Of an `ftp://` URL. As RFC 1738 has it, its path begins in the folder one logs in to: with two slashes, at the top.
    pub fn new(url: Url) -> Result<Self> {
        let url = ServerUrl::new(url);
        let (host, port, path) = (url.host()?, url.port().unwrap_or(PORT), url.path()?);
        let (user, password) = match (url.user()?, url.password()?) {
            (None, None) => (GUEST.to_owned(), GUEST_PASSWORD.to_owned()),
            (user, password) => (user.unwrap_or_default(), password.unwrap_or_default()),
        };
        // A line's end would be the end of a command, and what follows another one.
        if [&user, &password, &path].into_iter().any(|part| part.contains(['\r', '\n'])) {
            return Err(url.invalid("has a line's end in it"));
        }
        let path = path.strip_prefix('/').unwrap_or(&path);
        let path = match path.trim_end_matches('/') {
            "" if path.starts_with('/') => "/",
            trimmed => trimmed,
        };
        Ok(Self { host, port, user, password, path: path.to_owned(), url })
    }

    /// The URL it was made of, with whatever password that holds.
    pub fn url(&self) -> &Url {
        self.url.url()
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
        last_name(&self.path)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

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
