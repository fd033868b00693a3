//! Who asks: the user and password of a place that wants them, and where they are looked for. In this order: the URL, the
//! environment (`REELFS_USER`, `REELFS_PASSWORD`, or the file that `REELFS_PASSWORD_FILE` names), `~/.netrc` (or where `NETRC` points). A user in the URL chooses among
//! those of the others; a password there is taken as it is.
//! Never here: keys of buckets, and what `ssh` logs in with. Nothing here is ever shown.

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::PathBuf;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::Url;

use crate::error::{Error, Result};

const USER: &str = "REELFS_USER";
const PASSWORD: &str = "REELFS_PASSWORD";
/// A file whose first line is the password: a credential of systemd's, a secret of a container's.
const PASSWORD_FILE: &str = "REELFS_PASSWORD_FILE";
/// A longer first line is no password.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;
/// What a person can do about a place that wants a user and a password. Never a password in the URL: it would be in the
/// shell's history, and for everyone on the machine to read in `ps`.
pub const HINT: &str = "user and password are missing or wrong: set REELFS_USER and REELFS_PASSWORD, or write them to ~/.netrc \
                        (machine HOST login USER password PASSWORD)";
/// Servers of these schemes may want a password and no user.
const NEEDS_NO_USER: [&str; 1] = ["redis"];
/// A longer file is no `.netrc`.
const NETRC_BYTES_MAX: u64 = 1 << 20;

/// A user and what they log in with.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
struct Login {
    user: String,
    password: String,
}

/// Asks for a variable of the environment.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// `url` with the user and password that are known for it, if it brings none.
pub fn filled_in(url: &Url) -> Url {
    filled_in_by(url, &|name| std::env::var_os(name))
}

/// The same with an environment of the caller's.
pub fn filled_in_by(url: &Url, env: Env) -> Url {
    let netrc = || {
        netrc_text(env).unwrap_or_else(|error| {
            log::warn!("{error}");
            None
        })
    };
    let text = |name: &str| env(name).and_then(|value| value.into_string().ok());
    let from_file = || {
        password_in_file(env).unwrap_or_else(|error| {
            log::warn!("{PASSWORD_FILE}: {error}");
            None
        })
    };
    with_login(url, &|name| if name == PASSWORD { text(name).or_else(from_file) } else { text(name) }, netrc)
}

/// `url` with the user that the environment names, if it brings none: for a place that takes no password from us.
pub fn with_user_by(url: &Url, env: Env) -> Url {
    let mut filled = url.clone();
    if let Some(user) = env(USER).and_then(|user| user.into_string().ok()).filter(|user| !user.is_empty())
        && url.username().is_empty()
    {
        // Fails only on URLs without a host, which nobody logs in to.
        let _ = filled.set_username(&encoded(&user));
    }
    filled
}

