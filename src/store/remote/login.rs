//! Who asks a server, and how the server wants to be told: a user and a password, as Basic or as Digest wants them, or a token
//! in a file.
//! Never here: where users and passwords are looked for (`store/credentials.rs`). Nothing here is ever shown.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use http::Method;
use http::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http_auth::basic::encode_credentials;
use http_auth::{PasswordClient, PasswordParams};
use parking_lot::Mutex;
use percent_encoding::percent_decode_str;
use url::{Position, Url};

use super::shown;
use crate::error::{Error, Kind, Result};

/// A longer file holds no token.
const TOKEN_BYTES_MAX: u64 = 64 << 10;

/// Who asks.
pub(super) enum Login {
    /// A user and a password.
    Password(Password),
    /// A token that stands in a file, and may be another one later.
    Token { file: PathBuf, header: Mutex<HeaderValue> },
}

/// A user and a password, and how the server wants to be told of them.
pub(super) struct Password {
    user: String,
    word: String,
    /// `None`: as Basic does it, which every server was asked with first. Locked for one answer, some microseconds.
    digest: Mutex<Option<PasswordClient>>,
}

impl Login {
    /// With the user and password in `url`; `None` if there are none.
    pub fn of_url(url: &Url) -> Option<Self> {
        if url.username().is_empty() && url.password().is_none() {
            return None;
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, word) = (decode(url.username()), url.password().map(decode).unwrap_or_default());
        Some(Self::Password(Password { user, word, digest: Mutex::new(None) }))
    }

    /// With the token in `file`. `Invalid` if it holds none.
    pub fn of_token(file: &Path) -> Result<Self> {
        let header = Mutex::new(bearer(file)?);
        Ok(Self::Token { file: file.to_owned(), header })
    }

    /// The `Authorization` of a request.
    pub fn header(&self, method: &Method, url: &Url) -> Option<HeaderValue> {
        match self {
            Self::Token { header, .. } => Some(header.lock().clone()),
            Self::Password(password) => password.header(method, url),
        }
    }

    /// After an answer that refused `sent` (401): whether the next request would say something else, so that it is worth to
    /// ask once more.
    pub fn learn(&self, answer: &HeaderMap, sent: Option<&HeaderValue>) -> bool {
        match self {
            Self::Token { file, header } => match bearer(file) {
                Ok(now) => {
                    let is_new = sent != Some(&now);
                    *header.lock() = now;
                    is_new
                }
                Err(error) => {
                    log::warn!("{error}");
                    false
                }
            },
            Self::Password(password) => password.learn(answer, sent),
        }
    }
}

impl Password {
    fn header(&self, method: &Method, url: &Url) -> Option<HeaderValue> {
        let text = match &mut *self.digest.lock() {
            None => encode_credentials(&self.user, &self.word),
            Some(digest) => {
                let uri = &url[Position::BeforePath..Position::AfterQuery];
                let (username, password) = (&self.user, &self.word);
                let asked = PasswordParams { username, password, uri, method: method.as_str(), body: None };
                let answered = digest.respond(&asked);
                answered
                    .inspect_err(|error| log::warn!("{}: its Digest can't be answered: {error}", shown(url)))
                    .ok()?
            }
        };
        let mut header = HeaderValue::from_str(&text).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    fn learn(&self, answer: &HeaderMap, sent: Option<&HeaderValue>) -> bool {
        let mut builder = PasswordClient::builder();
        for challenge in answer.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()) {
            builder = builder.challenges(challenge);
        }
        let Ok(PasswordClient::Digest(asked)) = builder.build() else { return false };
        // An answer to a challenge that the server no longer takes (it is `stale`) is worth another one; else the password is
        // wrong.
        let was_digest = sent.is_some_and(|sent| sent.as_bytes().starts_with(b"Digest"));
        let is_new = !was_digest || asked.stale();
        if is_new {
            *self.digest.lock() = Some(PasswordClient::Digest(asked));
        }
        is_new
    }
}

/// `Authorization` with the token in `file`.
fn bearer(file: &Path) -> Result<HeaderValue> {
    let invalid = |why: &str| Error::new(Kind::Invalid, format!("the token file {} {why}", file.display()));
    let mut text = String::new();
    File::open(file)
        .and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
        .map_err(|error| invalid(&format!("can't be read: {error}")))?;
    let token = text.trim();
    if token.is_empty() {
        return Err(invalid("is empty: write the token into it"));
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| invalid("holds more than one line, or characters that no token has"))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHALLENGE: &str = r#"Digest realm="films", nonce="abc", algorithm=MD5, qop="auth""#;

    fn answer(challenges: &[&str]) -> HeaderMap {
        challenges.iter().map(|text| (WWW_AUTHENTICATE, HeaderValue::from_str(text).unwrap())).collect()
    }

    #[test]
    fn a_password_is_told_as_the_server_wants_it() {
        let url = Url::parse("http://me:p%20w@host/films/a%20b.mkv?key=1").unwrap();
        let login = Login::of_url(&url).unwrap();
        let said = |login: &Login| login.header(&Method::GET, &url).unwrap().to_str().unwrap().to_owned();
        let basic = login.header(&Method::GET, &url).unwrap();
        assert_eq!(basic, "Basic bWU6cCB3");
        assert!(!login.learn(&answer(&["Basic realm=\"films\""]), Some(&basic)), "the password is wrong");
        assert!(login.learn(&answer(&["Basic realm=\"films\"", CHALLENGE]), Some(&basic)));
        let digest = login.header(&Method::GET, &url).unwrap();
        let text = digest.to_str().unwrap();
        assert!(text.starts_with("Digest ") && text.contains("uri=\"/films/a%20b.mkv?key=1\""), "{text}");
        assert!(!text.contains("p w") && digest.is_sensitive());
        assert_ne!(said(&login), said(&login), "each answer counts on");
        assert!(!login.learn(&answer(&[CHALLENGE]), Some(&digest)), "the password is wrong");
        assert!(login.learn(&answer(&[&format!("{CHALLENGE}, stale=true")]), Some(&digest)));
    }

    #[test]
    fn a_token_is_read_again_when_it_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        assert!(Login::of_token(&file).is_err());
        for bad in ["", " \n", "one\ntwo"] {
            std::fs::write(&file, bad).unwrap();
            let error = Login::of_token(&file).err().unwrap();
            assert_eq!(error.kind(), Kind::Invalid, "{error}");
        }
        std::fs::write(&file, "first\n").unwrap();
        let login = Login::of_token(&file).unwrap();
        let url = Url::parse("https://host/").unwrap();
        let first = login.header(&Method::GET, &url).unwrap();
        assert_eq!(first, "Bearer first");
        assert!(!login.learn(&HeaderMap::new(), Some(&first)));
        std::fs::write(&file, "second").unwrap();
        assert!(login.learn(&HeaderMap::new(), Some(&first)));
        assert_eq!(login.header(&Method::GET, &url).unwrap(), "Bearer second");
    }
}
