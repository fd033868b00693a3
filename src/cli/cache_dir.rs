//! Where caches live unless `--cache-dir` says otherwise: a folder for each source, below one base.
//! Never here: making or opening them.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use super::options::Env;
use crate::config::S3Config;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::origin::source::Source;

/// Enough to tell sources apart at a glance; with the hash, far below the 255 bytes a name may have.
const NAME_BYTES_MAX: usize = 64;

/// 48 bits: two of a person's sources never meet.
const HASH_DIGITS: usize = 12;

/// The folder for all caches: `$CACHE_DIRECTORY` (the first, where systemd gives several), else
/// `$XDG_CACHE_HOME/reelfs`, else `~/.cache/reelfs`.
pub fn base(env: Env) -> Result<PathBuf> {
    // Empty is unset, and the XDG specification has relative paths ignored; they would depend on where one stands.
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(first) = env("CACHE_DIRECTORY").and_then(|paths| std::env::split_paths(&paths).next())
        && first.is_absolute()
    {
        return Ok(first);
    }
    absolute("XDG_CACHE_HOME")
        .map(|home| home.join("reelfs"))
        .or_else(|| absolute("HOME").map(|home| home.join(".cache/reelfs")))
        .ok_or_else(|| Error::new(Kind::Invalid, "no place for the cache: give --cache-dir, or set HOME"))
}

/// The cache of `source`, below the base.
pub fn of_source(source: &Source, s3: &S3Config, env: Env) -> Result<PathBuf> {
    Ok(base(env)?.join(folder_name(&source.canonical(env), s3)))
}

/// A readable name and a short hash: `host-films-0123456789ab`; of a source in its one spelling.
fn folder_name(source: &Source, s3: &S3Config) -> String {
    let mut hash = Digest::of(identity(source, s3).as_bytes()).to_string();
    hash.truncate(HASH_DIGITS);
    let readable = match source {
        // By its last folder, which people know it by.
        Source::Folder(path) => readable(&path.file_name().unwrap_or_default().to_string_lossy()),
        Source::Web(_) | Source::Place(_) | Source::Ftp(_) | Source::Sftp(_) | Source::Library(_) => {
            let shown = source.to_string();
            let (_, from_host) = shown.split_once("://").unwrap_or_default();
            readable(&percent_decode_str(from_host).decode_utf8_lossy())
        }
    };
    if readable.is_empty() { format!("source-{hash}") } else { format!("{readable}-{hash}") }
}

/// What tells a source from any other. Passwords are left out: a new one does not make it another source, and a hash of one
/// could be tried against a dictionary.
fn identity(source: &Source, s3: &S3Config) -> String {
    match source {
        Source::Folder(path) => path.to_string_lossy().into_owned(),
        // With its user and its query.
        Source::Web(url) => url.to_string(),
        _ => source.located(s3),
    }
}