fn with_login(url: &Url, env: &dyn Fn(&str) -> Option<String>, netrc: impl FnOnce() -> Option<String>) -> Url {
    let mut filled = url.clone();
    if url.password().is_some() {
        return filled;
    }
    let wanted = percent_decode_str(url.username()).decode_utf8_lossy();
    let of_url = Some(&*wanted).filter(|user| !user.is_empty());
    let of_env = env(USER).filter(|user| !user.is_empty());
    let user = of_url.or(of_env.as_deref());
    // Unless it is the password of somebody else.
    let is_theirs = of_env.is_none() || of_env.as_deref() == user;
    let password = env(PASSWORD).filter(|_| is_theirs);
    let login = match (user, password) {
        (Some(user), Some(password)) => Some(Login { user: user.to_owned(), password }),
        (None, Some(password)) if NEEDS_NO_USER.contains(&url.scheme()) => {
            Some(Login { user: String::new(), password })
        }
        _ => netrc().zip(url.host_str()).and_then(|(text, host)| login_of(&text, host.trim_matches(['[', ']']), user)),
    };
    if let Some(Login { user, password }) = login {
        // Both fail only on URLs without a host, which nobody logs in to.
        let _ = filled.set_username(&encoded(&user));
        let _ = filled.set_password(Some(&encoded(&password)));
    }
    filled
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The first line of the file that holds the password, if one is named.
fn password_in_file(env: Env) -> Result<Option<String>> {
    let Some(path) = env(PASSWORD_FILE).filter(|path| !path.is_empty()).map(PathBuf::from) else { return Ok(None) };
    let failed = |error: std::io::Error| Error::io(path.display(), &error);
    let mut text = String::new();
    File::open(&path).and_then(|file| file.take(PASSWORD_BYTES_MAX).read_to_string(&mut text)).map_err(failed)?;
    Ok(Some(text.lines().next().unwrap_or_default().to_owned()))
}

/// The user's `.netrc`, if there is one.
fn netrc_text(env: Env) -> Result<Option<String>> {
    let named = env("NETRC").filter(|path| !path.is_empty()).map(PathBuf::from);
    let Some(path) = named.or_else(|| Some(PathBuf::from(env("HOME")?).join(".netrc"))) else { return Ok(None) };
    let failed = |error: std::io::Error| Error::io(path.display(), &error);
    let file = match File::open(&path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        other => other.map_err(failed)?,
    };
    let mut text = Vec::new();
    file.take(NETRC_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// What a `.netrc` says for `host`: its first entry for it that has a password, and is of the user `wanted` if there is
/// one; `default` stands for all hosts.
fn login_of(netrc: &str, host: &str, wanted: Option<&str>) -> Option<Login> {
    let is_wanted = |entry: &Entry| {
        entry.host.as_deref().is_none_or(|named| named.eq_ignore_ascii_case(host))
            && entry.user.as_deref().or(wanted).is_some_and(|user| wanted.is_none_or(|wanted| wanted == user))
    };
    let entry = entries(netrc).into_iter().find(|entry| entry.password.is_some() && is_wanted(entry))?;
    Some(Login { user: entry.user.or_else(|| wanted.map(str::to_owned))?, password: entry.password? })
}

/// One `machine` of a `.netrc`; without a host: `default`.
#[derive(Default)]
struct Entry {
    host: Option<String>,
    user: Option<String>,
    password: Option<String>,
}

fn entries(netrc: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut words = Words(netrc);
    while let Some(word) = words.next() {
        match word.as_str() {
            "machine" => entries.push(Entry { host: words.next(), ..Entry::default() }),
            "default" => entries.push(Entry::default()),
            "macdef" => words.skip_macro(),
            "account" => drop(words.next()),
            "login" | "password" => {
                let value = words.next();
                if let Some(entry) = entries.last_mut() {
                    *(if word == "login" { &mut entry.user } else { &mut entry.password }) = value;
                }
            }
            remark if remark.starts_with('#') => words.skip_line(),
            // Whatever it may be, it is nothing of ours.
            _ => {}
        }
    }
    entries
}

/// Words between blanks and line ends; in double quotes they may have blanks, with `\` before what is meant as it stands.
/// A `#` where a word may begin makes the rest of the line a remark, unless the word is a value: passwords begin with it.
struct Words<'a>(&'a str);

impl Words<'_> {
    fn next(&mut self) -> Option<String> {
        let start = self.0.trim_start();
        let Some(quoted) = start.strip_prefix('"') else {
            let end = start.find(char::is_whitespace).unwrap_or(start.len());
            let (word, rest) = start.split_at(end);
            self.0 = rest;
            return (!word.is_empty()).then(|| word.to_owned());
        };
        let (mut word, mut chars) = (String::new(), quoted.chars());
        while let Some(char) = chars.next() {
            match char {
                '"' => break,
                '\\' => word.extend(chars.next()),
                other => word.push(other),
            }
        }
        self.0 = chars.as_str();
        Some(word)
    }

    fn skip_line(&mut self) {
        self.0 = self.0.split_once('\n').map_or("", |(_, rest)| rest);
    }

    /// A macro ends with an empty line.
    fn skip_macro(&mut self) {
        self.0 = self.0.split_once("\n\n").map_or("", |(_, rest)| rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETRC: &str = "# mine: machine nas login no password no\nmachine nas login alice password a1\nmachine nas\n\tlogin bob\n\tpassword \"b 2\\\"\"\n\
                         macdef init\nmachine trap login x password y\n\nmachine only.example password p\n\
                         machine empty login carol\ndefault login guest password g\n";

    fn login(netrc: &str, host: &str, wanted: Option<&str>) -> Option<(String, String)> {
        login_of(netrc, host, wanted).map(|login| (login.user, login.password))
    }

    fn pair(user: &str, password: &str) -> (String, String) {
        (user.to_owned(), password.to_owned())
    }

    #[test]
    fn a_netrc_is_read_as_ftp_reads_it() {
        assert_eq!(login(NETRC, "nas", None), Some(pair("alice", "a1")));
        assert_eq!(login(NETRC, "NAS", Some("bob")), Some(pair("bob", "b 2\"")));
        assert_eq!(login(NETRC, "only.example", Some("dora")), Some(pair("dora", "p")));
        assert_eq!(login(NETRC, "trap", None), Some(pair("guest", "g")), "a macro's text is none of it");
        assert_eq!(login(NETRC, "empty", None), Some(pair("guest", "g")));
        assert_eq!(login(NETRC, "nas", Some("eve")), None);
        for bad in ["", "machine", "machine nas", "login x password y", "machine nas login \"open password p"] {
            assert_eq!(login(bad, "nas", None), None, "{bad}");
        }
        assert_eq!(login("machine nas login a password #1", "nas", None), Some(pair("a", "#1")));
    }

    #[test]
    fn a_password_may_be_the_first_line_of_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "e:/ 1\nnot this\n").unwrap();
        let filled = |variables: &[(&str, &str)]| {
            let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
            filled_in_by(&Url::parse("ftp://nas/").unwrap(), &find).to_string()
        };
        let named = (PASSWORD_FILE, file.to_str().unwrap());
        assert_eq!(filled(&[(USER, "alice"), named]), "ftp://alice:e%3A%2F%201@nas/");
        assert_eq!(filled(&[(USER, "alice"), (PASSWORD, "typed"), named]), "ftp://alice:typed@nas/");
        assert_eq!(filled(&[(USER, "alice"), (PASSWORD_FILE, "/nowhere/at/all")]), "ftp://nas/");
    }

    #[test]
    fn the_url_comes_first_then_the_environment_then_the_file() {
        let filled = |url: &str, variables: &[(&str, &str)]| {
            let find =
                |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            with_login(&Url::parse(url).unwrap(), &find, || Some(NETRC.to_owned())).to_string()
        };
        let env = [(USER, "alice"), (PASSWORD, "e:/ 1")];
        assert_eq!(filled("ftp://bob:url@nas/", &env), "ftp://bob:url@nas/");
        assert_eq!(filled("ftp://nas/", &env), "ftp://alice:e%3A%2F%201@nas/");
        assert_eq!(filled("webdav://alice@nas/", &env), "webdav://alice:e%3A%2F%201@nas/");
        assert_eq!(filled("ftp://bob@nas/", &env), "ftp://bob:b%202%22@nas/", "it is another one's");
        assert_eq!(filled("ftp://bob@nas/", &env[1..]), "ftp://bob:e%3A%2F%201@nas/");
        assert_eq!(filled("ftp://nas/", &[(USER, "bob")]), "ftp://bob:b%202%22@nas/");
        assert_eq!(filled("ftp://nas/", &env[1..]), "ftp://alice:a1@nas/", "a password of nobody");
        assert_eq!(filled("ftp://nas/", &[]), "ftp://alice:a1@nas/");
        assert_eq!(filled("https://nas/films/", &env), "https://alice:e%3A%2F%201@nas/films/");
        assert_eq!(filled("redis://far/0", &env[1..]), "redis://:e%3A%2F%201@far/0", "a server without users");
        assert_eq!(filled("ftp://eve@nas/", &[]), "ftp://eve@nas/");
    }

    #[test]
    fn a_user_is_named_where_no_password_is_taken() {
        let env = |name: &str| (name == USER).then(|| OsString::from("al ice"));
        let with_user = |url: &str| with_user_by(&Url::parse(url).unwrap(), &env).to_string();
        assert_eq!(with_user("sftp://nas/films"), "sftp://al%20ice@nas/films");
        assert_eq!(with_user("sftp://bob@nas/films"), "sftp://bob@nas/films");
    }

    #[test]
    fn no_netrc_is_no_error() {
        let missing = |name: &str| (name == "NETRC").then(|| OsString::from("/no/such/file"));
        assert_eq!(netrc_text(&missing).unwrap(), None);
        assert_eq!(netrc_text(&|_| None).unwrap(), None);
        let folder = |name: &str| (name == "NETRC").then(|| OsString::from("/"));
        assert!(netrc_text(&folder).is_err());
    }
}
