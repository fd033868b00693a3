//! Stands between `OpenDAL` and the network for one ranged read: lets an answer through only if it proves to be what was
//! asked for.
//! Never here: the rules themselves (`answer.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use http::header::{CONTENT_LENGTH, HeaderValue, RANGE};
use http::{Request, Response};
use opendal::{Buffer, HttpBody, HttpTransport};

use super::answer::{self, Asked, Proof};
use super::connections::Transport;
use super::fault;

/// A transport for one read.
pub(super) struct Guard {
    pub transport: Transport,
    pub asked: Asked,
    /// Set where the answer does not tell the version of its bytes.
    pub is_unproved: Arc<AtomicBool>,
}

impl HttpTransport for Guard {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        if !request.headers().contains_key(RANGE) {
            // A service that asks for its own ends: credentials, or a session.
            return self.transport.fetch(request).await;
        }
        let mut response = self.transport.fetch(request).await?;
        let (status, headers) = (response.status(), response.headers());
        let (sent, proof) = answer::check_status(status, headers, &self.asked.url, SystemTime::now())
            .and_then(|()| answer::check_range(status, headers, &self.asked))
            .map_err(fault::into_opendal)?;
        self.is_unproved.store(proof == Proof::Missing, Ordering::Release);
        // All is checked. OpenDAL parses more headers than a read needs and fails on a garbled one: leave it the length.
        let headers = response.headers_mut();
        headers.clear();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(sent.len()));
        Ok(response)
    }
}