/// Letters, digits, dots and underscores; one dash for each run of anything else.
fn readable(text: &str) -> String {
    let mut name = String::new();
    for char in text.chars() {
        let keep = if char.is_alphanumeric() || char == '.' || char == '_' { char } else { '-' };
        if keep == '-' && (name.is_empty() || name.ends_with('-')) {
            continue;
        }
        if name.len() + keep.len_utf8() > NAME_BYTES_MAX {
            break;
        }
        name.push(keep);
    }
    // A leading dot would hide the folder.
    name.trim_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base_of(variables: &[(&str, &str)]) -> Option<PathBuf> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        base(&find).ok()
    }

    fn name(source: &str) -> String {
        name_by(source, &[])
    }

    fn name_by(source: &str, variables: &[(&str, &str)]) -> String {
        let env = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into());
        folder_name(&Source::parse(source).unwrap().canonical(&env), &S3Config::default())
    }

    #[test]
    fn below_what_the_environment_names() {
        let home = ("HOME", "/home/me");
        let xdg = ("XDG_CACHE_HOME", "/fast/cache");
        for (variables, dir) in [
            (vec![home], "/home/me/.cache/reelfs"),
            (vec![home, xdg], "/fast/cache/reelfs"),
            (vec![home, xdg, ("CACHE_DIRECTORY", "/var/cache/reelfs/a:/var/cache/b")], "/var/cache/reelfs/a"),
            (vec![home, ("XDG_CACHE_HOME", "relative")], "/home/me/.cache/reelfs"),
            (vec![home, ("XDG_CACHE_HOME", ""), ("CACHE_DIRECTORY", "")], "/home/me/.cache/reelfs"),
        ] {
            assert_eq!(base_of(&variables), Some(dir.into()), "{variables:?}");
        }
        assert_eq!(base_of(&[]), None);
    }

    #[test]
    fn a_name_people_recognize() {
        for (source, expected) in [
            ("http://films.example:8080/Sci-Fi%20&%20more/", "films.example-8080-Sci-Fi-more"),
            ("http://alice:secret@host/films/?token=secret#secret", "host-films"),
            ("https://host", "host"),
            ("s3://films/sci-fi", "films-sci-fi"),
            ("webdavs://alice:secret@cloud/dav/", "cloud-dav"),
            ("/srv/my films/", "my-films"),
            ("file:///srv/my%20films", "my-films"),
            ("/srv/.hidden", "hidden"),
            ("/srv/Фильмы", "Фильмы"),
            ("/", "source"),
            ("films", "films"),
            ("./src/../src/.", "src"),
        ] {
            let folder = name(source);
            let (readable, hash) = folder.rsplit_once('-').unwrap();
            assert_eq!((readable, hash.len()), (expected, HASH_DIGITS), "{source}");
        }
        let long = name(&format!("http://host/{}", "ф".repeat(500)));
        assert!(long.len() <= NAME_BYTES_MAX + 1 + HASH_DIGITS && long.starts_with("host-ф"));
    }

    #[test]
    fn one_source_in_two_spellings_has_one_cache() {
        for (one, other) in [
            ("/srv/films", "file:///srv/films/"),
            ("/srv/films", "/srv/./films//"),
            ("films", "./films/"),
            ("src", "src/cli/.."),
            ("HTTP://Host:80/a", "http://host/a"),
            ("http://host/a", "http://host/a/"),
            ("http://host/a/", "http://host/b/../a/./#top"),
            ("http://host/%7Efilms/", "http://host/~films"),
            ("http://host/%c3%a4", "http://host/ä/"),
            ("https://HOST:443", "https://host/"),
            ("http://me:old@host/a", "http://me:new@host/a"),
            ("webdav://Cloud:80/dav", "webdav://cloud/dav/"),
            ("webdavs://me:x@cloud:443/dav/", "webdavs://me@CLOUD/dav"),
            ("s3://films", "s3://films/"),
            ("s3://films/sci-fi", "s3://films/sci-fi/"),
            ("ftp://Host:21/films", "ftp://anonymous@host/films/"),
            ("sftp://nas/srv/films/", "sftp://nas/srv/films"),
            ("kv+redis://Host:6379/0", "kv+redis://:secret@host"),
            ("kv+redb:///srv/films.redb", "kv+redb:///srv//films.redb/"),
            ("kv+s3://films/a", "kv+s3://films/a/"),
        ] {
            assert_eq!(name(one), name(other), "{one} {other}");
        }
        let me = [("REELFS_USER", "me"), ("REELFS_PASSWORD", "secret")];
        for scheme in ["http", "webdavs", "ftp", "sftp"] {
            let (bare, with_user) = (format!("{scheme}://host/films"), format!("{scheme}://me@host/films/"));
            assert_eq!(name_by(&bare, &me), name(&with_user), "{scheme}");
            assert_ne!(name(&bare), name(&with_user), "{scheme}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("films")).unwrap();
        std::os::unix::fs::symlink("films", folder.path().join("link")).unwrap();
        let at = |below: &str| name(folder.path().join(below).to_str().unwrap());
        assert_eq!(at("films"), at("link/"));
    }

    #[test]
    fn two_sources_have_two_caches() {
        // What `ssh` has these names stand for, its own settings say.
        assert_ne!(name("sftp://nas/films"), name("sftp://NAS/films"));
        assert_ne!(name("sftp://nas/"), name("sftp://nas"));
        assert_ne!(name("ftp://host//films"), name("ftp://host/films"));
        assert_ne!(name("http://host/a%2Fb"), name("http://host/a/b"));
        assert_ne!(name("kv+redis://host/1"), name("kv+redis://host/0"));
        assert_ne!(name("http://me@host/a"), name("http://you@host/a"));
        assert_ne!(name("http://host/?dir=a"), name("http://host/?dir=b"));
        assert_ne!(name("http://host/a"), name("https://host/a"));
        assert_ne!(name("/srv/a/films"), name("/srv/b/films"));
        let nearby = S3Config { endpoint: Some("http://nas:9000".into()), ..S3Config::default() };
        assert_ne!(name("s3://films"), folder_name(&Source::parse("s3://films").unwrap(), &nearby));
    }
}
