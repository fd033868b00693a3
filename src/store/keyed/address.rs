//! Where a home is, as a person wrote it: `SERVICE://…` of a `kv+SERVICE://…`.
//! Never here: what is kept there, and requests.
//!
//! All homes but one show each write to everybody at once, and a library that several programs write to needs that. Cloudflare
//! takes a minute or more to show it everywhere: there, one may write at a time.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use opendal::Operator;
use opendal::services::CloudflareKv;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use redis::IntoConnectionInfo as _;
use url::Url;

use super::folder::Folder;
use super::redb_file::RedbFile;
use super::redis_server::RedisServer;
use super::service::Service;
use super::{Keyed, LIMITS, Limits};
use crate::config::{PlacesConfig, S3Config};
use crate::error::{Error, Kind, Result};
use crate::store::credentials;
use crate::store::remote::access::Access;
use crate::store::remote::{self, Transport, from_service, shown};

/// What a bucket takes as a key.
const S3_KEY_BYTES_MAX: usize = 1024;
/// What Cloudflare takes as a key.
const CLOUDFLARE_KEY_BYTES_MAX: usize = 512;
/// 1,200 requests in five minutes, says Cloudflare: of all that its owner does, readers, too.
const CLOUDFLARE_REQUESTS_PER_SECOND: u32 = 3;
/// Enough for a long line, few enough to hold their values in memory.
const WRITES_AT_ONCE: usize = 3;
/// Small values on their way to a bucket together: each waits for its answer alone, and few hold little.
const S3_SMALL_AT_ONCE: usize = 16;
/// What of a path a URL must not take for something of its own.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Where a Redis server listens unless it is said.
const REDIS_PORT: u16 = 6379;
/// What is meant where no database is named.
const FIRST_DATABASE: &str = "0";
/// What Cloudflare is asked with.
const CLOUDFLARE_TOKEN: &str = "CLOUDFLARE_API_TOKEN";

/// What keeps the values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Home {
    Redb,
    Folder,
    Redis,
    S3,
    Cloudflare,
}

/// A home of values. May hold a password; shown without it.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    home: Home,
    /// Of the scheme `SERVICE`; its path is encoded.
    url: Url,
}

impl Address {
    /// Reads what stands behind `kv+`. The path is taken as it is written: it goes on into a library, whose names may have
    /// a `#`, a `?` or a `%` in them. Pure.
    pub fn parse(text: &str) -> Result<Self> {
        let at = text.find("://").map_or(text.len(), |at| at + "://".len());
        let (front, path) = text.split_at(text[at..].find('/').map_or(text.len(), |slash| at + slash));
        let url = Url::parse(&format!("{front}{}", utf8_percent_encode(path, ENCODED)))
            .map_err(|error| Error::new(Kind::Invalid, format!("this kv+SERVICE:// URL can't be read: {error}")))?;
        let invalid = |what: &str| Err(Error::new(Kind::Invalid, format!("kv+{} {what}", shown(&url))));
        if path.split('/').any(|name| matches!(name, "." | "..")) {
            return invalid("was written with `.` or `..`, which no name here can be");
        }
        let home = match url.scheme() {
            "redb" => Home::Redb,
            "file" => Home::Folder,
            "redis" => Home::Redis,
            "s3" => Home::S3,
            "cloudflare-kv" => Home::Cloudflare,
            _ => return invalid("is none of kv+redb, kv+file, kv+redis, kv+s3 and kv+cloudflare-kv"),
        };
        let has_host = url.host_str().is_some_and(|host| !host.is_empty());
        let is_local = matches!(home, Home::Redb | Home::Folder);
        if is_local && (has_host || !url.path().starts_with('/') || url.path().len() < 2) {
            return invalid("names no path of this machine: write three slashes, like kv+redb:///srv/films.redb");
        }
        if !is_local && !has_host {
            return invalid("names no host or bucket");
        }
        let address = Self { home, url };
        address.components()?;
        Ok(address)
    }

    /// The same place in its one spelling: for telling places apart, not for opening them.
    #[must_use]
    pub fn canonical(&self) -> Self {
        let mut url = self.url.clone();
        // These fail only on URLs that can hold no such part.
        let _ = url.set_password(None);
        let mut components = self.components().unwrap_or_default();
        if self.home == Home::Redis {
            let host = url.host_str().unwrap_or_default().to_ascii_lowercase();
            let _ = url.set_host(Some(&host));
            if url.port() == Some(REDIS_PORT) {
                let _ = url.set_port(None);
            }
            if components.len() == 1 && components[0] == FIRST_DATABASE {
                components.clear();
            }
        }
        let path = if components.is_empty() { String::new() } else { format!("/{}", components.join("/")) };
        url.set_path(&utf8_percent_encode(&path, ENCODED).to_string());
        Self { home: self.home, url }
    }

