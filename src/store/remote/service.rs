//! The services that `OpenDAL` speaks for us, by the scheme of their URL: what each is told of where it is and who asks.
//! Never here: requests. `Place` makes them, the same for all.

use std::env;
use std::path::Path;

use opendal::Operator;
use opendal::services::S3;
use percent_encoding::percent_decode_str;
use url::Url;

#[cfg(any(feature = "gcs", feature = "azblob"))]
use super::clouds;
use super::{fault, shown};
use crate::config::S3Config;
use crate::error::{Error, Kind, Result};

/// What signing needs though most servers that speak S3 do not care; Amazon's first.
const S3_REGION: &str = "us-east-1";
/// Amazon's own, said aloud: `OpenDAL` would ask the environment once more.
const S3_ENDPOINT: &str = "https://s3.amazonaws.com";
/// Any of these says that there are credentials to sign with.
const S3_CREDENTIAL_VARIABLES: [&str; 4] =
    ["AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_FULL_URI"];
/// As does any of these files below the home folder, or where the variable points.
const S3_CREDENTIAL_FILES: [(&str, &str); 2] =
    [("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"), ("AWS_CONFIG_FILE", ".aws/config")];

/// A service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Service {
    S3,
    WebDav,
    #[cfg(feature = "gcs")]
    Gcs,
    #[cfg(feature = "azblob")]
    Azblob,
}

/// A place as a person wrote it: `s3://bucket/prefix`, `webdav://host/folder`, `webdavs://…`. May hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Address {
    service: Service,
    url: Url,
}

impl Address {
    /// Of a URL whose scheme is a service's; `None` for another, and for one that is not built in.
    pub fn new(url: Url) -> Option<Self> {
        let service = match url.scheme() {
            "s3" => Service::S3,
            "webdav" | "webdavs" => Service::WebDav,
            #[cfg(feature = "gcs")]
            "gs" => Service::Gcs,
            #[cfg(feature = "azblob")]
            "azblob" => Service::Azblob,
            _ => return None,
        };
        Some(Self { service, url })
    }

    /// The same place, with the user and password that `fill_in` finds for its URL; buckets have keys.
    #[must_use]
    pub fn logged_in(&self, fill_in: impl FnOnce(&Url) -> Url) -> Self {
        let url = if self.service == Service::WebDav { fill_in(&self.url) } else { self.url.clone() };
        Self { service: self.service, url }
    }

    /// The URL it was made of, with whatever password that holds.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Without credentials.
    pub fn shown(&self) -> String {
        shown(&self.url)
    }

    /// The components of its path, decoded and joined by `/`; and whether it says that it is a folder.
    pub(super) fn prefix(&self) -> Result<(String, bool)> {
        let decoded = percent_decode_str(self.url.path()).decode_utf8().map_err(|_| self.invalid("is not UTF-8"))?;
        let components: Vec<_> = decoded.split('/').filter(|component| !component.is_empty()).collect();
        Ok((components.join("/"), components.is_empty() || decoded.ends_with('/')))
    }

    /// As it may be shown, and told from places of the same name.
    pub fn located(&self, s3: &S3Config) -> String {
        match (self.service, &s3.endpoint) {
            (Service::S3, Some(endpoint)) => format!("{} at {endpoint}", self.shown()),
            // Two users may see two different folders.
            (Service::WebDav, _) if !self.url.username().is_empty() => {
                format!("{} as {}", self.shown(), decoded(self.url.username()))
            }
            #[cfg(feature = "azblob")]
            (Service::Azblob, _) => format!("{} of {}", self.shown(), clouds::azblob_account()),
            _ => self.shown(),
        }
    }

    /// Whether it is a `WebDAV` folder; else it is a bucket.
    pub fn is_webdav(&self) -> bool {
        self.service == Service::WebDav
    }

    /// Where it is asked over HTTP, credentials included.
    pub(in crate::store) fn base(&self, s3: &S3Config) -> Result<Url> {
        let base = match self.service {
            Service::WebDav => {
                let (scheme, rest) = self.url.as_str().split_once("://").unwrap_or_default();
                &format!("{}://{rest}", if scheme == "webdavs" { "https" } else { "http" })
            }
            Service::S3 => s3.endpoint.as_deref().unwrap_or(S3_ENDPOINT),
            #[cfg(feature = "gcs")]
            Service::Gcs => clouds::GCS_ENDPOINT,
            #[cfg(feature = "azblob")]
            Service::Azblob => clouds::AZBLOB_ENDPOINT,
        };
        Url::parse(base).map_err(|error| self.invalid(&format!("can't be asked: {error}")))
    }

