//! How a server is asked, as the user wants it: through which proxy, with which certificates and headers of their own.
//! Read from files and checked here, once; every pool of connections is made of it.
//! Never here: requests, and who logs in (`login.rs`).

use std::path::{Path, PathBuf};
#[cfg(test)]
use std::sync::Arc;
use std::sync::Once;
use std::time::Duration;

use http::header::HeaderMap;
use reqwest::redirect::{Attempt, Policy};
use reqwest::{NoProxy, Proxy};
use url::Url;

use super::login::Login;
use super::{fault, tls};
use crate::config::WebConfig;
use crate::error::{Error, Kind, Result};

/// A server that has not taken the connection by then will not serve film either.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Most servers close an idle connection after 60 to 75 s; closing first avoids asking on a dead one.
pub(super) const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(55);
/// The kernel asks the other side of an idle connection whether it is there, so that a router on the way remembers it, and a
/// dead one is noticed before it is used.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_MAX: u32 = 3;
/// What was sent and not acknowledged for so long never will be.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);
/// Warm connections kept; above any sensible `--connections`.
const POOL_IDLE_MAX: usize = 64;
/// More hops than any sane chain of mirrors, fewer than a loop.
pub(super) const REDIRECTS_MAX: usize = 8;

/// What connections and requests are made of.
pub struct Access {
    tls: rustls::ClientConfig,
    /// One for each of the schemes that has one.
    proxies: Vec<Proxy>,
    /// Sent to the source's own server with every request, and to no other server.
    headers: HeaderMap,
    token_file: Option<PathBuf>,
    has_unstable_validators: bool,
}

impl Access {
    /// `Invalid` if one of the files or the proxy can't be used.
    pub fn new(web: &WebConfig) -> Result<Self> {
        static TOLD: Once = Once::new();
        if web.is_insecure {
            TOLD.call_once(|| {
                log::warn!(
                    "--insecure: any certificate is taken: others on the network can read and change what is sent"
                );
            });
        }
        if let Some(file) = &web.token_file {
            Login::of_token(file)?;
        }
        let proxies = proxies(web.proxy.as_ref().map(|url| &*url.0), &|name| std::env::var(name).ok())?;
        Ok(Self {
            tls: tls::client_config(web)?,
            proxies,
            headers: web.headers.clone(),
            token_file: web.token_file.clone(),
            has_unstable_validators: web.has_unstable_validators,
        })
    }

    /// As a user who gives no option asks.
    #[cfg(test)]
    pub fn plain() -> Arc<Self> {
        Arc::new(Self::new(&WebConfig::default()).unwrap())
    }

    /// The user's own headers.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Whether an `ETag` says nothing of a file's version.
    pub(super) fn has_unstable_validators(&self) -> bool {
        self.has_unstable_validators
    }

    /// Where the token is that logs in, if one does.
    pub(super) fn token_file(&self) -> Option<&Path> {
        self.token_file.as_deref()
    }

    /// A new pool of connections, for `place`.
    pub(super) fn client(&self, place: &str) -> Result<reqwest::Client> {
        let redirects = if self.headers.is_empty() && self.token_file.is_none() {
            Policy::limited(REDIRECTS_MAX)
        } else {
            Policy::custom(stay)
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("reelfs/", env!("CARGO_PKG_VERSION")))
            .tls_backend_preconfigured(self.tls.clone())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(POOL_IDLE_MAX)
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE_AFTER)
            .tcp_keepalive_interval(KEEPALIVE_EVERY)
            .tcp_keepalive_retries(KEEPALIVE_MAX)
            .tcp_user_timeout(UNACKNOWLEDGED_MAX)
            .redirect(redirects);
        for proxy in &self.proxies {
            builder = builder.proxy(proxy.clone());
        }
        builder.build().map_err(|error| fault::from_reqwest(place, &error))
    }
}

/// What a proxy may speak.
const PROXY_SCHEMES: [&str; 6] = ["http", "https", "socks4", "socks4a", "socks5", "socks5h"];

/// The proxy that was given, for all hosts; else those of the environment, a small name before a large one, as curl has it.
/// In both cases not for the hosts that `NO_PROXY` names. A variable that is empty is none.
fn proxies(given: Option<&str>, env: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Proxy>> {
    let set = |name: &str| {
        let small = env(&name.to_ascii_lowercase()).filter(|value| !value.is_empty());
        small.or_else(|| env(name).filter(|value| !value.is_empty()))
    };
    let direct = set("NO_PROXY").and_then(|hosts| NoProxy::from_string(&hosts));
    let (given, set) = (given.map(str::to_owned), |name: &'static str| set(name).map(|url| (name, url)));
    let named = match given {
        Some(url) => vec![("--proxy", url)],
        // The first that fits a request counts.
        None => ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].into_iter().filter_map(set).collect(),
    };
    let proxy = |(name, url): (&str, String)| {
        let url = if url.contains("://") { url } else { format!("http://{url}") };
        // It may hold a password, and is not repeated.
        let why = "can't be used: give the proxy's URL, like http://host:3128 or socks5://host:1080";
        let invalid = || Error::new(Kind::Invalid, format!("{name} {why}"));
        let is_proxy = |url: &Url| PROXY_SCHEMES.contains(&url.scheme()) && url.has_host();
        let url = Url::parse(&url).ok().filter(is_proxy).ok_or_else(invalid)?;
        let proxy = match name {
            "HTTP_PROXY" => Proxy::http(url),
            "HTTPS_PROXY" => Proxy::https(url),
            _ => Proxy::all(url),
        };
        Ok(proxy.map_err(|_| invalid())?.no_proxy(direct.clone()))
    };
    named.into_iter().map(proxy).collect()
}

/// Follows redirects on the server that was asked; one to another server is left to the sender, which leaves the user's
/// headers out then.
fn stay(attempt: Attempt<'_>) -> reqwest::redirect::Action {
    let is_elsewhere = attempt.previous().first().is_some_and(|first| first.origin() != attempt.url().origin());
    if attempt.previous().len() > REDIRECTS_MAX {
        attempt.error("too many redirects")
    } else if is_elsewhere {
        attempt.stop()
    } else {
        attempt.follow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_those_that_are_given_or_set() {
        let count = |given: Option<&str>, set: &[(&str, &str)]| {
            let env = |name: &str| set.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_owned());
            proxies(given, &env).map(|proxies| proxies.len())
        };
        assert_eq!(count(None, &[]).unwrap(), 0);
        assert_eq!(count(None, &[("HTTP_PROXY", ""), ("http_proxy", "http://host:1"), ("ALL_PROXY", "")]).unwrap(), 1);
        assert_eq!(count(None, &[("HTTPS_PROXY", "host:1"), ("all_proxy", "socks5h://u:p@host")]).unwrap(), 2);
        assert_eq!(count(Some("https://host"), &[("HTTP_PROXY", "http://other")]).unwrap(), 1);
        for bad in ["http://s3cret host", "gopher://s3cret", "http://"] {
            let error = count(Some(bad), &[]).unwrap_err();
            assert!(error.kind() == Kind::Invalid && !error.to_string().contains("s3cret"), "{bad}: {error}");
        }
    }
}