    /// Without credentials.
    pub fn shown(&self) -> String {
        let (shown, path) = (shown(&self.url), self.url.path());
        let front = shown.strip_suffix(path).unwrap_or(&shown);
        format!("kv+{front}{}", percent_decode_str(path).decode_utf8_lossy())
    }

    /// As it may be shown, and told from places of the same name.
    pub fn located(&self, s3: &S3Config) -> String {
        match (self.home, &s3.endpoint) {
            (Home::S3, Some(endpoint)) => format!("{self} at {endpoint}"),
            _ => self.shown(),
        }
    }

    /// This place, and each one above it in the same store, with the way back down: where a path that was written behind a
    /// home's may begin.
    pub fn above(&self) -> Result<Vec<(Self, String)>> {
        let components = self.components()?;
        let least = match self.home {
            Home::Redb | Home::Folder | Home::Cloudflare => 1,
            Home::Redis | Home::S3 => 0,
        };
        let at = |count: usize| {
            let mut url = self.url.clone();
            // A cut of the old one would do, but for slashes that are doubled.
            if !components.is_empty() {
                url.set_path(&utf8_percent_encode(&format!("/{}", components[..count].join("/")), ENCODED).to_string());
            }
            (Self { home: self.home, url }, components[count..].join("/"))
        };
        Ok((least.min(components.len())..=components.len()).rev().map(at).collect())
    }

    /// The file or folder that is the home, if it is one.
    pub fn on_disk(&self) -> Result<Option<PathBuf>> {
        let is_on_disk = matches!(self.home, Home::Redb | Home::Folder);
        if is_on_disk { Ok(Some(path(&self.components()?))) } else { Ok(None) }
    }

    /// The home, open. `is_new`: a file or folder of this machine is made if it is missing; servers are asked nothing yet.
    pub fn open(&self, places: &PlacesConfig, is_new: bool) -> Result<Box<dyn Keyed>> {
        let (components, s3) = (self.components()?, &places.s3);
        let access = || Access::new(&places.web).map(Arc::new);
        Ok(match self.home {
            Home::Redb => Box::new(RedbFile::open(&path(&components), is_new, self.shown(), places.answer_timeout)?),
            Home::Folder => Box::new(Folder::open(&path(&components), is_new, self.shown())?),
            Home::Redis => {
                let database = components.first().map_or(FIRST_DATABASE, String::as_str);
                let mut url = credentials::filled_in(&self.url);
                url.set_path(database);
                let failed = |error| Error::new(Kind::Invalid, format!("{}: {error}", self.shown()));
                let info = url.into_connection_info().map_err(failed)?;
                let info = info.set_tcp_settings(redis::io::tcp::TcpSettings::default().set_nodelay(true));
                let prefix = prefix(components.get(1..).unwrap_or_default());
                Box::new(RedisServer::new(info, prefix, self.shown(), places.answer_timeout)?)
            }
            Home::S3 => {
                let place = remote::service::Address::new(self.url.clone());
                let place = place.ok_or_else(|| Error::new(Kind::Invalid, format!("{}: no bucket", self.shown())))?;
                let (operator, described) = (place.operator(s3)?, self.located(s3));
                let prefix = prefix(&components);
                let limits = Limits { small_at_once: S3_SMALL_AT_ONCE, ..limits(S3_KEY_BYTES_MAX, &prefix, None) };
                let transport = Transport::new(&described, Some(&place.base(s3)?), &access()?)?;
                Box::new(Service::new(operator, transport, prefix, described, limits, places.answer_timeout)?)
            }
            Home::Cloudflare => {
                let [namespace, rest @ ..] = &components[..] else {
                    let message = format!("{} names no namespace: kv+cloudflare-kv://ACCOUNT/NAMESPACE", self.shown());
                    return Err(Error::new(Kind::Invalid, message));
                };
                let token = std::env::var(CLOUDFLARE_TOKEN).map_err(|_| {
                    Error::new(Kind::Invalid, format!("{}: set {CLOUDFLARE_TOKEN} to a token that may", self.shown()))
                })?;
                let account = self.url.host_str().unwrap_or_default();
                let service = CloudflareKv::default().api_token(&token).account_id(account).namespace_id(namespace);
                let operator = Operator::new(service).map_err(|error| from_service(&self.shown(), &error))?;
                let prefix = prefix(rest);
                let limits = limits(CLOUDFLARE_KEY_BYTES_MAX, &prefix, Some(CLOUDFLARE_REQUESTS_PER_SECOND));
                let transport = Transport::new(&self.shown(), None, &access()?)?;
                Box::new(Service::new(operator, transport, prefix, self.shown(), limits, places.answer_timeout)?)
            }
        })
    }

