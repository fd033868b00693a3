//! Where caches live unless `--cache-dir` says otherwise: a folder for each source, below one base.
//! Never here: making or opening them.

use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use url::Url;

use super::options::Env;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::fuse::mount_table::without_secrets;

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
pub fn of_source(source: &str, env: Env) -> Result<PathBuf> {
    Ok(base(env)?.join(folder_name(&identity(source))))
}

/// What a source is, however it was typed: a local path absolute, a URL normalized. Passwords are left out: a new one
/// doesn't make it another source, and a hash of one could be tried against a dictionary.
fn identity(source: &str) -> String {
    let as_path = |path: &Path| std::path::absolute(path).unwrap_or(path.into()).to_string_lossy().into_owned();
    if !source.contains("://") {
        return trim_slashes(&as_path(Path::new(source)));
    }
    let Ok(mut url) = Url::parse(source) else { return without_secrets(source) };
    if url.scheme() == "file"
        && let Ok(path) = url.to_file_path()
    {
        return trim_slashes(&as_path(&path));
    }
    url.set_fragment(None);
    // Refused only by URLs that can't hold one.
    let _ = url.set_password(None);
    url.into()
}

fn trim_slashes(path: &str) -> String {
    path.trim_end_matches('/').to_owned()
}

/// A readable name and a short hash: `host-films-0123456789ab`.
fn folder_name(identity: &str) -> String {
    let mut hash = Digest::of(identity.as_bytes()).to_string();
    hash.truncate(HASH_DIGITS);
    let shown = without_secrets(identity);
    let readable = match shown.split_once("://") {
        // A URL from its host on; a path by its last folder, which people know it by.
        Some((_, rest)) => readable(&percent_decode_str(rest).decode_utf8_lossy()),
        None => readable(shown.rsplit('/').next().unwrap_or_default()),
    };
    if readable.is_empty() { format!("source-{hash}") } else { format!("{readable}-{hash}") }
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
        for (source, name) in [
            ("http://films.example:8080/Sci-Fi%20&%20more/", "films.example-8080-Sci-Fi-more"),
            ("http://alice:secret@host/films/?token=secret#secret", "host-films"),
            ("https://host", "host"),
            ("/srv/my films/", "my-films"),
            ("file:///srv/my%20films", "my-films"),
            ("/srv/.hidden", "hidden"),
            ("/srv/Фильмы", "Фильмы"),
            ("/", "source"),
            ("ftp://u:secret@[bad/x", "bad-x"),
        ] {
            let folder = folder_name(&identity(source));
            let (readable, hash) = folder.rsplit_once('-').unwrap();
            assert_eq!((readable, hash.len()), (name, HASH_DIGITS), "{source}");
        }
        let long = folder_name(&identity(&format!("http://host/{}", "ф".repeat(500))));
        assert!(long.len() <= NAME_BYTES_MAX + 1 + HASH_DIGITS && long.starts_with("host-ф"));
    }

    #[test]
    fn one_source_one_folder() {
        let name = |source: &str| folder_name(&identity(source));
        assert_eq!(name("/srv/films"), name("file:///srv/films/"));
        assert_eq!(name("films"), name("./films/"));
        assert_eq!(name("HTTP://Host:80/a"), name("http://host/a"));
        assert_eq!(name("http://me:old@host/a"), name("http://me:new@host/a"));
        assert_ne!(name("http://me@host/a"), name("http://you@host/a"));
        assert_ne!(name("http://host/?dir=a"), name("http://host/?dir=b"));
        assert_ne!(name("http://host/a"), name("https://host/a"));
        assert_ne!(name("/srv/a/films"), name("/srv/b/films"));
    }
}
