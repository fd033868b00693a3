//! The source as a user typed it: what it names, and the origin that reads it.
//! Never here: flags, and asking a far server anything.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use url::Url;

use super::Origin;
use super::library::Kept;
use super::object::Object;
use super::web::Web;
use crate::config::{PlacesConfig, S3Config};
use crate::error::{Error, Kind, Result};
use crate::library;
use crate::store::credentials::{self, Env};
use crate::store::dir::Dir;
use crate::store::ftp::{self, Ftp};
use crate::store::keyed;
use crate::store::remote::access::Access;
use crate::store::remote::place::Place;
use crate::store::remote::service::Address;
use crate::store::remote::shown;
use crate::store::remote::webdav::WebDav;
use crate::store::sftp::{self, Sftp};

/// One kind of source, for people.
pub struct SourceKind {
    /// How it is written.
    pub example: &'static str,
    /// What it names, and what is asked for it.
    pub what: &'static str,
    /// The Cargo feature that this program was built without, but needs for it.
    pub missing_feature: Option<&'static str>,
}

/// Every kind of source there is.
pub const SOURCE_KINDS: [SourceKind; 9] = [
    built_in("/mnt/nas/films, file:///mnt/nas/films", "a folder or file of this machine, or of a share it has mounted"),
    built_in(
        "http://host/films/, https://…",
        "a web server's folder, read from its index page, or one file; REELFS_USER and REELFS_PASSWORD, or ~/.netrc, log in",
    ),
    built_in(
        "s3://bucket/films/",
        "a bucket: Amazon's, or with --s3-endpoint URL any server's; keys as AWS's tools take them",
    ),
    built_in("webdav://host/films/, webdavs://user@host/…", "a WebDAV folder; a password as for http://"),
    built_in("sftp://user@host/films/, sftp://host/~/films/", "a folder behind your own ssh, or one file"),
    built_in("ftp://host/films/", "a folder of an FTP server, or one file; a password as for http://"),
    built_in(
        "kv+s3://bucket/library, kv+redis://host/0, kv+redb:///file, kv+file:///folder, kv+cloudflare-kv://account/namespace",
        "a library in a bucket or key-value store, made by `reelfs init`: read-write, a file is put when it is closed; every chunk is checked against its hash",
    ),
    by_feature("gs://bucket/films/", "a bucket at Google; keys as gcloud takes them", "gcs", cfg!(feature = "gcs")),
    by_feature(
        "azblob://container/films/",
        "a container at Azure, of AZURE_STORAGE_ACCOUNT, with AZURE_STORAGE_KEY",
        "azblob",
        cfg!(feature = "azblob"),
    ),
];

const fn built_in(example: &'static str, what: &'static str) -> SourceKind {
    SourceKind { example, what, missing_feature: None }
}

const fn by_feature(example: &'static str, what: &'static str, feature: &'static str, is_built: bool) -> SourceKind {
    SourceKind { example, what, missing_feature: if is_built { None } else { Some(feature) } }
}

/// What a user asked to mount. Shown without credentials, by `Debug` too: it ends up in logs.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder or a single file of this machine, or of a share it has mounted.
    Folder(PathBuf),
    /// An HTTP(S) folder or a single file; may hold a user and a password.
    Web(Url),
    /// A bucket, or a `WebDAV` folder; may hold a user and a password.
    Place(Address),
    /// A folder or a single file on an FTP server; may hold a user and a password.
    Ftp(ftp::address::Address),
    /// A folder or a single file that `ssh` leads to.
    Sftp(sftp::address::Address),
    /// A library in a store, or a folder or a single file in it; may hold a user and a password.
    Library(keyed::address::Address),
}