    /// The service, ready to be asked.
    pub(in crate::store) fn operator(&self, s3: &S3Config) -> Result<Operator> {
        let host = self.url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| self.invalid("names no host"))?;
        match self.service {
            Service::S3 => self.bucket(host, s3),
            #[cfg(feature = "gcs")]
            Service::Gcs => clouds::gcs(host).map_err(|error| fault::from_service(&self.shown(), &error)),
            #[cfg(feature = "azblob")]
            Service::Azblob => clouds::azblob(host).map_err(|error| fault::from_service(&self.shown(), &error)),
            Service::WebDav => Err(self.invalid("is no bucket")),
        }
    }

    fn bucket(&self, name: &str, config: &S3Config) -> Result<Operator> {
        if !self.url.username().is_empty() || self.url.password().is_some() {
            let hint = "takes no keys: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile";
            return Err(self.invalid(hint));
        }
        let mut bucket = S3::default()
            .bucket(name)
            .region(config.region.as_deref().unwrap_or(S3_REGION))
            .endpoint(config.endpoint.as_deref().unwrap_or(S3_ENDPOINT))
            // A workstation has no instance metadata: asking for it would only wait.
            .disable_ec2_metadata();
        if config.endpoint.is_none() && !config.path_style {
            bucket = bucket.enable_virtual_host_style();
        }
        if !has_credentials() {
            bucket = bucket.skip_signature();
        }
        Operator::new(bucket).map_err(|error| fault::from_service(&self.located(config), &error))
    }

    fn invalid(&self, what: &str) -> Error {
        Error::new(Kind::Invalid, format!("{} {what}", self.shown()))
    }
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Whether there is anything to sign requests with; a public bucket is asked without.
fn has_credentials() -> bool {
    let home = env::var_os("HOME").unwrap_or_default();
    S3_CREDENTIAL_VARIABLES.iter().any(|variable| env::var_os(variable).is_some())
        || S3_CREDENTIAL_FILES.iter().any(|(variable, file)| {
            let there = env::var_os(variable).map_or_else(|| Path::new(&home).join(file), Into::into);
            there.is_file()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(url: &str) -> Address {
        Address::new(Url::parse(url).unwrap()).unwrap()
    }

    #[test]
    fn a_path_is_the_components_it_decodes_to() {
        for (url, prefix, is_folder) in [
            ("s3://films", "", true),
            ("s3://films/", "", true),
            ("s3://films/a/b", "a/b", false),
            ("s3://films//a//b%20c/", "a/b c", true),
            ("webdavs://host:8443/remote.php/dav/%C3%A4", "remote.php/dav/ä", false),
        ] {
            assert_eq!(address(url).prefix().unwrap(), (prefix.to_owned(), is_folder), "{url}");
        }
        assert!(address("s3://films/%ff").prefix().is_err());
    }

    #[test]
    fn each_place_is_asked_over_http() {
        let base = |url: &str| String::from(address(url).base(&S3Config::default()).unwrap());
        assert_eq!(base("webdav://me:pw@host:81/a%20b/"), "http://me:pw@host:81/a%20b/");
        assert_eq!(base("webdavs://host/"), "https://host/");
        assert_eq!(base("s3://films/"), "https://s3.amazonaws.com/");
    }

    #[test]
    fn what_is_shown_holds_no_password() {
        let place = address("webdav://alice:secret@host/films");
        assert_eq!(place.shown(), "webdav://host/films");
        let error = address("s3://key:secret@films/").operator(&S3Config::default()).unwrap_err();
        assert!(error.to_string().contains("AWS_ACCESS_KEY_ID") && !error.to_string().contains("secret"), "{error}");
    }

    #[test]
    fn one_url_of_two_users_is_two_places() {
        let of = |url: &str| address(url).located(&S3Config::default());
        assert_eq!(of("webdavs://alice:secret@cloud/dav/"), "webdavs://cloud/dav/ as alice");
        assert_ne!(of("webdavs://alice@cloud/dav/"), of("webdavs://bob@cloud/dav/"));
    }

    #[test]
    fn buckets_of_one_name_at_two_servers_are_two() {
        let at = |endpoint: &str| {
            let config = S3Config { endpoint: Some(endpoint.into()), ..S3Config::default() };
            address("s3://films/").located(&config)
        };
        assert_eq!(at("http://a:9000"), "s3://films/ at http://a:9000");
        assert_ne!(at("http://a:9000"), at("http://b:9000"));
    }
}
