//! The source as a user typed it: what it names, and the origin that reads it.
//! Never here: flags, and asking a far server anything.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use url::Url;

use super::Origin;
use super::object::Object;
use super::web::Web;
use crate::error::{Error, Kind, Result};
use crate::store::dir::Dir;
use crate::store::remote::shown;

/// What a user asked to mount. Shown without credentials, by `Debug` too: it ends up in logs.
#[derive(Clone, PartialEq, Eq)]
pub enum Source {
    /// A folder or a single file of this machine, or of a share it has mounted.
    Folder(PathBuf),
    /// An HTTP(S) folder or a single file; may hold a user and a password.
    Web(Url),
}

impl Source {
    /// Reads SOURCE: a path, `file://…`, `http://…` or `https://…`. Pure: nothing is looked up. Anything else is `Invalid`,
    /// and the error lists the schemes that are known.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(invalid("the source is empty: give a folder, or a URL like http://host/films/"));
        }
        let Some((scheme, _)) = text.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
            return Ok(Self::Folder(text.into()));
        };
        let parse =
            || Url::parse(text).map_err(|error| invalid(&format!("this {scheme}:// URL can't be read: {error}")));
        match scheme.to_ascii_lowercase().as_str() {
            "file" => parse()?
                .to_file_path()
                .map(Self::Folder)
                .map_err(|()| invalid("a file:// URL names a path of this machine, like file:///srv/films")),
            "http" | "https" => Ok(Self::Web(parse()?)),
            _ => Err(invalid(&format!(
                "no source is read over {scheme}:// yet: give a path, file://, http:// or https://"
            ))),
        }
    }

    /// The origin that reads it. A local path must exist; a far server is asked nothing yet, so that a drive can start
    /// without it: whether it is there shows at the first `list("")`. It describes itself by the absolute path or the URL.
    pub fn open(&self) -> Result<Arc<dyn Origin>> {
        match self {
            Self::Folder(path) => {
                let dir = Dir::open(path)?;
                let described = dir.root().display().to_string();
                Ok(Arc::new(Object::new(dir, described)))
            }
            Self::Web(url) => Ok(Arc::new(Web::new(url)?)),
        }
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
        for text in
            ["", "ftp://host/x", "s3://bucket/x", "http://", "http://a b/", "file://host/x", "http://u:secret@[/"]
        {
            let error = Source::parse(text).unwrap_err();
            assert_eq!(error.kind(), Kind::Invalid, "{text}");
            let message = error.to_string();
            assert!(!message.contains('\n') && !message.contains("secret"), "{message}");
        }
        assert!(Source::parse("ftp://host/x").unwrap_err().to_string().contains("https://"));
    }

    #[test]
    fn a_missing_folder_is_said_at_once_and_a_missing_server_later() {
        let error = Source::parse("/no/such/folder").unwrap().open().err().unwrap();
        assert_eq!(error.kind(), Kind::Missing);
        assert!(error.to_string().starts_with("/no/such/folder: "), "{error}");
        let here = Source::parse("src/").unwrap().open().unwrap();
        assert!(here.describe().starts_with('/') && here.describe().ends_with("/src"), "{}", here.describe());
        let origin = Source::parse("http://alice@no-such-host.invalid/films/").unwrap().open().unwrap();
        assert_eq!(origin.describe(), "http://no-such-host.invalid/films/");
    }
}