impl Source {
    /// Reads SOURCE: a path, or a URL. Pure: nothing is looked up. What is none of the `SOURCE_KINDS` is `Invalid`.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(invalid("the source is empty: give a folder, or a URL like http://host/films/"));
        }
        let Some((scheme, _)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return Ok(Self::Folder(text.into()));
        };
        let parse =
            || Url::parse(text).map_err(|error| invalid(&format!("this {scheme}:// URL can't be read: {error}")));
        if let Some(address) = library::place::keyed(text)? {
            return Ok(Self::Library(address));
        }
        match scheme.to_ascii_lowercase().as_str() {
            "file" => parse()?
                .to_file_path()
                .map(Self::Folder)
                .map_err(|()| invalid("a file:// URL names a path of this machine, like file:///srv/films")),
            "http" | "https" => Ok(Self::Web(parse()?)),
            "ftp" => Ok(Self::Ftp(ftp::address::Address::new(parse()?)?)),
            "sftp" => Ok(Self::Sftp(sftp::address::Address::new(parse()?)?)),
            scheme => Address::new(parse()?).map(Self::Place).ok_or_else(|| unknown(scheme)),
        }
    }

    /// The same source in its one spelling, with the user who logs in and without a password: for telling sources apart, not
    /// for opening them. `env` may name the user.
    #[must_use]
    pub fn canonical(&self, env: Env) -> Self {
        match self {
            Self::Folder(path) => {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                // Rebuilt of its components: without slashes at its end.
                Self::Folder(std::fs::canonicalize(path).unwrap_or_else(|_| absolute.components().collect()))
            }
            Self::Web(url) => Self::Web(canonical_url(&credentials::filled_in_by(url, env))),
            Self::Place(address) => {
                let filled_in = address.logged_in(|url| credentials::filled_in_by(url, env));
                Address::new(canonical_url(filled_in.url())).map_or_else(|| self.clone(), Self::Place)
            }
            Self::Ftp(address) => {
                let url = canonical_url(&credentials::filled_in_by(address.url(), env));
                ftp::address::Address::new(url).map_or_else(|_| self.clone(), Self::Ftp)
            }
            Self::Sftp(address) => {
                let url = canonical_url(&credentials::with_user_by(address.url(), env));
                sftp::address::Address::new(url).map_or_else(|_| self.clone(), Self::Sftp)
            }
            Self::Library(address) => Self::Library(address.canonical()),
        }
    }

    /// As it may be shown, without credentials, and told from sources of the same name.
    pub fn located(&self, s3: &S3Config) -> String {
        match self {
            Self::Place(address) => address.located(s3),
            Self::Library(address) => address.located(s3),
            _ => self.to_string(),
        }
    }

    /// How many requests it bears at once, if so many are wanted.
    pub fn connections(&self, wanted: usize) -> usize {
        if let Self::Ftp(_) = self { wanted.min(ftp::CONNECTIONS_MAX) } else { wanted }
    }

    /// The origin that reads it. A local path must exist; a far server is asked nothing yet, so that a drive can start
    /// without it: whether it is there shows at the first `list("")`. It describes itself by the absolute path or the URL.
    pub fn open(&self, places: &PlacesConfig) -> Result<Arc<dyn Origin>> {
        let access = || Access::new(&places.web).map(Arc::new);
        match self {
            Self::Folder(path) => {
                let dir = Dir::open(path)?.with_links(places.links);
                let described = dir.root().display().to_string();
                Ok(Arc::new(Object::new(dir, described)))
            }
            Self::Web(url) => {
                let url = credentials::filled_in(url);
                Ok(Arc::new(Web::new(&url, places.whole_file_max_bytes, &access()?)?))
            }
            Self::Place(address) if address.is_webdav() => {
                let webdav = WebDav::new(&address.logged_in(credentials::filled_in), &access()?)?;
                let described = webdav.describe().to_owned();
                Ok(Arc::new(Object::new(webdav, described)))
            }
            Self::Place(address) => {
                let place = Place::new(address, &places.s3, &access()?)?;
                let described = place.describe().to_owned();
                Ok(Arc::new(Object::new(place, described)))
            }
            Self::Ftp(address) => {
                let filled_in = ftp::address::Address::new(credentials::filled_in(address.url()))?;
                Ok(Arc::new(Object::new(Ftp::new(&filled_in, places.connections)?, address.to_string())))
            }
            Self::Library(address) => Ok(Arc::new(Kept::new(address, places))),
            Self::Sftp(address) => {
                let url = credentials::with_user_by(address.url(), &|name| std::env::var_os(name));
                let address = sftp::address::Address::new(url)?;
                let sftp = Sftp::new(&address, &places.ssh_command, places.connections, places.links)?;
                Ok(Arc::new(Object::new(sftp, address.to_string())))
            }
        }
    }
}

/// Ports that need not be written, of the schemes whose ports `Url` does not know.
const DEFAULT_PORTS: [(&str, u16); 2] = [("webdav", 80), ("webdavs", 443)];
/// Who asks an FTP server where no user is named.
const FTP_GUEST: &str = "anonymous";

/// `url` as RFC 3986 normalizes it: a host's letters small (but for the aliases of `ssh`, which tells them apart), no default
/// port, no encoded character that needs no encoding, and here also a slash at its end, as all of these may be folders.
/// Without a password and a fragment.
fn canonical_url(url: &Url) -> Url {
    let mut url = url.clone();
    // These fail only on URLs that can hold no such part.
    let _ = url.set_password(None);
    url.set_fragment(None);
    let scheme = url.scheme().to_owned();
    if scheme == "ftp" && url.username() == FTP_GUEST {
        let _ = url.set_username("");
    }
    if let Some((_, default)) = DEFAULT_PORTS.iter().find(|(name, _)| *name == scheme) {
        let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
        let _ = url.set_host(Some(&host));
        if url.port() == Some(*default) {
            let _ = url.set_port(None);
        }
    }
    let path = plainly_encoded(url.path());
    // The home folder over SFTP is its own: no path, not the top.
    let is_home = scheme == "sftp" && path.is_empty();
    if !is_home {
        url.set_path(&if path.ends_with('/') { path } else { path + "/" });
    }
    url
}

