//! One request and its answer: with the user's headers and login where the source's own server is asked, once more where
//! that server wants another login, and on to another server without either.
//! Never here: what an answer means.

use std::sync::Arc;

use http::Method;
use http::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, LOCATION};
use http::status::StatusCode;
use url::{Origin, Url};

use super::access::{Access, REDIRECTS_MAX};
use super::answer;
use super::connections::Connections;
use super::login::Login;
use super::shown;
use crate::error::Result;

/// Who sends requests to one source. Cheap to clone; clones share connections.
#[derive(Clone)]
pub(super) struct Sender {
    connections: Arc<Connections>,
    login: Option<Arc<Login>>,
    /// The server that is told the login and the user's headers; no other is.
    own: Origin,
}

impl Sender {
    /// For the source at `url`, with the user and password in it, unless `access` has a token.
    pub fn new(url: &Url, access: &Arc<Access>) -> Result<Self> {
        let login = match access.token_file() {
            Some(file) => Some(Login::of_token(file)?),
            None => Login::of_url(url),
        };
        let connections = Arc::new(Connections::new(&shown(url), access)?);
        Ok(Self { connections, login: login.map(Arc::new), own: url.origin() })
    }

    /// What requests go over.
    pub fn connections(&self) -> &Arc<Connections> {
        &self.connections
    }

    /// Sends one request, with `body` if there is one; the answer may have any status.
    pub async fn send(
        &self,
        method: Method,
        url: &Url,
        more: HeaderMap,
        body: Option<&'static str>,
    ) -> reqwest::Result<reqwest::Response> {
        let (mut url, mut redirects, mut is_second_login) = (url.clone(), 0, false);
        loop {
            let is_own = url.origin() == self.own;
            let login = self.login.as_ref().filter(|_| is_own);
            let said = login.and_then(|login| login.header(&method, &url));
            let mut request = self.connections.client().request(method.clone(), url.clone());
            request = request.headers(self.headers(said.as_ref(), is_own)).headers(more.clone());
            if let Some(body) = body {
                request = request.body(body);
            }
            let response = request.send().await?;
            let is_refused = response.status() == StatusCode::UNAUTHORIZED && response.url().origin() == self.own;
            if is_refused
                && !is_second_login
                && login.is_some_and(|login| login.learn(response.headers(), said.as_ref()))
            {
                (url, is_second_login) = (response.url().clone(), true);
                continue;
            }
            match elsewhere(&response) {
                Some(next) if redirects < REDIRECTS_MAX => (url, redirects) = (next, redirects + 1),
                _ if self.connections.access().has_unstable_validators() => {
                    let mut response = response;
                    answer::leave_stable(response.headers_mut());
                    return Ok(response);
                }
                _ => return Ok(response),
            }
        }
    }

    /// What every request carries: no wish for compression, and for the own server who asks. A header of the user's takes
    /// the place of ours.
    fn headers(&self, login: Option<&HeaderValue>, is_own: bool) -> HeaderMap {
        let mut headers = HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
        if let Some(login) = login {
            headers.insert(http::header::AUTHORIZATION, login.clone());
        }
        if is_own {
            headers.extend(self.connections.access().headers().clone());
        }
        headers
    }
}

/// The other server that an answer sends on to: the connections follow redirects on one server by themselves, and to others
/// where the user has no headers of their own.
fn elsewhere(response: &reqwest::Response) -> Option<Url> {
    let follows = [
        StatusCode::MOVED_PERMANENTLY,
        StatusCode::FOUND,
        StatusCode::SEE_OTHER,
        StatusCode::TEMPORARY_REDIRECT,
        StatusCode::PERMANENT_REDIRECT,
    ];
    let location = response.headers().get(LOCATION).filter(|_| follows.contains(&response.status()))?;
    let next = response.url().join(location.to_str().ok()?).ok()?;
    (matches!(next.scheme(), "http" | "https") && next.origin() != response.url().origin()).then_some(next)
}
