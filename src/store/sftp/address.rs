//! Where a folder is that is read over SFTP: `sftp://[user@]host[:port]/path`, as a person wrote it. Pure.
//! Never here: what `ssh` is told beyond that; aliases, keys and jumps are the user's own `ssh_config`.

use std::fmt;

use url::Url;

use crate::error::Result;
use crate::store::server::{ServerUrl, last_name};

/// A path on a server, below the home folder of whoever logs in if it does not begin with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name that `ssh` knows, perhaps only by its own configuration; an IPv6 address without brackets.
    pub(super) host: String,
    pub(super) user: Option<String>,
    pub(super) port: Option<u16>,
    /// Decoded, without slashes at its end; `.` for the home folder.
    pub(super) path: String,
    url: ServerUrl,
}

impl Address {
    /// Of an `sftp://` URL: an absolute path, or `/~/x` for one in the home folder; no path at all is that folder itself.
    pub fn new(url: Url) -> Result<Self> {
        let url = ServerUrl::new(url);
        if url.url().password().is_some() {
            return Err(url.invalid("takes no password: `ssh` logs in, with a key (ssh-keygen, then ssh-copy-id)"));
        }
        let (host, user, port, path) = (url.host()?, url.user()?, url.port(), folder(&url.path()?));
        Ok(Self { host, user, port, path, url })
    }

    /// The URL it was made of.
    pub fn url(&self) -> &Url {
        self.url.url()
    }

    /// The path of a key below this one.
    pub(super) fn join(&self, key: &str) -> String {
        match self.path.as_str() {
            path if key.is_empty() => path.to_owned(),
            "." => key.to_owned(),
            path => format!("{}/{key}", path.trim_end_matches('/')),
        }
    }

    /// Its last component: the name of what it is, if that is a single file.
    pub(super) fn name(&self) -> &str {
        last_name(&self.path)
    }

    /// `user@host`, as one would type it behind `ssh`.
    pub(super) fn login(&self) -> String {
        let port = self.port.map(|port| format!("-p {port} ")).unwrap_or_default();
        let user = self.user.as_deref().map(|user| format!("{user}@")).unwrap_or_default();
        format!("{port}{user}{}", self.host)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.url.fmt(f)
    }
}

/// A URL's path as the server takes it.
fn folder(path: &str) -> String {
    let (home, below) = match path {
        "" | "/~" => return ".".to_owned(),
        path => path.strip_prefix("/~/").map_or((false, path), |below| (true, below)),
    };
    match below.trim_end_matches('/') {
        "" if home => ".".to_owned(),
        "" => "/".to_owned(),
        below => below.to_owned(),
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
        for (url, login, path) in [
            ("sftp://nas", "nas", "."),
            ("sftp://nas/", "nas", "/"),
            ("sftp://nas/srv/films/", "nas", "/srv/films"),
            ("sftp://alice@nas.local:2222/srv/my%20films", "-p 2222 alice@nas.local", "/srv/my films"),
            ("sftp://nas/~/films", "nas", "films"),
            ("sftp://nas/~/", "nas", "."),
            ("sftp://nas/~", "nas", "."),
            ("sftp://nas/~bob/films", "nas", "/~bob/films"),
            ("sftp://[::1]/a", "::1", "/a"),
            ("sftp://My_Alias/%C3%A4", "My_Alias", "/ä"),
        ] {
            let address = address(url).unwrap();
            assert_eq!((address.login().as_str(), address.path.as_str()), (login, path), "{url}");
            assert_eq!(address.to_string(), url);
        }
    }

    #[test]
    fn keys_are_below_the_path() {
        for (url, key, path) in [
            ("sftp://nas/", "", "/"),
            ("sftp://nas/", "a/b", "/a/b"),
            ("sftp://nas/~", "a", "a"),
            ("sftp://nas/~/films/", "a", "films/a"),
            ("sftp://nas/srv", "", "/srv"),
            ("sftp://nas/srv", "a", "/srv/a"),
        ] {
            assert_eq!(address(url).unwrap().join(key), path, "{url} {key}");
        }
        assert_eq!(address("sftp://nas/srv/film.mkv").unwrap().name(), "film.mkv");
    }

    #[test]
    fn what_ssh_could_not_use_is_refused_without_showing_a_password() {
        for url in ["sftp:///films", "sftp://alice:secret@nas/films", "sftp://nas/%ff", "sftp://nas/%00"] {
            let error = address(url).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{url}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