/// `path` with unreserved characters as themselves, and the digits of what stays encoded large.
fn plainly_encoded(path: &str) -> String {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let (mut plain, mut rest) = (String::with_capacity(path.len()), path);
    while let Some(at) = rest.find('%') {
        let (before, encoded) = rest.split_at(at);
        plain.push_str(before);
        let digits = encoded.as_bytes();
        if !is_hex(digits.get(1)) || !is_hex(digits.get(2)) {
            plain.push('%');
            rest = &encoded[1..];
            continue;
        }
        let byte = u8::from_str_radix(&encoded[1..3], 16).unwrap_or_default();
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            plain.push(char::from(byte));
        } else {
            plain.push_str(&encoded[..3].to_ascii_uppercase());
        }
        rest = &encoded[3..];
    }
    plain + rest
}

fn unknown(scheme: &str) -> Error {
    let start = format!("{scheme}://");
    let feature =
        SOURCE_KINDS.iter().filter(|kind| kind.example.starts_with(&start)).find_map(|kind| kind.missing_feature);
    match feature {
        Some(feature) => invalid(&format!("{start} is not built in: build reelfs with --features {feature}")),
        None => invalid(&format!("no source is read over {start}: see `reelfs sources`")),
    }
}

impl FromStr for Source {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => fmt::Display::fmt(&Path::display(path), f),
            Self::Web(url) => f.write_str(&shown(url)),
            Self::Place(address) => f.write_str(&address.shown()),
            Self::Ftp(address) => fmt::Display::fmt(address, f),
            Self::Sftp(address) => fmt::Display::fmt(address, f),
            Self::Library(address) => fmt::Display::fmt(address, f),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({self})")
    }
}

/// As RFC 3986 has it; so that `./a://b` stays a path.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

fn invalid(message: &str) -> Error {
    Error::new(Kind::Invalid, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_as_people_type_them() {
        let folder = |path: &str| Source::Folder(path.into());
        for (text, source) in [
            ("/srv/films", folder("/srv/films")),
            ("films", folder("films")),
            ("./a: b?#%20", folder("./a: b?#%20")),
            ("./http://x", folder("./http://x")),
            ("file:///srv/my%20films", folder("/srv/my films")),
            ("FILE:///srv", folder("/srv")),
        ] {
            assert_eq!(Source::parse(text).unwrap(), source, "{text}");
        }
        for (text, seen) in [
            ("http://host", "http://host/"),
            ("HTTPS://Host:8443/Films/", "https://host:8443/Films/"),
            ("http://alice:secret@host/ä b/?signature=x#y", "http://host/%C3%A4%20b/"),
            ("sftp://alice@nas:2222/~/films", "sftp://alice@nas:2222/~/films"),
            ("ftp://alice:secret@host/films/", "ftp://alice@host/films/"),
            ("kv+redis://:secret@host/0/films", "kv+redis://host/0/films"),
        ] {
            let source = Source::parse(text).unwrap();
            assert_eq!(
                (source.to_string(), format!("{source:?}")),
                (seen.to_owned(), format!("Source({seen})")),
                "{text}"
            );
        }
    }

    #[test]
    fn what_names_nothing_is_refused_in_one_line() {
        for text in [
            "",
            "ftps://host/x",
            "gopher://host/",
            "kv+gopher://host/",
            "kv+redis://:secret@host/films",
            "sftp://u:secret@host/",
            "http://",
            "http://a b/",
            "file://host/x",
            "http://u:secret@[/",
        ] {
            let error = Source::parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            let message = error.to_string();
            assert!(!message.contains('\n') && !message.contains("secret"), "{message}");
        }
        assert!(Source::parse("gopher://host/x").unwrap_err().to_string().contains("reelfs sources"));
    }

    #[test]
    fn a_missing_folder_is_said_at_once_and_a_missing_server_later() {
        let error = Source::parse("/no/such/folder").unwrap().open(&PlacesConfig::default()).err().unwrap();
        assert_eq!(error.kind(), Kind::Missing);
        assert!(error.to_string().starts_with("/no/such/folder: "), "{error}");
        let here = Source::parse("src/").unwrap().open(&PlacesConfig::default()).unwrap();
        assert!(here.describe().starts_with('/') && here.describe().ends_with("/src"), "{}", here.describe());
        let origin =
            Source::parse("http://alice@no-such-host.invalid/films/").unwrap().open(&PlacesConfig::default()).unwrap();
        assert_eq!(origin.describe(), "http://no-such-host.invalid/films/");
    }
}
