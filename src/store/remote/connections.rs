//! The connections to one server over HTTP: kept and used again, and all of them left behind at once when they may be dead.
//! Never here: requests, and retries.
//!
//! A connection can die unseen: while this machine slept, or because a router on the way forgot it, packets vanish and
//! nobody says so. The pool below has no way to drop its idle connections, so that a new pool takes its place: what is
//! under way over the old one goes on, and what was idle in it is closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use opendal::{Buffer, HttpBody, HttpTransport};
use opendal_http_transport_reqwest::ReqwestTransport;
use parking_lot::Mutex;
use url::{Origin, Url};

use super::access::{Access, POOL_IDLE_TIMEOUT};
use crate::error::Result;
use crate::sys;

/// The pool in use.
pub(in crate::store) struct Connections {
    place: String,
    access: Arc<Access>,
    // Taken alone, for a look.
    state: Mutex<State>,
}

struct State {
    client: reqwest::Client,
    heard: Heard,
    // Anything has come over this pool: else it holds no connection that could have died.
    is_used: bool,
}

/// When the last bytes came over any connection, or the pool was new. The second clock goes on while the machine sleeps.
#[derive(Clone, Copy, Debug)]
struct Heard {
    at: Instant,
    since_boot: Duration,
}

impl Heard {
    fn now() -> Self {
        Self { at: Instant::now(), since_boot: sys::since_boot() }
    }
}

impl Connections {
    pub fn new(place: &str, access: &Arc<Access>) -> Result<Self> {
        let state = State { client: access.client(place)?, heard: Heard::now(), is_used: false };
        Ok(Self { place: place.to_owned(), access: Arc::clone(access), state: Mutex::new(state) })
    }

    /// How they are made.
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// What the next request is sent with. After a sleep of the machine that is a new pool.
    pub fn client(&self) -> reqwest::Client {
        if self.silent_for() >= POOL_IDLE_TIMEOUT && self.state.lock().is_used {
            self.renew();
        }
        self.state.lock().client.clone()
    }

    /// Bytes have come over one of them.
    pub fn heard(&self) {
        let heard = Heard::now();
        let mut state = self.state.lock();
        (state.heard, state.is_used) = (heard, true);
    }

    /// For how long nothing has come.
    pub fn silent_for(&self) -> Duration {
        let heard = self.state.lock().heard;
        sys::since_boot().saturating_sub(heard.since_boot)
    }

    /// A request has had no answer since `silent_since`.
    pub fn doubt(&self, silent_since: Instant) {
        let (heard, is_used) = {
            let state = self.state.lock();
            (state.heard, state.is_used)
        };
        if is_used && heard.at <= silent_since {
            log::debug!("{}: nothing came for {:.1?}; going on over new connections", self.place, heard.at.elapsed());
            self.renew();
        }
    }

    fn renew(&self) {
        // Built without the lock.
        match self.access.client(&self.place) {
            Ok(client) => *self.state.lock() = State { client, heard: Heard::now(), is_used: false },
            Err(error) => log::warn!("{error}"),
        }
    }
}

/// Sends `OpenDAL`'s requests over whichever pool is in use.
#[derive(Clone)]
pub(in crate::store) struct Transport {
    connections: Arc<Connections>,
    /// The server that is told the user's headers; none: no server is.
    own: Option<Origin>,
}

impl Transport {
    /// Over `connections`, to the service at `url`.
    pub(super) fn over(connections: &Arc<Connections>, url: &Url) -> Self {
        Self { connections: Arc::clone(connections), own: Some(url.origin()) }
    }

    /// Over connections of its own to `place`; the service at `own` is told the user's headers.
    pub fn new(place: &str, own: Option<&Url>, access: &Arc<Access>) -> Result<Self> {
        Ok(Self { connections: Arc::new(Connections::new(place, access)?), own: own.map(Url::origin) })
    }
}

impl HttpTransport for Transport {
    async fn fetch(&self, mut request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let is_own = Url::parse(&request.uri().to_string()).is_ok_and(|url| Some(url.origin()) == self.own);
        if is_own {
            for (name, value) in self.connections.access().headers() {
                request.headers_mut().entry(name).or_insert_with(|| value.clone());
            }
        }
        let response = ReqwestTransport::new(self.connections.client()).fetch(request).await?;
        self.connections.heard();
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections() -> Connections {
        Connections::new("http://host/", &Access::plain()).unwrap()
    }

    #[test]
    fn connections_are_doubted_only_if_nothing_came() {
        let connections = connections();
        let renewed_at = |connections: &Connections| connections.state.lock().heard.at;
        let asked_at = Instant::now();
        connections.heard();
        let heard_at = renewed_at(&connections);
        connections.doubt(asked_at);
        assert_eq!(renewed_at(&connections), heard_at, "another request was answered meanwhile");
        connections.doubt(Instant::now());
        let new_at = renewed_at(&connections);
        assert!(new_at > heard_at, "a new pool");
        connections.doubt(Instant::now());
        assert_eq!(renewed_at(&connections), new_at, "it holds nothing yet that could have died");
    }

    #[test]
    fn connections_are_new_after_a_sleep_of_the_machine() {
        let connections = connections();
        connections.heard();
        connections.state.lock().heard.since_boot = sys::since_boot().saturating_sub(POOL_IDLE_TIMEOUT);
        assert!(connections.silent_for() >= POOL_IDLE_TIMEOUT);
        let _ = connections.client();
        assert!(connections.silent_for() < POOL_IDLE_TIMEOUT && !connections.state.lock().is_used);
    }
}
