//! Stands between `OpenDAL` and the network for one ranged read: asks for exactly the URL meant, and lets an answer through
//! only if it proves to be what was asked for.
//! Never here: the rules themselves (`answer.rs`).

use std::time::SystemTime;

use http::header::{CONTENT_LENGTH, HeaderValue, RANGE};
use http::{HeaderMap, Request, Response, Uri};
use opendal::{Buffer, HttpBody, HttpTransport};
use opendal_http_transport_reqwest::ReqwestTransport;

use super::answer::{self, Asked};
use super::fault;

/// A transport for one read.
pub(super) struct Guard {
    pub transport: ReqwestTransport,
    /// The exact target, where the URL that `OpenDAL` made up is not used; a signed one must stay as it is.
    pub target: Option<Uri>,
    /// `Authorization` and what every request carries.
    pub headers: HeaderMap,
    pub asked: Asked,
}

impl HttpTransport for Guard {
    async fn fetch(&self, mut request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        if !request.headers().contains_key(RANGE) {
            // A service that asks for its own ends: credentials, or a session.
            return self.transport.fetch(request).await;
        }
        if let Some(target) = &self.target {
            *request.uri_mut() = target.clone();
        }
        request.headers_mut().extend(self.headers.clone());
        let mut response = self.transport.fetch(request).await?;
        let (status, headers) = (response.status(), response.headers());
        answer::check_status(status, headers, &self.asked.url, SystemTime::now())
            .and_then(|()| answer::check_range(status, headers, &self.asked))
            .map_err(fault::into_opendal)?;
        // All is checked. OpenDAL parses more headers than a read needs and fails on a garbled one: leave it the length.
        let headers = response.headers_mut();
        headers.clear();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(self.asked.range.len()));
        Ok(response)
    }
}