    /// Of its path, decoded.
    fn components(&self) -> Result<Vec<String>> {
        let invalid = |what: &str| Error::new(Kind::Invalid, format!("{} {what}", self.shown()));
        let decoded = percent_decode_str(self.url.path()).decode_utf8().map_err(|_| invalid("is not UTF-8"))?;
        let components: Vec<_> = decoded.split('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
        let is_number = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit());
        if self.home == Home::Redis && components.first().is_some_and(|database| !is_number(database)) {
            return Err(invalid("begins with the number of a database: kv+redis://host/0/films"));
        }
        Ok(components)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

fn path(components: &[String]) -> PathBuf {
    PathBuf::from(format!("/{}", components.join("/")))
}

fn prefix(components: &[String]) -> String {
    components.iter().flat_map(|component| [component.as_str(), "/"]).collect()
}

fn limits(key_bytes_max: usize, prefix: &str, requests_per_second: Option<u32>) -> Limits {
    let key_bytes_max = key_bytes_max.saturating_sub(prefix.len());
    Limits {
        key_bytes_max,
        name_bytes_max: key_bytes_max,
        requests_per_second,
        writes_at_once: WRITES_AT_ONCE,
        small_at_once: WRITES_AT_ONCE,
        ..LIMITS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<Address> {
        Address::parse(text)
    }

    #[test]
    fn homes_as_people_write_them() {
        for (text, shown) in [
            ("redb:///srv/films.redb", "kv+redb:///srv/films.redb"),
            ("file:///srv/my films", "kv+file:///srv/my films"),
            ("file:///srv/Film #1? 100%20.mkv ", "kv+file:///srv/Film #1? 100%20.mkv "),
            ("redis://:secret@host:7000/2/films", "kv+redis://host:7000/2/films"),
            ("redis://host", "kv+redis://host"),
            ("s3://bucket/films", "kv+s3://bucket/films"),
            ("cloudflare-kv://account/namespace/films", "kv+cloudflare-kv://account/namespace/films"),
        ] {
            let address = address(text).unwrap();
            assert_eq!((address.to_string(), format!("{address:?}")), (shown.to_owned(), format!("Address({shown})")));
        }
    }

    #[test]
    fn a_path_behind_a_home_is_parted_from_it() {
        let parts = |text: &str| {
            let above = address(text).unwrap().above().unwrap();
            above.into_iter().map(|(address, path)| (address.to_string(), path)).collect::<Vec<_>>()
        };
        let pair = |address: &str, path: &str| (address.to_owned(), path.to_owned());
        assert_eq!(
            parts("s3://films/a b//c/"),
            [pair("kv+s3://films/a b/c", ""), pair("kv+s3://films/a b", "c"), pair("kv+s3://films/", "a b/c")]
        );
        // As it is written, whatever a URL would make of it.
        for name in ["Film #1.mkv", "What?.mkv", "p%20c", "%2e%2e", "a\nb\tc ", "\\", "é|[x]:y"] {
            let above = parts(&format!("redb:///films.redb/{name}"));
            assert_eq!(above.last().unwrap(), &pair("kv+redb:///films.redb", name));
        }
        assert_eq!(
            parts("redb:///films.redb/a"),
            [pair("kv+redb:///films.redb/a", ""), pair("kv+redb:///films.redb", "a")]
        );
        assert_eq!(parts("redis://host"), [pair("kv+redis://host", "")]);
    }

    #[test]
    fn what_is_no_home_is_refused_in_one_line() {
        for text in [
            "redb:films",
            "redb://host/films",
            "redb:///films/../x",
            "redb:///",
            "redis:///0",
            "redis://host/films",
            "s3:///x",
            "ftp://h/",
        ] {
            let error = address(text).unwrap_err();
            assert!(error.kind() == Kind::Invalid && !error.to_string().contains('\n'), "{text}: {error}");
        }
        let keys = address("s3://key:secret@films/").unwrap().open(&PlacesConfig::default(), false).err().unwrap();
        assert!(keys.to_string().contains("AWS_ACCESS_KEY_ID") && !keys.to_string().contains("secret"), "{keys}");
    }
}
